//! Decisions that wait for somebody, and the page on which one is made.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::contract::{Answer, Items, Shown, Unreachable};
use super::markup::{Markup, badge, cut, escaped, pretty, short, when, when_if};
use super::page::{Chrome, Nav, html, redirect};
use super::run::TabLink;
use super::visit::{Visit, encoded};

/// Rows of a page.
const ROWS: usize = 50;
/// How often the queue is brought up to date, in seconds.
const EVERY_S: u32 = 5;
/// What a decision is about, in a row, in characters.
const ABOUT_CHARS: usize = 110;
/// Who decides, where nobody else is named.
const SOMEBODY: &str = "console";

/// An item of `GET /v1/decisions`.
#[derive(Deserialize)]
pub(super) struct Decision {
    pub(super) workflow_id: String,
    pub(super) step_id: String,
    #[serde(default)]
    pub(super) context: Value,
    #[serde(default)]
    pub(super) options: Vec<Choice>,
    pub(super) target_agent: Option<String>,
    pub(super) fallback: Option<String>,
    pub(super) timeout_at: Option<String>,
    pub(super) created_at: String,
    #[serde(default)]
    pub(super) status: Option<String>,
}

#[derive(Clone, Deserialize)]
pub(super) struct Choice {
    pub(super) id: String,
    #[serde(default)]
    pub(super) description: String,
}

impl Decision {
    /// The page on which it is made.
    pub(super) fn url(&self) -> String {
        format!("/console/decision?workflow={}&step={}", encoded(&self.workflow_id), encoded(&self.step_id))
    }
}

#[derive(Template)]
#[template(path = "decisions.html")]
struct List {
    chrome: Chrome,
    tabs: Vec<TabLink>,
    rows: Vec<Row>,
    unreachable: Vec<Unreachable>,
    next: Option<String>,
}

struct Row {
    url: String,
    workflow: String,
    step: String,
    about: String,
    options: String,
    who: String,
    since: Markup,
    until: Markup,
    status: Markup,
}

pub(super) async fn list(visit: Visit) -> Shown {
    let chosen = visit.asked("status").unwrap_or("pending");
    let mut url = format!("/v1/decisions?limit={ROWS}&status={}", encoded(chosen));
    for name in ["agent_id", "workflow_id", "cursor"] {
        if let Some(value) = visit.asked(name) {
            url.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let page: Items<Decision> = visit.get(&url).await?;
    let query = visit.query_without(&["cursor", "note", "status"]);
    let tab = |name, word: &str| TabLink {
        name,
        url: format!("/console/decisions?status={word}&{query}"),
        is_here: chosen == word,
    };
    let next = page.next_cursor.map(|next| {
        format!("/console/decisions?status={}&{query}&cursor={}", encoded(chosen), encoded(&next))
    });
    let list = List {
        tabs: vec![
            tab("Waiting", "pending"),
            tab("Made", "resolved"),
            tab("Timed out", "timed_out"),
            tab("All", "all"),
        ],
        chrome: visit.chrome(Nav::Decisions, "Decisions").every(EVERY_S),
        rows: page.items.iter().map(row).collect(),
        unreachable: page.unreachable_shards,
        next,
    };
    Ok(html(StatusCode::OK, &list))
}

fn row(decision: &Decision) -> Row {
    let options: Vec<&str> = decision.options.iter().map(|option| option.id.as_str()).collect();
    let status = decision.status.as_deref().unwrap_or("pending");
    Row {
        // What is made is looked at where it was made.
        url: match status {
            "pending" => decision.url(),
            _ => super::run::step_url(&decision.workflow_id, &decision.step_id),
        },
        workflow: decision.workflow_id.clone(),
        step: decision.step_id.clone(),
        about: short(&decision.context, ABOUT_CHARS),
        options: if options.is_empty() { "free form".into() } else { cut(&options.join(", "), 60) },
        who: decision.target_agent.clone().unwrap_or_else(|| "anybody".into()),
        since: when(&decision.created_at),
        until: when_if(decision.timeout_at.as_ref()),
        status: badge(status),
    }
}

#[derive(Template)]
#[template(path = "decision.html")]
struct Page {
    chrome: Chrome,
    workflow: String,
    step: String,
    facts: Vec<(&'static str, Markup)>,
    context: String,
    options: Vec<Choice>,
    who: Option<String>,
    agent_id: String,
    problem: Option<String>,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let asked = |name: &'static str| visit.asked(name).unwrap_or_default().to_owned();
    page(&visit, asked("workflow"), &asked("step"), StatusCode::OK, None).await
}

async fn page(
    visit: &Visit,
    workflow: String,
    step: &str,
    status: StatusCode,
    problem: Option<String>,
) -> Shown {
    /// What the page needs of `GET /v1/workflows/{id}`.
    #[derive(Deserialize)]
    struct Run {
        pending_decisions: Vec<Decision>,
    }
    let run: Run = visit.get(&format!("/v1/workflows/{}", encoded(&workflow))).await?;
    let found = run.pending_decisions.into_iter().find(|decision| decision.step_id == step);
    let Some(decision) = found else {
        // It was made meanwhile, or there never was one: the workflow tells.
        return Ok(redirect(&format!("/console/workflows/{}", encoded(&workflow))));
    };
    let run_url = format!("/console/workflows/{}", encoded(&workflow));
    let mut facts = vec![
        ("Workflow", Markup(format!("<a href=\"{run_url}\">{}</a>", escaped(&workflow)))),
        ("Asked", when(&decision.created_at)),
        ("Until", when_if(decision.timeout_at.as_ref())),
        ("Then", Markup(escaped(decision.fallback.as_deref().unwrap_or_default()))),
        ("For", Markup(escaped(decision.target_agent.as_deref().unwrap_or("anybody")))),
    ];
    facts.retain(|(_, value)| !value.0.is_empty());
    let page = Page {
        chrome: visit.chrome(Nav::Decisions, format!("Decide {step} of {workflow}")),
        workflow,
        step: decision.step_id,
        facts,
        context: match &decision.context {
            Value::String(text) => text.clone(),
            other => pretty(other),
        },
        options: decision.options,
        agent_id: decision.target_agent.clone().unwrap_or_else(|| SOMEBODY.into()),
        who: decision.target_agent,
        problem,
    };
    Ok(html(status, &page))
}

/// Makes it.
pub(super) async fn answer(visit: Visit) -> Shown {
    let field = |name: &'static str| visit.field(name).unwrap_or_default().to_owned();
    let (workflow, step) = (field("workflow"), field("step"));
    let mut payload = json!({"choice": field("choice")});
    if let Some(data) = visit.json_field("data")? {
        payload["data"] = data;
    }
    let mut body = Map::new();
    body.insert("type".into(), "decision".into());
    body.insert("step_id".into(), step.as_str().into());
    body.insert("payload".into(), payload);
    for name in ["reasoning", "agent_id"] {
        if let Some(value) = visit.field(name) {
            body.insert(name.into(), value.into());
        }
    }
    let path = format!("/v1/workflows/{}/signals", encoded(&workflow));
    match visit.call(Method::POST, &path, Some(&Value::Object(body))).await? {
        Answer::Done(_) => Ok(redirect(&format!("/console/workflows/{}?note=decided", encoded(&workflow)))),
        Answer::Refused(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
            page(&visit, workflow, &step, status, Some(problem.detail)).await
        }
    }
}

//! A workflow to start: of a template, of a definition of its own, or as another one was.

use std::fmt::Write;

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::contract::{Answer, Instead, Items, Problem, Shown};
use super::markup::pretty;
use super::page::{Chrome, Nav, html, redirect};
use super::run::Run;
use super::visit::{Visit, encoded};

/// Templates that are offered.
const NAMES_MAX: usize = 200;
/// What a first workflow may be: it logs, asks, and logs again.
const EXAMPLE: &str = r#"{
  "steps": [
    {"id": "hello", "action": "workflow.log", "params": {"message": "Hello, ${{inputs.name}}"}},
    {
      "id": "ask",
      "type": "reasoning",
      "depends_on": ["hello"],
      "config": {
        "prompt_context": "Shall it go on?",
        "options": [{"id": "yes", "description": "Go on"}, {"id": "no", "description": "Stop here"}]
      }
    },
    {"id": "bye", "action": "workflow.log", "depends_on": ["ask"], "params": {"message": "Done"}}
  ]
}"#;

#[derive(Template)]
#[template(path = "start.html")]
struct Page {
    chrome: Chrome,
    names: Vec<String>,
    template: String,
    version: String,
    definition: String,
    params: String,
    id: String,
    agent_id: String,
    labels: String,
    problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The form, as empty as may be, or filled in as a workflow was started.
pub(super) async fn form(visit: Visit) -> Shown {
    let mut page = blank(&visit).await?;
    if let Some(from) = visit.asked("from") {
        fill_in(&visit, &mut page, from).await?;
    } else if let Some(template) = visit.asked("template") {
        page.template = template.to_owned();
        page.version = visit.asked("version").unwrap_or_default().to_owned();
        page.params = "{}".into();
    } else {
        page.definition = EXAMPLE.into();
        page.params = "{\"name\": \"world\"}".into();
    }
    Ok(html(StatusCode::OK, &page))
}

async fn blank(visit: &Visit) -> Result<Page, Instead> {
    let templates: Option<Items<Named>> = visit.try_get(&format!("/v1/templates?limit={NAMES_MAX}")).await?;
    let names = templates.map(|page| page.items.into_iter().map(|named| named.name).collect());
    Ok(Page {
        chrome: visit.chrome(Nav::Workflows, "Start a workflow"),
        names: names.unwrap_or_default(),
        template: String::new(),
        version: String::new(),
        definition: String::new(),
        params: String::new(),
        id: String::new(),
        agent_id: String::new(),
        labels: String::new(),
        problem: None,
    })
}

async fn fill_in(visit: &Visit, page: &mut Page, from: &str) -> Result<(), Instead> {
    let path = format!("/v1/workflows/{}", encoded(from));
    let run: Run = visit.get(&path).await?;
    page.params = pretty(&run.params);
    page.agent_id = run.agent_id.unwrap_or_default();
    for (name, value) in &run.labels {
        let _ = writeln!(page.labels, "{name}:{value}");
    }
    match run.template {
        Some(template) => {
            page.template = template;
            page.version = run.version.unwrap_or_default();
        }
        None => page.definition = pretty(&visit.get::<Value>(&format!("{path}/definition")).await?),
    }
    Ok(())
}

#[derive(Deserialize)]
struct Started {
    workflow_id: String,
}

/// Starts it; what is refused comes back as it was filled in, with what is wrong.
pub(super) async fn submit(visit: Visit) -> Shown {
    let problem = match body(&visit) {
        Ok(body) => match visit.call(Method::POST, "/v1/workflows", Some(&body)).await? {
            Answer::Done(answer) => {
                let started: Option<Started> = serde_json::from_slice(&answer).ok();
                let id = started.map(|started| started.workflow_id).unwrap_or_default();
                return Ok(redirect(&format!("/console/workflows/{}?note=started", encoded(&id))));
            }
            Answer::Refused(problem) => problem,
        },
        Err(detail) => Problem { status: 400, detail, ..Problem::default() },
    };
    let field = |name: &'static str| visit.field(name).unwrap_or_default().to_owned();
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    let page = Page {
        template: field("template"),
        version: field("version"),
        definition: field("definition"),
        params: field("params"),
        id: field("id"),
        agent_id: field("agent_id"),
        labels: field("labels"),
        problem: Some(problem),
        ..blank(&visit).await?
    };
    Ok(html(status, &page))
}

fn body(visit: &Visit) -> Result<Value, String> {
    let mut body = Map::new();
    for name in ["template", "version", "id", "agent_id"] {
        if let Some(value) = visit.field(name) {
            body.insert(name.to_owned(), value.trim().into());
        }
    }
    for name in ["definition", "params"] {
        if let Some(text) = visit.field(name) {
            let value: Value = serde_json::from_str(text)
                .map_err(|error| format!("what stands in the field `{name}` is not JSON: {error}"))?;
            body.insert(name.to_owned(), value);
        }
    }
    if let Some(text) = visit.field("labels") {
        body.insert("labels".to_owned(), Value::Object(labels(text)?));
    }
    Ok(Value::Object(body))
}

/// Labels, one a line.
fn labels(text: &str) -> Result<Map<String, Value>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pair = |line: &str| match line.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.trim().into())),
        _ => Err(format!("the label `{line}` is not `name:value`")),
    };
    lines.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_definition() {
        let parsed = opcode_engine::definition::Definition::parse(EXAMPLE);
        assert!(parsed.is_ok(), "{:?}", parsed.err());
    }

    #[test]
    fn labels_stand_one_a_line() {
        assert_eq!(
            labels(" a: 1\n\nb:c:d\n").unwrap(),
            *serde_json::json!({"a": "1", "b": "c:d"}).as_object().unwrap()
        );
        assert!(labels("a").is_err());
    }
}

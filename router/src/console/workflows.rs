//! The list of workflows, by filters that stand in the address.

use std::collections::BTreeMap;

use askama::Template;
use axum::http::{Method, StatusCode};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{Timestamp, WorkflowId};
use serde::Deserialize;

use super::contract::{Answer, Items, Shown, Unreachable};
use super::markup::{Markup, badge, cut, span, when};
use super::page::{Chrome, Nav, html, redirect};
use super::visit::{Visit, encoded};

/// Rows of a page.
const ROWS: usize = 50;
/// How often the page is brought up to date, in seconds.
const EVERY_S: u32 = 5;
/// Parameters that filter.
pub(super) const FILTERS: [&str; 6] = ["status", "template", "agent_id", "label", "since", "until"];

/// A line of `GET /v1/workflows`.
#[derive(Deserialize)]
pub(super) struct Line {
    pub(super) workflow_id: String,
    pub(super) status: String,
    pub(super) template: Option<String>,
    pub(super) version: Option<String>,
    pub(super) agent_id: Option<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) error: Option<Failed>,
    pub(super) created_at: String,
    pub(super) started_at: Option<String>,
    pub(super) completed_at: Option<String>,
}

/// Why a run or a step failed.
#[derive(Clone, Deserialize)]
pub(super) struct Failed {
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) step_id: Option<String>,
}

#[derive(Template)]
#[template(path = "workflows.html")]
struct Page {
    chrome: Chrome,
    q: String,
    statuses: Vec<Chip>,
    template: String,
    agent_id: String,
    label: String,
    since: String,
    until: String,
    is_filtered: bool,
    rows: Vec<Row>,
    unreachable: Vec<Unreachable>,
    first: Option<String>,
    next: Option<String>,
    /// The filters, for the form of many at once.
    carried: Vec<(&'static str, String)>,
}

/// A word to choose.
pub(super) struct Chip {
    pub(super) word: String,
    pub(super) is_on: bool,
}

struct Row {
    id: String,
    url: String,
    status: Markup,
    template: String,
    agent: String,
    labels: String,
    error: String,
    created: Markup,
    took: String,
}

/// The filters of an address, as pairs.
pub(super) fn filters(visit: &Visit) -> Vec<(&'static str, String)> {
    let pairs =
        FILTERS.iter().flat_map(|&name| visit.all_asked(name).map(move |value| (name, value.to_owned())));
    pairs.collect()
}

/// The list that some filters make.
pub(super) fn list_of(filters: &[(&'static str, String)], limit: usize, cursor: Option<&str>) -> String {
    let mut url = format!("/v1/workflows?limit={limit}");
    for (name, value) in filters {
        url.push_str(&format!("&{name}={}", encoded(value)));
    }
    if let Some(cursor) = cursor {
        url.push_str(&format!("&cursor={}", encoded(cursor)));
    }
    url
}

pub(super) async fn list(visit: Visit) -> Shown {
    // An id leads to its workflow; what is none is looked for in the list alone.
    let q = visit.asked("q").unwrap_or_default().trim().to_owned();
    if WorkflowId::parse(&q).is_ok() {
        let run = format!("/v1/workflows/{}", encoded(&q));
        if let Answer::Done(_) = visit.call(Method::GET, &run, None).await? {
            return Ok(redirect(&format!("/console/workflows/{}", encoded(&q))));
        }
    }
    let carried = filters(&visit);
    let cursor = visit.asked("cursor");
    let page: Items<Line> = visit.get(&list_of(&carried, ROWS, cursor)).await?;
    let query = visit.query_without(&["cursor", "note", "q"]);
    let text = |name: &'static str| visit.asked(name).unwrap_or_default().to_owned();
    let chosen: Vec<&str> = visit.all_asked("status").flat_map(|words| words.split(',')).collect();
    let statuses = WorkflowStatus::ALL.map(WorkflowStatus::as_str).into_iter();
    let page = Page {
        chrome: visit.chrome(Nav::Workflows, "Workflows").every(EVERY_S),
        statuses: statuses.map(|word| Chip { word: word.into(), is_on: chosen.contains(&word) }).collect(),
        template: text("template"),
        agent_id: text("agent_id"),
        label: text("label"),
        since: text("since"),
        until: text("until"),
        is_filtered: !carried.is_empty(),
        rows: page.items.iter().map(row).collect(),
        unreachable: page.unreachable_shards,
        first: cursor.map(|_| format!("/console/workflows?{query}")),
        next: page.next_cursor.map(|next| format!("/console/workflows?{query}&cursor={}", encoded(&next))),
        carried,
        q,
    };
    Ok(html(StatusCode::OK, &page))
}

fn row(line: &Line) -> Row {
    let labels: Vec<String> = line.labels.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let version = line.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    Row {
        id: line.workflow_id.clone(),
        url: format!("/console/workflows/{}", encoded(&line.workflow_id)),
        status: badge(&line.status),
        template: line.template.as_ref().map(|name| format!("{name}{version}")).unwrap_or_default(),
        agent: line.agent_id.clone().unwrap_or_default(),
        labels: cut(&labels.join(" "), 80),
        error: line.error.as_ref().map(|error| cut(&error.message, 90)).unwrap_or_default(),
        created: when(&line.created_at),
        took: took(line.started_at.as_deref(), line.completed_at.as_deref()),
    }
}

/// How long it was from one time to another.
pub(super) fn took(from: Option<&str>, to: Option<&str>) -> String {
    let at = |time: Option<&str>| time.and_then(|time| Timestamp::parse_rfc3339(time).ok());
    match (at(from), at(to)) {
        (Some(from), Some(to)) => span(to.0.saturating_sub(from.0).max(0).unsigned_abs()),
        _ => String::new(),
    }
}

//! The audit log of all nodes: who changed what, and who was refused.

use askama::Template;
use axum::http::StatusCode;
use serde::Deserialize;

use super::contract::Shown;
use super::markup::{Markup, when};
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};

/// Rows of a page.
const ROWS: usize = 100;
/// Parameters that filter.
const FILTERS: [&str; 4] = ["path", "status", "agent_id", "token"];

/// `GET /v1/audit`.
#[derive(Deserialize)]
struct Log {
    items: Vec<Entry>,
    next_cursor: Option<String>,
    #[serde(default)]
    unreachable_nodes: Vec<Missing>,
}

#[derive(Deserialize)]
struct Missing {
    node_id: String,
    detail: String,
}

#[derive(Deserialize)]
struct Entry {
    at: String,
    node_id: String,
    method: String,
    path: String,
    status: Option<u16>,
    #[serde(default)]
    token_id: Option<String>,
    #[serde(default)]
    token_name: Option<String>,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    remote_addr: Option<String>,
    #[serde(default)]
    workflow_id: Option<String>,
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    chrome: Chrome,
    filters: Vec<(&'static str, &'static str, String)>,
    rows: Vec<Row>,
    missing: Vec<Missing>,
    next: Option<String>,
}

struct Row {
    at: Markup,
    call: String,
    status: String,
    is_refused: bool,
    token: String,
    agent: String,
    from: String,
    node: String,
    run: Option<String>,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let mut url = format!("/v1/audit?limit={ROWS}");
    for name in FILTERS.into_iter().chain(["cursor"]) {
        if let Some(value) = visit.asked(name) {
            url.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    let log: Log = visit.get(&url).await?;
    let query = visit.query_without(&["cursor", "note"]);
    let labels = ["Path begins with", "Status, as 403 or 4xx", "Agent", "Token, its id or name"];
    let filters = FILTERS.into_iter().zip(labels);
    let page = Page {
        filters: filters
            .map(|(name, label)| (name, label, visit.asked(name).unwrap_or_default().to_owned()))
            .collect(),
        rows: log.items.into_iter().map(row).collect(),
        missing: log.unreachable_nodes,
        next: log.next_cursor.map(|next| format!("/console/audit?{query}&cursor={}", encoded(&next))),
        chrome: visit.chrome(Nav::Audit, "Audit"),
    };
    Ok(html(StatusCode::OK, &page))
}

fn row(entry: Entry) -> Row {
    Row {
        at: when(&entry.at),
        call: format!("{} {}", entry.method, entry.path),
        is_refused: entry.status.is_some_and(|status| status >= 400),
        status: entry.status.map_or_else(|| "not answered".to_owned(), |status| status.to_string()),
        token: entry.token_name.or(entry.token_id).unwrap_or_default(),
        agent: entry.agent_id.unwrap_or_default(),
        from: entry.remote_addr.unwrap_or_default(),
        node: entry.node_id,
        run: entry.workflow_id.as_deref().map(encoded),
    }
}

//! The agents that have been in contact.

use askama::Template;
use axum::http::StatusCode;
use serde::Deserialize;

use super::contract::{Items, Shown};
use super::markup::{Markup, when};
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};

/// Rows of a page.
const ROWS: usize = 100;
/// How often the page is brought up to date, in seconds.
const EVERY_S: u32 = 10;

/// An item of `GET /v1/agents`.
#[derive(Deserialize)]
struct Agent {
    agent_id: String,
    client: Option<String>,
    first_seen: String,
    last_seen: String,
}

#[derive(Template)]
#[template(path = "agents.html")]
struct Page {
    chrome: Chrome,
    rows: Vec<Row>,
    next: Option<String>,
    origin: String,
}

struct Row {
    id: String,
    encoded: String,
    client: String,
    first: Markup,
    last: Markup,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let cursor = visit.asked("cursor").map(|cursor| format!("&cursor={}", encoded(cursor)));
    let page: Items<Agent> =
        visit.get(&format!("/v1/agents?limit={ROWS}{}", cursor.unwrap_or_default())).await?;
    let row = |agent: Agent| Row {
        encoded: encoded(&agent.agent_id),
        id: agent.agent_id,
        client: agent.client.unwrap_or_default(),
        first: when(&agent.first_seen),
        last: when(&agent.last_seen),
    };
    let page = Page {
        chrome: visit.chrome(Nav::Agents, "Agents").every(EVERY_S),
        rows: page.items.into_iter().map(row).collect(),
        next: page.next_cursor.map(|next| format!("/console/agents?cursor={}", encoded(&next))),
        origin: visit.origin(),
    };
    Ok(html(StatusCode::OK, &page))
}

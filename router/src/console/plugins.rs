//! Plugins: which there are, how they fare on each node, and the actions that they bring.

use askama::Template;
use axum::http::StatusCode;
use serde::Deserialize;

use super::contract::{Items, Shown};
use super::markup::{Markup, badge, cut};
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};

/// How often the page is brought up to date, in seconds.
const EVERY_S: u32 = 5;
/// Tools of one that are named.
const TOOLS_MAX: usize = 50;

/// An item of `GET /v1/plugins`.
#[derive(Deserialize)]
struct Plugin {
    name: String,
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    tools: Vec<Tool>,
    #[serde(default)]
    nodes: Vec<OnNode>,
}

#[derive(Deserialize)]
struct Tool {
    action: String,
    #[serde(default)]
    about: String,
}

#[derive(Deserialize)]
struct OnNode {
    node_id: String,
    status: String,
    restarts: u64,
    last_error: Option<String>,
}

#[derive(Template)]
#[template(path = "plugins.html")]
struct Page {
    chrome: Chrome,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    encoded: String,
    command: String,
    nodes: Vec<(String, Markup, String)>,
    tools: Vec<(String, String)>,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let page: Items<Plugin> = visit.get("/v1/plugins").await?;
    let rows = page.items.into_iter().map(row).collect();
    let page = Page { chrome: visit.chrome(Nav::Plugins, "Plugins").every(EVERY_S), rows };
    Ok(html(StatusCode::OK, &page))
}

fn row(plugin: Plugin) -> Row {
    let node = |node: OnNode| {
        let restarts = if node.restarts > 0 { format!("{} restarts ", node.restarts) } else { String::new() };
        let error = node.last_error.map(|error| cut(&error, 100)).unwrap_or_default();
        (format!("node {}", node.node_id), badge(&node.status), format!("{restarts}{error}"))
    };
    let tools = plugin.tools.into_iter().take(TOOLS_MAX).map(|tool| (tool.action, cut(&tool.about, 100)));
    Row {
        encoded: encoded(&plugin.name),
        command: cut(&format!("{} {}", plugin.command, plugin.args.join(" ")), 100),
        nodes: plugin.nodes.into_iter().map(node).collect(),
        tools: tools.collect(),
        name: plugin.name,
    }
}

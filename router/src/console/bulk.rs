//! One action on all workflows that match: first what it would do, then, when that is wanted, the doing.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::act::quoted;
use super::contract::{Items, Shown, Unreachable};
use super::markup::{Markup, badge};
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};
use super::workflows::{FILTERS, Line, filters, list_of};

/// Workflows that are shown of those that match.
const SAMPLE: usize = 10;
/// What may be done, the statuses that it applies to, and what it means.
const ACTIONS: [(&str, &[&str], &str); 5] = [
    (
        "cancel",
        &["pending", "active", "suspended"],
        "Each is cancelled, and what it has done is compensated where its definition says so.",
    ),
    ("suspend", &["active", "suspended"], "Each starts no further step until it is told to go on."),
    ("resume", &["suspended"], "Each goes on."),
    ("retry", &["failed"], "Each runs again what had failed."),
    ("delete", &["completed", "failed", "cancelled"], "Each is deleted with all of its events, for good."),
];

/// What `POST /v1/workflows/bulk` says.
#[derive(Deserialize)]
struct Done {
    matched: u64,
    applied: u64,
    refused: u64,
    unknown: u64,
    truncated: bool,
    #[serde(default)]
    unreachable_shards: Vec<Unreachable>,
}

#[derive(Template)]
#[template(path = "bulk.html")]
struct Page {
    chrome: Chrome,
    action: &'static str,
    what: &'static str,
    is_dangerous: bool,
    filters: String,
    matched: u64,
    sample: Vec<Row>,
    carried: Vec<(&'static str, String)>,
    cli: String,
    back: String,
    done: Option<Done>,
}

struct Row {
    id: String,
    status: Markup,
    template: String,
}

/// What would be done.
pub(super) async fn preview(visit: Visit) -> Shown {
    let carried = filters(&visit);
    let (action, statuses, what) = known(visit.asked("action")).ok_or_else(|| visit.nothing_here())?;
    let dry: Done =
        visit.send(Method::POST, "/v1/workflows/bulk", &body(action, &carried, None, true)).await?;
    let mut shown = carried.clone();
    if !shown.iter().any(|(name, _)| *name == "status") {
        shown.push(("status", statuses.join(",")));
    }
    let sample: Items<Line> = visit.get(&list_of(&shown, SAMPLE, None)).await?;
    let mut page = page(&visit, action, what, &carried);
    page.matched = dry.matched;
    page.sample = sample.items.iter().map(row).collect();
    Ok(html(StatusCode::OK, &page))
}

/// Does it.
pub(super) async fn apply(visit: Visit) -> Shown {
    let (action, _, what) = known(visit.field("action")).ok_or_else(|| visit.nothing_here())?;
    let carried: Vec<(&'static str, String)> = FILTERS
        .iter()
        .flat_map(|&name| visit.all_fields(name).map(move |value| (name, value.to_owned())))
        .collect();
    let reason = visit.field("reason");
    let done: Done =
        visit.send(Method::POST, "/v1/workflows/bulk", &body(action, &carried, reason, false)).await?;
    let mut page = page(&visit, action, what, &carried);
    page.done = Some(done);
    Ok(html(StatusCode::OK, &page))
}

fn known(action: Option<&str>) -> Option<(&'static str, &'static [&'static str], &'static str)> {
    ACTIONS.into_iter().find(|(name, ..)| Some(*name) == action)
}

fn page(visit: &Visit, action: &'static str, what: &'static str, carried: &[(&'static str, String)]) -> Page {
    let told: Vec<String> = carried.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let query: Vec<String> =
        carried.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let mut chrome = visit.chrome(Nav::Workflows, format!("{action} all that match"));
    chrome.title[..1].make_ascii_uppercase();
    let mut with_action = carried.to_vec();
    with_action.push(("action", action.to_owned()));
    Page {
        chrome,
        action,
        what,
        is_dangerous: matches!(action, "cancel" | "delete"),
        filters: if told.is_empty() { "none, so all that it can apply to".into() } else { told.join(", ") },
        matched: 0,
        sample: Vec::new(),
        carried: with_action,
        cli: cli(action, carried),
        back: format!("/console/workflows?{}", query.join("&")),
        done: None,
    }
}

/// The same by the command line.
fn cli(action: &str, carried: &[(&'static str, String)]) -> String {
    let flag = |(name, value): &(&'static str, String)| match *name {
        "label" => format!(" --label {}", quoted(&value.replacen(':', "=", 1))),
        "status" => value.split(',').map(|status| format!(" --status {}", quoted(status))).collect(),
        name => format!(" --{} {}", name.replace('_', "-"), quoted(value)),
    };
    let flags: String = carried.iter().map(flag).collect();
    format!("opcode wf bulk {action}{}", if flags.is_empty() { " --all" } else { &flags })
}

fn body(action: &str, carried: &[(&'static str, String)], reason: Option<&str>, dry_run: bool) -> Value {
    let mut filter = Map::new();
    let (mut statuses, mut labels) = (Vec::new(), Map::new());
    for (name, value) in carried {
        match *name {
            "status" => statuses.extend(value.split(',').map(Value::from)),
            "label" => {
                // One without a colon has no value, which the call refuses by its name.
                let (name, value) =
                    value.split_once(':').map_or((value.as_str(), None), |(a, b)| (a, Some(b)));
                labels.insert(name.to_owned(), value.into());
            }
            name => drop(filter.insert(name.to_owned(), value.as_str().into())),
        }
    }
    if !statuses.is_empty() {
        filter.insert("status".into(), statuses.into());
    }
    if !labels.is_empty() {
        filter.insert("labels".into(), labels.into());
    }
    let mut body = json!({"action": action, "filter": filter, "dry_run": dry_run});
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    body
}

fn row(line: &Line) -> Row {
    Row {
        id: line.workflow_id.clone(),
        status: badge(&line.status),
        template: line.template.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_those_of_the_call() {
        let carried = [
            ("status", "active".to_owned()),
            ("status", "pending".to_owned()),
            ("label", "a:b:c".to_owned()),
            ("template", "t".to_owned()),
        ];
        let expected = json!({"action": "cancel", "dry_run": true,
            "filter": {"status": ["active", "pending"], "labels": {"a": "b:c"}, "template": "t"}});
        assert_eq!(body("cancel", &carried, None, true), expected);
        let command = "opcode wf bulk cancel --status active --status pending --label a=b:c --template t";
        assert_eq!(
            (cli("cancel", &carried).as_str(), cli("retry", &[]).as_str()),
            (command, "opcode wf bulk retry --all")
        );
    }
}

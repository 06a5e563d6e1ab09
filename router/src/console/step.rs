//! One step of a workflow: what it was given, what it gave, what happened, and running again from it.

use askama::Template;
use axum::http::StatusCode;
use serde_json::Value;

use super::act::Action;
use super::contract::{Items, Shown};
use super::markup::{Markup, badge, escaped, pretty, span, when_if};
use super::page::{Chrome, Nav, html};
use super::run::{Event, EventRow, Run};
use super::visit::{Visit, encoded};

/// Events that are looked through for those of the step.
const EVENTS_MAX: usize = 1_000;

#[derive(Template)]
#[template(path = "step.html")]
struct Page {
    chrome: Chrome,
    id: String,
    step: String,
    status: Markup,
    actions: Vec<Action>,
    facts: Vec<(&'static str, Markup)>,
    error: Option<String>,
    texts: Vec<(&'static str, String)>,
    events: Vec<EventRow>,
    left_out: Option<&'static str>,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let (id, name) = (visit.segment(2), visit.asked("id").unwrap_or_default().to_owned());
    let path = format!("/v1/workflows/{}", encoded(&id));
    let (events, definition) = (format!("{path}/events?limit={EVENTS_MAX}"), format!("{path}/definition"));
    let (run, events, definition) = tokio::join!(
        visit.get::<Run>(&path),
        visit.get::<Items<Event>>(&events),
        visit.get::<Value>(&definition)
    );
    let (run, events, definition) = (run?, events?, definition?);
    let found = run.steps.0.iter().find(|(known, _)| *known == name);
    let (_, step) = found.ok_or_else(|| visit.nothing_here())?;
    let written = written(&definition, &name);
    let mut texts = Vec::new();
    if let Some(output) = step.output.as_ref().filter(|output| !output.is_null()) {
        texts.push(("Output", pretty(output)));
    }
    texts.push(match written {
        Some(written) => ("As it is written, before params are filled in", pretty(written)),
        None => ("As it is written", "Several steps have this short id: see the definition.".to_owned()),
    });
    let run_url = format!("/console/workflows/{}", encoded(&id));
    let action = |name, url, key| Action { name, url, key, is_dangerous: false };
    let mut actions =
        vec![action("Retry from here", format!("{run_url}/do/retry?from_step={}", encoded(&name)), "r")];
    if step.status == "suspended" {
        actions.push(action("Signal", format!("{run_url}/do/signal?step_id={}", encoded(&name)), "s"));
    }
    let mut chrome = visit.chrome(Nav::Workflows, format!("{name} of {id}"));
    let has_ended = matches!(run.status.as_str(), "completed" | "failed" | "cancelled");
    chrome.stream = (!has_ended).then(|| format!("{run_url}/stream"));
    let mut facts = vec![
        ("Attempts", Markup(step.attempts.to_string())),
        ("Started", when_if(step.started_at.as_ref())),
        ("Ended", when_if(step.completed_at.as_ref())),
        ("Took", Markup(step.duration_ms.map(span).unwrap_or_default())),
        ("Idempotency key", Markup(format!("<code>{}/{}</code>", escaped(&id), escaped(&name)))),
    ];
    facts.retain(|(_, value)| !value.0.is_empty());
    let own = events.items.iter().filter(|event| event.step_id.as_deref() == Some(name.as_str()));
    let page = Page {
        chrome,
        status: badge(&step.status),
        actions,
        facts,
        error: step.error.as_ref().filter(|error| !error.is_null()).map(pretty),
        texts,
        events: own.map(EventRow::of).collect(),
        left_out: events
            .next_cursor
            .is_some()
            .then_some("Of the first 1000 events of the workflow; it has more."),
        id,
        step: name,
    };
    Ok(html(StatusCode::OK, &page))
}

/// The one step of a definition that has the short id of this full one; none when several have.
fn written<'d>(definition: &'d Value, full: &str) -> Option<&'d Value> {
    let short = full.rsplit('.').next()?;
    let (mut found, mut waiting) = (None, vec![definition]);
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(fields) => {
                if fields.get("id").and_then(Value::as_str) == Some(short)
                    && (fields.contains_key("action") || fields.contains_key("type"))
                    && found.replace(value).is_some()
                {
                    return None;
                }
                waiting.extend(fields.values());
            }
            Value::Array(items) => waiting.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_where_its_id_is_alone() {
        let definition = serde_json::json!({"steps": [
            {"id": "a", "action": "x"},
            {"id": "l", "type": "loop", "config": {"body": [{"id": "b", "action": "y"}, {"id": "a", "action": "z"}]}}
        ]});
        assert_eq!(written(&definition, "l.iter_3.b").unwrap()["action"], "y");
        assert_eq!(written(&definition, "a"), None);
        assert_eq!(written(&definition, "none"), None);
    }
}

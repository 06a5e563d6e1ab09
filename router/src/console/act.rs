//! What can be done to one workflow: each act has a page of its own, which asks, says what follows, and
//! shows the same for a shell.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::contract::{Answer, Problem, Shown};
use super::page::{Chrome, Nav, html, redirect};
use super::run::Run;
use super::visit::{Visit, encoded};

/// A link to something that can be done.
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) url: String,
    pub(super) key: &'static str,
    pub(super) is_dangerous: bool,
}

/// A field of a form.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) is_long: bool,
    pub(super) is_secret: bool,
}

impl Field {
    pub(super) fn line(name: &'static str, label: &'static str, value: impl Into<String>) -> Self {
        Self { name, label, value: value.into(), is_long: false, is_secret: false }
    }

    pub(super) fn text(name: &'static str, label: &'static str, value: impl Into<String>) -> Self {
        Self { is_long: true, ..Self::line(name, label, value) }
    }
}

/// An act, its title, what it means, its button.
struct Act {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    button: &'static str,
    is_dangerous: bool,
}

const fn act(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    button: &'static str,
    is_dangerous: bool,
) -> Act {
    Act { name, title, about, button, is_dangerous }
}

static ACTS: [Act; 6] = [
    act(
        "cancel",
        "Cancel the workflow?",
        "Steps under way are called off, and what has completed is compensated where the definition says so.",
        "Cancel it",
        true,
    ),
    act(
        "suspend",
        "Suspend the workflow?",
        "No further step starts until it is told to go on. Steps under way end.",
        "Suspend it",
        false,
    ),
    act("resume", "Let the workflow go on?", "It goes on where it had stopped.", "Let it go on", false),
    act(
        "retry",
        "Run it again?",
        "Without a step, what had failed runs again; with one, that step and all that depends on it. Side effects \
         happen again, under the idempotency keys that they had.",
        "Run it again",
        false,
    ),
    act(
        "signal",
        "Send a signal",
        "`data` is what a waiting step waits for, `retry` and `skip` are for a step that was left to an operator.",
        "Send it",
        false,
    ),
    act(
        "delete",
        "Delete the workflow?",
        "It is deleted with all of its events, for good.",
        "Delete it",
        true,
    ),
];

/// What can be done to a run in this status.
pub(super) fn actions(id: &str, status: &str) -> Vec<Action> {
    let at = |name: &str| format!("/console/workflows/{}/do/{name}", encoded(id));
    let action = |name, title, key, is_dangerous| Action { name: title, url: at(name), key, is_dangerous };
    let rerun = || Action {
        name: "Run anew",
        url: format!("/console/start?from={}", encoded(id)),
        key: "a",
        is_dangerous: false,
    };
    match status {
        "completed" | "cancelled" => {
            vec![
                rerun(),
                action("retry", "Retry from a step", "r", false),
                action("delete", "Delete", "d", true),
            ]
        }
        "failed" => {
            vec![action("retry", "Retry", "r", false), rerun(), action("delete", "Delete", "d", true)]
        }
        "suspended" => vec![
            action("resume", "Resume", "u", false),
            action("signal", "Signal", "s", false),
            action("cancel", "Cancel", "c", true),
        ],
        _ => vec![
            action("suspend", "Suspend", "u", false),
            action("signal", "Signal", "s", false),
            action("cancel", "Cancel", "c", true),
        ],
    }
}

#[derive(Template)]
#[template(path = "act.html")]
struct Page {
    chrome: Chrome,
    id: String,
    about: &'static str,
    fields: Vec<Field>,
    button: &'static str,
    is_dangerous: bool,
    back: String,
    shell: Vec<String>,
}

/// Asks.
pub(super) async fn form(visit: Visit) -> Shown {
    let (id, name) = (visit.segment(2), visit.segment(4));
    let act = ACTS.iter().find(|act| act.name == name).ok_or_else(|| visit.nothing_here())?;
    let run: Run = visit.get(&format!("/v1/workflows/{}", encoded(&id))).await?;
    let asked = |name: &'static str| visit.asked(name).unwrap_or_default();
    let mut fields = match act.name {
        "retry" => vec![
            Field::line(
                "from_step",
                "From which step (its full id; without one, what had failed)",
                asked("from_step"),
            ),
            Field::text(
                "params",
                "Other params, in JSON (without them, the same)",
                super::markup::pretty(&run.params),
            ),
            Field::line("version", "Another version of the template", ""),
        ],
        "signal" => vec![
            Field::line("type", "Type: data, retry, skip or cancel", visit.asked("type").unwrap_or("data")),
            Field::line("step_id", "To which step", asked("step_id")),
            Field::text("payload", "Payload, in JSON", ""),
            Field::line("signal_id", "Id of the signal: the same twice counts once", ""),
        ],
        _ => Vec::new(),
    };
    match act.name {
        "delete" => {}
        "signal" => fields.push(Field::line("reasoning", "Why", "")),
        _ => fields.push(Field::line("reason", "Reason, for the record", "")),
    }
    let page = Page {
        chrome: visit.chrome(Nav::Workflows, act.title),
        about: act.about,
        fields,
        button: act.button,
        is_dangerous: act.is_dangerous,
        back: format!("/console/workflows/{}", encoded(&id)),
        shell: shell(&visit.origin(), &id, act.name, asked("from_step")),
        id,
    };
    Ok(html(StatusCode::OK, &page))
}

/// The act for a shell: by our command, and by curl.
fn shell(origin: &str, id: &str, name: &str, from_step: &str) -> Vec<String> {
    let (mut command, mut body) = (format!("opcode --server {origin} wf {name} {id}"), json!({}));
    match name {
        "retry" if !from_step.is_empty() => {
            command.push_str(&format!(" --from-step {}", quoted(from_step)));
            body["from_step"] = from_step.into();
        }
        "signal" => {
            command.push_str(" --type data --payload '{}'");
            body = json!({"type": "data", "payload": {}});
        }
        _ => {}
    }
    let (method, path) = match name {
        "delete" => ("DELETE", String::new()),
        "signal" => ("POST", "/signals".to_owned()),
        _ => ("POST", format!("/{name}")),
    };
    let data = if method == "POST" {
        format!(" -H 'Content-Type: application/json' -d {}", quoted(&body.to_string()))
    } else {
        String::new()
    };
    vec![command, format!("curl -X {method} {origin}/v1/workflows/{id}{path}{data}")]
}

/// A word that a shell takes as it is.
pub(super) fn quoted(word: &str) -> String {
    let is_plain =
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/=,".contains(&b));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// Does it.
pub(super) async fn apply(visit: Visit) -> Shown {
    let (id, name) = (visit.segment(2), visit.segment(4));
    let act = ACTS.iter().find(|act| act.name == name).ok_or_else(|| visit.nothing_here())?;
    let mut body = Map::new();
    for name in ["from_step", "version", "reason", "reasoning", "type", "step_id", "signal_id"] {
        if let Some(value) = visit.field(name) {
            body.insert(name.to_owned(), value.into());
        }
    }
    for name in ["params", "payload"] {
        if let Some(value) = visit.json_field(name)? {
            body.insert(name.to_owned(), value);
        }
    }
    let path = format!("/v1/workflows/{}", encoded(&id));
    let answer = match act.name {
        "delete" => visit.call(Method::DELETE, &path, None).await?,
        "signal" => visit.call(Method::POST, &format!("{path}/signals"), Some(&Value::Object(body))).await?,
        name => visit.call(Method::POST, &format!("{path}/{name}"), Some(&Value::Object(body))).await?,
    };
    match answer {
        Answer::Refused(problem) => Err(visit.refused(problem)),
        Answer::Done(_) if act.name == "delete" => Ok(redirect("/console/workflows?note=delete")),
        Answer::Done(_) => Ok(redirect(&format!("/console/workflows/{}?note={}", encoded(&id), act.name))),
    }
}

impl Visit {
    /// A field that holds JSON; none when it is empty.
    pub(super) fn json_field(&self, name: &'static str) -> Result<Option<Value>, super::contract::Instead> {
        let Some(text) = self.field(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            self.refused(Problem {
                status: 400,
                title: "Not JSON".into(),
                code: "VALIDATION_ERROR".into(),
                detail: format!("what stands in the field `{name}` is not JSON: {error}"),
                ..Problem::default()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a.b:c"), "a.b:c");
        assert_eq!(quoted("it's $x"), "'it'\\''s $x'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn every_status_has_acts_that_apply_to_it() {
        let names = |status| {
            actions("w", status)
                .iter()
                .map(|a| a.url.rsplit('/').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("failed"), ["retry", "start?from=w", "delete"]);
        assert_eq!(names("active"), ["suspend", "signal", "cancel"]);
        assert_eq!(names("suspended")[0], "resume");
    }
}

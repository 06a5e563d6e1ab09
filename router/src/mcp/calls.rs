//! What each tool asks of the HTTP contract, and what it makes of the answers.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::fields::{
    Caller, Object, Outcome, body, done, problem, renamed, required, required_name, with_query, word,
    workflow,
};
use super::query::query;
use super::tools::ToolName;
use crate::wire::Fields;

/// How long a tool waits for a run, unless its caller says: shorter than clients wait for a tool.
const WAIT_DEFAULT: &str = "20s";
/// Events that a status shows.
const EVENTS_SHOWN_MAX: usize = 100;

/// What a tool answers.
pub(super) struct Told {
    /// For those who read.
    pub(super) text: String,
    /// The same, for those who compute.
    pub(super) structured: Value,
}

impl Told {
    pub(super) fn of(document: Object) -> Self {
        let structured = Value::Object(document);
        Self { text: structured.to_string(), structured }
    }
}

/// Calls a tool; what it fails with is a problem document.
pub(super) async fn call(tool: ToolName, arguments: &str, caller: &Caller<'_>) -> Outcome<Told> {
    let fields = Fields::of_body(arguments).map_err(|error| problem(&error))?;
    match tool {
        ToolName::Run => run(fields, caller).await.map(Told::of),
        ToolName::Status => status(fields, caller).await.map(Told::of),
        ToolName::Signal => signal(fields, caller).await.map(Told::of),
        ToolName::Define => define(fields, caller).await.map(Told::of),
        ToolName::Query => query(fields, caller).await.map(Told::of),
        ToolName::Diagram => diagram(fields, caller).await,
    }
}

/// Starts a run and waits until it ends or suspends, for a while.
async fn run(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let template = required(&mut fields, "template_name", "which template to run");
    let agent = required(&mut fields, "agent_id", "who runs it");
    let body = body(&[
        ("template", template),
        ("agent_id", agent),
        ("version", fields.raw("version")),
        ("params", fields.raw("params")),
        ("id", fields.raw("id")),
        ("context", fields.raw("context")),
        ("labels", fields.raw("labels")),
    ]);
    let wait = fields.string("wait").unwrap_or_else(|| WAIT_DEFAULT.to_owned());
    done(fields)?;
    let path = with_query("/v1/workflows", &[("wait", Some(wait))]);
    let started =
        caller.post(path, body).await.map_err(|told| renamed(told, &[("/template", "/template_name")]))?;
    // The run is there: if it cannot be read just now, what starting it was answered with will do.
    match started.get("workflow_id").and_then(Value::as_str) {
        Some(id) => Ok(caller.get(workflow(id)).await.unwrap_or(started)),
        None => Ok(started),
    }
}

/// A run as it stands, with the first of its events.
async fn status(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let id = required_name(&mut fields, "workflow_id", "which run");
    let wait = fields.string("wait");
    let with_events = fields.boolean("include_events").unwrap_or(true);
    done(fields)?;
    let path = workflow(&id.unwrap_or_default());
    let mut run = caller.get(with_query(&path, &[("wait", wait)])).await?;
    if with_events {
        let limit = EVENTS_SHOWN_MAX.to_string();
        let mut page = caller.get(with_query(&format!("{path}/events"), &[("limit", Some(limit))])).await?;
        run.insert("events".to_owned(), page.remove("items").unwrap_or_default());
        run.insert("events_next_cursor".to_owned(), page.remove("next_cursor").unwrap_or_default());
    }
    Ok(run)
}

/// Sends a signal. A decision lets the run go on, so what becomes of it is waited for.
async fn signal(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let id = required_name(&mut fields, "workflow_id", "which run");
    let kind = required(&mut fields, "signal_type", "decision, data, cancel, retry or skip");
    let body = body(&[
        ("type", kind),
        ("step_id", fields.raw("step_id")),
        ("payload", fields.raw("payload")),
        ("agent_id", fields.raw("agent_id")),
        ("reasoning", fields.raw("reasoning")),
        ("signal_id", fields.raw("signal_id")),
    ]);
    let wait = fields.string("wait").unwrap_or_else(|| WAIT_DEFAULT.to_owned());
    done(fields)?;
    let (id, kind) = (id.unwrap_or_default(), kind.map_or("null", RawValue::get));
    let path = workflow(&id);
    let mut accepted = caller
        .post(format!("{path}/signals"), body)
        .await
        .map_err(|told| renamed(told, &[("/type", "/signal_type")]))?;
    accepted.insert("ok".to_owned(), true.into());
    accepted.insert("workflow_id".to_owned(), id.into());
    accepted.insert("signal_type".to_owned(), serde_json::from_str(kind).unwrap_or_default());
    if kind == "\"decision\"" {
        accepted.insert("resumed".to_owned(), true.into());
        // The signal is taken: a run that cannot be read just now takes nothing of that back.
        let run = caller.get(with_query(&path, &[("wait", Some(wait))])).await.unwrap_or_default();
        let shown = ["status", "output", "error", "pending_decisions"];
        accepted.extend(run.into_iter().filter(|(name, _)| shown.contains(&name.as_str())));
    }
    Ok(accepted)
}

/// Defines a template. Its definition may be a template file itself; what is given beside it counts
/// more than what stands in it.
async fn define(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let name = required(&mut fields, "name", "the template's name");
    let definition = required(&mut fields, "definition", "what the template runs");
    // A template belongs to nobody: whoever defines it is known by the call alone.
    required(&mut fields, "agent_id", "who defines it");
    let agent = fields.name("agent_id");
    let own: Vec<(&str, Option<&RawValue>)> = ["description", "input_schema", "output_schema", "triggers"]
        .map(|name| (name, fields.raw(name)))
        .into();
    done(fields)?;
    tracing::debug!(agent = agent.as_deref(), "a template is defined through MCP");
    let file = definition.and_then(template_file);
    let is_wrapped = file.is_some();
    let mut entries: Vec<(&str, Option<&RawValue>)> = match &file {
        Some(file) => file.iter().map(|(name, raw)| (name.as_str(), Some(*raw))).collect(),
        None => vec![("definition", definition)],
    };
    entries.push(("name", name));
    entries.extend(own.iter().filter(|(_, raw)| raw.is_some()));
    caller.post("/v1/templates".to_owned(), body(&entries)).await.map_err(|told| {
        let inside = [("/definition", "/definition/definition")];
        if is_wrapped { renamed(told, &inside) } else { told }
    })
}

/// The fields of a definition that is a template file.
fn template_file(definition: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(definition.get()).ok()?;
    (fields.contains_key("definition") && !fields.contains_key("steps")).then_some(fields)
}

/// Draws a run or a template.
async fn diagram(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Told> {
    required(&mut fields, "format", "ascii, mermaid or image");
    let format = word(&mut fields, "format", &["ascii", "mermaid", "image"]);
    let id = fields.name("workflow_id");
    let template = fields.name("template_name");
    let version = fields.raw("version").map(|raw| raw.get().trim_matches('"').to_owned());
    let with_status = flag(&mut fields, "include_status");
    match (&id, &template) {
        (None, None) => fields.problem("workflow_id", "is missing; give `workflow_id` or `template_name`"),
        (Some(_), Some(_)) => {
            fields.problem("template_name", "is given beside `workflow_id`; give one of them");
        }
        (Some(_), None) if version.is_some() => fields.problem("version", "is of a template"),
        (Some(_), None) | (None, Some(_)) => {}
    }
    done(fields)?;
    let (drawn, media_type) = match format {
        Some("mermaid") => ("mermaid", "text/vnd.mermaid"),
        Some("image") => ("svg", "image/svg+xml"),
        Some(_) | None => ("ascii", "text/plain"),
    };
    let drawn = ("format", Some(drawn.to_owned()));
    let path = match (id, template) {
        (Some(id), _) => {
            with_query(&format!("{}/diagram", workflow(&id)), &[drawn, ("include_status", with_status)])
        }
        (None, name) => {
            let name = super::fields::encoded(&name.unwrap_or_default());
            with_query(&format!("/v1/templates/{name}/diagram"), &[drawn, ("version", version)])
        }
    };
    let text = caller.text(path).await?;
    let structured = json!({"format": format, "media_type": media_type, "diagram": text});
    Ok(Told { text, structured })
}

/// A boolean, which OPCODE takes as text.
fn flag(fields: &mut Fields<'_>, name: &'static str) -> Option<String> {
    let raw = fields.raw(name)?;
    let text = raw.get().trim_matches('"');
    if !matches!(text, "true" | "false") {
        fields.problem(name, "must be true or false");
    }
    Some(text.to_owned())
}

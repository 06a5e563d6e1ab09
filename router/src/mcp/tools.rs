//! The six tools as clients see them: names, what they are for, schemas of what goes in and comes out,
//! and hints of what they change.

use std::sync::Arc;

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Value, json};

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToolName {
    Run,
    Status,
    Signal,
    Define,
    Query,
    Diagram,
}

impl ToolName {
    pub(super) const ALL: [Self; 6] =
        [Self::Run, Self::Status, Self::Signal, Self::Define, Self::Query, Self::Diagram];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Run => "opcode.run",
            Self::Status => "opcode.status",
            Self::Signal => "opcode.signal",
            Self::Define => "opcode.define",
            Self::Query => "opcode.query",
            Self::Diagram => "opcode.diagram",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.as_str() == name)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Run => "Run a workflow",
            Self::Status => "See a workflow",
            Self::Signal => "Answer or steer a workflow",
            Self::Define => "Define a template",
            Self::Query => "Find workflows, events, templates, decisions",
            Self::Diagram => "Draw a workflow",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Run => {
                "Starts a workflow from a template and waits until it ends or needs somebody, at most \
                 `wait`. `suspended` with `pending_decisions` means that it waits for a decision: answer \
                 with opcode.signal. `active` means that it goes on: ask again with opcode.status. With an \
                 `id` the call may be repeated safely."
            }
            Self::Status => {
                "A workflow as it stands: status, steps, output or error, decisions that it waits for, \
                 context, and its first events."
            }
            Self::Signal => {
                "Sends a signal: `decision` answers a reasoning step (payload {\"choice\": option id}), \
                 `data` what a step waits for, `cancel`, `retry` and `skip` steer the run. After a decision \
                 the run goes on, and what becomes of it within `wait` is answered."
            }
            Self::Define => {
                "Stores a workflow definition as a template. Versions count themselves (v1, v2, …); the \
                 same definition again is the same version. Every mistake in a definition is told at once."
            }
            Self::Query => {
                "Lists workflows (newest first), the events of one workflow, templates, or decisions that \
                 wait (oldest first). What is not on the page is asked for with `next_cursor`, as \
                 `cursor` (events: `after`)."
            }
            Self::Diagram => {
                "Draws the steps of a run, with how far each is, or of a template: as text, Mermaid, or a \
                 picture in SVG."
            }
        }
    }

    /// What the tool changes.
    fn annotations(self) -> ToolAnnotations {
        let title = ToolAnnotations::with_title(self.title());
        match self {
            // What a workflow does is up to its steps.
            Self::Run => title.read_only(false).destructive(true).idempotent(false).open_world(true),
            Self::Signal => title.read_only(false).destructive(true).idempotent(false).open_world(true),
            Self::Define => title.read_only(false).destructive(false).idempotent(true).open_world(false),
            Self::Status | Self::Query | Self::Diagram => {
                title.read_only(true).destructive(false).idempotent(true).open_world(false)
            }
        }
    }

    fn input(self) -> Value {
        let text = |about: &str| json!({"type": "string", "description": about});
        let object = |about: &str| json!({"type": "object", "description": about});
        let agent = text("Your id, always the same: whom decisions may be for, who is notified");
        let version =
            json!({"type": ["string", "integer"], "description": "`v2` or 2; the newest without it"});
        let wait = text("Longest wait, `10s` or `500ms`; 20s without it");
        match self {
            Self::Run => json!({"required": ["template_name", "agent_id"], "properties": {
                "template_name": text("Which template to run"), "version": version,
                "params": object("Params of the run"), "agent_id": agent,
                "id": text("Id of the run; the same id with the same call again is the same run"),
                "context": object("Context of the run, such as {\"intent\": …}"),
                "labels": object("Labels of the run, name to text"), "wait": wait}}),
            Self::Status => json!({"required": ["workflow_id"], "properties": {
                "workflow_id": text("Which run"),
                "wait": text("Wait until it ends or suspends, at most this long, `10s`; not without it"),
                "include_events": {"type": "boolean", "description": "Its first 100 events, default true"}}}),
            Self::Signal => json!({"required": ["workflow_id", "signal_type"], "properties": {
                "workflow_id": text("Which run"),
                "signal_type": {"type": "string", "enum": ["decision", "data", "cancel", "retry", "skip"],
                    "description": "What to send"},
                "payload": object("Of a decision {\"choice\": option id, \"data\"?: …}; of data what is \
                    waited for"),
                "step_id": text("Which step; needed where it is not clear"), "agent_id": agent,
                "reasoning": text("Why, for the record"),
                "signal_id": text("The same id twice is delivered once"), "wait": wait}}),
            Self::Define => json!({"required": ["name", "definition", "agent_id"], "properties": {
                "name": text("The template's name"),
                "definition": object("The workflow: {\"steps\": [{\"id\", \"type\", \"action\", \"params\", \
                    \"depends_on\", …}]}"),
                "description": text("What it is for"),
                "input_schema": object("JSON Schema of its params"),
                "output_schema": object("JSON Schema of its output"),
                "triggers": object("Kept with the template; nothing is started by them"), "agent_id": agent}}),
            Self::Query => json!({"required": ["resource"], "properties": {
                "resource": {"type": "string", "enum": ["workflows", "events", "templates", "decisions"],
                    "description": "What to list"},
                "filter": object("workflows: status, agent_id, template, labels, since, until, limit, cursor. \
                    events: workflow_id (needed), step_id, event_type, since, limit, after. \
                    templates: name, version, limit, cursor. \
                    decisions: status, agent_id, workflow_id, limit, cursor.")}}),
            Self::Diagram => json!({"required": ["format"], "properties": {
                "workflow_id": text("Which run; or give template_name"),
                "template_name": text("Which template; or give workflow_id"), "version": version,
                "format": {"type": "string", "enum": ["ascii", "mermaid", "image"],
                    "description": "Text, Mermaid, or a picture (SVG)"},
                "include_status": {"type": ["boolean", "string"],
                    "description": "How far each step is, default true"}}}),
        }
    }

    fn output(self) -> Value {
        let (text, list, object) =
            (json!({"type": "string"}), json!({"type": "array"}), json!({"type": "object"}));
        let maybe = |kind: &str| json!({"type": [kind, "null"]});
        match self {
            Self::Run | Self::Status => json!({"required": ["workflow_id", "status"], "properties": {
                "workflow_id": text, "status": text, "output": {}, "error": maybe("object"), "steps": object,
                "pending_decisions": list, "events": list, "events_next_cursor": maybe("string")}}),
            Self::Signal => {
                json!({"required": ["ok", "workflow_id", "signal_type", "sequence"], "properties": {
                "ok": {"type": "boolean"}, "workflow_id": text, "signal_type": text,
                "sequence": {"type": "integer"}, "resumed": {"type": "boolean"}, "status": text, "output": {},
                "error": maybe("object"), "pending_decisions": list}})
            }
            Self::Define => json!({"required": ["name", "version"], "properties": {
                "name": text, "version": text, "definition_hash": text, "created_at": text}}),
            Self::Query => json!({"properties": {
                "workflows": list, "events": list, "templates": list, "decisions": list,
                "next_cursor": maybe("string"), "unreachable_shards": list}}),
            Self::Diagram => json!({"required": ["format", "media_type", "diagram"], "properties": {
                "format": text, "media_type": text, "diagram": text}}),
        }
    }
}

/// Every tool, for `tools/list`.
pub(super) fn described() -> Vec<Tool> {
    let schema = |mut schema: Value, is_closed: bool| -> Arc<JsonObject> {
        schema["type"] = "object".into();
        if is_closed {
            schema["additionalProperties"] = false.into();
        }
        match schema {
            Value::Object(schema) => Arc::new(schema),
            other => panic!("{other} is no schema"),
        }
    };
    let described = |tool: ToolName| {
        Tool::new(tool.as_str(), tool.about(), schema(tool.input(), true))
            .with_title(tool.title())
            .with_raw_output_schema(schema(tool.output(), false))
            .with_annotations(tool.annotations())
    };
    ToolName::ALL.map(described).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_there() {
        for tool in described() {
            let output = tool.output_schema.as_ref().unwrap();
            for schema in [&tool.input_schema, output] {
                let properties = schema["properties"].as_object().unwrap();
                for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                    assert!(properties.contains_key(name.as_str().unwrap()), "{}: {name}", tool.name);
                }
            }
            assert_eq!(tool.input_schema["additionalProperties"], false);
            assert_eq!(ToolName::parse(&tool.name).map(ToolName::as_str), Some(&*tool.name));
        }
    }
}

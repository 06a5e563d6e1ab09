//! A workflow of an original OPCODE as a line of history. Its own events say less than ours and in
//! other words, so the run is told by what its rows say of it and of its top-level steps; every event,
//! decision and nested step of OPCODE is kept beside that as an event of the author's, under its name.

use opcode_engine::definition::Definition;
use opcode_engine::ids::Timestamp;
use opcode_shard::history::Line;
use serde_json::{Map, Value, json};

use super::source::Row;

pub(super) const WORKFLOW: &[&str] = &[
    "id",
    "template_name",
    "template_version",
    "definition",
    "status",
    "agent_id",
    "parent_workflow_id",
    "input_params",
    "output",
    "error",
    "created_at",
    "started_at",
    "completed_at",
    "updated_at",
];
pub(super) const STEP: &[&str] =
    &["step_id", "status", "input", "output", "error", "retry_count", "started_at", "completed_at"];
pub(super) const EVENT: &[&str] = &["step_id", "event_type", "payload", "agent_id", "timestamp", "sequence"];
pub(super) const DECISION: &[&str] =
    &["id", "step_id", "context", "options", "resolution", "resolved_by", "status", "created_at"];
pub(super) const CONTEXT: &[&str] = &["original_intent", "decisions_log", "accumulated_data", "agent_notes"];

/// All rows of a workflow.
pub(super) struct Workflow {
    pub(super) row: Row,
    pub(super) steps: Vec<Row>,
    pub(super) events: Vec<Row>,
    pub(super) decisions: Vec<Row>,
    pub(super) context: Option<Row>,
    /// The name of its agent.
    pub(super) agent_name: Option<String>,
}

/// Whether a workflow of this status has ended.
pub(super) fn has_ended(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled")
}

/// A name as it may stand in an event: 1 to 128 bytes without control characters.
fn name(text: Option<String>) -> Option<String> {
    text.filter(|text| text.len() <= 128 && !text.chars().any(char::is_control))
}

impl Workflow {
    fn time(&self, column: &str) -> Option<Timestamp> {
        time(&self.row.text(column)?)
    }

    /// Its params, an object whatever stands there.
    pub(super) fn params(&self) -> Value {
        match self.row.json("input_params") {
            params @ Value::Object(_) => params,
            Value::Null => json!({}),
            other => json!({ "input_params": other }),
        }
    }

    /// What is known of why it was started and what came together.
    pub(super) fn context(&self) -> Value {
        let mut context = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                context.insert(name.to_owned(), value);
            }
        };
        put("agent_id", self.row.text("agent_id").into());
        put("agent_name", self.agent_name.clone().into());
        put("parent_workflow_id", self.row.text("parent_workflow_id").into());
        if let Some(row) = &self.context {
            put("intent", row.text("original_intent").into());
            put("decisions_log", row.json("decisions_log"));
            put("accumulated_data", row.json("accumulated_data"));
            put("agent_notes", row.text("agent_notes").into());
        }
        Value::Object(context)
    }

    pub(super) fn agent_id(&self) -> Option<String> {
        name(self.row.text("agent_id"))
    }

    /// Its line; the error says what of it cannot be understood.
    pub(super) fn line(&self) -> Result<Line, String> {
        let text = self.row.text("definition").ok_or("it has no definition")?;
        let definition = Definition::parse_stored(&text).map_err(|invalid| {
            let first = invalid.problems.first();
            let first = first.map(|problem| format!("{}: {}", problem.pointer, problem.message));
            format!("its definition is refused: {}", first.unwrap_or_default())
        })?;
        let id = self.row.text("id").unwrap_or_default();
        let status = self.row.text("status").unwrap_or_default();
        let began =
            self.time("created_at").or_else(|| self.time("started_at")).ok_or("it has no created_at")?;
        let ended = self.time("completed_at").or_else(|| self.time("updated_at")).unwrap_or(began).max(began);
        let mut story = Story { began, ended, events: Vec::new() };
        self.tell_originals(&mut story);
        for step in &self.steps {
            story.step(step, &definition, &status);
        }
        story.events.sort_by_key(|(at, _)| *at);
        let mut events = vec![(began, self.start(&definition, &id))];
        events.append(&mut story.events);
        events.push((ended, self.end(&status)?));
        let numbered = events.into_iter().enumerate().map(|(place, (at, mut event))| {
            event["sequence"] = json!(place + 1);
            event["timestamp"] = at.to_rfc3339().into();
            event
        });
        let source: Value = serde_json::from_str(&definition.source).map_err(|error| error.to_string())?;
        let events: Vec<Value> = numbered.collect();
        let line = json!({"kind": "run", "workflow_id": id, "status": status, "definitions": [source],
            "events": events});
        Line::parse(&line.to_string())?.ok_or_else(|| "it is no run".to_owned())
    }

    fn start(&self, definition: &Definition, id: &str) -> Value {
        let mut data = json!({"workflow_id": id, "status": "active", "definition": definition.hash.to_string(),
            "params": self.params(), "context": self.context()});
        let texts = [
            ("template", name(self.row.text("template_name"))),
            ("version", name(self.row.text("template_version"))),
            ("agent_id", self.agent_id()),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                data[field] = text.into();
            }
        }
        json!({"type": "workflow_started", "data": data, "agent_id": self.agent_id()})
    }

    fn end(&self, status: &str) -> Result<Value, String> {
        Ok(match status {
            "completed" => json!({"type": "workflow_completed", "data": {"output": self.row.json("output")}}),
            "failed" => {
                json!({"type": "workflow_failed", "data": {"error": fault(&self.row.json("error"), None)}})
            }
            "cancelled" => json!({"type": "workflow_cancelled", "data": {}}),
            other => return Err(format!("it is {other}")),
        })
    }

    fn tell_originals(&self, story: &mut Story) {
        for event in &self.events {
            let data = json!({"step_id": event.text("step_id"), "sequence": event.json("sequence"),
                "payload": event.json("payload")});
            let kind = event.text("event_type").unwrap_or_default();
            story.original(&format!("opcode.{kind}"), data, name(event.text("agent_id")), event, "timestamp");
        }
        for decision in &self.decisions {
            let data: Map<String, Value> =
                DECISION.iter().map(|column| ((*column).to_owned(), decision.json(column))).collect();
            story.original("opcode.decision", Value::Object(data), None, decision, "created_at");
        }
    }
}

/// Events between the first and the last, with their times.
struct Story {
    began: Timestamp,
    ended: Timestamp,
    events: Vec<(Timestamp, Value)>,
}

impl Story {
    /// The time of a row, within that of the run.
    fn at(&self, row: &Row, column: &str) -> Option<Timestamp> {
        row.text(column).and_then(|text| time(&text)).map(|at| at.clamp(self.began, self.ended))
    }

    fn original(&mut self, event: &str, data: Value, agent_id: Option<String>, row: &Row, column: &str) {
        let at = self.at(row, column).unwrap_or(self.began);
        let data = json!({"event": event, "data": data});
        self.events.push((at, json!({"type": "custom", "data": data, "agent_id": agent_id})));
    }

    /// What became of a top-level step; of another it is only noted.
    fn step(&mut self, row: &Row, definition: &Definition, run: &str) {
        let id = row.text("step_id").unwrap_or_default();
        let is_top = definition.root.iter().any(|&spec| *definition.step(spec).id == *id);
        let status = row.text("status").unwrap_or_default();
        let input = row.json("input");
        if !is_top || !input.is_null() {
            let columns = if is_top { &["step_id", "input"][..] } else { STEP };
            let data: Map<String, Value> =
                columns.iter().map(|column| ((*column).to_owned(), row.json(column))).collect();
            self.original("opcode.step_state", Value::Object(data), None, row, "started_at");
        }
        if !is_top {
            return;
        }
        let started = self.at(row, "started_at").unwrap_or(self.began);
        let ended = self.at(row, "completed_at").unwrap_or(self.ended).max(started);
        let attempt = row.json("retry_count").as_u64().unwrap_or(0).min(1_000) + 1;
        let mut tell = |at, kind: &str, data: Value| {
            self.events.push((at, json!({"type": kind, "step_id": id, "data": data})));
        };
        match status.as_str() {
            // They had not begun, or what they were for is not known.
            "pending" | "scheduled" => return,
            "skipped" => return tell(ended, "step_skipped", json!({"reason": "condition"})),
            _ => tell(started, "step_started", json!({ "attempt": attempt })),
        }
        match status.as_str() {
            "completed" => tell(ended, "step_completed", json!({"output": row.json("output")})),
            "failed" => {
                // In a run that went well nevertheless it was answered by something.
                let data =
                    json!({"error": fault(&row.json("error"), Some(&id)), "handled": run == "completed"});
                tell(ended, "step_failed", data);
            }
            // It was under way when its run ended.
            _ => {
                let reason = if run == "cancelled" { "cancelled" } else { "run_failed" };
                tell(ended, "step_skipped", json!({ "reason": reason }));
            }
        }
    }
}

/// An error of OPCODE's as one of ours: with its code where we have it.
fn fault(error: &Value, step_id: Option<&str>) -> Value {
    let code = error["code"].as_str().map(Value::from);
    let known = code.filter(|code| serde_json::from_value::<opcode_engine::Code>(code.clone()).is_ok());
    let message = error["message"].as_str().or(error.as_str()).unwrap_or("it failed in OPCODE");
    let mut fault = json!({"code": known.unwrap_or_else(|| "EXECUTION_ERROR".into()), "message": message,
        "details": error});
    if let Some(step_id) = step_id {
        fault["step_id"] = step_id.into();
    }
    fault
}

/// A time as SQLite and OPCODE write one: RFC 3339, or with a space, with or without a zone (UTC).
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = Timestamp::parse_rfc3339(text) {
        return Some(at);
    }
    // `2026-02-10 12:00:00.5 +0000 UTC m=+0.1`: what comes after the offset says nothing new.
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    let [date, rest @ ..] = words.as_slice() else { return None };
    let clock = rest.first().copied().unwrap_or("00:00:00");
    let with_zone = rest.get(1).map_or_else(|| clock.to_owned(), |zone| format!("{clock}{zone}"));
    let zoned = chrono::DateTime::parse_from_str(&format!("{date} {with_zone}"), "%Y-%m-%d %H:%M:%S%.f%#z");
    let at = match zoned {
        Ok(at) => at.to_utc(),
        Err(_) => {
            let form = "%Y-%m-%d %H:%M:%S%.f";
            let clock = clock.trim_end_matches('Z');
            chrono::NaiveDateTime::parse_from_str(&format!("{date} {clock}"), form).ok()?.and_utc()
        }
    };
    Timestamp::parse_rfc3339(&at.to_rfc3339()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_and_sqlite_write_them() {
        let noon = Timestamp::parse_rfc3339("2026-02-10T12:00:00Z").ok();
        for text in [
            "2026-02-10T12:00:00Z",
            "2026-02-10 12:00:00",
            "2026-02-10 12:00:00+00:00",
            "2026-02-10 13:00:00.000+01:00",
            "2026-02-10 12:00:00 +0000 UTC",
            "2026-02-10 12:00:00.0 +0000 UTC m=+0.5",
            "2026-02-10 12:00:00Z",
        ] {
            assert_eq!(time(text), noon, "{text}");
        }
        for text in ["", "noon", "2026-13-10 12:00:00", "1700000000", "2026-02-10 12"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn errors_keep_what_they_say() {
        let known = fault(&json!({"code": "TIMEOUT_ERROR", "message": "late"}), Some("a"));
        assert_eq!((&known["code"], &known["message"]), (&json!("TIMEOUT_ERROR"), &json!("late")));
        let unknown = fault(&json!("it broke"), None);
        assert_eq!((&unknown["code"], &unknown["message"]), (&json!("EXECUTION_ERROR"), &json!("it broke")));
        assert_eq!(fault(&Value::Null, None)["message"], "it failed in OPCODE");
    }
}

//! Names in what runs have written, put into a namespace and taken out of it: in the data of a few types of
//! events, and in the lines of exports, which say nothing of the namespace that they come from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::event::EventType;
use opcode_engine::ids::WorkflowId;
use opcode_engine::namespace::{Namespace, SEPARATOR, local};
use opcode_shard::history::{Line, PastRun};
use opcode_shard::record::EventRecord;
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields that hold an id or a name: as a text, or as an object with a `workflow_id`.
const FIELDS: [&str; 4] = ["workflow_id", "template", "parent", "child"];

/// Whether events of a type have such fields.
fn has_names(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::WorkflowStarted
            | EventType::WorkflowCompleted
            | EventType::WorkflowFailed
            | EventType::WorkflowCancelled
            | EventType::StepFailed
            | EventType::StepSkipped
            | EventType::StepRetrying
            | EventType::StepIgnored
            | EventType::WaitStarted
    )
}

/// An event's data with its names called otherwise. The error says why it cannot be.
fn renamed(data: &str, rename: impl Fn(&str) -> Result<String, String>) -> Result<Box<RawValue>, String> {
    let wrong = |error: serde_json::Error| error.to_string();
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(data).map_err(wrong)?;
    for name in FIELDS {
        let Some(raw) = fields.get_mut(name) else { continue };
        let mut value: Value = serde_json::from_str(raw.get()).map_err(wrong)?;
        let named = if value.is_object() { value.get_mut("workflow_id") } else { Some(&mut value) };
        if let Some(named) = named
            && let Some(text) = named.as_str()
        {
            let renamed = rename(text).map_err(|why| format!("{name}: {why}"))?;
            *named = renamed.into();
        }
        *raw = serde_json::value::to_raw_value(&value).map_err(wrong)?;
    }
    serde_json::value::to_raw_value(&fields).map_err(wrong)
}

fn without_namespace(kept: &str) -> Result<String, String> {
    Ok(local(kept).to_owned())
}

/// An event's data as it is shown in its run's namespace: the few ids and names that stand in it without
/// that. None when it is shown as it is.
pub(crate) fn event_data(record: &EventRecord) -> Option<Box<RawValue>> {
    if !has_names(record.event_type) {
        return None;
    }
    renamed(std::str::from_utf8(&record.data).ok()?, without_namespace).ok()
}

/// A run as it leaves its namespace.
pub(crate) fn local_run(mut run: PastRun) -> Result<PastRun, String> {
    if run.workflow_id.namespace().is_default() {
        return Ok(run);
    }
    run.workflow_id = WorkflowId::parse(run.workflow_id.local())?;
    run.template = run.template.map(|name| local(&name).into());
    for event in run.events.iter_mut().filter(|event| has_names(event.event_type)) {
        event.data = renamed(event.data.get(), without_namespace)?;
    }
    Ok(run)
}

/// A line as it comes into a namespace. The error says which name in it can be none.
pub(crate) fn qualified_line(line: Line, namespace: &Namespace) -> Result<Line, String> {
    let name = |field: &str, name: Arc<str>| -> Result<Arc<str>, String> {
        match namespace.qualify(&*name) {
            Some(Cow::Borrowed(_)) => Ok(name),
            Some(Cow::Owned(kept)) => Ok(kept.into()),
            None => Err(format!("{field}: a template's name has no `{SEPARATOR}`")),
        }
    };
    Ok(match line {
        Line::Template(mut template) => {
            template.name = name("name", template.name)?;
            Line::Template(template)
        }
        Line::Run(mut run) => {
            let id =
                WorkflowId::parse(run.workflow_id.as_str()).map_err(|why| format!("workflow_id: {why}"))?;
            run.workflow_id = id.in_namespace(namespace);
            run.template = run.template.take().map(|template| name("template", template)).transpose()?;
            qualify_events(&mut run, namespace)?;
            Line::Run(run)
        }
    })
}

fn qualify_events(run: &mut PastRun, namespace: &Namespace) -> Result<(), String> {
    let qualified = |text: &str| match namespace.qualify(text) {
        Some(kept) => Ok(kept.into_owned()),
        None => Err(format!("`{SEPARATOR}` stands in no id or name")),
    };
    for (place, event) in run.events.iter_mut().enumerate() {
        // In `default` a name is as it is, and one that has to be refused has the sign in it.
        let is_plain = namespace.is_default() && !event.data.get().contains([SEPARATOR, '\\']);
        if is_plain || !has_names(event.event_type) {
            continue;
        }
        // What is no object is told by who judges the events.
        if serde_json::from_str::<BTreeMap<String, &RawValue>>(event.data.get()).is_err() {
            continue;
        }
        let data =
            renamed(event.data.get(), qualified).map_err(|why| format!("events/{place}: data: {why}"))?;
        if !namespace.is_default() {
            event.data = data;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use opcode_engine::ids::{RunNo, Sequence, Timestamp};
    use serde_json::json;

    use super::*;

    fn parsed(line: &str) -> Line {
        Line::parse(line).expect("a line").expect("one of something")
    }

    /// A run's line, with these names in its first event.
    fn line(id: &str, template: &str, parent: &str) -> String {
        let data = json!({"workflow_id": id, "template": template, "params": {"a": "x/y"}, "context": {},
            "parent": {"workflow_id": parent, "step_id": "s", "attempt": 1, "depth": 1, "waits": true}});
        let event = json!({"sequence": 1, "type": "workflow_started", "data": data,
            "timestamp": "2026-01-01T00:00:00.000Z"});
        json!({"kind": "run", "workflow_id": id, "template": template, "definitions": [], "events": [event]})
            .to_string()
    }

    #[test]
    fn a_run_leaves_a_namespace_and_comes_into_another() {
        let team = Namespace::parse("team").expect("a name");
        let plain = line("w", "t", "p");
        let Ok(Line::Run(inside)) = qualified_line(parsed(&plain), &team) else { panic!("it comes in") };
        assert_eq!((inside.workflow_id.as_str(), inside.template.as_deref()), ("team/w", Some("team/t")));
        let data: Value = serde_json::from_str(inside.events[0].data.get()).expect("JSON");
        assert_eq!(
            (&data["workflow_id"], &data["parent"]["workflow_id"]),
            (&json!("team/w"), &json!("team/p"))
        );
        assert_eq!(data["params"], json!({"a": "x/y"}), "what is the author's stays");
        let outside = local_run(*inside).expect("it leaves");
        let text = |run: PastRun| serde_json::to_value(Line::Run(Box::new(run))).expect("JSON");
        let Line::Run(as_it_was) = parsed(&plain) else { panic!("a run") };
        assert_eq!(text(outside), text(*as_it_was));
    }

    #[test]
    fn a_line_names_nothing_of_another_namespace() {
        let (default, team) = (Namespace::default(), Namespace::parse("team").expect("a name"));
        for (id, template, parent) in [("team/w", "t", "p"), ("w", "team/t", "p"), ("w", "t", "team/p")] {
            for namespace in [&default, &team] {
                let refused = qualified_line(parsed(&line(id, template, parent)), namespace);
                assert!(refused.is_err(), "{id} {template} {parent} in {namespace}");
            }
        }
        let template = |name: &str| {
            let line = json!({"kind": "template", "name": name, "version": "v1",
                "created_at": "2026-01-01T00:00:00.000Z", "source": {}});
            parsed(&line.to_string())
        };
        assert!(qualified_line(template("team/t"), &default).is_err());
        assert_eq!(qualified_line(template("t"), &team).expect("it comes in").key(), "team/t@v1");
    }

    #[test]
    fn an_event_shows_no_namespace_and_every_digit() {
        let shown = |event_type, data: &str| {
            let record = EventRecord {
                no: RunNo(1),
                sequence: Sequence(1),
                event_type,
                step_id: None,
                data: data.as_bytes().to_vec(),
                agent_id: None,
                timestamp: Timestamp(0),
            };
            event_data(&record).map(|raw| serde_json::from_str::<Value>(raw.get()).expect("JSON"))
        };
        let started = r#"{"workflow_id":"team/a","template":"team/t","params":{"workflow_id":"team/x","n":1.50},
            "parent":{"workflow_id":"team/p","step_id":"s","attempt":1}}"#;
        let expected = r#"{"workflow_id":"a","template":"t","params":{"workflow_id":"team/x","n":1.50},
            "parent":{"workflow_id":"p","step_id":"s","attempt":1}}"#;
        let expected: Value = serde_json::from_str(expected).expect("JSON");
        assert_eq!(shown(EventType::WorkflowStarted, started), Some(expected));
        let waits = shown(EventType::WaitStarted, r#"{"child":"team/a:s:1"}"#);
        assert_eq!(waits, Some(json!({"child": "a:s:1"})));
        let failed = shown(EventType::StepFailed, r#"{"child":{"workflow_id":"team/c","attempt":2}}"#);
        assert_eq!(failed, Some(json!({"child": {"workflow_id": "c", "attempt": 2}})));
        assert_eq!(shown(EventType::StepCompleted, r#"{"output":{"child":"team/x"}}"#), None);
    }
}

//! Lines out and in, and whatever else comes in their place.

use opcode_engine::command::{Command, Reason, Start};
use opcode_engine::definition::Definition;
use opcode_engine::ids::RunNo;
use opcode_engine::run::Run;
use serde_json::json;

use super::*;
use crate::definitions::Definitions;

const SOURCE: &str = r#"{"steps":[{"config":{"signal":"go"},"id":"w","type":"wait"},{"action":"crypto.uuid","depends_on":["w"],"id":"u"}]}"#;

/// A run that was called off while it waited, in its line.
fn line() -> Value {
    let definition = Arc::new(Definition::parse(SOURCE).unwrap());
    let start = Start {
        no: RunNo(3),
        id: WorkflowId::parse("order:1").unwrap(),
        definition: definition.clone(),
        template: Some(("t".into(), "v2".into())),
        params: json!({"n": 1.50}),
        agent_id: Some("ann".into()),
        context: json!({"intent": "to see"}),
        labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        start_at: None,
        body_hash: Some(u64::MAX),
        request: Some(7),
        parent: None,
    };
    let (mut run, decision) = Run::start(start, Timestamp(1_000)).unwrap();
    let mut events = decision.events;
    events.extend(run.handle(Command::Cancel(Reason::default()), Timestamp(2_000)).unwrap().events);
    let records = events.iter().map(|event| EventRecord::encode(RunNo(3), event)).collect();
    let past = PastRun::new(run.id().clone(), std::slice::from_ref(&definition.source), records).unwrap();
    let bytes = Line::Run(Box::new(past)).write().unwrap();
    assert_eq!(bytes.iter().position(|byte| *byte == b'\n'), Some(bytes.len() - 1), "one line");
    serde_json::from_slice(&bytes).unwrap()
}

fn judged(line: &Value) -> Result<Checked, String> {
    let line = Line::parse(&line.to_string())?.ok_or("an end")?;
    line.check(&Definitions::default()).map_err(|rejected| rejected.message)
}

#[test]
fn a_run_comes_in_as_it_went_out() {
    let line = line();
    assert_eq!((&line["kind"], &line["status"]), (&json!("run"), &json!("cancelled")));
    assert_eq!((&line["labels"], &line["params"]), (&json!({"team": "red"}), &json!({"n": 1.50})));
    let Ok(Checked::Run(run)) = judged(&line) else { panic!("{:?}", judged(&line)) };
    let again = PastRun::new(run.run.id().clone(), &[SOURCE.into()], run.events).unwrap();
    let again: Value = serde_json::from_slice(&Line::Run(Box::new(again)).write().unwrap()).unwrap();
    assert_eq!(again, line);
    // What stands beside the events may be left out.
    let mut bare = line.clone();
    for field in ["status", "template", "version", "agent_id", "labels", "params"] {
        bare.as_object_mut().unwrap().remove(field);
    }
    assert!(judged(&bare).is_ok());
}

#[test]
fn what_no_run_can_be_is_refused_with_its_place() {
    let change = |pointer: &str, value: Value| {
        let mut line = line();
        *line.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        line
    };
    let without = |pointer: &str, field: &str| {
        let mut line = line();
        line.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
        line
    };
    let (mut reversed, mut cut) = (line(), line());
    reversed["events"].as_array_mut().unwrap().reverse();
    cut["events"].as_array_mut().unwrap().pop();
    cut.as_object_mut().unwrap().remove("status");
    let mut longer = line();
    let last = longer["events"].as_array().unwrap().last().unwrap().clone();
    longer["events"].as_array_mut().unwrap().push(last);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let cases = [
        (json!({}), "missing field `kind`"),
        (json!({"kind": "end"}), "an end"),
        (json!({"kind": "omitted", "workflow_id": "w"}), "left this out"),
        (json!({"kind": "runs"}), "no line is of the kind `runs`"),
        (json!({"kind": "run"}), "missing field"),
        (change("/workflow_id", json!("a b")), "workflow id"),
        (change("/workflow_id", json!("other")), "those of another run"),
        (change("/status", json!("completed")), "the run is cancelled"),
        (change("/template", json!("other")), "template: the first event says otherwise"),
        (change("/labels/team", json!("blue")), "labels: the first event says otherwise"),
        (change("/params/n", json!(1.51)), "params: the first event says otherwise"),
        (change("/events", json!([])), "1 to 1000000 events"),
        (change("/events/0/sequence", json!(2)), "begins with event 2"),
        (change("/events/1/sequence", json!(5)), "event 5 follows event 1"),
        (change("/events/0/type", json!("workflow_begun")), "no event is of the type"),
        (change("/events/0/timestamp", json!("yesterday")), "RFC 3339"),
        (change("/events/0/data", json!({})), "events/0: data"),
        (change("/events/0/data/params", json!(3)), "params and context are objects"),
        (change("/events/0/data/definition", json!("ab")), "64 hexadecimal digits"),
        (change("/definitions", json!([])), "there is no definition"),
        (change("/definitions/0", json!({"steps": 1})), "definitions/0"),
        (change("/events/0/agent_id", json!("a\u{0}b")), "control characters"),
        (without("", "events"), "missing field `events`"),
        (without("/events/0", "timestamp"), "missing field `timestamp`"),
        (reversed, "begins with workflow_started"),
        (cut, "only one that has ended"),
        (longer, "follows event"),
    ];
    for (line, word) in &cases {
        let why = judged(line).expect_err(word);
        assert!(why.contains(word), "{word}: {why}");
        assert!(why.chars().count() < 600, "{word}: a long story");
    }
    let mut extra = line();
    extra["no"] = json!(1);
    assert!(judged(&extra).unwrap_err().contains("unknown field `no`"));
    // As text: a value of JSON this deep cannot be made here either.
    let text = line().to_string().replacen(r#""intent":"to see""#, &format!(r#""intent":{deep}"#), 1);
    let parsed = Line::parse(&text).map_err(|why| why.contains("recursion"));
    let refused = parsed.map(|line| line.is_some_and(|line| line.check(&Definitions::default()).is_err()));
    assert!(matches!(refused, Ok(true) | Err(true)));
}

#[test]
fn versions_of_templates_come_as_they_are_kept() {
    let template = |version: &str, source: Value| {
        let source = RawValue::from_string(source.to_string()).unwrap();
        let past = PastTemplate::new("t".into(), version.into(), Timestamp(5), source);
        let text = String::from_utf8(Line::Template(past).write().unwrap()).unwrap();
        judged(&serde_json::from_str(&text).unwrap())
    };
    let file = json!({"name": "t", "definition": serde_json::from_str::<Value>(SOURCE).unwrap()});
    let Ok(Checked::Template(record)) = template("v3", file.clone()) else { panic!("it is good") };
    assert_eq!((record.version, &*record.source, record.created_at), (3, &*file.to_string(), Timestamp(5)));
    for version in ["3", "v0", "v", "v-1", "v+1", "v01", "v4294967296"] {
        assert!(template(version, file.clone()).unwrap_err().contains("version"), "{version}");
    }
    let mut other = file.clone();
    other["name"] = json!("u");
    assert!(template("v1", other).unwrap_err().contains("of this name"));
    let mut broken = file;
    broken["definition"]["steps"] = json!([]);
    assert!(template("v1", broken).unwrap_err().contains("source: "));
}

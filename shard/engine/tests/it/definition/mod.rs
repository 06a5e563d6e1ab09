//! What `Definition::parse` accepts and refuses.

mod accepted;
mod hostile;
mod mutated;
mod problems;
mod references;
mod schema;

use opcode_engine::definition::Definition;
use opcode_engine::{Code, Invalid};
use serde_json::{Value, json};

/// Text that must be refused.
fn refused(text: &str) -> Invalid {
    match Definition::parse(text) {
        Ok(_) => panic!("accepted: {}", &text[..text.len().min(2_000)]),
        Err(invalid) => invalid,
    }
}

/// A definition that must be accepted.
#[track_caller]
fn accepted(definition: &Value) -> Definition {
    Definition::parse(&definition.to_string()).unwrap_or_else(|e| panic!("{definition:#}: {e:#?}"))
}

/// Refused with exactly these problems, in this order: pointers, and what the messages contain.
#[track_caller]
fn expect(definition: &Value, problems: &[(&str, &str)]) {
    expect_text(&definition.to_string(), problems);
}

#[track_caller]
fn expect_text(text: &str, problems: &[(&str, &str)]) {
    let found = refused(text).problems;
    let matches = found.len() == problems.len()
        && found.iter().zip(problems).all(|(f, (at, part))| f.pointer == *at && f.message.contains(part));
    assert!(matches, "expected {problems:#?}\nfound {found:#?}\nin {}", &text[..text.len().min(2_000)]);
}

/// A definition of these steps.
fn steps(steps: Value) -> Value {
    json!({ "steps": steps })
}

/// A step that does nothing much.
fn log(id: &str, depends_on: &[&str]) -> Value {
    json!({"id": id, "action": "workflow.log", "params": {"message": "m"}, "depends_on": depends_on})
}

/// A step that reads `${{steps.OTHER.output}}`.
fn reads(id: &str, other: &str, depends_on: &[&str]) -> Value {
    let message = format!("${{{{steps['{other}']}}}}");
    json!({"id": id, "action": "workflow.log", "params": {"message": message}, "depends_on": depends_on})
}

#[test]
fn a_lone_cycle_has_its_own_code() {
    let cycle = steps(json!([log("a", &["c"]), log("b", &["a"]), log("c", &["b"]), log("d", &["c"])]));
    let invalid = refused(&cycle.to_string());
    assert_eq!(invalid.code, Code::CycleDetected);
    assert_eq!(invalid.problems[0].pointer, "/steps/0/depends_on");
    assert!(invalid.problems[0].message.contains("a → b → c → a"), "{}", invalid.problems[0].message);

    let mut both = cycle;
    both["timeout"] = json!("soon");
    let invalid = refused(&both.to_string());
    assert_eq!(invalid.code, Code::ValidationError);
    assert_eq!(invalid.problems.len(), 2);
}

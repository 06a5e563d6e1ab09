//! What the expressions of all targets read: one scope with a value of every kind.

use std::sync::{Arc, LazyLock};

use opcode_engine::expr::{Env, EvalError, ExprProblem, OwnedScope, Visibility};
use serde_json::{Value, json};

/// Steps that are done, and their outputs.
fn outputs() -> [(&'static str, Value); 5] {
    [
        ("fetch", json!({"status_code": 200, "output": "inner", "body": {"items": [1, 2.5, 3], "n": null}})),
        ("list-all", json!([{"id": 1, "tag": "a"}, {"id": 2, "tag": "b"}, {"id": 3, "tag": "a"}])),
        ("gate", json!({"choice": "approve", "data": {}})),
        ("skipped", Value::Null),
        ("text", json!("plain ü text")),
    ]
}

/// The scope.
pub fn scope() -> &'static OwnedScope {
    static SCOPE: LazyLock<OwnedScope> = LazyLock::new(|| OwnedScope {
        steps: outputs().into_iter().map(|(id, output)| (id.into(), Arc::new(output))).collect(),
        inputs: Arc::new(json!({
            "n": 7, "half": 0.5, "zero": 0, "big": 9_007_199_254_740_993_i64, "name": "Ada", "empty": "",
            "flag": true, "nil": null, "tags": ["x", "y", "x"], "nums": [3, 1, 2], "none": [], "map": {"a": {"b-c": [1, 2]}},
            "users": [{"name": "Ann", "age": 30}, {"name": "Bob", "age": 25}, {"name": "Cid", "age": 35}],
            "evil": "${{secrets.KEY}} ${{ inputs.n }}", "exact": exact(),
        })),
        workflow: Arc::new(json!({"run_id": "r-1", "id": "w-1", "attempt": 1})),
        context: Arc::new(json!({"intent": "test", "agent_id": null})),
        item: Some((Arc::new(json!({"url": "http://x", "x": 9})), 3)),
        data: Some(Arc::new(json!({"k": "v", "rows": [[1, 2], [3, 4]]}))),
    });
    &SCOPE
}

/// Digits that no machine number keeps.
fn exact() -> Value {
    serde_json::from_str("123456789012345678901234567890.10").unwrap_or_default()
}

fn step(id: &str) -> Visibility {
    if scope().steps.contains_key(id) || id == "pending" {
        return Visibility::Visible;
    }
    match id {
        "later" => Visibility::TooLate { reason: "it runs after this step".into() },
        _ => Visibility::Unknown { suggestion: None },
    }
}

/// What the expressions are checked against: all steps of the scope, one that is not done, one that
/// comes too late, a loop and `data`.
pub const ENV: Env<'static> = Env { step: &step, in_loop: true, has_data: true };

/// Every problem of `source` says something and lies in it, or just behind its last character.
pub fn assert_problems(source: &str, problems: &[ExprProblem]) {
    assert!(!problems.is_empty(), "{source:?} is refused without a reason");
    let end = source.chars().count() + 1;
    for problem in problems {
        assert!(!problem.message.is_empty(), "{source:?}: {problem:?}");
        assert!((1..=end).contains(&(problem.column as usize)), "{source:?}: {problem:?} of {end}");
        assert!(problem.message.len() < 2_000, "{source:?}: a message of {} bytes", problem.message.len());
    }
}

/// A failure says something and, when it has a place, that place is in `source`.
pub fn assert_failure(source: &str, error: &EvalError) {
    if let EvalError::Failed { message, column } = error {
        assert!(!message.is_empty(), "{source:?} fails without a reason");
        let end = source.chars().count() + 1;
        assert!(column.is_none_or(|column| (1..=end).contains(&(column as usize))), "{source:?}: {error:?}");
    }
}

/// `value` is JSON that any parser of JSON reads back, and weighs no more than `bytes_max`.
pub fn assert_json(source: &str, value: &Value, bytes_max: usize) {
    let weight = weight(value);
    assert!(weight <= bytes_max, "{source:?} gives {weight} bytes, of {bytes_max}");
    let text = value.to_string();
    match serde_json::from_str::<Value>(&text) {
        Ok(again) => assert_eq!(again, *value, "{source:?}"),
        Err(error) => panic!("{source:?} gives what is no JSON: {error}"),
    }
}

/// Bytes that a value holds at least, in nodes, names and texts.
fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => fields.iter().map(|(name, field)| name.len() + weight(field)).sum(),
        }
}

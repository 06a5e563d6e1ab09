//! What the runs under load do.

use std::path::Path;

use serde_json::{Value, json};

/// Steps of a chain or a fan.
pub(crate) const STEPS: usize = 10;

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Ten steps without side effects, one after another, each with a result of about 100 bytes.
    Chain10,
    /// The same ten steps side by side.
    Fan10,
}

impl Work {
    /// The definition; every step records about 100 bytes.
    pub(crate) fn definition(self) -> Value {
        let message = "x".repeat(64);
        steps(self == Self::Chain10, |_| ("workflow.log", json!({"message": message, "level": "debug"})))
    }
}

/// Ten steps, one after another or side by side, each of the action and the params that `step`
/// gives it by its number.
fn steps(is_chain: bool, step: impl Fn(usize) -> (&'static str, Value)) -> Value {
    let steps: Vec<Value> = (0..STEPS)
        .map(|n| {
            let before = if is_chain && n > 0 { vec![format!("s{}", n - 1)] } else { Vec::new() };
            let (action, params) = step(n);
            json!({"id": format!("s{n}"), "action": action, "depends_on": before, "params": params})
        })
        .collect();
    json!({"steps": steps})
}

/// A chain of ten steps, each of which appends a line to a file: the cheapest side effect that can
/// be counted afterwards.
pub(crate) fn appending(file: &Path) -> Value {
    steps(true, |n| ("fs.append", json!({"path": file.display().to_string(), "content": format!("s{n}\n")})))
}

/// A chain of ten calls of the service at `url`, five posts and five gets in turn.
pub(crate) fn calling(url: &str) -> Value {
    steps(true, |n| match n % 2 {
        0 => ("http.post", json!({"url": url, "body": {"order": n, "note": "x".repeat(64)}})),
        _ => ("http.get", json!({"url": url})),
    })
}

/// One decision between two options.
pub(crate) fn deciding() -> Value {
    let options = json!([{"id": "yes", "description": "go on"}, {"id": "no", "description": "stop"}]);
    let config = json!({"prompt_context": "Go on?", "options": options});
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": config}]})
}

/// What resolves that decision.
pub(crate) fn decision() -> Value {
    json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}})
}

/// One wait for a signal.
pub(crate) fn listening() -> Value {
    json!({"steps": [{"id": "listen", "type": "wait", "config": {"signal": "go"}}]})
}

/// What that wait is for.
pub(crate) fn signal() -> Value {
    json!({"type": "data", "step_id": "listen", "payload": {"go": true}})
}

/// One wait until the time in the param `due`.
pub(crate) fn sleeping() -> Value {
    let step = json!({"id": "sleep", "type": "wait", "config": {"until": "${{inputs.due}}"}});
    json!({"inputs": {"due": ""}, "steps": [step]})
}

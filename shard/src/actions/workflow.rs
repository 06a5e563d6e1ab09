//! `workflow.*`: what a step says to its own run. Nothing here touches a run: it asks for events.

use opcode_engine::command::Emission;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use super::Call;
use super::params::{Params, text_of};

/// Variables that one `workflow.context` may set.
const VARIABLES_MAX: usize = 1_000;

type Emitted = Result<(Value, Vec<Emission>), Fault>;

pub(super) fn emit(params: Params<'_>) -> Emitted {
    let event = params.require_str("event_type")?;
    let data = params.given("payload").cloned().unwrap_or(Value::Null);
    let output = json!({"emitted": true, "event": event});
    Ok((output, vec![Emission::Custom { event: event.to_owned(), data }]))
}

/// Tells the run's agent something: a message and whatever stands beside it. The event is recorded
/// exactly once; it reaches the agent if one listens.
pub(super) fn notify(params: Params<'_>, all: &Value) -> Emitted {
    let message = params.require_text("message")?;
    let output = json!({"notified": true, "message": message});
    Ok((output, vec![Emission::Notify { data: all.clone() }]))
}

/// Sets one variable, `{name, value}`, or many, `{variables: {…}}`; `agent_notes` is one more.
/// Reading is done with `${{context.NAME}}`.
pub(super) fn context(params: Params<'_>) -> Emitted {
    if params.str("action")? == Some("read") {
        return Err(params.invalid("action", "read is not needed: use ${{context.NAME}}"));
    }
    let mut variables: Vec<(String, Value)> = Vec::new();
    if let Some(name) = params.str("name")? {
        if name.is_empty() {
            return Err(params.invalid("name", "is empty"));
        }
        variables.push((name.to_owned(), params.require("value")?.clone()));
    }
    match params.get("variables") {
        None => {}
        Some(Value::Object(fields)) => {
            variables.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        Some(_) => return Err(params.invalid("variables", "must be an object")),
    }
    if let Some(notes) = params.str("agent_notes")? {
        variables.push(("agent_notes".to_owned(), json!(notes)));
    }
    if variables.is_empty() {
        return Err(params.invalid("name", "is required, or an object `variables`"));
    }
    if variables.len() > VARIABLES_MAX {
        return Err(params.invalid("variables", &format!("has more than {VARIABLES_MAX} fields")));
    }
    let names: Vec<_> = variables.iter().map(|(name, _)| name.clone()).collect();
    let emissions = variables.into_iter().map(|(name, value)| Emission::Set { name, value }).collect();
    Ok((json!({"updated": true, "set": names}), emissions))
}

/// Why the step fails, and with it the run, whatever the step's `on_error` says.
pub(super) fn fail(params: Params<'_>) -> Fault {
    let reason = params.get("reason").map_or("failed by workflow.fail".into(), text_of);
    Fault::new(Code::NonRetryable, reason).with_details(params.get("details").cloned().unwrap_or(Value::Null))
}

pub(super) fn log(params: Params<'_>, call: &Call) -> Result<Value, Fault> {
    let message = params.require_text("message")?;
    let fields: serde_json::Map<String, Value> = call
        .params
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "message" | "level"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let fields = Value::Object(fields);
    let (workflow_id, step_id) = (call.workflow_id.as_str(), call.step_id.as_ref());
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(target: "opcode::workflow", workflow_id, step_id, %fields, "{message}")
        };
    }
    match params.str("level")?.unwrap_or("info") {
        "debug" => log!(debug),
        "info" => log!(info),
        "warn" | "warning" => log!(warn),
        "error" => log!(error),
        _ => return Err(params.invalid("level", "must be debug, info, warn or error")),
    }
    Ok(json!({"logged": true, "message": message}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_takes_both_spellings() {
        for params in
            [json!({"event": "a.b", "data": {"x": 1}}), json!({"event_type": "a.b", "payload": {"x": 1}})]
        {
            let (output, emissions) = emit(Params::new("workflow.emit", &params)).unwrap();
            assert_eq!(output["emitted"], true);
            assert_eq!(emissions, [Emission::Custom { event: "a.b".into(), data: json!({"x": 1}) }]);
        }
        assert_eq!(emit(Params::new("workflow.emit", &json!({}))).unwrap_err().code, Code::ValidationError);
    }

    #[test]
    fn notify_tells_all_that_it_was_given() {
        let params = json!({"message": {"n": 1}, "data": [2], "urgent": true});
        let (output, emissions) = notify(Params::new("workflow.notify", &params), &params).unwrap();
        assert_eq!(output, json!({"notified": true, "message": "{\"n\":1}"}));
        assert_eq!(emissions, [Emission::Notify { data: params }]);
        let nothing = json!({});
        assert!(notify(Params::new("workflow.notify", &nothing), &nothing).is_err());
    }

    #[test]
    fn context_sets_one_or_many() {
        let set = |name: &str, value: Value| Emission::Set { name: name.into(), value };
        let one = context(Params::new("workflow.context", &json!({"key": "a", "value": null}))).unwrap();
        assert_eq!(one.1, [set("a", Value::Null)]);
        let many = context(Params::new(
            "workflow.context",
            &json!({"action": "update", "data": {"a": 1, "b": [2]}}),
        ))
        .unwrap();
        assert_eq!(many.1, [set("a", json!(1)), set("b", json!([2]))]);
        for params in [json!({}), json!({"name": "a"}), json!({"variables": [1]}), json!({"action": "read"})]
        {
            let fault = context(Params::new("workflow.context", &params)).unwrap_err();
            assert_eq!(fault.code, Code::ValidationError, "{params}");
        }
    }
}

//! The first event of a run.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{EVENT_BYTES_MAX, Work, size};
use crate::command::{Decision, Start};
use crate::definition::Definition;
use crate::error::{Code, Problem, Rejected};
use crate::event::payload::WorkflowStarted;
use crate::event::{Body, Event};
use crate::expr::{Budget, NoJq, OwnedScope};
use crate::fsm::WorkflowStatus;
use crate::ids::{Sequence, Timestamp};
use crate::run::Run;
use crate::run::state::State;

/// Most bytes of a run's labels.
const LABELS_BYTES_MAX: usize = 16 * 1024;

/// Starts a run; see [`Run::start`].
pub(crate) fn start(start: Start, now: Timestamp) -> Result<(Run, Decision), Rejected> {
    let definition = start.definition.clone();
    let context = context(&start)?;
    let params = merge_params(&definition, start.params, &context)?;
    bound(&params, &context)?;
    let labels: usize = start.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if labels > LABELS_BYTES_MAX {
        return Err(refused("/labels", &format!("are over {LABELS_BYTES_MAX} bytes")));
    }
    let waits = start.start_at.filter(|at| *at > now).map(|at| at.min(super::TIME_MAX));
    let (template, version) = start.template.unzip();
    let due = waits.or(definition.timeout_ms.map(|ms| now.plus_ms(ms).min(super::TIME_MAX)));
    let body = WorkflowStarted {
        workflow_id: start.id.as_str().into(),
        status: if waits.is_some() { WorkflowStatus::Pending } else { WorkflowStatus::Active },
        definition: definition.hash,
        template,
        version,
        params: Arc::new(params),
        context,
        agent_id: start.agent_id.clone(),
        labels: start.labels,
        body_hash: start.body_hash,
        request: start.request,
        due,
        parent: start.parent,
    };
    let state = State::new(start.no, start.id, definition, &body, now);
    let event = Event {
        sequence: Sequence(1),
        body: Body::WorkflowStarted(Box::new(body)),
        step_id: None,
        agent_id: start.agent_id,
        timestamp: now,
    };
    let mut run = Run { state, work: Work { now, events: vec![event], ..Work::default() } };
    run.advance();
    let decision = run.decision(None);
    Ok((run, decision))
}

/// `{intent, agent_id, …}`.
fn context(start: &Start) -> Result<Value, Rejected> {
    let mut map = match &start.context {
        Value::Null => Map::new(),
        Value::Object(map) => map.clone(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err(refused("/context", "the context of a run is an object"));
        }
    };
    if let Some(agent) = &start.agent_id {
        map.entry("agent_id").or_insert_with(|| json!(agent));
    }
    Ok(Value::Object(map))
}

/// The params over the definition's defaults, checked against its `input_schema`.
pub(crate) fn merge_params(
    definition: &Definition,
    params: Value,
    context: &Value,
) -> Result<Value, Rejected> {
    let params = match params {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err(refused("/params", "the params of a run are an object"));
        }
    };
    let scope = OwnedScope {
        inputs: Arc::new(Value::Object(params.clone())),
        context: Arc::new(context.clone()),
        workflow: Arc::new(json!({})),
        ..OwnedScope::default()
    };
    let defaults = definition.inputs.render(&scope, Budget::INLINE, &NoJq).map_err(|e| {
        refused("/definition/inputs", &format!("the defaults of the params cannot be had: {e}"))
    })?;
    let mut merged = match defaults {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    merged.extend(params);
    let merged = Value::Object(merged);
    definition.check_params(&merged)?;
    Ok(merged)
}

/// The first event holds both, so both together are bounded.
pub(crate) fn bound(params: &Value, context: &Value) -> Result<(), Rejected> {
    for (value, pointer) in [(params, "/params"), (context, "/context")] {
        if size::json_bytes(value, EVENT_BYTES_MAX).is_none() {
            return Err(refused(pointer, "is nested too deep"));
        }
    }
    let bytes = [params, context].into_iter().filter_map(|v| size::json_bytes(v, EVENT_BYTES_MAX)).sum();
    if usize::le(&bytes, &EVENT_BYTES_MAX) {
        return Ok(());
    }
    Err(refused("/params", &format!("with the context over {EVENT_BYTES_MAX} bytes")))
}

fn refused(pointer: &str, message: &str) -> Rejected {
    Rejected {
        problems: vec![Problem::at(pointer, message)],
        ..Rejected::new(Code::ValidationError, format!("{pointer}: {message}"))
    }
}

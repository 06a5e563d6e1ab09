//! Commands to one workflow: signals, cancel, suspend, resume, retry, extend. Each is answered
//! with 202 once it is committed; what follows from it is seen in the run's events.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::command::{Command, Reason, Signal, SignalType};
use opcode_engine::definition::Definition;
use opcode_engine::ids::WorkflowId;
use opcode_engine::{Code, Problem};
use opcode_shard::remote::Freshness;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Caller;
use crate::access::scope::Scope;
use crate::error::ApiError;
use crate::incoming::{Incoming, json, with_token};
use crate::schema;
use crate::state::RouterState;
use crate::submission::{self, Templates};
use crate::wire::{Fields, invalid, unknown};

#[derive(Serialize)]
struct Accepted {
    sequence: u64,
}

async fn command(
    state: &RouterState,
    incoming: &Incoming,
    id: &WorkflowId,
    command: Command,
) -> Result<Response, ApiError> {
    let shard = state.shard_of(id);
    let agent_id = command.agent_id().cloned();
    let reply = shard.command(id, command).await?;
    state.agents().seen(agent_id.as_deref(), incoming);
    let response = json(StatusCode::ACCEPTED, &Accepted { sequence: reply.sequence.0 });
    Ok(with_token(response, shard.id(), reply.position))
}

/// Reads a signal from its object. To resolve a decision and to tell a run anything else are two
/// scopes.
pub(crate) fn signal(fields: &mut Fields<'_>, caller: &Caller) -> Result<Option<Signal>, ApiError> {
    const KINDS: [&str; 5] = ["decision", "data", "cancel", "retry", "skip"];
    let text = fields.string("type");
    let kind = match text.as_deref() {
        Some("decision") => Some(SignalType::Decision),
        Some("data") => Some(SignalType::Data),
        Some("cancel") => Some(SignalType::Cancel),
        Some("retry") => Some(SignalType::Retry),
        Some("skip") => Some(SignalType::Skip),
        Some(other) => {
            fields.problem("type", unknown("signal type", other, &KINDS));
            None
        }
        None => {
            fields.problem("type", format!("is missing or no string; give one of {}", KINDS.join(", ")));
            None
        }
    };
    if let Some(kind) = kind {
        caller.may(&[if kind == SignalType::Decision { Scope::Decide } else { Scope::Run }])?;
    }
    let signal = Signal {
        kind: kind.unwrap_or(SignalType::Data),
        step_id: fields.string("step_id"),
        payload: fields.value("payload").unwrap_or(Value::Null),
        agent_id: fields.agent(caller)?,
        reasoning: fields.string("reasoning"),
        signal_id: fields.name("signal_id"),
    };
    Ok(kind.map(|_| signal))
}

/// Sends a signal.
#[utoipa::path(post, path = "/v1/workflows/{id}/signals", tag = "workflows", operation_id = "signalWorkflow", params(("id" = String, Path)),
    request_body = schema::SignalRequest,
    responses((status = 202, body = schema::Accepted), (status = 400, body = schema::Problem), (status = 403, body = schema::Problem),
        (status = 404, body = schema::Problem), (status = 409, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn send_signal(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let signal = signal(&mut fields, &incoming.caller)?;
    fields.done()?;
    let signal = signal.expect("a signal without problems has a type");
    command(&state, &incoming, &id, Command::Signal(signal)).await
}

fn reason(fields: &mut Fields<'_>, caller: &Caller) -> Result<Reason, ApiError> {
    Ok(Reason { agent_id: fields.agent(caller)?, reason: fields.string("reason") })
}

/// A body of `{reason?, agent_id?}`, which may be left out.
async fn reasoned(
    state: &RouterState,
    incoming: &Incoming,
    make: impl FnOnce(Reason) -> Command,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let mut fields = Fields::of_body(incoming.optional_json()?)?;
    let reason = reason(&mut fields, &incoming.caller)?;
    fields.done()?;
    command(state, incoming, &id, make(reason)).await
}

/// Cancels a workflow.
#[utoipa::path(post, path = "/v1/workflows/{id}/cancel", tag = "workflows", operation_id = "cancelWorkflow", params(("id" = String, Path)),
    request_body = Option<schema::ReasonRequest>,
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem)))]
pub(crate) async fn cancel(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    reasoned(&state, &incoming, Command::Cancel).await
}

/// Stops a workflow from starting steps.
#[utoipa::path(post, path = "/v1/workflows/{id}/suspend", tag = "workflows", operation_id = "suspendWorkflow", params(("id" = String, Path)),
    request_body = Option<schema::ReasonRequest>,
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem)))]
pub(crate) async fn suspend(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    reasoned(&state, &incoming, Command::Suspend).await
}

/// Lets a suspended workflow go on.
#[utoipa::path(post, path = "/v1/workflows/{id}/resume", tag = "workflows", operation_id = "resumeWorkflow", params(("id" = String, Path)),
    request_body = Option<schema::ReasonRequest>,
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem)))]
pub(crate) async fn resume(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    reasoned(&state, &incoming, Command::Resume).await
}

/// Deletes a workflow that has ended, with all its events, for good.
#[utoipa::path(delete, path = "/v1/workflows/{id}", tag = "workflows", operation_id = "deleteWorkflow", params(("id" = String, Path)),
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let reply = shard.purge(&id).await?;
    let response = json(StatusCode::ACCEPTED, &Accepted { sequence: reply.sequence.0 });
    Ok(with_token(response, shard.id(), reply.position))
}

/// Runs a failed workflow again, or any from a step on.
#[utoipa::path(post, path = "/v1/workflows/{id}/retry", tag = "workflows", operation_id = "retryWorkflow", params(("id" = String, Path)),
    request_body = Option<schema::RetryRequest>,
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 422, body = schema::Problem)))]
pub(crate) async fn retry(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let mut fields = Fields::of_body(incoming.optional_json()?)?;
    let from_step = fields.string("from_step");
    let params = fields.object("params");
    let version = submission::version(&mut fields);
    let reason = reason(&mut fields, &incoming.caller)?;
    fields.done()?;
    let definition = match version {
        Some(version) => Some(other_version(&state, &id, version).await?),
        None => None,
    };
    command(&state, &incoming, &id, Command::Retry { from_step, params, definition, reason }).await
}

/// The field of a run's document that says what it came from.
#[derive(Deserialize)]
struct From {
    template: Option<String>,
}

/// Another version of the template that a run came from.
async fn other_version(
    state: &RouterState,
    id: &WorkflowId,
    version: u32,
) -> Result<(Arc<Definition>, Arc<str>), ApiError> {
    let view = state.shard_of(id).status(id, Freshness::Strong).await?.value;
    let Ok(From { template: Some(template) }) = serde_json::from_str::<From>(view.document.get()) else {
        let message = "is of a template, and this workflow came from none";
        return Err(invalid(vec![Problem::at("/version", message)]));
    };
    let found = Templates::new(state, &id.namespace()).find(template, Some(version)).await?;
    Ok((found.definition, found.version))
}

/// Changes the steps of a live workflow.
#[utoipa::path(post, path = "/v1/workflows/{id}/extend", tag = "workflows", operation_id = "extendWorkflow", params(("id" = String, Path)),
    request_body(content = Object, description = "a mutation: `insert_after`, `insert_before`, `replace`, `remove`, `set_variable`"),
    responses((status = 202, body = schema::Accepted), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 422, body = schema::Problem)))]
pub(crate) async fn extend(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let text = incoming.json()?;
    crate::wire::check_syntax(text)?;
    let duplicates = crate::strict::duplicate_keys(text);
    if !duplicates.is_empty() {
        return Err(invalid(duplicates));
    }
    let mut mutation: Value = serde_json::from_str(text).map_err(|error| {
        ApiError::invalid(Code::ValidationError, vec![Problem::at("", format!("cannot be read: {error}"))])
    })?;
    let Some(object) = mutation.as_object_mut() else {
        return Err(invalid(vec![Problem::at("", "must be an object")]));
    };
    let mut take = |name: &str| match object.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(vec![Problem::at(format!("/{name}"), "must be a string")])),
    };
    let agent_id = incoming.caller.speaks_for(take("agent_id")?.map(Arc::from))?;
    let reason = Reason { agent_id, reason: take("reason")? };
    crate::plugins::check_mutation(&state, &mutation).await?;
    command(&state, &incoming, &id, Command::Extend { mutation, reason }).await
}

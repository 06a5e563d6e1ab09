//! One workflow: start it, read it, wait for it, see its definition and why it is not moving.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::ids::WorkflowId;
use opcode_shard::CallError;
use opcode_shard::handle::{RunView, Shown, Submitted};
use opcode_shard::remote::Freshness;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{ApiError, Applied};
use crate::forward::{Seen, ShardClient};
use crate::incoming::{Incoming, json, json_bytes, with_token};
use crate::schema;
use crate::state::RouterState;
use crate::submission::{self, Templates};
use crate::wire::Fields;

/// What a submission is answered with.
#[derive(Serialize)]
struct Answer<'a> {
    workflow_id: &'a str,
    status: &'static str,
    shard: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
}

/// What a run's document says of its end.
#[derive(Default, Deserialize)]
struct Ended<'a> {
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Starts a workflow.
#[utoipa::path(post, path = "/v1/workflows", tag = "workflows", operation_id = "submitWorkflow", request_body = schema::SubmitRequest,
    params(("wait" = Option<String>, Query, description = "wait until the run ends or suspends, at most this long: `10s`"),
        ("Idempotency-Key" = Option<String>, Header, description = "names the run when the body has no `id`")),
    responses((status = 201, body = schema::SubmitAnswer), (status = 200, description = "the same submission again", body = schema::SubmitAnswer),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem), (status = 413, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 429, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn submit(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let wait = query.duration("wait");
    query.finish()?;
    let key = submission::idempotency_key(&incoming.headers)?;
    let fields = Fields::of_body(incoming.json()?)?;
    let mut templates = Templates::to_run(&state, incoming.caller.namespace());
    let mut submission = submission::prepare(&mut templates, fields, &incoming.caller, key).await?;
    incoming.carry_trace(&mut submission);
    // Taken before anything is applied, since a refusal says that nothing was.
    let place = wait.is_some().then(|| state.enter_wait()).transpose()?;
    let shard = state.shard_of(&submission.id);
    let agent_id = submission.agent_id.clone();
    let submitted = submit_one(&shard, submission).await?;
    state.agents().seen(agent_id.as_deref(), &incoming);
    let view = match wait {
        // The run is there: whatever happens to the wait, the answer says so.
        Some(wait) => wait_for(&state, &shard, &submitted.workflow_id, wait, Shown::Outcome).await.ok(),
        None => None,
    };
    drop(place);
    Ok(answer(&shard, &submitted, view.as_ref().map(|seen| &seen.value)))
}

pub(super) async fn submit_one(
    shard: &ShardClient,
    submission: opcode_shard::handle::Submission,
) -> Result<Submitted, ApiError> {
    let mut results = shard.submit(vec![submission]).await?;
    match results.pop() {
        Some(result) => result.map_err(submission::refused),
        None => Err(ApiError::unavailable(Applied::Unknown, "the shard gave no answer")),
    }
}

pub(super) fn answer(shard: &ShardClient, submitted: &Submitted, view: Option<&RunView>) -> Response {
    let ended = view.and_then(|view| serde_json::from_str(view.document.get()).ok());
    let Ended { output, error } = ended.unwrap_or_default();
    let document = Answer {
        workflow_id: submitted.workflow_id.local(),
        status: view.map_or(submitted.status, |view| view.status).as_str(),
        shard: shard.id().0,
        output,
        error,
    };
    let status = if submitted.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &document);
    let location = HeaderValue::try_from(format!("/v1/workflows/{}", submitted.workflow_id.local()))
        .expect("a workflow id is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    with_token(response, shard.id(), view.map_or(submitted.position, |view| view.position))
}

/// Waits until a run ends or suspends; a node that stops answers at once with what it knows.
async fn wait_for(
    state: &RouterState,
    shard: &ShardClient,
    id: &WorkflowId,
    wait: Duration,
    shown: Shown,
) -> Result<Seen<RunView>, CallError> {
    let wait = wait.min(state.options().wait_max);
    tokio::select! {
        view = shard.wait(id, wait, shown) => view,
        () = state.stopping() => shard.status(id, Freshness::Strong).await,
    }
}

/// Reads a workflow.
#[utoipa::path(get, path = "/v1/workflows/{id}", tag = "workflows", operation_id = "getWorkflow",
    params(("id" = String, Path), ("wait" = Option<String>, Query, description = "until it ends or suspends, at most this long"),
        ("consistency" = Option<String>, Query, description = "`strong` (default), `session` or `eventual`")),
    responses((status = 200, body = schema::Workflow), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let wait = query.duration("wait");
    let consistency = query.consistency();
    query.finish()?;
    let session = incoming.session(consistency)?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let seen = match wait {
        Some(wait) => {
            let _place = state.enter_wait()?;
            wait_for(&state, &shard, &id, wait, Shown::Document).await?
        }
        None => shard.status(&id, session.freshness(shard.id())).await?,
    };
    let response = json(StatusCode::OK, &seen.value.document);
    Ok(session.with_lag(with_token(response, shard.id(), seen.position), seen.lag_ms))
}

/// The definition that a run is pinned to.
#[utoipa::path(get, path = "/v1/workflows/{id}/definition", tag = "workflows", operation_id = "getWorkflowDefinition", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = schema::Problem)))]
pub(crate) async fn definition(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let pinned = shard.definition(&id).await?;
    let response = json_bytes(StatusCode::OK, pinned.value.definition.source.to_string());
    Ok(with_token(response, shard.id(), pinned.position))
}

#[derive(Serialize)]
struct Why {
    waiting_for: Vec<Value>,
}

/// Why a run is not moving.
#[utoipa::path(get, path = "/v1/workflows/{id}/why", tag = "workflows", operation_id = "explainWorkflow", params(("id" = String, Path)),
    responses((status = 200, body = schema::Why), (status = 404, body = schema::Problem)))]
pub(crate) async fn why(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let why = shard.why(&id).await?;
    let response = json(StatusCode::OK, &Why { waiting_for: why.value });
    Ok(with_token(response, shard.id(), why.position))
}

//! Many submissions in one request: the way in that is built for load. Each item stands alone;
//! each shard gets one call with all of its items.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ShardId;
use opcode_shard::handle::{Submission, Submitted};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::{ApiError, Applied};
use crate::incoming::{Incoming, json_bytes, unsupported, with_tokens};
use crate::schema;
use crate::state::RouterState;
use crate::submission::{self, Templates};
use crate::wire::{self, Fields};

/// Items read before other requests have their turn.
const ITEMS_PER_TURN: usize = 256;

/// What became of one item.
type Outcome = Result<(ShardId, Submitted), ApiError>;

/// An item that was taken.
#[derive(Serialize)]
struct Taken<'a> {
    status: u16,
    workflow_id: &'a str,
    workflow_status: &'static str,
    shard: u32,
}

/// Starts many workflows; a bad one harms no other.
#[utoipa::path(post, path = "/v1/workflows/batch", tag = "workflows", operation_id = "submitWorkflows",
    request_body(content((schema::BatchRequest = "application/json"), (schema::SubmitRequest = "application/x-ndjson"))),
    responses((status = 200, description = "one result for each item, in order", body = schema::BatchAnswer),
        (status = 400, body = schema::Problem), (status = 413, body = schema::Problem), (status = 415, body = schema::Problem),
        (status = 422, body = schema::Problem)))]
pub(crate) async fn submit(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let items = items(&incoming, state.options().batch_items_max)?;
    incoming.caller.note_items(items.len());
    let mut templates = Templates::to_run(&state, incoming.caller.namespace());
    let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(items.len());
    let mut named: Vec<(usize, Arc<str>)> = Vec::new();
    let mut by_shard: Vec<(Vec<usize>, Vec<Submission>)> = Vec::new();
    by_shard.resize_with(state.shards().len(), Default::default);
    for (place, item) in items.into_iter().enumerate() {
        if place % ITEMS_PER_TURN == ITEMS_PER_TURN - 1 {
            // A large batch leaves the thread to others now and then.
            tokio::task::yield_now().await;
        }
        let prepared = match item.and_then(read_item) {
            Ok(fields) => submission::prepare(&mut templates, fields, &incoming.caller, None).await,
            Err(error) => Err(error),
        };
        match prepared {
            Ok(mut submission) => {
                incoming.carry_trace(&mut submission);
                let ShardId(shard) = state.shard_of(&submission.id).id();
                named.extend(submission.agent_id.clone().map(|agent_id| (place, agent_id)));
                let (places, submissions) = &mut by_shard[shard as usize];
                places.push(place);
                submissions.push(submission);
                outcomes.push(None);
            }
            Err(error) => outcomes.push(Some(Err(error))),
        }
    }
    submit_all(&state, by_shard, &mut outcomes).await;
    let taken = named.iter().filter(|(place, _)| matches!(outcomes[*place], Some(Ok(_))));
    let agents: BTreeSet<&str> = taken.map(|(_, agent_id)| &**agent_id).collect();
    agents.into_iter().for_each(|agent_id| state.agents().seen(Some(agent_id), &incoming));
    Ok(answer(&outcomes, &incoming))
}

/// The raw items of a body, or why one line of it is not JSON.
fn items(incoming: &Incoming, items_max: usize) -> Result<Vec<Result<&RawValue, ApiError>>, ApiError> {
    let media_type = incoming.media_type();
    let items: Vec<_> = match media_type.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            let lines = incoming.text()?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            lines
                .map(|(number, line)| wire::check_syntax(line).map_err(|e| at_line(&e, number + 1)))
                .collect()
        }
        "application/json" => {
            let mut fields = Fields::of_body(incoming.json()?)?;
            let list = fields.list("workflows");
            if list.is_none() {
                fields.problem("workflows", "is missing; give a list of submissions");
            }
            fields.done()?;
            list.unwrap_or_default().into_iter().map(Ok).collect()
        }
        other => return Err(unsupported(other, "application/json or application/x-ndjson")),
    };
    if items.len() > items_max {
        let message = format!("has {} items; one batch takes {items_max}", items.len());
        return Err(wire::invalid(vec![Problem::at("/workflows", message)]));
    }
    Ok(items)
}

/// A line's syntax error with the line's place in the whole body.
fn at_line(error: &ApiError, number: usize) -> ApiError {
    let mut problem = error.problems().first().cloned().unwrap_or_else(|| Problem::at("", error.detail()));
    problem.line = u32::try_from(number).ok();
    problem.message = format!("line {number}: {}", problem.message);
    ApiError::malformed(problem)
}

fn read_item(raw: &RawValue) -> Result<Fields<'_>, ApiError> {
    Fields::of_raw(raw, "").map_err(|problem| wire::invalid(vec![problem]))
}

/// Hands each shard its items, all shards at the same time.
async fn submit_all(
    state: &RouterState,
    by_shard: Vec<(Vec<usize>, Vec<Submission>)>,
    outcomes: &mut [Option<Outcome>],
) {
    let calls = state.shards().into_iter().zip(by_shard).filter(|(_, (places, _))| !places.is_empty()).map(
        |(shard, (places, submissions))| async move { (shard.id(), places, shard.submit(submissions).await) },
    );
    for (shard, places, answer) in futures::future::join_all(calls).await {
        match answer {
            Ok(results) => {
                assert!(results.len() == places.len(), "a shard answers every submission");
                for (place, result) in places.into_iter().zip(results) {
                    let outcome = result.map(|submitted| (shard, submitted)).map_err(submission::refused);
                    outcomes[place] = Some(outcome);
                }
            }
            Err(error) => {
                let error = ApiError::from(error);
                for place in places {
                    outcomes[place] = Some(Err(error.clone()));
                }
            }
        }
    }
}

/// `{results: […]}`, or one result a line when the client asks for NDJSON.
fn answer(outcomes: &[Option<Outcome>], incoming: &Incoming) -> Response {
    let as_lines = incoming.accepts("application/x-ndjson");
    let mut body = Vec::with_capacity(16 + outcomes.len() * 128);
    let mut retry_after = false;
    let mut positions = BTreeMap::new();
    if !as_lines {
        body.extend_from_slice(b"{\"results\":[");
    }
    let unanswered = ApiError::unavailable(Applied::Unknown, "the shard gave no answer");
    for (place, outcome) in outcomes.iter().enumerate() {
        if place > 0 {
            body.push(if as_lines { b'\n' } else { b',' });
        }
        match outcome {
            Some(Ok((shard, submitted))) => {
                positions.insert(*shard, submitted.position);
                write(&mut body, &taken(*shard, submitted));
            }
            Some(Err(error)) => {
                retry_after |= matches!(error.status().as_u16(), 429 | 503);
                write(&mut body, &error.document(&incoming.trace_id));
            }
            None => write(&mut body, &unanswered.document(&incoming.trace_id)),
        }
    }
    body.extend_from_slice(if as_lines { b"\n" } else { b"]}" });
    let mut response = json_bytes(StatusCode::OK, body);
    let headers = response.headers_mut();
    if as_lines {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    }
    if retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if positions.is_empty() { response } else { with_tokens(response, positions) }
}

fn taken(shard: ShardId, submitted: &Submitted) -> Taken<'_> {
    Taken {
        status: if submitted.created { 201 } else { 200 },
        workflow_id: submitted.workflow_id.local(),
        workflow_status: submitted.status.as_str(),
        shard: shard.0,
    }
}

fn write(body: &mut Vec<u8>, document: &impl Serialize) {
    serde_json::to_writer(body, document).expect("a result is JSON");
}

//! Events of a workflow, as a list or as a live stream, and the firehose of all of them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::event::EventType;
use opcode_engine::ids::Sequence;

use crate::error::ApiError;
use crate::event_stream;
use crate::firehose;
use crate::gather::Page;
use crate::incoming::{Incoming, json, unsupported_accept, with_token};
use crate::schema;
use crate::state::RouterState;

/// Events of a workflow in order; with `Accept: text/event-stream` live until it ends.
#[utoipa::path(get, path = "/v1/workflows/{id}/events", tag = "workflows", operation_id = "listWorkflowEvents",
    params(("id" = String, Path), ("after" = Option<u64>, Query, description = "only events after this sequence"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("consistency" = Option<String>, Query, description = "of a list: `strong` (default), `session` or `eventual`"),
        ("Last-Event-ID" = Option<u64>, Header, description = "of a stream: goes on after this sequence")),
    responses((status = 200, content((schema::EventList = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "of a stream: the run has ended and has no more events"),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let after = query.number("after", 0, i64::MAX.unsigned_abs());
    let limit = query.limit();
    let consistency = query.consistency();
    query.finish()?;
    let id = incoming.workflow_id()?;
    if incoming.wants_events() {
        let after = last_event_id(&incoming)?.or(after).unwrap_or(0);
        return event_stream::follow_run(&state, id, Sequence(after)).await;
    }
    let shard = state.shard_of(&id);
    let session = incoming.session(consistency)?;
    let after = Sequence(after.unwrap_or(0));
    let read = event_stream::read(&shard, &id, after, limit, session.freshness(shard.id())).await?;
    let (records, has_more) = read.value;
    let next_cursor = records.last().filter(|_| has_more).map(|record| record.sequence.0.to_string());
    let namespace = incoming.caller.namespace();
    let items = records.iter().map(|record| event_stream::document(record, namespace)).collect();
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(session.with_lag(with_token(response, shard.id(), read.position), read.lag_ms))
}

/// Where a stream goes on.
fn last_event_id(incoming: &Incoming) -> Result<Option<u64>, ApiError> {
    let Some(value) = incoming.headers.get("last-event-id") else { return Ok(None) };
    let read = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match read.filter(|&sequence| i64::try_from(sequence).is_ok()) {
        Some(sequence) => Ok(Some(sequence)),
        None => Err(ApiError::malformed(Problem::at(
            "",
            "the header Last-Event-ID must be the sequence of an event of this workflow",
        ))),
    }
}

/// Every event of every workflow of the namespace from now on.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "followEvents",
    params(("type" = Option<String>, Query, description = "only events of this type")),
    responses((status = 400, body = schema::Problem), (status = 200, content((String = "text/event-stream"))), (status = 406, body = schema::Problem),
        (status = 429, body = schema::Problem)))]
pub(crate) async fn firehose(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let names: Vec<&'static str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    let only = query.word("type", &names).and_then(EventType::from_name);
    query.finish()?;
    if !incoming.wants_events() && !incoming.accepts("*/*") && incoming.headers.contains_key("accept") {
        return Err(unsupported_accept("text/event-stream"));
    }
    firehose::firehose(&state, only, Some(&incoming.caller)).await
}

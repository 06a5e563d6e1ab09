//! Deliveries of a webhook that failed: listed, tried again, let go of.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::local;
use opcode_shard::catalogue::{Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use serde::Serialize;

use super::webhooks::{key_of, read};
use crate::error::{ApiError, Applied};
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json};
use crate::schema;
use crate::state::RouterState;
use crate::webhooks::schema as shapes;
use crate::webhooks::{Failure, all_failures, check_delivery, failure_key, parse_failure};
use crate::wire::{Fields, shortened};

/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 20;

#[derive(Serialize)]
struct Shown {
    delivery: String,
    event: String,
    workflow_id: String,
    sequence: u64,
    state: &'static str,
    tries: u32,
    first_at: String,
    next_at: Option<String>,
    last_error: String,
}

impl From<&Failure> for Shown {
    fn from(failure: &Failure) -> Self {
        Self {
            delivery: failure.delivery(),
            event: failure.event.clone(),
            workflow_id: failure.workflow_id.local().to_owned(),
            sequence: failure.sequence.0,
            state: if failure.next_at.is_some() { "retrying" } else { "dead" },
            tries: failure.tries,
            first_at: failure.first_at.to_rfc3339(),
            next_at: failure.next_at.map(Timestamp::to_rfc3339),
            last_error: failure.last_error.clone(),
        }
    }
}

/// Deliveries that failed, the oldest first.
#[utoipa::path(get, path = "/v1/webhooks/{id}/failures", tag = "catalogue", operation_id = "listWebhookFailures",
    params(("id" = String, Path), ("state" = Option<String>, Query, description = "`retrying` or `dead`; both without it"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = shapes::WebhookFailureList), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let wanted = query.word("state", &["retrying", "dead"]);
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| (cursor.at, cursor.id));
    query.finish()?;
    let id = key_of(&incoming)?;
    read(&state, &id).await?;
    let mut all: Vec<Failure> =
        all_failures(&state, Some(&id)).await?.into_iter().map(|(_, one)| one).collect();
    let place = |failure: &Failure| (failure.first_at, failure.delivery());
    all.sort_by_cached_key(place);
    all.retain(|one| wanted.is_none_or(|wanted| Shown::from(one).state == wanted));
    all.retain(|one| after.as_ref().is_none_or(|after| place(one) > *after));
    let has_more = all.len() > limit;
    all.truncate(limit);
    let last = all.last().filter(|_| has_more);
    let next_cursor = last.map(|one| Cursor { at: one.first_at, id: one.delivery() }.encode());
    let items: Vec<Shown> = all.iter().map(Shown::from).collect();
    Ok(json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() }))
}

/// The path's failure as it is kept, with its key and revision.
async fn find(state: &RouterState, incoming: &Incoming) -> Result<(Arc<str>, u64, Failure), ApiError> {
    let (id, delivery) = (key_of(incoming)?, incoming.segment(4)?);
    read(state, &id).await?;
    let none = || {
        let (id, delivery) = (local(&id), shortened(&delivery));
        ApiError::not_found(format!("the webhook `{id}` has no failed delivery `{delivery}`"))
    };
    if !check_delivery(&delivery) {
        return Err(none());
    }
    let key = failure_key(&id, &delivery);
    let entry = state.system().entry(EntryKind::WebhookFailure, key.clone()).await?.value.ok_or_else(none)?;
    let failure = entry.body.as_deref().and_then(|body| parse_failure(&key, body)).ok_or_else(none)?;
    Ok((key, entry.revision, failure))
}

/// Writes what becomes of it; false when somebody else has changed it meanwhile.
async fn put(
    state: &RouterState,
    key: Arc<str>,
    revision: u64,
    failure: Option<&Failure>,
) -> Result<bool, ApiError> {
    let body = failure.map(Failure::body);
    let change = EntryChange { kind: EntryKind::WebhookFailure, key, after: Some(revision), body };
    Ok(!matches!(state.system().change_entry(change).await?.value, Changed::Stale(_)))
}

fn contended() -> ApiError {
    ApiError::unavailable(Applied::No, "the delivery is being tried all the time: nothing was changed")
}

/// Has a failed delivery tried again soon, and as often as a new one.
#[utoipa::path(post, path = "/v1/webhooks/{id}/failures/{delivery}/retry", tag = "catalogue", operation_id = "retryWebhookFailure",
    params(("id" = String, Path), ("delivery" = String, Path)),
    responses((status = 202, body = shapes::WebhookFailure), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn retry(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    Fields::of_body(incoming.optional_json()?)?.done()?;
    for _ in 0..TRIES_MAX {
        let (key, revision, failure) = find(&state, &incoming).await?;
        let mut again = failure;
        (again.tries, again.next_at) = (0, Some(Clock::default().now()));
        if put(&state, key, revision, Some(&again)).await? {
            return Ok(json(StatusCode::ACCEPTED, &Shown::from(&again)));
        }
    }
    Err(contended())
}

/// Lets go of a failed delivery: it is not tried again.
#[utoipa::path(delete, path = "/v1/webhooks/{id}/failures/{delivery}", tag = "catalogue", operation_id = "deleteWebhookFailure",
    params(("id" = String, Path), ("delivery" = String, Path)),
    responses((status = 200, description = "as it was", body = shapes::WebhookFailure), (status = 404, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    for _ in 0..TRIES_MAX {
        let (key, revision, failure) = find(&state, &incoming).await?;
        if put(&state, key, revision, None).await? {
            return Ok(json(StatusCode::OK, &Shown::from(&failure)));
        }
    }
    Err(contended())
}

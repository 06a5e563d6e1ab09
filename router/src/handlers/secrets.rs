//! Secrets: set, removed, and listed by name. No call gives a value back.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ShardId;
use opcode_engine::namespace::into_local;
use opcode_shard::vault::{Listed, Rotated, check_key};
use secrecy::SecretString;
use serde::Serialize;

use crate::error::ApiError;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, invalid, shortened};

#[derive(Serialize)]
struct Shown {
    key: String,
    created_at: String,
    updated_at: String,
}

impl From<Listed> for Shown {
    fn from(listed: Listed) -> Self {
        let Listed { key, created_at, updated_at } = listed;
        let key = into_local(key);
        Self { key, created_at: created_at.to_rfc3339(), updated_at: updated_at.to_rfc3339() }
    }
}

#[derive(Serialize)]
struct Removed {
    key: String,
    removed: bool,
}

#[derive(Serialize)]
struct Resealed {
    resealed: usize,
    unchanged: usize,
    failed: Vec<String>,
}

/// The name that the caller's namespace keeps a secret under.
fn kept<'k>(incoming: &Incoming, key: &'k str) -> Result<Cow<'k, str>, ApiError> {
    check_key(key)?;
    Ok(incoming.caller.namespace().qualify(key).expect("a key that was checked has no `/`"))
}

/// Sets a secret's value, sealed before it leaves this node.
#[utoipa::path(put, path = "/v1/secrets/{key}", tag = "catalogue", operation_id = "setSecret", request_body = schema::SecretRequest,
    params(("key" = String, Path)),
    responses((status = 201, body = schema::Secret), (status = 200, description = "there was one; it has another value now", body = schema::Secret),
        (status = 400, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn set(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let key = incoming.segment(2)?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let value = fields.string("value");
    fields.done()?;
    let missing = || invalid(vec![Problem::at("/value", "is missing: the secret's value, a string")]);
    let value = SecretString::from(value.ok_or_else(missing)?);
    let (listed, is_new, position) = state.vault().set(&kept(&incoming, &key)?, &value).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(with_token(json(status, &Shown::from(listed)), ShardId::SYSTEM, position))
}

/// Removes a secret. Steps that name it fail from then on, until it is set again.
#[utoipa::path(delete, path = "/v1/secrets/{key}", tag = "catalogue", operation_id = "removeSecret",
    params(("key" = String, Path)),
    responses((status = 200, body = schema::SecretRemoved), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn remove(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let key = incoming.segment(2)?;
    let (removed, position) = state.vault().remove(&kept(&incoming, &key)?).await?;
    if !removed {
        return Err(ApiError::not_found(format!("there is no secret `{}`", shortened(&key))));
    }
    Ok(with_token(json(StatusCode::OK, &Removed { key, removed }), ShardId::SYSTEM, position))
}

/// The keys of all secrets, in their order, and never a value.
#[utoipa::path(get, path = "/v1/secrets", tag = "catalogue", operation_id = "listSecrets",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::SecretList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query);
    query.finish()?;
    let (mut listed, position) = state.vault().list().await?;
    listed.retain(|secret| incoming.caller.namespace().owns(&secret.key));
    listed.retain(|secret| after.as_ref().is_none_or(|after| secret.key > after.id));
    let has_more = listed.len() > limit;
    listed.truncate(limit);
    let next = listed.last().filter(|_| has_more);
    let next_cursor = next.map(|secret| Cursor { at: secret.created_at, id: secret.key.clone() }.encode());
    let items = listed.into_iter().map(Shown::from).collect();
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, ShardId::SYSTEM, position))
}

/// Seals with the first of this node's keys what is sealed with another, the secrets of webhooks too.
#[utoipa::path(post, path = "/v1/secrets/rotate", tag = "catalogue", operation_id = "rotateSecrets",
    responses((status = 200, body = schema::SecretsRotated), (status = 503, body = schema::Problem)))]
pub(crate) async fn rotate(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    Fields::of_body(incoming.optional_json()?)?.done()?;
    let mut rotated = state.vault().rotate().await?;
    super::webhooks::reseal(&state, &mut rotated).await?;
    let Rotated { resealed, unchanged, failed } = rotated;
    Ok(json(StatusCode::OK, &Resealed { resealed, unchanged, failed }))
}

//! Webhooks: made, read, changed, deleted and tried out. Who tells them of events is
//! [`crate::webhooks`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::future::try_join_all;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::{Namespace, local};
use opcode_shard::batch::Position;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use opcode_shard::clock::Clock;
use opcode_shard::vault::Rotated;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use uuid::Uuid;

use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace;
use crate::schedule::conflict;
use crate::schema;
use crate::state::RouterState;
use crate::webhooks::schema as shapes;
use crate::webhooks::{
    Draft, Outcome, Shown, Status, WEBHOOKS_MAX, Webhook, all_failures, all_standings, check_id,
    delete_failures, is_failure_of, is_standing, parse, ping, sealed_name,
};
use crate::wire::{Fields, shortened};

/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 20;

fn now() -> Timestamp {
    Clock::default().now()
}

/// A webhook that was read, with the revision of its entry.
pub(super) struct Read {
    pub(super) webhook: Webhook,
    revision: u64,
    position: Position,
}

fn none(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no webhook `{}`", shortened(id)))
}

/// The key of the webhook that a path names, in the caller's namespace. Everything here goes by keys; what
/// is shown is what their namespace calls them.
pub(super) fn key_of(incoming: &Incoming) -> Result<String, ApiError> {
    let id = incoming.segment(2)?;
    match check_id(&id) {
        Ok(()) => Ok(key_in(incoming.caller.namespace(), id)),
        Err(_) => Err(none(&id)),
    }
}

/// The key of a webhook by its id, which was checked.
fn key_in(namespace: &Namespace, id: String) -> String {
    namespace.qualify(id).expect("an id that was checked has no `/`").into_owned()
}

pub(super) async fn read(state: &RouterState, id: &str) -> Result<Read, ApiError> {
    let Seen { value, position, .. } = state.system().entry(EntryKind::Webhook, id.into()).await?;
    let entry = value.ok_or_else(|| none(local(id)))?;
    let webhook = parse(id, entry.body.as_deref().unwrap_or_default())?;
    Ok(Read { webhook, revision: entry.revision, position })
}

/// How one stands with all shards.
async fn status(state: &RouterState, id: &str) -> Result<Status, ApiError> {
    let standings = all_standings(state).await?;
    let failures: Vec<_> = all_failures(state, Some(id)).await?.into_iter().map(|(_, one)| one).collect();
    Ok(Status::of(id, &standings, &failures))
}

fn answer(
    state: &RouterState,
    status: StatusCode,
    shown: &Shown<'_>,
    id: &str,
    revision: u64,
    position: Position,
) -> Response {
    let mut response = json(status, shown);
    let headers = response.headers_mut();
    let tag = format!("\"{revision}\"");
    headers.insert(header::ETAG, HeaderValue::try_from(tag).expect("digits in quotes"));
    if status == StatusCode::CREATED {
        let location = HeaderValue::try_from(format!("/v1/webhooks/{}", local(id)));
        headers.insert(header::LOCATION, location.expect("a webhook's id is visible ASCII"));
    }
    with_token(response, state.system().id(), position)
}

async fn seal(state: &RouterState, id: &str, secret: &SecretString) -> Result<String, ApiError> {
    Ok(state.vault().seal(&sealed_name(id), secret).await?)
}

/// Where the logs of all shards stand: a webhook is told of what comes after.
async fn stand(state: &RouterState) -> Result<Vec<u64>, ApiError> {
    let shards = state.shards();
    let tails = try_join_all(shards.iter().map(|shard| shard.tail(None, Duration::ZERO))).await?;
    Ok(tails.into_iter().map(|tail| tail.upto.index).collect())
}

async fn put(
    state: &RouterState,
    id: &str,
    after: Option<u64>,
    body: Option<Arc<str>>,
) -> Result<Seen<Changed>, ApiError> {
    let change = EntryChange { kind: EntryKind::Webhook, key: id.into(), after, body };
    Ok(state.system().change_entry(change).await?)
}

/// Makes a webhook. Its secret is shown in this answer and never again.
#[utoipa::path(post, path = "/v1/webhooks", tag = "catalogue", operation_id = "createWebhook", request_body = shapes::WebhookRequest,
    responses((status = 201, body = shapes::Webhook), (status = 200, description = "the same webhook again", body = shapes::Webhook),
        (status = 400, body = schema::Problem), (status = 409, body = schema::Problem), (status = 415, body = schema::Problem),
        (status = 422, body = schema::Problem), (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn create(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let id = fields.string("id");
    if let Some(Err(message)) = id.as_deref().map(check_id) {
        fields.problem("id", message);
    }
    let draft = Draft::read(&mut fields, &state);
    let is_given = draft.secret.is_some();
    let made = draft.make(&mut fields, now());
    fields.done()?;
    let (mut webhook, secret) = made.expect("a body without problems says what a webhook needs");
    let id = key_in(incoming.caller.namespace(), id.unwrap_or_else(|| Uuid::now_v7().to_string()));
    let there = state.system().entry(EntryKind::Webhook, id.as_str().into()).await?;
    if let Some(entry) = there.value {
        return again(&state, &id, &webhook, is_given.then_some(&secret), &entry, there.position).await;
    }
    has_room(&state).await?;
    webhook.secret = seal(&state, &id, &secret).await?;
    webhook.from = stand(&state).await?;
    // Of one that had the id before.
    delete_failures(&state, &id).await?;
    let Seen { value, position, .. } = put(&state, &id, None, Some(webhook.body())).await?;
    match value {
        // The same body, sealed with a random nonce, is this one, at an earlier try.
        Changed::Made(_) | Changed::Already(Some(_)) => {
            let mut shown = Shown::of(&id, &webhook, Status::default());
            shown.secret = Some(secret.expose_secret());
            Ok(answer(&state, StatusCode::CREATED, &shown, &id, webhook.revision, position))
        }
        Changed::Stale(Some(entry)) => {
            again(&state, &id, &webhook, is_given.then_some(&secret), &entry, position).await
        }
        Changed::Already(None) | Changed::Stale(None) => {
            Err(ApiError::unavailable(Applied::No, "the webhook was deleted meanwhile"))
        }
    }
}

/// The answer when there is one of this id: the same again, or a conflict.
async fn again(
    state: &RouterState,
    id: &str,
    wanted: &Webhook,
    secret: Option<&SecretString>,
    entry: &CatalogueEntry,
    position: Position,
) -> Result<Response, ApiError> {
    let there = parse(id, entry.body.as_deref().unwrap_or_default())?;
    let is_signed_so = match secret {
        Some(secret) => {
            let kept = state.vault().unseal(&sealed_name(id), &there.secret).await?;
            kept.expose_secret() == secret.expose_secret()
        }
        None => true,
    };
    let said = |webhook: &Webhook| (webhook.url.clone(), webhook.events.clone(), webhook.filter.clone());
    if said(&there) != said(wanted) || there.active != wanted.active || !is_signed_so {
        let id = local(id);
        return Err(conflict(format!("there is another webhook `{id}`: change it, or give another id")));
    }
    let status = status(state, id).await?;
    let shown = Shown::of(id, &there, status);
    Ok(answer(state, StatusCode::OK, &shown, id, there.revision, position))
}

async fn has_room(state: &RouterState) -> Result<(), ApiError> {
    let page = state.system().entries(EntryKind::Webhook, None, WEBHOOKS_MAX + 1).await?.value;
    if page.entries.iter().filter(|entry| !is_standing(&entry.key)).count() < WEBHOOKS_MAX {
        return Ok(());
    }
    Err(conflict(format!("there are {WEBHOOKS_MAX} webhooks, and there can be no more: delete one")))
}

/// Webhooks, by id.
#[utoipa::path(get, path = "/v1/webhooks", tag = "catalogue", operation_id = "listWebhooks",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = shapes::WebhookList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::from(cursor.id));
    query.finish()?;
    let Seen { value: page, position, .. } =
        namespace::entries(&state, EntryKind::Webhook, incoming.caller.namespace(), after, limit).await?;
    let (standings, failures) = (all_standings(&state).await?, all_failures(&state, None).await?);
    // No standing is among them, which are of no namespace.
    let EntryPage { entries, has_more } = page;
    let webhooks = entries.iter().map(|entry| parse(&entry.key, entry.body.as_deref().unwrap_or_default()));
    let webhooks: Vec<Webhook> = webhooks.collect::<Result<_, _>>()?;
    let items = entries.iter().zip(&webhooks).map(|(entry, webhook)| {
        let own = failures.iter().filter(|(key, _)| is_failure_of(key, &entry.key));
        let own: Vec<_> = own.map(|(_, failure)| failure.clone()).collect();
        Shown::of(&entry.key, webhook, Status::of(&entry.key, &standings, &own))
    });
    let items = items.collect();
    let last = entries.last().filter(|_| has_more);
    let next_cursor = last.map(|entry| Cursor { at: entry.at, id: entry.key.to_string() }.encode());
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

/// A webhook.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "catalogue", operation_id = "getWebhook",
    params(("id" = String, Path)),
    responses((status = 200, body = shapes::Webhook), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = key_of(&incoming)?;
    let Read { webhook, position, .. } = read(&state, &id).await?;
    let status = status(&state, &id).await?;
    let shown = Shown::of(&id, &webhook, status);
    Ok(answer(&state, StatusCode::OK, &shown, &id, webhook.revision, position))
}

/// Changes what a webhook says; fields that are left out stay. Made active again, it is told of what
/// comes from then on.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", tag = "catalogue", operation_id = "changeWebhook", request_body = shapes::WebhookPatch,
    params(("id" = String, Path)),
    responses((status = 200, body = shapes::Webhook), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn change(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let (id, text) = (key_of(&incoming)?, incoming.json()?);
    read(&state, &id).await?;
    let mut fields = Fields::of_body(text)?;
    let draft = Draft::read(&mut fields, &state);
    fields.done()?;
    let sealed = match &draft.secret {
        Some(secret) => Some(seal(&state, &id, secret).await?),
        None => None,
    };
    for _ in 0..TRIES_MAX {
        let Read { webhook, revision, position } = read(&state, &id).await?;
        let mut changed = draft.change(&webhook);
        if let Some(sealed) = &sealed {
            changed.secret.clone_from(sealed);
        }
        if changed.active && !webhook.active {
            changed.from = stand(&state).await?;
        }
        let status = status(&state, &id).await?;
        if changed == webhook {
            let shown = Shown::of(&id, &webhook, status);
            return Ok(answer(&state, StatusCode::OK, &shown, &id, webhook.revision, position));
        }
        (changed.updated_at, changed.revision) = (now(), webhook.revision + 1);
        let Seen { value, position, .. } = put(&state, &id, Some(revision), Some(changed.body())).await?;
        if !matches!(value, Changed::Stale(_)) {
            let shown = Shown::of(&id, &changed, status);
            return Ok(answer(&state, StatusCode::OK, &shown, &id, changed.revision, position));
        }
    }
    Err(contended(&id))
}

/// Seals with the first of this node's keys the secrets of webhooks that are sealed with another.
pub(super) async fn reseal(state: &RouterState, rotated: &mut Rotated) -> Result<(), ApiError> {
    let page = state.system().entries(EntryKind::Webhook, None, WEBHOOKS_MAX).await?.value;
    for entry in page.entries.iter().filter(|entry| !is_standing(&entry.key)) {
        let (id, name) = (&*entry.key, sealed_name(&entry.key));
        let Ok(mut webhook) = parse(id, entry.body.as_deref().unwrap_or_default()) else { continue };
        match state.vault().resealed(&name, &webhook.secret).await {
            Ok(None) => rotated.unchanged += 1,
            Ok(Some(sealed)) => {
                webhook.secret = sealed;
                let put = put(state, id, Some(entry.revision), Some(webhook.body())).await?;
                match put.value {
                    Changed::Stale(_) => rotated.failed.push(name),
                    Changed::Made(_) | Changed::Already(_) => rotated.resealed += 1,
                }
            }
            Err(error) => {
                tracing::warn!(webhook = id, %error, "a webhook's secret was left as it is sealed");
                rotated.failed.push(name);
            }
        }
    }
    Ok(())
}

fn contended(id: &str) -> ApiError {
    ApiError::unavailable(
        Applied::No,
        format!("the webhook {} changes all the time: nothing was changed", local(id)),
    )
}

/// Deletes a webhook, with what failed of it.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "catalogue", operation_id = "deleteWebhook",
    params(("id" = String, Path)),
    responses((status = 200, description = "as it was", body = shapes::Webhook), (status = 404, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let id = key_of(&incoming)?;
    for _ in 0..TRIES_MAX {
        let Read { webhook, revision, .. } = read(&state, &id).await?;
        let status = status(&state, &id).await?;
        let Seen { value, position, .. } = put(&state, &id, Some(revision), None).await?;
        if !matches!(value, Changed::Stale(_)) {
            delete_failures(&state, &id).await?;
            let shown = Shown::of(&id, &webhook, status);
            return Ok(answer(&state, StatusCode::OK, &shown, &id, webhook.revision, position));
        }
    }
    Err(contended(&id))
}

#[derive(Serialize)]
struct Tested {
    delivery: String,
    delivered: bool,
    error: Option<String>,
}

/// Sends a ping now, and says what came of it.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", tag = "catalogue", operation_id = "testWebhook",
    params(("id" = String, Path)),
    responses((status = 200, body = shapes::WebhookTest), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn test(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    Fields::of_body(incoming.optional_json()?)?.done()?;
    let id = key_of(&incoming)?;
    let Read { webhook, .. } = read(&state, &id).await?;
    let (delivery, outcome) = ping(&state, &id, &webhook).await;
    let error = match outcome {
        Outcome::Taken(_) => None,
        Outcome::Gone => Some("the receiver answered 410".to_owned()),
        Outcome::Refused(why) => Some(why),
        Outcome::Unsent(why) => return Err(ApiError::vault(why)),
    };
    Ok(json(StatusCode::OK, &Tested { delivery, delivered: error.is_none(), error }))
}

//! Namespaces: made before they are used, listed, and deleted when nothing is in them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::{DEFAULT, Namespace};
use opcode_shard::batch::Position;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use opcode_shard::remote::Freshness;
use opcode_shard::store::RunFilter;
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{self, Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace::{self, FRESH, Kept};
use crate::schedule::conflict;
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, shortened};

/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 10;

#[derive(Serialize)]
struct Shown {
    name: String,
    created_at: Option<String>,
    deleting: bool,
}

impl Shown {
    fn of(entry: &CatalogueEntry) -> Result<Self, ApiError> {
        let Kept { created_at, closing } = Kept::of(entry)?;
        let created_at = Some(created_at.to_rfc3339());
        Ok(Self { name: entry.key.to_string(), created_at, deleting: closing })
    }

    /// The one that is always there.
    fn of_default() -> Self {
        Self { name: DEFAULT.to_owned(), created_at: None, deleting: false }
    }
}

#[derive(Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

/// The namespace that a path names; 404 when it can be none's name.
fn named(incoming: &Incoming) -> Result<Namespace, ApiError> {
    let name = incoming.segment(2)?;
    Namespace::parse(&name)
        .map_err(|_| ApiError::not_found(format!("there is no namespace `{}`", shortened(&name))))
}

/// Namespaces by name; a token that is confined to one is shown that.
#[utoipa::path(get, path = "/v1/namespaces", tag = "catalogue", operation_id = "listNamespaces",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::NamespaceList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::<str>::from(cursor.id));
    query.finish()?;
    let own = incoming.caller.confined_to();
    let is_shown = |name: &str| own.is_none_or(|own| own.as_str() == name);
    let Seen { value: page, position, .. } =
        namespace::entries_where(&state, EntryKind::Namespace, after.clone(), limit, |entry| {
            is_shown(&entry.key)
        })
        .await?;
    let mut items = page.entries.iter().map(Shown::of).collect::<Result<Vec<_>, _>>()?;
    // It has no entry, and stands where it would have one.
    let is_in_page = after.is_none_or(|after| *after < *DEFAULT)
        && (!page.has_more || items.last().is_some_and(|last| *last.name > *DEFAULT));
    if is_in_page && is_shown(DEFAULT) {
        let place = items.partition_point(|shown| *shown.name < *DEFAULT);
        items.insert(place, Shown::of_default());
    }
    let has_more = page.has_more || items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more);
    let next_cursor = next.map(|last| Cursor { at: Timestamp::default(), id: last.name.clone() }.encode());
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

/// Makes a namespace; one that is being deleted is kept.
#[utoipa::path(put, path = "/v1/namespaces/{name}", tag = "catalogue", operation_id = "createNamespace", params(("name" = String, Path)),
    responses((status = 201, body = schema::Namespace), (status = 200, description = "it is there already", body = schema::Namespace),
        (status = 400, body = schema::Problem), (status = 403, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn create(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    Fields::of_body(incoming.optional_json()?)?.done()?;
    let namespace = Namespace::parse(&incoming.segment(2)?)
        .map_err(|message| ApiError::malformed(Problem::at("/name", message)))?;
    if namespace.is_default() {
        return Ok(json(StatusCode::OK, &Shown::of_default()));
    }
    for _ in 0..TRIES_MAX {
        let there = entry(&state, &namespace).await?;
        let kept = there.as_ref().map(Kept::of).transpose()?;
        let kept = kept.unwrap_or_else(|| Kept { created_at: Clock::default().now(), closing: false });
        let open = Kept { closing: false, ..kept };
        if let Some((entry, position)) = put(&state, &namespace, there.as_ref(), Some(&open)).await? {
            let status = if there.is_some() { StatusCode::OK } else { StatusCode::CREATED };
            let entry = entry.ok_or_else(|| contended(&namespace))?;
            return Ok(with_token(json(status, &Shown::of(&entry)?), state.system().id(), position));
        }
    }
    Err(contended(&namespace))
}

/// Deletes a namespace that has nothing in it, which takes some seconds: until no node takes it for one
/// that is there.
#[utoipa::path(delete, path = "/v1/namespaces/{name}", tag = "catalogue", operation_id = "deleteNamespace", params(("name" = String, Path)),
    responses((status = 200, body = schema::NamespaceDeleted), (status = 403, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 409, description = "something is in it", body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let namespace = named(&incoming)?;
    if namespace.is_default() {
        return Err(conflict("the namespace `default` is always there"));
    }
    let Some(there) = entry(&state, &namespace).await? else { return Err(namespace::missing(&namespace)) };
    check_empty(&state, &namespace).await?;
    let open = Kept::of(&there)?;
    let closing = Kept { closing: true, ..open.clone() };
    let Some((Some(closed), _)) = put(&state, &namespace, Some(&there), Some(&closing)).await? else {
        return Err(contended(&namespace));
    };
    state.namespaces().forget(&namespace);
    // Until then a node that has asked before may take calls for it.
    tokio::time::sleep(FRESH).await;
    if let Err(error) = check_empty(&state, &namespace).await {
        // Kept as it was; if that fails too, it stays closing, and this call or `PUT` ends that.
        let open = Kept { closing: false, ..open };
        put(&state, &namespace, Some(&closed), Some(&open)).await?;
        return Err(error);
    }
    let Some((_, position)) = put(&state, &namespace, Some(&closed), None).await? else {
        return Err(contended(&namespace));
    };
    state.namespaces().forget(&namespace);
    let deleted = Deleted { name: namespace.to_string(), deleted: true };
    Ok(with_token(json(StatusCode::OK, &deleted), state.system().id(), position))
}

async fn entry(state: &RouterState, namespace: &Namespace) -> Result<Option<CatalogueEntry>, ApiError> {
    Ok(state.system().entry(EntryKind::Namespace, namespace.as_str().into()).await?.value)
}

/// Makes the entry what it shall be, unless it has changed since it was read; then none.
async fn put(
    state: &RouterState,
    namespace: &Namespace,
    there: Option<&CatalogueEntry>,
    kept: Option<&Kept>,
) -> Result<Option<(Option<CatalogueEntry>, Position)>, ApiError> {
    let change = EntryChange {
        kind: EntryKind::Namespace,
        key: namespace.as_str().into(),
        after: there.map(|entry| entry.revision),
        body: kept.map(|kept| serde_json::to_string(kept).expect("a namespace is JSON").into()),
    };
    let Seen { value, position, .. } = state.system().change_entry(change).await?;
    Ok(match value {
        Changed::Made(entry) => Some((Some(entry), position)),
        Changed::Already(entry) => Some((entry, position)),
        Changed::Stale(_) => None,
    })
}

fn contended(namespace: &Namespace) -> ApiError {
    let detail = format!("the namespace {namespace} is being changed by others; try again");
    ApiError::unavailable(Applied::Unknown, detail)
}

/// Refuses a namespace in which there is something, and one of which that is not known.
async fn check_empty(state: &RouterState, namespace: &Namespace) -> Result<(), ApiError> {
    let full = |what: &str| Err(conflict(format!("the namespace `{namespace}` has {what}")));
    let filter = RunFilter { namespace: Some(namespace.clone()), limit: 1, ..RunFilter::default() };
    let runs = gather::ask_all(state, |shard| {
        let filter = filter.clone();
        async move { shard.list_runs(filter, Freshness::Strong).await }
    })
    .await?;
    if let Some(missing) = runs.missing.first() {
        return Err(ApiError::unavailable(
            Applied::No,
            format!("whether the namespace has workflows is not known: {}", missing.detail()),
        ));
    }
    if runs.answers.iter().any(|(_, runs)| !runs.is_empty()) {
        return full("workflows: delete them first");
    }
    if state.system().templates().await?.value.iter().any(|record| namespace.owns(&record.name)) {
        return full("templates, which stay");
    }
    if !namespace::entries(state, EntryKind::Schedule, namespace, None, 1).await?.value.entries.is_empty() {
        return full("schedules: delete them first");
    }
    if !namespace::entries(state, EntryKind::Webhook, namespace, None, 1).await?.value.entries.is_empty() {
        return full("webhooks: delete them first");
    }
    if !namespace::entries(state, EntryKind::Retention, namespace, None, 1).await?.value.entries.is_empty() {
        return full("rules of how long runs are kept: take them away first");
    }
    if state.vault().list().await?.0.iter().any(|secret| namespace.owns(&secret.key)) {
        return full("secrets: remove them first");
    }
    let is_confined = |entry: &CatalogueEntry| {
        let body = entry.body.as_deref().unwrap_or_default();
        let kept = serde_json::from_str::<crate::access::tokens::Kept>(body);
        kept.is_ok_and(|kept| kept.namespace.as_ref() == Some(namespace))
    };
    let tokens = namespace::entries_where(state, EntryKind::Token, None, 1, is_confined).await?.value;
    if tokens.entries.is_empty() { Ok(()) } else { full("tokens: delete them first") }
}

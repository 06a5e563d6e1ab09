//! Tokens: made with scopes, shown once, listed without their secrets, deleted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::namespace::Namespace;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use serde::Serialize;
use serde_json::Value;

use crate::access::Caller;
use crate::access::limit::{RATE_MAX, RateLimit};
use crate::access::scope::Scope;
use crate::access::tokens::{Kept, New};
use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace;
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, shortened, unknown};

/// How often a deletion is tried that others cut in on.
const TRIES_MAX: u32 = 10;

#[derive(Serialize)]
struct Shown {
    token_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    name: Option<String>,
    scopes: Vec<Scope>,
    agent_id: Option<Arc<str>>,
    namespace: Option<Namespace>,
    created_at: String,
    expires_at: Option<String>,
    rate_limit: Option<RateLimit>,
}

impl Shown {
    fn of(id: &str, kept: Kept) -> Self {
        let Kept { name, scopes, agent_id, namespace, created_at, expires_at, rate_limit, .. } = kept;
        Self {
            token_id: id.to_owned(),
            token: None,
            name,
            scopes,
            agent_id,
            namespace,
            created_at: created_at.to_rfc3339(),
            expires_at: expires_at.map(|at| at.to_rfc3339()),
            rate_limit,
        }
    }
}

#[derive(Serialize)]
struct Deleted {
    token_id: String,
    deleted: bool,
}

/// Makes a token, which is shown in this answer and never again. Made in a namespace other than `default`,
/// or by a token that is confined to one, it is confined to that.
#[utoipa::path(post, path = "/v1/tokens", tag = "catalogue", operation_id = "createToken", request_body = schema::TokenRequest,
    responses((status = 201, body = schema::NewToken), (status = 400, body = schema::Problem), (status = 403, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn create(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let now = Clock::default().now();
    let mut fields = Fields::of_body(incoming.json()?)?;
    let name = fields.name("name");
    let scopes = scopes(&mut fields);
    let agent_id = fields.name("agent_id").map(Arc::from);
    let namespace = confined_to(&mut fields, &incoming.caller)?;
    let expires_at = fields.time("expires_at");
    if expires_at.is_some_and(|at| at <= now) {
        fields.problem("expires_at", "has passed already");
    }
    let rate_limit = rate_limit(&mut fields);
    fields.done()?;
    if let Some(namespace) = &namespace {
        namespace::check(&state, namespace).await?;
    }
    let new = New::random();
    let kept = new.kept(name, scopes, agent_id, namespace, now, expires_at).with_rate_limit(rate_limit);
    let body = serde_json::to_string(&kept).expect("a token's entry is JSON");
    let id: Arc<str> = new.id.as_str().into();
    let change = EntryChange { kind: EntryKind::Token, key: id, after: None, body: Some(body.into()) };
    let Seen { value, position, .. } = state.system().change_entry(change).await?;
    match value {
        // Its id is random: what is so already was made so by an earlier try of this request.
        Changed::Made(_) | Changed::Already(Some(_)) => {}
        Changed::Stale(_) | Changed::Already(None) => {
            return Err(ApiError::unavailable(Applied::No, "the token was not made; try again"));
        }
    }
    let location = HeaderValue::try_from(format!("/v1/tokens/{}", new.id)).expect("hexadecimal digits");
    let shown = Shown { token: Some(new.token), ..Shown::of(&new.id, kept) };
    let mut response = json(StatusCode::CREATED, &shown);
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(with_token(response, state.system().id(), position))
}

/// The field `namespace`, or what holds without it. A token that is confined makes none of another.
fn confined_to(fields: &mut Fields<'_>, caller: &Caller) -> Result<Option<Namespace>, ApiError> {
    let named = fields.string("namespace");
    let named = named.and_then(|name| {
        Namespace::parse(&name).map_err(|message| fields.problem("namespace", message)).ok()
    });
    match (named, caller.confined_to()) {
        (Some(named), Some(own)) if named != *own => Err(ApiError::forbidden(format!(
            "the token is confined to the namespace `{own}`, and makes none of another"
        ))),
        (Some(named), _) => Ok(Some(named)),
        (None, Some(own)) => Ok(Some(own.clone())),
        (None, None) => Ok(Some(caller.namespace()).filter(|own| !own.is_default()).cloned()),
    }
}

/// Whether a caller may see a token and delete it: those of its namespace, when it is confined or in one
/// other than `default`; else all, and what cannot be read too.
fn may_touch(caller: &Caller, entry: &CatalogueEntry) -> bool {
    if caller.confined_to().is_none() && caller.namespace().is_default() {
        return true;
    }
    read(entry).is_ok_and(|kept| kept.namespace.as_ref() == Some(caller.namespace()))
}

/// The field `scopes`.
fn scopes(fields: &mut Fields<'_>) -> Vec<Scope> {
    let names: Vec<&str> = Scope::ALL.into_iter().map(Scope::as_str).collect();
    let listed = match fields.value("scopes") {
        Some(Value::Array(listed)) if !listed.is_empty() => listed,
        _ => {
            fields.problem("scopes", format!("is a list of at least one of {}", names.join(", ")));
            return Vec::new();
        }
    };
    let mut scopes = Vec::new();
    for scope in &listed {
        let named = scope.as_str().unwrap_or_default();
        match Scope::from_name(named) {
            Some(scope) => scopes.push(scope),
            None => fields.problem("scopes", unknown("scope", named, &names)),
        }
    }
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// The field `rate_limit`: without `burst`, as many at once as in a second.
fn rate_limit(fields: &mut Fields<'_>) -> Option<RateLimit> {
    let raw = fields.raw("rate_limit")?;
    let pointer = fields.pointer_to("rate_limit");
    let mut inner = match Fields::of_raw(raw, &pointer) {
        Ok(inner) => inner,
        Err(problem) => {
            fields.extend([problem]);
            return None;
        }
    };
    if !inner.is_given("requests_per_second") {
        inner.problem("requests_per_second", format!("is missing: a whole number from 1 to {RATE_MAX}"));
    }
    let mut number = |name| {
        let number = inner.number(name, 1, u64::from(RATE_MAX))?;
        u32::try_from(number).ok()
    };
    let (rate, burst) = (number("requests_per_second"), number("burst"));
    fields.extend(inner.finish());
    let requests_per_second = rate?;
    Some(RateLimit { requests_per_second, burst: burst.unwrap_or(requests_per_second) })
}

/// Tokens by id, without what they are shown with.
#[utoipa::path(get, path = "/v1/tokens", tag = "catalogue", operation_id = "listTokens",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::TokenList), (status = 400, body = schema::Problem), (status = 403, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::from(cursor.id));
    query.finish()?;
    let is_own = |entry: &CatalogueEntry| may_touch(&incoming.caller, entry);
    let Seen { value: page, position, .. } =
        namespace::entries_where(&state, EntryKind::Token, after, limit, is_own).await?;
    let shown = |entry: &CatalogueEntry| read(entry).map(|kept| Shown::of(&entry.key, kept));
    let items: Vec<Shown> = page.entries.iter().map(shown).collect::<Result<_, _>>()?;
    let last = page.entries.last().filter(|_| page.has_more);
    let next_cursor = last.map(|entry| Cursor { at: entry.at, id: entry.key.to_string() }.encode());
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

fn read(entry: &CatalogueEntry) -> Result<Kept, ApiError> {
    let kept = serde_json::from_str(entry.body.as_deref().unwrap_or_default());
    kept.map_err(|_| ApiError::unavailable(Applied::No, "a token's entry cannot be read by this build"))
}

/// Deletes a token. Nodes that know it may take it for five seconds more.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "catalogue", operation_id = "deleteToken", params(("id" = String, Path)),
    responses((status = 200, body = schema::TokenDeleted), (status = 403, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let token_id = incoming.segment(2)?;
    let none = || ApiError::not_found(format!("there is no token `{}`", shortened(&token_id)));
    let key: Arc<str> = token_id.as_str().into();
    for _ in 0..TRIES_MAX {
        let found = state.system().entry(EntryKind::Token, key.clone()).await?.value.ok_or_else(none)?;
        if !may_touch(&incoming.caller, &found) {
            return Err(none());
        }
        let change =
            EntryChange { kind: EntryKind::Token, key: key.clone(), after: Some(found.revision), body: None };
        let Seen { value, position, .. } = state.system().change_entry(change).await?;
        if !matches!(value, Changed::Stale(Some(_))) {
            state.known_tokens().forget(&token_id);
            let response = json(StatusCode::OK, &Deleted { token_id, deleted: true });
            return Ok(with_token(response, state.system().id(), position));
        }
    }
    Err(ApiError::unavailable(Applied::No, "the token is being changed by others; try again"))
}

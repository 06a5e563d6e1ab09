//! The agents that have been in contact.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_shard::catalogue::EntryKind;
use serde::Serialize;

use crate::agents::{Contact, name_in};
use crate::error::ApiError;
use crate::forward::Seen;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace::entries_where;
use crate::schema;
use crate::state::RouterState;

#[derive(Serialize)]
struct Shown {
    agent_id: Arc<str>,
    client: Option<Arc<str>>,
    first_seen: String,
    last_seen: String,
}

/// Agents by id, with when they were first and last in contact.
#[utoipa::path(get, path = "/v1/agents", tag = "catalogue", operation_id = "listAgents",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::AgentList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::<str>::from(cursor.id));
    query.finish()?;
    let namespace = incoming.caller.namespace();
    let is_own = |key: &str| name_in(namespace, key).is_some();
    let Seen { value: page, position, .. } =
        entries_where(&state, EntryKind::Agent, after.clone(), limit, |entry| is_own(&entry.key)).await?;
    let last = page.entries.last().filter(|_| page.has_more).map(|entry| entry.key.clone());
    let mut found: BTreeMap<Arc<str>, Contact> =
        page.entries.iter().filter_map(|entry| Some((entry.key.clone(), Contact::of(entry)?))).collect();
    // This node may know of later contacts than have been written.
    let noted = state.agents().between(after.as_deref(), last.as_deref());
    for (id, contact) in noted.into_iter().filter(|(key, _)| is_own(key)) {
        let both = match found.remove(&id) {
            Some(kept) => kept.and(contact),
            None => contact,
        };
        found.insert(id, both);
    }
    let has_more = page.has_more || found.len() > limit;
    let shown: Vec<(Arc<str>, Contact)> = found.into_iter().take(limit).collect();
    let next = shown.last().filter(|_| has_more);
    let next_cursor =
        next.map(|(id, contact)| Cursor { at: contact.first_seen, id: id.to_string() }.encode());
    let items = shown.into_iter().map(|(key, contact)| Shown {
        agent_id: name_in(namespace, &key).map_or_else(|| key.clone(), Arc::from),
        client: contact.client,
        first_seen: contact.first_seen.to_rfc3339(),
        last_seen: contact.last_seen.to_rfc3339(),
    });
    let page = Page { items: items.collect(), next_cursor, unreachable_shards: Vec::new() };
    Ok(with_token(json(StatusCode::OK, &page), state.system().id(), position))
}

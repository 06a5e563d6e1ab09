//! Decisions over all shards, oldest first: what waits longest stands on top.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::into_local;
use opcode_shard::store::{DecisionFilter, DecisionRow};

use crate::error::ApiError;
use crate::gather::{self, Cursor, Order, Page};
use crate::incoming::{Incoming, json, with_tokens};
use crate::namespace::sought;
use crate::schema;
use crate::state::RouterState;

/// Lists decisions, pending ones unless said otherwise.
#[utoipa::path(get, path = "/v1/decisions", tag = "catalogue", operation_id = "listDecisions",
    params(("status" = Option<String>, Query, description = "`pending` (default), `resolved`, `timed_out`, `cancelled` or `all`"),
        ("agent_id" = Option<String>, Query, description = "those that this agent may answer"),
        ("workflow_id" = Option<String>, Query),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query),
        ("consistency" = Option<String>, Query)),
    responses((status = 200, body = schema::DecisionList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let consistency = query.consistency();
    let limit = query.limit();
    let status = query.word("status", &["pending", "resolved", "timed_out", "cancelled", "all"]);
    let namespace = incoming.caller.namespace();
    let filter = DecisionFilter {
        namespace: Some(namespace.clone()),
        status: status.map(str::to_owned),
        agent_id: query.one("agent_id"),
        workflow_id: query.one("workflow_id").map(|id| sought(namespace, id)),
        after: Cursor::of(&mut query).map(|cursor| (cursor.at, cursor.id)),
        limit: limit + 1,
    };
    query.finish()?;
    let session = incoming.session(consistency)?;
    let mut gathered = gather::ask_all(&state, |shard| {
        let (filter, freshness) = (filter.clone(), session.freshness(shard.id()));
        async move { shard.list_decisions(filter, freshness).await }
    })
    .await?;
    let (positions, lag_ms) = (std::mem::take(&mut gathered.positions), gathered.lag_ms);
    let (mut items, next_cursor, unreachable_shards) =
        gather::merge(gathered, limit, Order::OldestFirst, decision_key);
    items.iter_mut().for_each(|row| row.workflow_id = into_local(std::mem::take(&mut row.workflow_id)));
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards });
    Ok(session.with_lag(with_tokens(response, positions), lag_ms))
}

fn decision_key(row: &DecisionRow) -> Cursor {
    let at = Timestamp::parse_rfc3339(&row.created_at).unwrap_or_else(|error| {
        tracing::error!(decision = row.decision_id, error, "a decision's time is damaged");
        Timestamp::default()
    });
    Cursor { at, id: row.decision_id.clone() }
}

//! The audit log of all nodes as one list, newest first.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_shard::peer::{NodeId, Service};
use serde::Serialize;

use crate::audit::Entry;
use crate::audit::query::{AuditPage, Cursor, Filter, PageQuery, merge};
use crate::error::{ApiError, Applied};
use crate::incoming::{Incoming, json};
use crate::query::Query;
use crate::schema;
use crate::state::RouterState;

/// Longest wait for another node's entries.
const NODE_MAX: Duration = Duration::from_secs(5);

/// A page of the list.
#[derive(Serialize)]
struct Page {
    items: Vec<Entry>,
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable_nodes: Vec<Missing>,
}

/// A node that gave no answer.
#[derive(Serialize)]
struct Missing {
    node_id: String,
    code: &'static str,
    detail: String,
}

/// Calls that change something, and calls that were refused, on all nodes.
#[utoipa::path(get, path = "/v1/audit", tag = "access", operation_id = "listAudit",
    params(("since" = Option<String>, Query, description = "answered at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "answered before, RFC 3339"),
        ("agent_id" = Option<String>, Query), ("token" = Option<String>, Query, description = "a token's id or name"),
        ("method" = Option<String>, Query), ("path" = Option<String>, Query, description = "what the path begins with"),
        ("status" = Option<String>, Query, description = "`403`, or `4xx`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::AuditList), (status = 400, body = schema::Problem), (status = 403, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let filter = Filter {
        since: query.time("since"),
        until: query.time("until"),
        agent_id: query.one("agent_id"),
        token: query.one("token"),
        method: query.one("method").map(|method| method.to_ascii_uppercase()),
        path: query.one("path"),
        status: statuses(&mut query),
    };
    let cursor = cursor(&mut query);
    query.finish()?;
    let nodes: Vec<NodeId> = state.map().nodes.keys().copied().collect();
    let asked = nodes.into_iter().map(|node| {
        let query = cursor.query(node, &filter, limit + 1);
        let answer = ask(&state, node, query);
        async move { (node, answer.await) }
    });
    let (mut pages, mut unreachable_nodes) = (Vec::new(), Vec::new());
    for (node, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(page) => pages.push((node, page)),
            Err(detail) => {
                let code = "UNAVAILABLE";
                unreachable_nodes.push(Missing { node_id: node.to_string(), code, detail });
            }
        }
    }
    if let (true, Some(first)) = (pages.is_empty(), unreachable_nodes.first()) {
        let detail = format!("no node has an audit log to show; node {}: {}", first.node_id, first.detail);
        return Err(ApiError::unavailable(Applied::No, detail));
    }
    let (items, next) = merge(pages, limit, &cursor);
    let next_cursor = next.map(|next| next.encode());
    Ok(json(StatusCode::OK, &Page { items, next_cursor, unreachable_nodes }))
}

/// What a node has: this one, or another.
async fn ask(state: &RouterState, node: NodeId, query: PageQuery) -> Result<AuditPage, String> {
    if node == state.node_id() {
        let audit = state.audit().ok_or("this node keeps no audit log")?;
        return audit.log().page(query).await;
    }
    if !state.cluster().is_alive(node) {
        return Err("it gives no sign of life".to_owned());
    }
    let body = serde_json::to_vec(&query).map_err(|error| error.to_string())?;
    let answer = state.peers().call(node, Service::Audit, 0, body.into(), NODE_MAX).await;
    let answer = answer.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
}

fn cursor(query: &mut Query) -> Cursor {
    let Some(text) = query.one("cursor") else { return Cursor::default() };
    Cursor::decode(&text).unwrap_or_else(|| {
        query.problem("cursor", "is not a cursor that this list has given");
        Cursor::default()
    })
}

/// `403`, or `4xx` for all that begin so.
fn statuses(query: &mut Query) -> Option<(u16, u16)> {
    let text = query.one("status")?;
    let (digits, width) = text.strip_suffix("xx").map_or((text.as_str(), 1), |class| (class, 100));
    let is_status = text.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let from = digits.parse::<u16>().ok().filter(|_| is_status).map(|number| number * width);
    let read = from.filter(|from| (100..=599).contains(from)).map(|from| (from, from + width - 1));
    if read.is_none() {
        query.problem("status", "must be a status such as `403`, or a class of them such as `4xx`");
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_or_a_class_of_them() {
        let read = |text: &str| {
            let mut query = Query::of(&format!("/v1/audit?status={text}").parse().unwrap()).unwrap();
            let read = statuses(&mut query);
            query.finish().map(|()| read).map_err(|_| ())
        };
        assert_eq!(read("403"), Ok(Some((403, 403))));
        assert_eq!(read("4xx"), Ok(Some((400, 499))));
        for wrong in ["", "x", "xx", "40", "9xx", "0xx", "65535xx", "700xx", "%2B43", "4XX", "1000"] {
            assert_eq!(read(wrong), Err(()), "{wrong}");
        }
    }
}

//! libSQL's sync protocol for embedded replicas, version 2, read-only: the base of a shard's URL
//! is `/v1/shards/{shard}`, to which stock clients append the rest. Any node that holds a replica
//! of the shard answers, whether it leads or not, with what it has applied.
//!
//! Clients read some statuses as part of the protocol, so 400 and 500 are kept for that: both mean
//! that there is nothing more in a generation.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::ids::ShardId;
use opcode_engine::{Code, Problem};
use opcode_shard::ShardHandle;
use opcode_shard::replica::sync_server::{Pull, SyncError, SyncServer};
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::incoming::json;
use crate::schema;
use crate::state::RouterState;
use crate::wire::shortened;

#[derive(Serialize)]
struct Info {
    current_generation: u32,
}

#[derive(Serialize)]
struct EndOfGeneration {
    generation: u32,
}

/// This node's replica of the shard that a path names.
fn replica(state: &RouterState, shard: &str) -> Result<Arc<ShardHandle>, ApiError> {
    let id = match shard {
        "system" => Some(ShardId::SYSTEM),
        number => number.parse().ok().map(ShardId),
    };
    let map = state.map();
    let entry = id.and_then(|id| map.shard(id));
    let Some(entry) = entry else {
        return Err(ApiError::not_found(format!("there is no shard {}", shortened(shard))));
    };
    state.local().get(entry.shard).ok_or_else(|| {
        let holders: Vec<&str> =
            entry.holders().filter_map(|node| map.nodes.get(&node)).map(|node| node.addr.as_str()).collect();
        let holders = holders.join(", ");
        ApiError::not_found(format!("this node holds no replica of shard {}; ask {holders}", entry.shard))
    })
}

fn number(name: &str, text: &str) -> Result<u32, ApiError> {
    text.parse().map_err(|_| {
        let message = format!("{name} is a number from 1 to {}", u32::MAX);
        ApiError::invalid(Code::ValidationError, vec![Problem::at("", message)])
    })
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        let detail = error.to_string();
        match error {
            SyncError::Invalid(_) => Self::invalid(Code::ValidationError, vec![Problem::at("", detail)]),
            SyncError::Gone => Self::new(StatusCode::GONE, Code::NotFound.as_str(), detail),
            SyncError::Unavailable(_) => Self::unavailable(Applied::No, detail),
            SyncError::Refused(_) => Self::new(StatusCode::CONFLICT, "CONFLICT", detail),
        }
    }
}

fn bytes(body: impl IntoResponse) -> Response {
    let content_type = HeaderValue::from_static("application/octet-stream");
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// The generation of a shard's tables that a new embedded replica begins with.
#[utoipa::path(get, path = "/v1/shards/{shard}/info", tag = "replicas", operation_id = "getSyncInfo",
    params(("shard" = String, Path, description = "A number, or `system`")),
    responses((status = 200, body = Object), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn info(
    State(state): State<RouterState>,
    Path(shard): Path<String>,
) -> Result<Response, ApiError> {
    let current_generation = replica(&state, &shard)?.sync_server().info().await?;
    Ok(json(StatusCode::OK, &Info { current_generation }))
}

/// The file that a generation starts from. It is an empty one: the first frames bring the rest.
#[utoipa::path(get, path = "/v1/shards/{shard}/export/{generation}", tag = "replicas", operation_id = "exportShard",
    params(("shard" = String, Path), ("generation" = u32, Path)),
    responses((status = 200, body = String, content_type = "application/octet-stream"), (status = 404, body = schema::Problem), (status = 422, body = schema::Problem)))]
pub(crate) async fn export(
    State(state): State<RouterState>,
    Path((shard, generation)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    replica(&state, &shard)?;
    number("the generation", &generation)?;
    Ok(bytes(SyncServer::export().to_vec()))
}

/// Frames of a generation, from `start` to before `end`.
#[utoipa::path(get, path = "/v1/shards/{shard}/sync/{generation}/{start}/{end}", tag = "replicas", operation_id = "syncShard",
    params(("shard" = String, Path), ("generation" = u32, Path), ("start" = u32, Path), ("end" = u32, Path)),
    responses((status = 200, body = String, content_type = "application/octet-stream", description = "Frames of 4120 bytes"),
        (status = 400, description = "There is nothing more in this generation: `{\"generation\": N}` says with which it goes on", body = Object),
        (status = 404, body = schema::Problem), (status = 409, body = schema::Problem), (status = 410, body = schema::Problem),
        (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn frames(
    State(state): State<RouterState>,
    Path((shard, generation, start, end)): Path<(String, String, String, String)>,
) -> Result<Response, ApiError> {
    let replica = replica(&state, &shard)?;
    let generation = number("the generation", &generation)?;
    let (start, end) = (number("the first frame", &start)?, number("the frame after the last", &end)?);
    match replica.sync_server().pull(generation, start, end).await? {
        Pull::Frames(frames) => Ok(bytes(frames)),
        Pull::End(generation) => Ok(json(StatusCode::BAD_REQUEST, &EndOfGeneration { generation })),
    }
}

/// What a client would write: it is always refused.
pub(crate) async fn refused() -> ApiError {
    ApiError::forbidden("copies of a shard are read-only; change workflows through /v1/workflows")
}

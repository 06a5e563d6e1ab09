//! The cluster as it stands, and read-only SQL over every shard for operators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ShardId;
use opcode_shard::handle::ShardInfo;
use serde::Serialize;
use serde_json::Value;

use crate::error::ApiError;
use crate::gather::{self, Gathered, Missing};
use crate::incoming::{Incoming, json, with_tokens};
use crate::schema;
use crate::state::{NodeInfo, RouterState};
use crate::wire::{Fields, invalid};

/// Rows of one SQL query when no limit is given, and at most.
const ROWS_DEFAULT: u64 = 1_000;
const ROWS_MAX: u64 = 10_000;

#[derive(Serialize)]
struct Cluster<'a> {
    cluster_id: &'a str,
    version: &'a str,
    map_version: u64,
    members: Vec<Member<'a>>,
    leader: &'a str,
    shards: Vec<Shard<'a>>,
    system_shard: Option<Shard<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable_shards: Vec<Missing>,
}

#[derive(Serialize)]
struct Member<'a> {
    node_id: &'a str,
    addr: &'a str,
    peer_addr: Option<&'a str>,
    role: &'static str,
    alive: bool,
}

#[derive(Serialize)]
struct Shard<'a> {
    shard: u32,
    epoch: u64,
    primary: Option<&'a str>,
    replicas: Vec<Replica<'a>>,
    workflows: u64,
    bytes: u64,
    queue_depth: usize,
    runs_in_memory: usize,
}

#[derive(Serialize)]
struct Replica<'a> {
    node_id: &'a str,
    in_sync: bool,
    lag_ms: u64,
    position: u64,
}

impl<'a> Shard<'a> {
    fn of(info: &ShardInfo, node: &'a NodeInfo) -> Self {
        Self {
            shard: info.shard.0,
            epoch: info.epoch,
            primary: info.leads.then_some(node.node_id.as_str()),
            replicas: vec![Replica {
                node_id: &node.node_id,
                in_sync: true,
                lag_ms: 0,
                position: info.committed.index,
            }],
            workflows: info.workflows,
            bytes: info.bytes,
            queue_depth: info.queue_depth,
            runs_in_memory: info.runs_in_memory,
        }
    }
}

/// Members, shards, and who leads which.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", operation_id = "getCluster",
    responses((status = 200, body = schema::Cluster), (status = 503, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let node = state.node();
    let (system, gathered) = tokio::join!(
        state.system().info(),
        gather::ask_all(&state, |shard| async move { shard.info().await })
    );
    let mut gathered = gathered?;
    let positions = std::mem::take(&mut gathered.positions);
    let document = Cluster {
        cluster_id: &node.cluster_id,
        version: &node.version,
        // The map of a cluster of one never changes.
        map_version: 1,
        members: vec![Member {
            node_id: &node.node_id,
            addr: &node.addr,
            peer_addr: node.peer_addr.as_deref(),
            role: "voter",
            alive: true,
        }],
        leader: &node.node_id,
        shards: gathered.answers.iter().map(|(_, info)| Shard::of(info, node)).collect(),
        system_shard: system.ok().map(|info| Shard::of(&info, node)),
        unreachable_shards: gathered.missing,
    };
    Ok(with_tokens(json(StatusCode::OK, &document), positions))
}

#[derive(Serialize)]
struct Rows {
    items: Vec<Value>,
    truncated: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable_shards: Vec<Missing>,
}

/// Runs a read-only query on every shard; the rows follow one another, shard by shard.
#[utoipa::path(post, path = "/v1/sql", tag = "cluster", operation_id = "querySql", request_body = schema::SqlRequest,
    responses((status = 200, body = schema::SqlAnswer), (status = 400, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn sql(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let query = fields.string("query");
    if query.is_none() {
        fields.problem("query", "is missing: one SELECT, a string");
    }
    let limit = fields.number("limit", 1, ROWS_MAX).unwrap_or(ROWS_DEFAULT);
    let limit = usize::try_from(limit).expect("at most 10 000");
    let only = fields.number("shard", 0, u64::from(u32::MAX)).and_then(|shard| u32::try_from(shard).ok());
    fields.done()?;
    let query = query.expect("a body without problems has a query");
    let gathered = match only {
        Some(shard) => ask_one(&state, ShardId(shard), &query, limit + 1).await?,
        None => {
            gather::ask_all(&state, |shard| {
                let query = query.clone();
                async move { shard.sql(&query, limit + 1).await }
            })
            .await?
        }
    };
    let mut items: Vec<Value> = gathered.answers.into_iter().flat_map(|(_, rows)| rows).collect();
    let truncated = items.len() > limit;
    items.truncate(limit);
    let response = json(StatusCode::OK, &Rows { items, truncated, unreachable_shards: gathered.missing });
    Ok(with_tokens(response, gathered.positions))
}

async fn ask_one(
    state: &RouterState,
    id: ShardId,
    query: &str,
    limit: usize,
) -> Result<Gathered<Vec<Value>>, ApiError> {
    let shard = state.shards().iter().chain([state.system()]).find(|shard| shard.id() == id);
    let Some(shard) = shard else {
        return Err(invalid(vec![Problem::at("/shard", format!("there is no shard {id}"))]));
    };
    let position = shard.committed();
    let rows = shard.sql(query, limit).await?;
    Ok(Gathered { answers: vec![(id, rows)], missing: Vec::new(), positions: vec![(id, position)] })
}

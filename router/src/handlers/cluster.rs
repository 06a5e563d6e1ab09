//! The cluster as it stands, and read-only SQL over every shard for operators.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ShardId;
use opcode_shard::handle::ShardInfo;
use opcode_shard::peer::NodeId;
use serde::Serialize;
use serde_json::Value;

use crate::control::{ClusterChange, ClusterError};
use crate::error::{ApiError, Applied};
use crate::gather::{self, Gathered, Missing};
use crate::incoming::{Incoming, json, with_tokens};
use crate::schema;
use crate::shard_map::{NodeState, Recovery, ShardMap};
use crate::state::RouterState;
use crate::wire::{Fields, invalid, shortened};

/// Rows of one SQL query when no limit is given, and at most.
const ROWS_DEFAULT: u64 = 1_000;
const ROWS_MAX: u64 = 10_000;

#[derive(Serialize)]
struct Cluster<'a> {
    cluster_id: &'a str,
    version: &'a str,
    map_version: u64,
    replication_factor: u32,
    members: Vec<Member<'a>>,
    leader: Option<String>,
    shards: Vec<Shard>,
    system_shard: Option<Shard>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    recoveries: &'a [Recovery],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable_shards: Vec<Missing>,
}

#[derive(Serialize)]
struct Member<'a> {
    node_id: String,
    addr: &'a str,
    peer_addr: &'a str,
    role: &'static str,
    state: NodeState,
    alive: bool,
    /// Shards that it holds, or shall.
    shards: usize,
    /// What confines programs on it; told by the node that answers, of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<Value>,
}

#[derive(Serialize)]
struct Shard {
    shard: u32,
    epoch: u64,
    primary: Option<String>,
    replicas: Vec<Replica>,
    /// The nodes that shall hold it, the one that should lead first.
    placed: Vec<String>,
    /// What its members are being changed to, while they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    doing: Option<String>,
    workflows: u64,
    bytes: u64,
    queue_depth: usize,
    runs_in_memory: usize,
}

#[derive(Serialize)]
struct Replica {
    node_id: String,
    role: &'static str,
    in_sync: bool,
    lag_ms: Option<u64>,
    position: u64,
}

impl Shard {
    fn of(info: &ShardInfo, map: &ShardMap) -> Self {
        let own = Replica {
            node_id: info.node.to_string(),
            role: "voter",
            in_sync: true,
            lag_ms: Some(0),
            position: info.committed.index,
        };
        let others = info.replicas.iter().filter(|replica| replica.node != info.node);
        let others = others.map(|replica| Replica {
            node_id: replica.node.to_string(),
            role: if replica.votes { "voter" } else { "learner" },
            in_sync: replica.in_sync,
            lag_ms: replica.lag_ms,
            position: replica.position,
        });
        let placed = map.shard(info.shard).map_or(&[][..], |entry| &entry.replicas);
        Self {
            shard: info.shard.0,
            epoch: info.epoch,
            primary: info.leads.then(|| info.node.to_string()),
            replicas: std::iter::once(own).chain(others).collect(),
            placed: placed.iter().map(NodeId::to_string).collect(),
            doing: info.doing.clone(),
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
    let map = state.map();
    let system = state.system();
    let (system, gathered) =
        tokio::join!(system.info(), gather::ask_all(&state, |shard| async move { shard.info().await }));
    let mut gathered = gathered?;
    let isolation = state.plugins().isolation().report().await;
    let positions = std::mem::take(&mut gathered.positions);
    let members = map.nodes.iter().map(|(id, entry)| Member {
        node_id: id.to_string(),
        addr: &entry.addr,
        peer_addr: &entry.peer_addr,
        role: if entry.voter { "voter" } else { "learner" },
        state: entry.state,
        alive: *id == state.node_id() || state.cluster().is_alive(*id),
        shards: map.all_shards().filter(|entry| entry.holders().any(|holder| holder == *id)).count(),
        isolation: (*id == state.node_id()).then(|| isolation.clone()),
    });
    let document = Cluster {
        cluster_id: &node.cluster_id,
        version: &node.version,
        map_version: map.version,
        replication_factor: map.replication_factor,
        members: members.collect(),
        leader: state.cluster().leader().map(|node| node.to_string()),
        shards: gathered.answers.iter().map(|(_, info)| Shard::of(info, &map)).collect(),
        system_shard: system.ok().map(|seen| Shard::of(&seen.value, &map)),
        recoveries: &map.recoveries,
        unreachable_shards: gathered.missing,
    };
    Ok(with_tokens(json(StatusCode::OK, &document), positions))
}

/// What a change of the cluster is answered with.
#[derive(Serialize)]
struct Changed {
    map_version: u64,
}

async fn change(state: &RouterState, change: ClusterChange) -> Result<u64, ApiError> {
    state.cluster().change(change).await.map_err(|error| match error {
        ClusterError::Refused(why) => ApiError::new(StatusCode::CONFLICT, "VALIDATION_ERROR", why),
        ClusterError::Unavailable(why) => ApiError::unavailable(Applied::No, why),
        ClusterError::Unknown(why) => ApiError::unavailable(Applied::Unknown, why),
    })
}

fn node_of(path: &str) -> Result<NodeId, ApiError> {
    path.parse().map_err(|_| ApiError::not_found(format!("there is no node {}", shortened(path))))
}

/// A node that asks to join, and what it is told of the cluster.
#[utoipa::path(post, path = "/v1/cluster/nodes", tag = "cluster", operation_id = "joinNode", request_body = Object,
    responses((status = 201, body = Object), (status = 409, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn join(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let (request, addr, peer_addr) =
        (fields.string("request"), fields.string("addr"), fields.string("peer_addr"));
    for (name, value) in [("request", &request), ("addr", &addr), ("peer_addr", &peer_addr)] {
        if value.is_none() {
            fields.problem(name, "is missing: a string");
        }
    }
    fields.done()?;
    let (Some(request), Some(addr), Some(peer_addr)) = (request, addr, peer_addr) else {
        return Err(invalid(vec![Problem::at("", "is not whole")]));
    };
    let node_id = change(&state, ClusterChange::Join { request, addr, peer_addr }).await?;
    #[derive(Serialize)]
    struct Joined<'a> {
        node_id: NodeId,
        map: &'a ShardMap,
    }
    let map = state.map();
    Ok(json(StatusCode::CREATED, &Joined { node_id, map: &map }))
}

/// Takes a node out of the cluster: one that was drained, or that is gone for good. Its shards get
/// other nodes first; it has left once it is among the members no more.
#[utoipa::path(delete, path = "/v1/cluster/nodes/{id}", tag = "cluster", operation_id = "removeNode", params(("id" = String, Path)),
    responses((status = 200, body = Object), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn remove(
    State(state): State<RouterState>,
    Path(id): Path<String>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let map_version = change(&state, ClusterChange::Remove(node_of(&id)?)).await?;
    Ok(json(StatusCode::OK, &Changed { map_version }))
}

/// Has a node give its shards away.
#[utoipa::path(post, path = "/v1/cluster/nodes/{id}/drain", tag = "cluster", operation_id = "drainNode", params(("id" = String, Path)),
    responses((status = 202, body = Object), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn drain(
    State(state): State<RouterState>,
    Path(id): Path<String>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let map_version = change(&state, ClusterChange::Drain(node_of(&id)?)).await?;
    Ok(json(StatusCode::ACCEPTED, &Changed { map_version }))
}

/// Moves a replica of a shard to another node.
#[utoipa::path(post, path = "/v1/cluster/shards/{id}/move", tag = "cluster", operation_id = "moveShard", params(("id" = String, Path)), request_body = Object,
    responses((status = 202, body = Object), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn move_shard(
    State(state): State<RouterState>,
    Path(id): Path<String>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let shard: u32 =
        id.parse().map_err(|_| ApiError::not_found(format!("there is no shard {}", shortened(&id))))?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let (from, to) = (fields.number("from", 1, u64::MAX), fields.number("to", 1, u64::MAX));
    if to.is_none() {
        fields.problem("to", "is missing: a node's number");
    }
    fields.done()?;
    let to = to.expect("a body without problems has it");
    let map_version = change(&state, ClusterChange::Move { shard: ShardId(shard), from, to }).await?;
    Ok(json(StatusCode::ACCEPTED, &Changed { map_version }))
}

/// Places every shard anew, for the nodes there are.
#[utoipa::path(post, path = "/v1/cluster/rebalance", tag = "cluster", operation_id = "rebalance",
    responses((status = 202, body = Object), (status = 409, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn rebalance(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let map_version = change(&state, ClusterChange::Rebalance).await?;
    Ok(json(StatusCode::ACCEPTED, &Changed { map_version }))
}

/// Changes a setting of the cluster.
#[utoipa::path(patch, path = "/v1/cluster", tag = "cluster", operation_id = "setCluster", request_body = Object,
    responses((status = 202, body = Object), (status = 409, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn set(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let factor = fields.number("replication_factor", 1, u64::from(u32::MAX));
    if factor.is_none() {
        fields.problem("replication_factor", "is missing: how many nodes shall hold each shard");
    }
    fields.done()?;
    let factor = factor.and_then(|factor| u32::try_from(factor).ok()).expect("in these bounds");
    let map_version = change(&state, ClusterChange::SetReplicationFactor(factor)).await?;
    Ok(json(StatusCode::ACCEPTED, &Changed { map_version }))
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
    let shard = state.shards().into_iter().chain([state.system()]).find(|shard| shard.id() == id);
    let Some(shard) = shard else {
        return Err(invalid(vec![Problem::at("/shard", format!("there is no shard {id}"))]));
    };
    Ok(Gathered::of_one(id, shard.sql(query, limit).await?))
}

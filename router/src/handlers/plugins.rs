//! Plugins: registered, listed with how they are doing on each node, and removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use opcode_shard::batch::Position;
use opcode_shard::catalogue::{Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use opcode_shard::peer::{NodeId, Service};
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::plugins::{
    PLUGINS_MAX, Plugin, PluginHost, Registered, State as Stage, Status, Told, ToolInfo, is_name,
};
use crate::schedule::conflict;
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, shortened};

/// Longest wait for what another node says of its plugins.
const NODE_MAX: Duration = Duration::from_secs(2);
/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 10;

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    namespace: &'a str,
    command: &'a str,
    args: &'a [String],
    env: BTreeMap<&'a str, &'a str>,
    restart: crate::plugins::Restart,
    timeout: Option<&'a str>,
    created_at: String,
    /// Those that some node has found.
    tools: Vec<Tool>,
    nodes: Vec<OnNode>,
}

#[derive(Serialize)]
struct Tool {
    action: String,
    about: String,
}

#[derive(Serialize)]
struct OnNode {
    node_id: String,
    status: Stage,
    pid: Option<u32>,
    restarts: u64,
    last_error: Option<String>,
    tools: usize,
}

#[derive(Serialize)]
struct Removed {
    name: String,
    removed: bool,
}

/// What every node says, or why it says nothing.
type OfNodes = Vec<(NodeId, Result<Told, String>)>;

async fn ask_nodes(state: &RouterState) -> OfNodes {
    let map = state.map();
    let asked = map.nodes.keys().map(|node| async move {
        if *node == state.node_id() {
            return (*node, Ok(state.plugins().here()));
        }
        if !state.cluster().is_alive(*node) {
            return (*node, Err("the node gives no sign of life".to_owned()));
        }
        let body = Bytes::from_static(b"plugins");
        let told = state.peers().call(*node, Service::Node, 0, body, NODE_MAX).await;
        let told = told.map_err(|error| error.to_string());
        (*node, told.and_then(|told| serde_json::from_slice(&told).map_err(|error| error.to_string())))
    });
    futures::future::join_all(asked).await
}

/// How a plugin is doing on each node.
fn statuses(plugin: &Plugin, told: &OfNodes) -> Vec<(NodeId, Status)> {
    let status = |told: &Result<Told, String>| match told {
        Ok(told) => told.of(&plugin.name),
        Err(why) => Status::not_there(Stage::Unknown, why.clone()),
    };
    told.iter().map(|(node, told)| (*node, status(told))).collect()
}

/// The tools of a plugin that some node has found, by name.
fn found(statuses: &[(NodeId, Status)]) -> Vec<ToolInfo> {
    let tools = statuses.iter().flat_map(|(_, status)| &status.tools);
    let by_name: BTreeMap<&str, &ToolInfo> = tools.map(|tool| (tool.name.as_str(), tool)).collect();
    by_name.into_values().cloned().collect()
}

/// The tools of all plugins, by namespace.
pub(super) async fn tools(state: &RouterState) -> Result<Vec<(Arc<str>, Vec<ToolInfo>)>, ApiError> {
    let plugins = crate::plugins::registered(state).await?;
    if plugins.is_empty() {
        return Ok(Vec::new());
    }
    let told = ask_nodes(state).await;
    let of = |plugin: Plugin| (plugin.registered.namespace.clone(), found(&statuses(&plugin, &told)));
    let mut tools: Vec<_> = plugins.into_iter().map(of).collect();
    tools.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tools)
}

impl<'a> Shown<'a> {
    fn of(plugin: &'a Plugin, told: &OfNodes) -> Self {
        let Plugin { name, registered, .. } = plugin;
        let statuses = statuses(plugin, told);
        let tools = found(&statuses).into_iter().map(|tool| Tool {
            action: format!("{}.{}", registered.namespace, tool.name),
            about: tool.about,
        });
        let tools = tools.collect();
        let nodes = statuses.into_iter().map(|(node, status)| OnNode {
            node_id: node.to_string(),
            status: status.state,
            pid: status.pid,
            restarts: status.restarts,
            last_error: status.last_error,
            tools: status.tools.len(),
        });
        Self {
            name,
            namespace: &registered.namespace,
            command: &registered.command,
            args: &registered.args,
            env: registered.shown_env(),
            restart: registered.restart,
            timeout: registered.timeout.as_deref(),
            created_at: registered.created_at.to_rfc3339(),
            tools,
            nodes: nodes.collect(),
        }
    }
}

async fn answer(state: &RouterState, status: StatusCode, plugin: &Plugin, position: Position) -> Response {
    let told = ask_nodes(state).await;
    let mut response = json(status, &Shown::of(plugin, &told));
    if status == StatusCode::CREATED {
        let location = HeaderValue::try_from(format!("/v1/plugins/{}", plugin.name));
        response.headers_mut().insert(header::LOCATION, location.expect("a name is visible ASCII"));
    }
    with_token(response, state.system().id(), position)
}

/// Registers an MCP server, which every node that may then runs.
#[utoipa::path(post, path = "/v1/plugins", tag = "catalogue", operation_id = "registerPlugin", request_body = schema::plugins::PluginRequest,
    responses((status = 201, body = schema::plugins::Plugin), (status = 200, description = "the same plugin again", body = schema::plugins::Plugin),
        (status = 400, body = schema::Problem), (status = 403, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn register(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let read = Registered::read(&mut fields, Clock::default().now());
    fields.done()?;
    let (name, registered) = read.expect("a body without problems says what a plugin needs");
    if !state.plugins().is_allowed() {
        return Err(ApiError::forbidden(PluginHost::off()));
    }
    check_room(&state, &name, &registered).await?;
    let body = serde_json::to_string(&registered).expect("a plugin is JSON");
    let change =
        EntryChange { kind: EntryKind::Plugin, key: name.clone(), after: None, body: Some(body.into()) };
    let Seen { value, position, .. } = state.system().change_entry(change).await?;
    let (status, entry) = match value {
        Changed::Made(entry) => (StatusCode::CREATED, entry),
        Changed::Already(Some(entry)) | Changed::Stale(Some(entry)) => (StatusCode::OK, entry),
        Changed::Already(None) | Changed::Stale(None) => {
            return Err(ApiError::unavailable(Applied::No, "the plugin was removed meanwhile"));
        }
    };
    let plugin = Plugin::of(&entry)?;
    if !registered.is_same_as(&plugin.registered) {
        let message = format!("there is another plugin `{name}`: remove it, or give this one another name");
        return Err(conflict(message));
    }
    state.plugins().look();
    Ok(answer(&state, status, &plugin, position).await)
}

/// Refuses one too many, and a namespace that another plugin brings.
async fn check_room(state: &RouterState, name: &str, registered: &Registered) -> Result<(), ApiError> {
    let there = crate::plugins::registered(state).await?;
    if let Some(other) =
        there.iter().find(|other| *other.name != *name && other.registered.namespace == registered.namespace)
    {
        let message = format!("the plugin `{}` brings the namespace `{}`", other.name, registered.namespace);
        return Err(conflict(message));
    }
    if there.len() >= PLUGINS_MAX && there.iter().all(|other| *other.name != *name) {
        return Err(conflict(format!("there are {PLUGINS_MAX} plugins, and no room for more")));
    }
    Ok(())
}

/// Plugins by name, with how they are doing on each node.
#[utoipa::path(get, path = "/v1/plugins", tag = "catalogue", operation_id = "listPlugins",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::plugins::PluginList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::from(cursor.id));
    query.finish()?;
    let system = state.system();
    let (page, told) = tokio::join!(system.entries(EntryKind::Plugin, after, limit), ask_nodes(&state));
    let Seen { value: page, position, .. } = page?;
    let plugins: Vec<Plugin> = page.entries.iter().map(Plugin::of).collect::<Result<_, _>>()?;
    let items = plugins.iter().map(|plugin| Shown::of(plugin, &told)).collect();
    let last = page.entries.last().filter(|_| page.has_more);
    let next_cursor = last.map(|entry| Cursor { at: entry.at, id: entry.key.to_string() }.encode());
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

fn none(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no plugin `{}`", shortened(name)))
}

/// One plugin, with how it is doing on each node.
#[utoipa::path(get, path = "/v1/plugins/{name}", tag = "catalogue", operation_id = "getPlugin", params(("name" = String, Path)),
    responses((status = 200, body = schema::plugins::Plugin), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let name = incoming.segment(2)?;
    if !is_name(&name) {
        return Err(none(&name));
    }
    let Seen { value, position, .. } = state.system().entry(EntryKind::Plugin, name.as_str().into()).await?;
    let plugin = Plugin::of(&value.ok_or_else(|| none(&name))?)?;
    Ok(answer(&state, StatusCode::OK, &plugin, position).await)
}

/// Removes a plugin: its processes end. Steps that want its tools fail from then on.
#[utoipa::path(delete, path = "/v1/plugins/{name}", tag = "catalogue", operation_id = "removePlugin", params(("name" = String, Path)),
    responses((status = 200, body = schema::plugins::PluginRemoved), (status = 403, body = schema::Problem),
        (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn remove(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let name = incoming.segment(2)?;
    if !is_name(&name) {
        return Err(none(&name));
    }
    let key: Arc<str> = name.as_str().into();
    for _ in 0..TRIES_MAX {
        let found = state.system().entry(EntryKind::Plugin, key.clone()).await?.value;
        let after = Some(found.ok_or_else(|| none(&name))?.revision);
        let change = EntryChange { kind: EntryKind::Plugin, key: key.clone(), after, body: None };
        let Seen { value, position, .. } = state.system().change_entry(change).await?;
        if !matches!(value, Changed::Stale(Some(_))) {
            state.plugins().look();
            let response = json(StatusCode::OK, &Removed { name, removed: true });
            return Ok(with_token(response, state.system().id(), position));
        }
    }
    Err(ApiError::unavailable(Applied::No, "the plugin is being changed by others; try again"))
}

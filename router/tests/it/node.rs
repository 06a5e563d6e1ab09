//! A node in process: real shards on a temporary folder behind the router's service.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request};
use axum::response::Response;
use futures::future::BoxFuture;
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{NodeEntry, NodeState, ShardMap};
use opcode_router::{
    ClusterChange, ClusterControl, ClusterError, LocalShards, NodeInfo, PluginDoor, PluginHost,
    RouterOptions, RouterParts, RouterState, ShardRelay, WebhookOptions,
};
use opcode_shard::actions::push::Sender;
use opcode_shard::actions::{ActionOptions, Actions};
use opcode_shard::log::{LogOptions, LogStore};
use opcode_shard::peer::{NoPeers, Peers};
use opcode_shard::vault::Vault;
use opcode_shard::workers::Workers;
use opcode_shard::{Shard, ShardHandle, ShardOptions, Shared};
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

/// Sessions of MCP that a test's node takes.
pub(crate) const MCP_SESSIONS_MAX: usize = 3;
/// Workflow shards of a test's node.
pub(crate) const SHARDS: u32 = 3;

pub(crate) struct Node {
    app: Router,
    pub(crate) stop: watch::Sender<bool>,
    _shards: Vec<Shard>,
    pub(crate) home: tempfile::TempDir,
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("visible ASCII"))
    }
}

/// The membership of a cluster of one, which never changes.
struct Alone;

impl ClusterControl for Alone {
    fn leader(&self) -> Option<u64> {
        Some(1)
    }
    fn is_alive(&self, node: u64) -> bool {
        node == 1
    }
    fn change(&self, _: ClusterChange) -> BoxFuture<'static, Result<u64, ClusterError>> {
        Box::pin(std::future::ready(Err(ClusterError::Refused("it never changes".into()))))
    }
}

fn about(node_id: u64) -> NodeInfo {
    NodeInfo {
        node_id: node_id.to_string(),
        cluster_id: "test".into(),
        addr: "127.0.0.1:4100".into(),
        peer_addr: None,
        version: "0.0.0".into(),
    }
}

impl Node {
    /// A node that leads all shards.
    pub(crate) async fn start() -> Self {
        Self::start_all(Vault::closed(), |_| {}, |_| None).await
    }

    /// A node with these secrets, whose actions may do what `allow` lets them.
    pub(crate) async fn with_vault(vault: Arc<Vault>, allow: impl FnOnce(&mut ActionOptions)) -> Self {
        Self::start_all(vault, allow, |_| None).await
    }

    /// Requests come to a second node, which holds nothing and asks the first through `peers`.
    pub(crate) async fn start_with(peers: impl FnOnce(Vec<ShardHandle>) -> Option<Arc<dyn Peers>>) -> Self {
        Self::start_all(Vault::closed(), |_| {}, peers).await
    }

    async fn start_all(
        vault: Arc<Vault>,
        allow: impl FnOnce(&mut ActionOptions),
        peers: impl FnOnce(Vec<ShardHandle>) -> Option<Arc<dyn Peers>>,
    ) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let log = LogOptions { dir: home.path().join("log"), segment_bytes: 1024 * 1024 };
        let relay = Arc::new(ShardRelay::default());
        let mut options = actions(home.path());
        allow(&mut options);
        let actions = Actions::new(options);
        let scratch = home.path().join("scratch");
        let plugins = PluginHost::new(actions.isolation().clone(), vault.clone(), scratch, true);
        actions.open_plugins(Arc::new(PluginDoor(plugins.clone())));
        let shared = Shared {
            log: LogStore::open(log).expect("a log"),
            workers: Workers::new(actions, 4).with_vault(vault.clone()),
            definitions: Arc::default(),
            clock: Arc::default(),
            peers: Arc::new(NoPeers),
            relay: relay.clone(),
        };
        let shards = start_shards(home.path(), &shared).await;
        let local = Arc::new(LocalShards::default());
        let handles: Vec<ShardHandle> = shards.iter().map(Shard::handle).collect();
        let (node_id, peers) = match peers(handles.clone()) {
            Some(peers) => (2, peers),
            None => {
                handles.into_iter().for_each(|handle| local.insert(handle));
                (1, Arc::new(NoPeers) as Arc<dyn Peers>)
            }
        };
        let entry = NodeEntry {
            addr: "127.0.0.1:4100".into(),
            peer_addr: "127.0.0.1:5100".into(),
            state: NodeState::Active,
            voter: true,
        };
        let (_, map) = watch::channel(Arc::new(ShardMap::of_one("test".into(), 1, entry, SHARDS)));
        let (stop, shutdown) = watch::channel(false);
        let (_, ready) = watch::channel(true);
        let state = RouterState::new(RouterParts {
            map,
            local,
            peers,
            node_id,
            cluster: Arc::new(Alone),
            vault,
            plugins,
            node: about(node_id),
            ready,
            shutdown,
            metrics: Arc::new(|| "# no metrics\n".to_owned()),
            listener_is_loopback: true,
            tokens: None,
            backup_dir: Some(home.path().join("backups")),
            webhooks: WebhookOptions::new(Sender::new(false)),
            rate_limit: None,
            audit: None,
            options: RouterOptions {
                heartbeat: Duration::from_millis(50),
                mcp_sessions_max: MCP_SESSIONS_MAX,
                ..RouterOptions::default()
            },
        });
        relay.open(state.clone());
        tokio::spawn(opcode_router::run_schedules(state.clone()));
        tokio::spawn(opcode_router::run_agents(state.clone()));
        tokio::spawn(opcode_router::run_plugins(state.clone()));
        Self { app: opcode_router::app(state), stop, _shards: shards, home }
    }

    /// Sends a request; the answer's body is not read yet.
    pub(crate) async fn open(&self, request: Request<Body>) -> Response {
        self.app.clone().oneshot(request).await.expect("the service never fails")
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        let mut request = request(Method::PATCH, path, body.to_string().into());
        request.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
        self.send(request).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, Body::empty())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        let mut request = request(Method::POST, path, body.into());
        request.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
        self.send(request).await
    }
}

pub(crate) fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:4100")
        .body(body)
        .expect("a request")
}

/// All shards of a node, founded on this folder.
async fn start_shards(home: &std::path::Path, shared: &Shared) -> Vec<Shard> {
    let mut shards = Vec::new();
    for shard in (0..SHARDS).map(ShardId).chain([ShardId::SYSTEM]) {
        let options = ShardOptions {
            shard,
            node_id: 1,
            cluster_id: "test".into(),
            tables_path: home.join(format!("{shard}.db")),
            generations_path: home.join(format!("{shard}.json")),
            founds: true,
        };
        shards.push(Shard::start(options, shared.clone()).await.expect("a shard"));
    }
    shards
}

fn actions(dir: &std::path::Path) -> ActionOptions {
    ActionOptions {
        allow_shell: false,
        allow_private_network: false,
        fs_roots: Vec::new(),
        working_dir: dir.to_path_buf(),
        jq_worker: Vec::new(),
        jq_workers_max: 1,
        isolation: Default::default(),
    }
}

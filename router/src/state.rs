//! What every handler shares: the shards' handles, the node's name, limits, and the watches that
//! say whether the node is ready and whether it is stopping.

use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::peer::{NodeId, Peers};
use opcode_shard::vault::Vault;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::access::file::Tokens;
use crate::access::limit::{Limits, RateLimit};
use crate::access::tokens::KnownTokens;
use crate::agents::Agents;
use crate::audit::{Audit, AuditLog};
use crate::control::ClusterControl;
use crate::definitions::DefinitionCache;
use crate::error::ApiError;
use crate::forward::ShardClient;
use crate::local::LocalShards;
use crate::namespace::KnownNamespaces;
use crate::plugins::PluginHost;
use crate::shard_map::ShardMap;
use crate::webhooks::WebhookOptions;

/// Who this node is, for `GET /v1/cluster` and the guard on `Host`.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// Its HTTP address, `host:port`.
    pub addr: String,
    /// Its address for other nodes, when it listens for them.
    pub peer_addr: Option<String>,
    /// The version of this build.
    pub version: String,
}

/// Limits of the HTTP edge.
#[derive(Clone, Copy, Debug)]
pub struct RouterOptions {
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Bytes of all bodies held at a time; above, requests are refused with 429.
    pub bodies_bytes_max: usize,
    /// Longest time to receive a body.
    pub body_timeout: Duration,
    /// Longest `?wait=`; a longer one is cut to this.
    pub wait_max: Duration,
    /// Requests that wait for a run at a time; more are refused with 429.
    pub waits_max: usize,
    /// Event streams open at a time; more are refused with 429.
    pub streams_max: usize,
    /// How often a silent event stream says that it lives.
    pub heartbeat: Duration,
    /// Items of one batch submission.
    pub batch_items_max: usize,
    /// Sessions of MCP open at a time; more are refused with 429.
    pub mcp_sessions_max: usize,
    /// How long a session of MCP lives that is not used.
    pub mcp_idle: Duration,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 * 1024 * 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            wait_max: Duration::from_secs(600),
            waits_max: 8192,
            streams_max: 1024,
            heartbeat: Duration::from_secs(15),
            batch_items_max: 10_000,
            mcp_sessions_max: 1024,
            mcp_idle: Duration::from_secs(900),
        }
    }
}

/// What the node hands to its router.
pub struct RouterParts {
    /// The shard map, as it changes.
    pub map: watch::Receiver<Arc<ShardMap>>,
    /// This node's replicas, as they come and go.
    pub local: Arc<LocalShards>,
    /// The way to other nodes.
    pub peers: Arc<dyn Peers>,
    /// This node's number in the cluster.
    pub node_id: NodeId,
    /// What the cluster's membership can be asked and told.
    pub cluster: Arc<dyn ClusterControl>,
    /// The cluster's secrets, as far as this node has the key.
    pub vault: Arc<Vault>,
    /// The plugins of this node.
    pub plugins: Arc<PluginHost>,
    /// Who this node is.
    pub node: NodeInfo,
    /// True once requests are served.
    pub ready: watch::Receiver<bool>,
    /// True once the node is stopping: streams and long waits end.
    pub shutdown: watch::Receiver<bool>,
    /// Writes the metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The listener is on a loopback address and asks for no token.
    pub listener_is_loopback: bool,
    /// The tokens that callers must show one of; without, any caller is taken.
    pub tokens: Option<Tokens>,
    /// Where this node may write backups; without, it writes none.
    pub backup_dir: Option<std::path::PathBuf>,
    /// How webhooks are told.
    pub webhooks: WebhookOptions,
    /// How many requests a token, or an address without one, may make where nothing else is said of
    /// it; without, any number.
    pub rate_limit: Option<RateLimit>,
    /// Where this node keeps its part of the audit log; without, it keeps none.
    pub audit: Option<Arc<dyn AuditLog>>,
    /// Limits.
    pub options: RouterOptions,
}

/// The router's shared state; cheap to clone.
#[derive(Clone)]
pub struct RouterState {
    inner: Arc<Inner>,
}

struct Inner {
    parts: RouterParts,
    definitions: DefinitionCache,
    known_tokens: KnownTokens,
    limits: Limits,
    audit: Option<Audit>,
    agents: Agents,
    namespaces: KnownNamespaces,
    waits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// Bodies are counted in units of this many bytes.
const BODY_UNIT_BYTES: usize = 16 * 1024;

impl RouterState {
    /// The state of a node with these parts.
    pub fn new(parts: RouterParts) -> Self {
        let waits = Arc::new(Semaphore::new(parts.options.waits_max));
        let streams = Arc::new(Semaphore::new(parts.options.streams_max));
        let bodies = Arc::new(Semaphore::new(parts.options.bodies_bytes_max / BODY_UNIT_BYTES));
        let (definitions, known_tokens) = (DefinitionCache::default(), KnownTokens::default());
        let (agents, namespaces) = (Agents::default(), KnownNamespaces::default());
        let (limits, audit) = (Limits::new(parts.rate_limit), parts.audit.clone().map(Audit::new));
        Self {
            inner: Arc::new(Inner {
                parts,
                definitions,
                known_tokens,
                limits,
                audit,
                agents,
                namespaces,
                waits,
                streams,
                bodies,
            }),
        }
    }

    /// The shard map now.
    pub(crate) fn map(&self) -> Arc<ShardMap> {
        self.inner.parts.map.borrow().clone()
    }

    pub(crate) fn local(&self) -> &LocalShards {
        &self.inner.parts.local
    }

    pub(crate) fn peers(&self) -> &dyn Peers {
        &*self.inner.parts.peers
    }

    pub(crate) fn cluster(&self) -> &dyn ClusterControl {
        &*self.inner.parts.cluster
    }

    /// Where this node may write backups.
    pub(crate) fn backup_dir(&self) -> Option<&std::path::Path> {
        self.inner.parts.backup_dir.as_deref()
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.inner.parts.vault
    }

    pub(crate) fn plugins(&self) -> &Arc<PluginHost> {
        &self.inner.parts.plugins
    }

    /// This node's number.
    pub(crate) fn node_id(&self) -> NodeId {
        self.inner.parts.node_id
    }

    /// Every workflow shard.
    pub(crate) fn shards(&self) -> Vec<ShardClient> {
        self.map().shards.iter().map(|entry| ShardClient::new(self.clone(), entry.shard)).collect()
    }

    /// The shard of templates and of the catalogue.
    pub(crate) fn system(&self) -> ShardClient {
        ShardClient::new(self.clone(), ShardId::SYSTEM)
    }

    /// The shard that owns a workflow.
    pub(crate) fn shard_of(&self, id: &WorkflowId) -> ShardClient {
        ShardClient::new(self.clone(), self.map().owner(id))
    }

    pub(crate) fn node(&self) -> &NodeInfo {
        &self.inner.parts.node
    }

    pub(crate) fn options(&self) -> &RouterOptions {
        &self.inner.parts.options
    }

    pub(crate) fn webhooks(&self) -> &WebhookOptions {
        &self.inner.parts.webhooks
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.inner.parts.ready.borrow() && !*self.inner.parts.shutdown.borrow()
    }

    pub(crate) fn listener_is_loopback(&self) -> bool {
        self.inner.parts.listener_is_loopback
    }

    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.inner.parts.tokens.as_ref()
    }

    pub(crate) fn known_tokens(&self) -> &KnownTokens {
        &self.inner.known_tokens
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn audit(&self) -> Option<&Audit> {
        self.inner.audit.as_ref()
    }

    pub(crate) fn metrics(&self) -> String {
        (self.inner.parts.metrics)()
    }

    pub(crate) fn definitions(&self) -> &DefinitionCache {
        &self.inner.definitions
    }

    pub(crate) fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    pub(crate) fn namespaces(&self) -> &KnownNamespaces {
        &self.inner.namespaces
    }

    /// Resolves once the node is stopping.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut shutdown = self.inner.parts.shutdown.clone();
        async move {
            // A sender that is gone belongs to a node that is gone: that is stopping too.
            let _ = shutdown.wait_for(|stopping| *stopping).await;
        }
    }

    /// A place among the requests that wait for a run.
    pub(crate) fn enter_wait(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.inner.waits)
            .try_acquire_owned()
            .map_err(|_| ApiError::overloaded("too many requests are waiting for a run; ask without `wait`"))
    }

    /// Room for a body of at most so many bytes, held as long as the body is.
    pub(crate) fn hold_body(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(bytes.div_ceil(BODY_UNIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.inner.bodies).try_acquire_many_owned(units).map_err(|_| {
            ApiError::overloaded("the node holds more request bodies than it takes; try again shortly")
        })
    }

    /// A place among the open event streams.
    pub(crate) fn enter_stream(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.inner.streams)
            .try_acquire_owned()
            .map_err(|_| ApiError::overloaded("too many event streams are open"))
    }
}

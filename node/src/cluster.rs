//! This node's part in a cluster: its data, its connections, the membership, and its replicas.
//! A new one founds a cluster or joins one; every other goes on with what its folder says.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use opcode_router::shard_map::{NodeEntry, NodeState, ShardMap};
use opcode_router::{LocalShards, PluginDoor, PluginHost, ShardRelay};
use opcode_shard::actions::{ActionOptions, Actions};
use opcode_shard::peer::NodeId;
use opcode_shard::vault::Vault;
use opcode_shard::workers::Workers;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::addresses::{self, Addresses};
use crate::audit::{AuditFiles, AuditOptions};
use crate::config::Config;
use crate::membership::agent::Agent;
use crate::membership::change::Change;
use crate::membership::{Begin, Membership, controller, step};
use crate::replicas::{Keeper, Wanted};
use crate::services::Services;
use crate::shards::{DataDir, Identity, NewData, Starter};
use crate::transport::{self, Transport};
use crate::trust::Trust;
use crate::{incarnation, isolation, join, token_file};

/// Processes that run jq, at most.
const JQ_WORKERS_MAX: usize = 4;
/// How often a node that hears of no leader asks around.
const ASK_AROUND_EVERY: Duration = Duration::from_secs(2);

/// A running part in a cluster.
pub(crate) struct Cluster {
    pub(crate) identity: Identity,
    pub(crate) addresses: Addresses,
    pub(crate) agent: Agent,
    pub(crate) map: watch::Receiver<Arc<ShardMap>>,
    pub(crate) audit: Arc<AuditFiles>,
    /// The shards' way to each other, open once the router is there.
    pub(crate) relay: Arc<ShardRelay>,
    /// Opened for the router, like the relay.
    pub(crate) plugins: Arc<PluginHost>,
    tasks: Vec<JoinHandle<()>>,
    /// Held while the node runs.
    _data: DataDir,
}

async fn listen(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(wanted).await.with_context(|| {
        format!("{wanted} cannot be listened on for other nodes: name another with --peer-listen")
    })?;
    let address = listener.local_addr().context("a bound listener has an address")?;
    Ok((listener, address))
}

impl Cluster {
    /// Founds, joins or goes on; returns once the node knows the map and its replicas have begun.
    pub(crate) async fn start(config: &Config, address: SocketAddr, vault: Arc<Vault>) -> Result<Self> {
        let (listener, peer_address) = listen(addresses::peer_listen(config, address)).await?;
        let addresses = addresses::advertised(config, address, peer_address)?;
        let security = addresses::security(config, peer_address, &addresses)?;
        let new = match config.join.is_empty() || DataDir::is_used(&config.data_dir) {
            true => NewData::Cluster(config.shards),
            false => NewData::Joined(Box::new(join::join(config, &addresses, &security).await?)),
        };
        let data = DataDir::open(&config.data_dir, new)?;
        let identity = data.identity.clone();
        join::check_same_cluster(config, &identity).await?;
        let local = Arc::new(LocalShards::default());
        let definitions = Arc::default();
        let audit = Arc::new(open_audit(config, identity.node_id)?);
        let services = Arc::new(Services {
            local: local.clone(),
            definitions: Arc::clone(&definitions),
            membership: OnceLock::new(),
            plugins: OnceLock::new(),
            audit: audit.clone(),
        });
        let me = transport::Identity {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id,
            start: incarnation::next(&config.data_dir)?,
        };
        let transport = Transport::start(listener, me, security, services.clone());
        let relay = Arc::new(ShardRelay::default());
        let (actions, plugins) = actions(config, &vault)?;
        assert!(services.plugins.set(plugins.clone()).is_ok(), "the plugins are set once");
        let workers = Workers::new(actions, config.pool_size).with_vault(vault);
        let shared = crate::shards::shared(config, workers, transport.clone(), definitions, relay.clone())?;
        opcode_shard::finish_removals(&shared.log, &config.data_dir.join("shards")).await?;
        let begin = match identity.joined {
            true => Begin::Joined(identity.map.clone().map(Arc::new)),
            false => Begin::Found(Box::new(first_map(&identity, &addresses, config))),
        };
        if let Begin::Joined(Some(map)) = &begin {
            transport.set_addresses(map.peer_addresses());
        }
        let log = shared.log.clone();
        let membership = Membership::start(
            &config.data_dir,
            &identity.cluster_id,
            identity.node_id,
            begin,
            log,
            transport.clone(),
        )
        .await?;
        assert!(services.membership.set(membership.clone()).is_ok(), "the membership starts once");
        let first = membership.map().context("the shard map is not known: is this a node's folder?")?;
        let (map_in, map) = watch::channel(first.clone());
        let starter =
            Starter { data_dir: config.data_dir.clone(), cluster_id: identity.cluster_id.clone(), shared };
        let replicas = keeper(config, &identity, map.clone(), local.clone())?;
        let mut agent = Agent::new(membership.clone(), transport.clone(), local, starter);
        agent.follow(&first).await?;
        let tasks = vec![
            tokio::spawn(controller::run(membership.clone(), transport)),
            tokio::spawn(follow_maps(membership.clone(), map_in)),
            tokio::spawn(find_leader(membership.clone())),
            tokio::spawn(replicas.run()),
            tokio::spawn(tell_addresses(membership, identity.node_id, addresses.clone())),
        ];
        Ok(Self { identity, addresses, agent, map, audit, relay, plugins, tasks, _data: data })
    }

    /// Gives away what it leads and stops.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { agent, tasks, audit, .. } = self;
        if let Err(error) = audit.flush().await {
            tracing::error!(error, "the last calls are not in the audit log");
        }
        tasks.iter().for_each(JoinHandle::abort);
        let (membership, transport) = (agent.membership.clone(), agent.transport.clone());
        let group = membership.group.clone();
        if membership.leads() {
            let (members, is_alive) = (group.members(), |node| transport.is_alive(node));
            let able = step::successors(&members, &members.voters, membership.node_id, &is_alive);
            if let Some(node) = able.first() {
                // Nobody may be there to take over: then the others elect one.
                let _ = group.hand_over(*node).await;
            }
        }
        agent.stop().await?;
        group.shutdown().await;
        transport.shutdown();
        Ok(())
    }
}

/// Who keeps replicas of shards that are elsewhere, of members that speak as this node does.
fn keeper(
    config: &Config,
    identity: &Identity,
    map: watch::Receiver<Arc<ShardMap>>,
    local: Arc<LocalShards>,
) -> Result<Keeper> {
    let is_https = config.tls_cert.is_some() && !config.replicas.is_empty();
    Ok(Keeper {
        wanted: Wanted::parse(&config.replicas)?,
        map,
        node_id: identity.node_id,
        auth_token: config.token_file.as_deref().map(token_file::first).transpose()?.unwrap_or_default(),
        local,
        data_dir: config.data_dir.clone(),
        tls: is_https.then(|| Trust::of_node(config)?.client_config()).transpose()?,
    })
}

/// This node's part of the audit log.
fn open_audit(config: &Config, node: NodeId) -> Result<AuditFiles> {
    let options =
        AuditOptions { segment_bytes: config.audit_segment_bytes, bytes_max: config.audit_bytes_max };
    AuditFiles::open(&config.data_dir.join("audit"), node, options)
}

/// The map of a cluster that this node founds.
fn first_map(identity: &Identity, addresses: &Addresses, config: &Config) -> ShardMap {
    let entry = NodeEntry {
        addr: addresses.http.clone(),
        peer_addr: addresses.peer.clone(),
        state: NodeState::Active,
        voter: true,
    };
    let mut map = ShardMap::of_one(identity.cluster_id.clone(), identity.node_id, entry, identity.shards);
    map.replication_factor = config.replication_factor;
    map
}

/// Asks around while nobody is heard to lead the membership.
async fn find_leader(membership: Arc<Membership>) {
    loop {
        tokio::time::sleep(ASK_AROUND_EVERY).await;
        if membership.leader().is_none() {
            membership.ask_around().await;
        }
    }
}

async fn follow_maps(membership: Arc<Membership>, map: watch::Sender<Arc<ShardMap>>) {
    let mut maps = membership.maps();
    loop {
        if let Some(newest) = maps.borrow_and_update().clone() {
            map.send_replace(newest);
        }
        if maps.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the cluster where this node is now, if that is elsewhere than the map says.
async fn tell_addresses(membership: Arc<Membership>, node: NodeId, addresses: Addresses) {
    let Addresses { http: addr, peer: peer_addr } = addresses;
    let mut maps = membership.maps();
    loop {
        let entry = maps.borrow_and_update().as_ref().and_then(|map| map.nodes.get(&node).cloned());
        if let Some(entry) = entry {
            if entry.addr == addr && entry.peer_addr == peer_addr {
                return;
            }
            let change = Change::Move { node, addr: addr.clone(), peer_addr: peer_addr.clone() };
            if let Err(error) = membership.submit(change).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the cluster does not know yet where this node is"
                );
                continue;
            }
        }
        if maps.changed().await.is_err() {
            return;
        }
    }
}

/// The node's actions, and the plugins that bring more.
fn actions(config: &Config, vault: &Arc<Vault>) -> Result<(Arc<Actions>, Arc<PluginHost>)> {
    let actions = Actions::new(action_options(config)?);
    let plugins = isolation::plugins(config, &actions, vault.clone());
    actions.open_plugins(Arc::new(PluginDoor(plugins.clone())));
    Ok((actions, plugins))
}

/// What actions may do on this node.
fn action_options(config: &Config) -> Result<ActionOptions> {
    let program = std::env::current_exe().context("the program's own path is needed for jq workers")?;
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    let isolation = isolation::options(config)?;
    let fs_roots = config
        .fs_roots
        .iter()
        .map(|root| root.canonicalize().with_context(|| format!("fs root {}", root.display())))
        .collect::<Result<_>>()?;
    Ok(ActionOptions {
        allow_shell: config.allow_shell,
        allow_private_network: config.allow_private_network,
        fs_roots,
        working_dir: isolation::working_dir(here, &isolation),
        jq_worker: vec![program.display().to_string(), "jq-worker".into()],
        jq_workers_max: JQ_WORKERS_MAX,
        isolation,
    })
}

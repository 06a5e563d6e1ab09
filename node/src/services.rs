//! What other nodes may ask of this one: consensus and copies of the groups it is in, calls to the
//! shards it leads, and membership.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{NodeState, ShardMap};
use opcode_router::{ClusterChange, ClusterControl, ClusterError, LocalShards, PluginHost};
use opcode_shard::definitions::Definitions;
use opcode_shard::peer::{NodeId, PeerService, Service};

use crate::audit::AuditFiles;
use crate::membership::change::{Change, Refusal};
use crate::membership::{Membership, controller};
use crate::transport::Transport;

/// How often a change is decided anew because the map has changed meanwhile.
const TRIES_MAX: usize = 5;

/// Answers with what the node has by then.
pub(crate) struct Services {
    pub(crate) local: Arc<LocalShards>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) membership: OnceLock<Arc<Membership>>,
    pub(crate) plugins: OnceLock<Arc<PluginHost>>,
    pub(crate) audit: Arc<AuditFiles>,
}

impl PeerService for Services {
    fn answer(
        &self,
        from: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let membership = self.membership.get().cloned();
        // It would stand for election in groups that go on without it.
        let is_removed = membership.as_ref().is_some_and(|membership| membership.is_removed(from));
        if is_removed && service != Service::Cluster {
            let why = format!("node {from} was removed from this cluster");
            return Box::pin(std::future::ready(Err(why)));
        }
        let shard = ShardId(group);
        match service {
            Service::Raft | Service::Copy if shard == ShardId::MEMBERSHIP => Box::pin(async move {
                membership.ok_or("this node is still starting")?.group.answer(service, from, body).await
            }),
            Service::Cluster => {
                Box::pin(
                    async move { membership.ok_or("this node is still starting")?.answer(from, &body).await },
                )
            }
            // One question is known; what a node that starts knows, it tells when it is there.
            Service::Node => {
                let told = match (self.plugins.get(), &*body) {
                    (Some(plugins), b"plugins") => Ok(plugins.told().into()),
                    (Some(_), _) => Err("this node does not know what is asked".to_owned()),
                    (None, _) => Err("this node is still starting".to_owned()),
                };
                Box::pin(std::future::ready(told))
            }
            Service::Raft | Service::Copy => {
                let handle = self.local.get(shard);
                Box::pin(async move {
                    let handle =
                        handle.ok_or_else(|| format!("this node holds no replica of shard {shard}"))?;
                    handle.group().answer(service, from, body).await
                })
            }
            Service::Backup => {
                let handle = self.local.get(shard);
                Box::pin(async move {
                    let handle =
                        handle.ok_or_else(|| format!("this node holds no replica of shard {shard}"))?;
                    opcode_shard::remote::answer_backup(&handle, &body).await
                })
            }
            Service::Audit => {
                let audit = self.audit.clone();
                Box::pin(async move { opcode_router::audit::query::answer(&*audit, &body).await })
            }
            Service::Shard => {
                let (handle, definitions) = (self.local.get(shard), self.definitions.clone());
                Box::pin(async move {
                    let handle =
                        handle.ok_or_else(|| format!("this node holds no replica of shard {shard}"))?;
                    opcode_shard::remote::answer_call(&handle, &definitions, &body).await
                })
            }
        }
    }
}

/// The membership, as the HTTP edge knows it.
pub(crate) struct Control {
    pub(crate) membership: Arc<Membership>,
    pub(crate) transport: Arc<Transport>,
}

impl ClusterControl for Control {
    fn leader(&self) -> Option<NodeId> {
        self.membership.leader()
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.transport.is_alive(node)
    }

    fn change(&self, change: ClusterChange) -> BoxFuture<'static, Result<u64, ClusterError>> {
        let (membership, transport) = (self.membership.clone(), self.transport.clone());
        Box::pin(async move {
            let mut version = 0;
            for _ in 0..TRIES_MAX {
                let map = membership.map_from(version).await.map_err(ClusterError::Unavailable)?;
                let change = translate(&map, &transport, change.clone()).map_err(ClusterError::Refused)?;
                match membership.submit(change).await {
                    Ok(Ok(done)) => return Ok(done),
                    Ok(Err(Refusal::Stale { version: now })) => version = now,
                    Ok(Err(Refusal::Impossible(why))) => return Err(ClusterError::Refused(why)),
                    Err(error) => {
                        let why = format!("{error:#}");
                        return Err(match why.contains("nothing was changed") {
                            true => ClusterError::Unavailable(why),
                            false => ClusterError::Unknown(why),
                        });
                    }
                }
            }
            Err(ClusterError::Unavailable("the map changes all the time: nothing was changed".into()))
        })
    }
}

/// A change of the map for what was asked, good for this map alone; the error says why there is
/// none.
fn translate(map: &ShardMap, transport: &Transport, change: ClusterChange) -> Result<Change, String> {
    let change = match change {
        // Named by its request, and the same on every map.
        ClusterChange::Join { request, addr, peer_addr } => {
            return Ok(Change::Join { request, addr, peer_addr });
        }
        ClusterChange::Drain(node) => Change::SetState { node, state: NodeState::Draining },
        ClusterChange::Remove(node) => {
            let holds = map.all_shards().any(|entry| entry.holders().any(|holder| holder == node));
            let is_leaving = map.nodes.get(&node).is_some_and(|entry| entry.state == NodeState::Removing);
            if holds && transport.is_alive(node) && !is_leaving {
                return Err(format!(
                    "node {node} lives and holds shards: drain it first (`opcode cluster drain {node}`), and \
                     remove it when it holds none"
                ));
            }
            Change::SetState { node, state: NodeState::Removing }
        }
        ClusterChange::Move { shard, from, to } => moved(map, shard, from, to)?,
        ClusterChange::Rebalance => controller::place_all(map),
        ClusterChange::SetReplicationFactor(factor) => Change::SetReplicationFactor { factor },
    };
    Ok(Change::If { version: map.version, change: Box::new(change) })
}

/// A shard's replica goes from one node to another, which stays in its place.
fn moved(map: &ShardMap, shard: ShardId, from: Option<NodeId>, to: NodeId) -> Result<Change, String> {
    let entry = map.shard(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
    if entry.replicas.contains(&to) {
        return Err(format!("node {to} holds shard {shard} already"));
    }
    match map.nodes.get(&to).map(|node| node.state) {
        None => return Err(format!("there is no node {to}")),
        Some(NodeState::Active) => {}
        Some(NodeState::Draining | NodeState::Removing) => {
            return Err(format!("node {to} gives its shards away"));
        }
    }
    let from = from.or(entry.replicas.last().copied()).ok_or("it is nowhere")?;
    if !entry.replicas.contains(&from) {
        return Err(format!("node {from} does not hold shard {shard}"));
    }
    let replicas = entry.replicas.iter().map(|node| if *node == from { to } else { *node }).collect();
    let places = vec![(shard, replicas)];
    Ok(Change::Place { version: map.version, places, placed_for: map.placed_for.clone() })
}

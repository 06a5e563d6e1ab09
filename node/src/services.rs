//! What other nodes may ask of this one: consensus and copies of the groups it is in, calls to the
//! shards it leads, and membership.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_engine::ids::ShardId;
use opcode_router::{ClusterChange, ClusterControl, ClusterError, LocalShards};
use opcode_shard::definitions::Definitions;
use opcode_shard::peer::{NodeId, PeerService, Service};

use crate::membership::change::Change;
use crate::membership::{Membership, controller};
use crate::transport::Transport;

/// Answers with what the node has by then.
pub(crate) struct Services {
    pub(crate) local: Arc<LocalShards>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) membership: OnceLock<Arc<Membership>>,
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
        let shard = ShardId(group);
        match service {
            Service::Raft | Service::Copy if shard == ShardId::MEMBERSHIP => Box::pin(async move {
                membership.ok_or("this node is still starting")?.group.answer(service, from, body).await
            }),
            Service::Cluster => {
                Box::pin(async move { membership.ok_or("this node is still starting")?.answer(&body).await })
            }
            Service::Raft | Service::Copy => {
                let handle = self.local.get(shard);
                Box::pin(async move {
                    let handle =
                        handle.ok_or_else(|| format!("this node holds no replica of shard {shard}"))?;
                    handle.group().answer(service, from, body).await
                })
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
            let change = translate(&membership, &transport, change).map_err(ClusterError::Refused)?;
            match membership.submit(change).await {
                Ok(outcome) => outcome.map_err(ClusterError::Refused),
                Err(error) => {
                    let why = format!("{error:#}");
                    match why.contains("nothing was changed") {
                        true => Err(ClusterError::Unavailable(why)),
                        false => Err(ClusterError::Unknown(why)),
                    }
                }
            }
        })
    }
}

/// A change of the map for what was asked; the error says why there is none.
fn translate(
    membership: &Membership,
    transport: &Transport,
    change: ClusterChange,
) -> Result<Change, String> {
    let map = membership.map().ok_or("this node does not know the cluster yet")?;
    Ok(match change {
        ClusterChange::Join { request, addr, peer_addr } => Change::Join { request, addr, peer_addr },
        ClusterChange::Drain(node) => {
            Change::SetState { node, state: opcode_router::shard_map::NodeState::Draining }
        }
        ClusterChange::Remove(node) => {
            let holds = map.all_shards().any(|entry| entry.holders().any(|holder| holder == node));
            if holds && transport.is_alive(node) {
                return Err(format!(
                    "node {node} lives and holds shards: drain it first (`opcode cluster drain {node}`), and \
                     remove it when it holds none"
                ));
            }
            Change::Remove { node }
        }
        ClusterChange::Move { shard, from, to } => {
            let entry = map.shard(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
            if entry.replicas.contains(&to) {
                return Err(format!("node {to} holds shard {shard} already"));
            }
            let from = from.or(entry.replicas.last().copied()).ok_or("it is nowhere")?;
            if !entry.replicas.contains(&from) {
                return Err(format!("node {from} does not hold shard {shard}"));
            }
            let replicas = entry.replicas.iter().map(|node| if *node == from { to } else { *node }).collect();
            let places = vec![(shard, replicas)];
            Change::Place { version: map.version, places, placed_for: map.placed_for.clone() }
        }
        ClusterChange::Rebalance => controller::place_all(&map),
    })
}

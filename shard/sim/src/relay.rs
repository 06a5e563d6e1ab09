//! Finding the leader of a shard, for clients and for nodes: what a router does, without its HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::peer::{NodeId, PeerError, Peers, Service};
use opcode_shard::relay::Relay;
use opcode_shard::remote::{Answer, Asked, Freshness, Request};
use opcode_shard::{CallError, ShardHandle};
use parking_lot::Mutex;

use crate::world::SimulatedPeers;

/// How often a request is sent before its caller is told.
const TRIES_MAX: usize = 6;
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to the leaders of all shards.
pub struct Leaders {
    pub peers: SimulatedPeers,
    pub nodes: Vec<NodeId>,
    pub shards: u32,
    /// Shards here; none at a client.
    pub local: Arc<Mutex<BTreeMap<ShardId, ShardHandle>>>,
    /// Who led a shard when it was last asked.
    pub known: Arc<Mutex<BTreeMap<ShardId, NodeId>>>,
}

/// The shard that owns a run.
pub fn shard_of(id: &WorkflowId, shards: u32) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(id.as_str().as_bytes());
    ShardId(u32::try_from(hash % u64::from(shards)).unwrap_or_default())
}

/// Whether it was certainly not applied, and another try may do better.
fn is_undone(error: &CallError) -> bool {
    match error {
        CallError::Overloaded | CallError::StorageFull | CallError::NotLeader { .. } => true,
        CallError::Unavailable { applied_unknown, .. } => !applied_unknown,
        CallError::Rejected(_) | CallError::NotFound(_) => false,
    }
}

fn is_unknown(error: &CallError) -> bool {
    matches!(error, CallError::Unavailable { applied_unknown: true, .. })
}

impl Leaders {
    fn next_node(&self, shard: ShardId, not: Option<NodeId>) -> NodeId {
        if let Some(known) = self.known.lock().get(&shard).copied().filter(|node| Some(*node) != not) {
            return known;
        }
        let place = usize::try_from(self.peers.world.below(self.nodes.len() as u64)).unwrap_or_default();
        self.nodes[place]
    }

    /// One try, with one node.
    async fn ask_node(
        peers: &SimulatedPeers,
        node: NodeId,
        shard: ShardId,
        request: &Request,
    ) -> Result<Answer, CallError> {
        let unavailable = |applied_unknown, message| CallError::Unavailable { applied_unknown, message };
        let body = request.encode(Freshness::Strong).map_err(|why| unavailable(false, why))?;
        match peers.call(node, Service::Shard, shard.0, body, ANSWER_MAX).await {
            Ok(bytes) => {
                let answered = Asked::decode(&bytes).unwrap_or_else(|why| Err(unavailable(true, why)));
                answered.map(|answered| answered.answer)
            }
            Err(error @ (PeerError::Unreachable { .. } | PeerError::Refused { .. })) => {
                Err(unavailable(false, error.to_string()))
            }
            Err(error @ PeerError::Lost { .. }) => Err(unavailable(true, error.to_string())),
        }
    }

    /// Asks the shard's leader; what may not be repeated is not, once it may have been applied.
    pub async fn ask_leader(&self, shard: ShardId, request: Request) -> Result<Answer, CallError> {
        let may_repeat = request.may_repeat();
        let mut failed = None;
        let mut doubt = None;
        for _ in 0..TRIES_MAX {
            let local = self.local.lock().get(&shard).filter(|handle| handle.serves()).cloned();
            let (node, answer) = match local {
                Some(handle) => (None, request.clone().answer(&handle).await),
                None => {
                    let node = self.next_node(shard, failed);
                    (Some(node), Self::ask_node(&self.peers, node, shard, &request).await)
                }
            };
            match answer {
                Err(error) if is_undone(&error) || (is_unknown(&error) && may_repeat) => {
                    let leader = match &error {
                        CallError::NotLeader { leader, .. } => *leader,
                        _ => None,
                    };
                    self.note_leader(shard, leader);
                    failed = node;
                    // Once in doubt, a later refusal says nothing of the earlier try.
                    if is_unknown(&error) || doubt.is_none() {
                        doubt = Some(error);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                other => {
                    self.note_leader(shard, node.filter(|_| other.is_ok()));
                    return other;
                }
            }
        }
        Err(doubt.unwrap_or(CallError::Overloaded))
    }

    fn note_leader(&self, shard: ShardId, leader: Option<NodeId>) {
        let mut known = self.known.lock();
        match leader {
            Some(leader) => drop(known.insert(shard, leader)),
            None => drop(known.remove(&shard)),
        }
    }
}

/// The way from a node's shards to the others.
pub struct NodeRelay(pub Arc<Leaders>);

impl Relay for NodeRelay {
    fn shard_of(&self, id: &WorkflowId) -> ShardId {
        shard_of(id, self.0.shards)
    }

    fn ask(&self, shard: ShardId, request: Request) -> BoxFuture<'static, Result<Answer, CallError>> {
        let leaders = self.0.clone();
        Box::pin(async move { leaders.ask_leader(shard, request).await })
    }
}

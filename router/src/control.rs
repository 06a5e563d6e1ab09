//! What the HTTP edge asks and tells the cluster's membership, which the node keeps.

use futures::future::BoxFuture;
use opcode_engine::ids::ShardId;
use opcode_shard::peer::NodeId;

/// A change that an operator, or a node that joins, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterChange {
    /// A node joins; the same request again is the same node.
    Join {
        /// Names the request.
        request: String,
        /// Its HTTP address.
        addr: String,
        /// Its address for other nodes.
        peer_addr: String,
    },
    /// A node gives its shards away.
    Drain(NodeId),
    /// A node leaves for good.
    Remove(NodeId),
    /// A shard's replica goes from a node to another.
    Move {
        /// Which shard.
        shard: ShardId,
        /// From where; without it, from the node that leads least well, by the map's order the last.
        from: Option<NodeId>,
        /// To where.
        to: NodeId,
    },
    /// Every shard goes where the ring puts it.
    Rebalance,
    /// A shard shall have so many replicas, when there are nodes enough.
    SetReplicationFactor(u32),
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterError {
    /// It cannot be; nothing was changed.
    Refused(String),
    /// Nobody could decide it; nothing was changed.
    Unavailable(String),
    /// It may have been made.
    Unknown(String),
}

/// The cluster's membership.
pub trait ClusterControl: Send + Sync + 'static {
    /// Who leads the membership group, if that is known.
    fn leader(&self) -> Option<NodeId>;
    /// Whether a node was heard lately.
    fn is_alive(&self, node: NodeId) -> bool;
    /// Has a change made: the number of the node that joined, or the map's version.
    fn change(&self, change: ClusterChange) -> BoxFuture<'static, Result<u64, ClusterError>>;
}

//! The way to other nodes, as a shard sees it: one call, one answer, over whatever the node has.
//!
//! A node's transport implements [`Peers`] for what goes out and asks a [`PeerService`] for what
//! comes in. Bytes are opaque to the transport; who sends them has been proven by it.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

/// A node's number in its cluster, from 1; never given twice.
pub type NodeId = u64;

/// What a message is for. The numbers are on the wire and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Service {
    /// A message of a group's consensus; `group` is the group's number.
    Raft = 1,
    /// A piece of a copy of a group's tables.
    Copy = 2,
    /// A call to the leader (or a replica) of a shard; `group` is the shard.
    Shard = 3,
    /// Membership: joining, reports, changes of the map; `group` is 0.
    Cluster = 4,
    /// A call for a copy of a shard's tables, or its log, for a backup; `group` is the shard.
    Backup = 5,
    /// What a node says of itself; `group` is 0.
    Node = 6,
    /// What a node has in its part of the audit log; `group` is 0.
    Audit = 7,
}

impl Service {
    /// By its number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Raft),
            2 => Some(Self::Copy),
            3 => Some(Self::Shard),
            4 => Some(Self::Cluster),
            5 => Some(Self::Backup),
            6 => Some(Self::Node),
            7 => Some(Self::Audit),
            _ => None,
        }
    }
}

/// Why a call to another node gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It never left this node: the other one has certainly not seen it.
    #[error("node {node} cannot be reached: {why}")]
    Unreachable {
        /// Which node.
        node: NodeId,
        /// Why not.
        why: String,
    },
    /// It left, and no answer came in time: it may have been seen.
    #[error("node {node} gave no answer: {why}")]
    Lost {
        /// Which node.
        node: NodeId,
        /// Why not.
        why: String,
    },
    /// The other node does not take it, and did nothing.
    #[error("node {node} refused: {why}")]
    Refused {
        /// Which node.
        node: NodeId,
        /// In its own words.
        why: String,
    },
}

/// Calls to other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Sends `body` and waits for the answer, at most for `within`. Cheap to start; many run side
    /// by side over one connection.
    fn call(
        &self,
        to: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}

/// Answers calls of other nodes.
pub trait PeerService: Send + Sync + 'static {
    /// Answers; an error is a refusal that changed nothing, in words for an operator.
    fn answer(
        &self,
        from: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// The peers of a node that has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(
        &self,
        to: NodeId,
        _: Service,
        _: u32,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let why = "this node runs alone".to_owned();
        Box::pin(std::future::ready(Err(PeerError::Unreachable { node: to, why })))
    }
}

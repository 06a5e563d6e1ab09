//! The shard map: which nodes there are, which shard owns which hashes, which nodes hold it.
//!
//! The membership group writes it, every node follows it. A map is a whole: it is replaced, never
//! changed in place, and a higher version always wins.

use std::collections::BTreeMap;

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::peer::NodeId;
use serde::{Deserialize, Serialize};

use crate::placement;

/// Replicas of a shard when nothing else is set.
pub const REPLICATION_FACTOR_DEFAULT: u32 = 3;

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Holds shards.
    Active,
    /// Gives its shards away, and gets no new ones.
    Draining,
    /// The same, for good: it leaves the cluster once it holds nothing.
    Removing,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its HTTP address, `host:port`.
    pub addr: String,
    /// Its address for other nodes, `host:port`; empty once a new node has taken it over.
    pub peer_addr: String,
    /// Whether it holds shards.
    pub state: NodeState,
    /// Whether it votes in the membership group.
    pub voter: bool,
}

/// A shard's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Which shard.
    pub shard: ShardId,
    /// The first hash it owns; it owns those up to the next shard's first. 0 for the system shard.
    pub first_hash: u64,
    /// The nodes that shall hold it, the one that should lead first.
    pub replicas: Vec<NodeId>,
    /// Nodes that held it and still do until `replicas` all have it.
    pub retiring: Vec<NodeId>,
    /// Grows with every change of this entry.
    pub epoch: u64,
}

/// That an operator gave up on a lost majority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The map's version since.
    pub map_version: u64,
    /// The node whose data the cluster goes on with.
    pub node: NodeId,
    /// Nodes that were given up.
    pub lost_nodes: Vec<NodeId>,
    /// Shards of which it had nothing, so that they began anew.
    pub begun_anew: Vec<ShardId>,
}

/// The map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// Grows by one with every change.
    pub version: u64,
    /// The cluster's id.
    pub cluster_id: String,
    /// Replicas that a shard should have, when there are nodes enough.
    pub replication_factor: u32,
    /// The highest node number given out.
    pub last_node_id: NodeId,
    /// The nodes that shards were last placed for; with others, they are placed anew.
    pub placed_for: Vec<NodeId>,
    /// Nodes by number.
    pub nodes: BTreeMap<NodeId, NodeEntry>,
    /// The workflow shards, in order of their hashes; `shards[i].shard` is `i`.
    pub shards: Vec<ShardEntry>,
    /// The shard of templates and other things of the whole cluster.
    pub system: ShardEntry,
    /// The last recoveries from a lost majority: what was acknowledged before may be missing.
    #[serde(default)]
    pub recoveries: Vec<Recovery>,
}

impl ShardMap {
    /// The map of a new cluster of one node that holds `shards` shards.
    pub fn of_one(cluster_id: String, node: NodeId, entry: NodeEntry, shards: u32) -> Self {
        let place = |shard, first_hash| ShardEntry {
            shard,
            first_hash,
            replicas: vec![node],
            retiring: Vec::new(),
            epoch: 1,
        };
        Self {
            version: 1,
            cluster_id,
            replication_factor: REPLICATION_FACTOR_DEFAULT,
            last_node_id: node,
            placed_for: vec![node],
            nodes: BTreeMap::from([(node, entry)]),
            shards: (0..shards)
                .map(|n| place(ShardId(n), placement::first_hash_of(ShardId(n), shards)))
                .collect(),
            system: place(ShardId::SYSTEM, 0),
            recoveries: Vec::new(),
        }
    }

    /// The shard that owns a workflow.
    pub fn owner(&self, id: &WorkflowId) -> ShardId {
        let hash = placement::hash_of(id);
        let after = self.shards.partition_point(|shard| shard.first_hash <= hash);
        self.shards[after.checked_sub(1).expect("the first shard owns the hashes from 0")].shard
    }

    /// A shard's entry, the system shard's too.
    pub fn shard(&self, shard: ShardId) -> Option<&ShardEntry> {
        match shard {
            ShardId::SYSTEM => Some(&self.system),
            ShardId(n) => self.shards.get(n as usize),
        }
    }

    /// Whether a node has left for good: numbers are given out in order, and never twice.
    pub fn is_removed(&self, node: NodeId) -> bool {
        node <= self.last_node_id && !self.nodes.contains_key(&node)
    }

    /// Where nodes are for other nodes.
    pub fn peer_addresses(&self) -> BTreeMap<NodeId, String> {
        let known = self.nodes.iter().filter(|(_, entry)| !entry.peer_addr.is_empty());
        known.map(|(node, entry)| (*node, entry.peer_addr.clone())).collect()
    }

    /// Every shard's entry, the system shard's last.
    pub fn all_shards(&self) -> impl Iterator<Item = &ShardEntry> {
        self.shards.iter().chain([&self.system])
    }
}

impl ShardEntry {
    /// Every node that holds it, or shall.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.iter().chain(&self.retiring).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_agrees_with_the_mapping_of_ids() {
        let entry =
            NodeEntry { addr: "a:1".into(), peer_addr: "a:2".into(), state: NodeState::Active, voter: true };
        for shards in [1, 4, 7, 64] {
            let map = ShardMap::of_one("c".into(), 1, entry.clone(), shards);
            for n in 0..2_000 {
                let id = WorkflowId::parse(&format!("run-{n}")).expect("an id");
                assert_eq!(map.owner(&id), placement::shard_of(&id, shards));
            }
            assert_eq!(map.shard(ShardId::SYSTEM), Some(&map.system));
            assert_eq!(map.shard(ShardId(shards)), None);
        }
    }
}

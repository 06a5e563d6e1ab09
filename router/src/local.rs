//! The replicas that this node holds, as they come and go: those that are members of their shard's
//! group, and embedded ones of shards that it is no member of, which only some reads may use.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::ids::ShardId;
use opcode_shard::ShardHandle;
use opcode_shard::replica::sync_client::ReadReplica;
use parking_lot::RwLock;

/// Doors to the replicas of this node.
#[derive(Default)]
pub struct LocalShards {
    handles: RwLock<BTreeMap<ShardId, Arc<ShardHandle>>>,
    embedded: RwLock<BTreeMap<ShardId, Arc<ReadReplica>>>,
}

impl LocalShards {
    /// Takes a replica in, in the place of one of the same shard.
    pub fn insert(&self, handle: ShardHandle) {
        // Until it is known what those who follow it have not seen.
        handle.group().hold(0);
        self.handles.write().insert(handle.id(), Arc::new(handle));
    }

    /// Lets a replica go.
    pub fn remove(&self, shard: ShardId) {
        self.handles.write().remove(&shard);
    }

    /// The replica of a shard, if this node holds one.
    pub fn get(&self, shard: ShardId) -> Option<Arc<ShardHandle>> {
        self.handles.read().get(&shard).cloned()
    }

    /// The replicas of all shards that this node is a member of.
    pub fn all(&self) -> Vec<Arc<ShardHandle>> {
        self.handles.read().values().cloned().collect()
    }

    /// Takes an embedded replica in, in the place of one of the same shard.
    pub fn insert_replica(&self, replica: ReadReplica) {
        self.embedded.write().insert(replica.shard(), Arc::new(replica));
    }

    /// Lets an embedded replica go.
    pub fn remove_replica(&self, shard: ShardId) {
        self.embedded.write().remove(&shard);
    }

    /// The embedded replica of a shard, if this node keeps one.
    pub fn replica(&self, shard: ShardId) -> Option<Arc<ReadReplica>> {
        self.embedded.read().get(&shard).cloned()
    }
}

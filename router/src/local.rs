//! The replicas that this node holds, as they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::ids::ShardId;
use opcode_shard::ShardHandle;
use parking_lot::RwLock;

/// Doors to the replicas of this node.
#[derive(Default)]
pub struct LocalShards {
    handles: RwLock<BTreeMap<ShardId, Arc<ShardHandle>>>,
}

impl LocalShards {
    /// Takes a replica in, in the place of one of the same shard.
    pub fn insert(&self, handle: ShardHandle) {
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
}

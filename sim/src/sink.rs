//! The world outside: what steps do to it, written down where no crash reaches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_engine::{Code, Fault};
use opcode_shard::ShardHandle;
use opcode_shard::actions::{Outcome, World as ActionWorld};
use opcode_shard::peer::NodeId;
use parking_lot::Mutex;
use serde_json::json;

use crate::relay::shard_of;
use crate::world::World;

/// Longest time of an ordinary step, and of one that takes long.
const STEP_MS_MAX: u64 = 40;
const LONG_STEP_MS_MAX: u64 = 2_500;

/// One effect in the world.
#[derive(Clone, Debug)]
pub struct Post {
    /// The idempotency key it came with.
    pub key: String,
    /// The run and the step it says it is of.
    pub run: String,
    pub step: String,
    pub node: NodeId,
    /// The term that the node led the run's shard in; none when it did not.
    pub term: Option<u64>,
    pub at_ms: u64,
}

/// All effects, in order.
#[derive(Default)]
pub struct Sink {
    posts: Mutex<Vec<Post>>,
}

impl Sink {
    /// What has been posted.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().clone()
    }

    /// The world as one node's steps reach it.
    pub fn world(
        self: Arc<Self>,
        node: NodeId,
        world: Arc<World>,
        shards: u32,
        handles: Arc<Mutex<BTreeMap<ShardId, ShardHandle>>>,
    ) -> ActionWorld {
        Arc::new(move |call| {
            let term = WorkflowId::parse(&call.workflow_id).ok().and_then(|id| {
                let handle = handles.lock().get(&shard_of(&id, shards)).cloned();
                handle?.group().leading_term()
            });
            let (sink, world) = (self.clone(), world.clone());
            // The effect is there at once, as of a request that leaves at once; the answer takes its time.
            world.note(&format!("node {node} posts {} in term {term:?}", call.idempotency_key));
            sink.posts.lock().push(Post {
                key: call.idempotency_key,
                run: call.workflow_id,
                step: call.step_id.to_string(),
                node,
                term,
                at_ms: world.now_ms(),
            });
            Box::pin(async move {
                let most = if world.one_in(20) { LONG_STEP_MS_MAX } else { STEP_MS_MAX };
                tokio::time::sleep(Duration::from_millis(1 + world.below(most))).await;
                let result = match world.one_in(15) {
                    true => Err(Fault::new(Code::ExecutionError, "the other side had a bad day")),
                    false => Ok(json!({ "ok": true })),
                };
                Outcome { result, emissions: Vec::new() }
            })
        })
    }
}

//! The shards' way to each other: the same as a request's, to whoever leads.
//!
//! Shards begin before the router does; until it is there, they are told to try again.

use std::sync::OnceLock;
use std::time::Duration;

use futures::future::BoxFuture;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::CallError;
use opcode_shard::relay::Relay;
use opcode_shard::remote::{Answer, Request};

use crate::forward::ShardClient;
use crate::state::RouterState;

/// Requests from this node's shards to others.
#[derive(Default)]
pub struct ShardRelay {
    state: OnceLock<RouterState>,
}

impl ShardRelay {
    /// Opens the way. A second call changes nothing.
    pub fn open(&self, state: RouterState) {
        let _ = self.state.set(state);
    }
}

impl Relay for ShardRelay {
    fn shard_of(&self, id: &WorkflowId) -> ShardId {
        // Asked again before anything is sent, and nothing is before the way is open.
        self.state.get().map_or(ShardId(0), |state| state.map().owner(id))
    }

    fn ask(&self, shard: ShardId, request: Request) -> BoxFuture<'static, Result<Answer, CallError>> {
        let state = self.state.get().cloned();
        Box::pin(async move {
            let Some(state) = state else {
                let message = "the node is still starting".to_owned();
                return Err(CallError::Unavailable { applied_unknown: false, message });
            };
            ShardClient::new(state, shard).ask(request, Duration::ZERO).await.map(|answered| answered.answer)
        })
    }
}

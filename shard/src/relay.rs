//! The way from a shard to the others, as its outbox sees it: one request, one answer, from
//! whoever leads the shard that is asked, on this node or on another.
//!
//! The router implements [`Relay`], which knows the shard map and finds leaders. Everything that
//! is sent over it may be sent twice: what it does is done once (see [`opcode_engine::child`]).

use futures::future::BoxFuture;
use opcode_engine::ids::{ShardId, WorkflowId};

use crate::error::CallError;
use crate::remote::{Answer, Request};

/// Requests to other shards.
pub trait Relay: Send + Sync + 'static {
    /// The shard that owns a run, as far as is known now.
    fn shard_of(&self, id: &WorkflowId) -> ShardId;

    /// Asks the shard's leader, looking for it within bounds. Cheap to start.
    fn ask(&self, shard: ShardId, request: Request) -> BoxFuture<'static, Result<Answer, CallError>>;
}

/// A way to nowhere, for a shard that stands alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRelay;

impl Relay for NoRelay {
    fn shard_of(&self, _: &WorkflowId) -> ShardId {
        ShardId(0)
    }

    fn ask(&self, _: ShardId, _: Request) -> BoxFuture<'static, Result<Answer, CallError>> {
        let message = "this shard reaches no other".to_owned();
        let unavailable = CallError::Unavailable { applied_unknown: false, message };
        Box::pin(std::future::ready(Err(unavailable)))
    }
}

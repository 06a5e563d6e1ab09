//! One shard, whole: queue, loop, coalescer, log, tables, timers, workers, actions.

pub mod actions;
pub mod batch;
pub mod crash;
pub mod error;
pub mod handle;
pub mod log;
pub mod record;
mod shard;
pub mod store;

pub use error::{CallError, ShardError};
pub use handle::ShardHandle;

//! One shard, whole: queue, loop, coalescer, log, tables, timers, workers, actions.
//!
//! # A command's life
//! 1. The router has parsed it and picked this shard; it knocks at the door: [`handle`].
//! 2. `queue`: bounded; full is `OVERLOADED`, never a wait without end.
//! 3. `shard/turn`: one loop per shard, sole owner of its runs, lets the engine decide it and
//!    folds the events into the run at once, ahead of the disk.
//! 4. `shard/commit`: gathers records until the previous batch is on its way.
//! 5. [`log`]: the batch is one entry of the shard's group; one append and one sync for all
//!    shards of the node; committed, it is a [`batch::Batch`]`<Committed>`.
//! 6. Only that releases anything: answers, steps to workers, notifications.
//! 7. [`store`]: the writer applies committed batches to libSQL, many in one transaction.
//! 8. `shard/dispatch` and [`workers`] run [`actions`], with secrets from the [`vault`]; results come
//!    back to step 3.
//! 9. What a run says to its parent or its child leaves from `shard/outbox`, over [`relay`].
//! 10. Reads come from the loop's memory or, once they have caught up, from the tables.
//!
//! If the log is lost, everything optimistic is dropped and loaded again: the loop is a cache of
//! the log.

pub mod actions;
pub mod backup;
pub mod batch;
pub mod catalogue;
pub mod clock;
pub mod coalescer;
pub mod crash;
pub mod definitions;
pub mod disk;
pub mod error;
pub mod follow;
pub mod handle;
pub mod history;
pub mod isolation;
pub mod log;
pub mod meters;
pub mod peer;
mod queue;
pub mod record;
pub mod relay;
pub mod remote;
pub mod replica;
pub mod shard;
pub mod simulation;
pub mod store;
pub mod ticks;
pub mod trace;
pub mod vault;
pub mod workers;

pub use error::{CallError, ShardError};
pub use handle::ShardHandle;
pub use opcode_engine::planted;
pub use shard::{Shard, ShardOptions, Shared, finish_removals};

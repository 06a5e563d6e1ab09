//! The log: the commit point of a shard, one openraft group each, over one store for the node.
//!
//! openraft 0.9 stays behind this module: no type of it is named outside `log/`.

pub mod store;

use std::path::PathBuf;
use std::sync::Arc;

use opcode_engine::ids::ShardId;

use crate::batch::{Batch, Committed, Gathered, Position};
use crate::error::ShardError;

pub use store::LogStore;

/// How to open the node's log store.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Its folder; made when missing.
    pub dir: PathBuf,
    /// Bytes of one segment file.
    pub segment_bytes: u64,
}

/// How far the tables have come, as they themselves say (same transaction as the rows).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied, as the log encoded it ([`CommittedEntry::log_id`]); empty at first.
    pub log_id: Vec<u8>,
    /// The last membership applied, as the log encoded it; empty at first.
    pub membership: Vec<u8>,
}

/// A committed entry on its way to the tables. Every entry comes, in order; those without records
/// (a new leader's blank, a membership) too, since their position must be stored.
#[derive(Clone, Debug)]
pub struct CommittedEntry {
    /// Opaque to the tables: openraft's log id.
    pub log_id: Vec<u8>,
    /// Opaque to the tables: a new membership, if this entry sets one.
    pub membership: Option<Vec<u8>>,
    /// What it holds.
    pub batch: Batch<Committed>,
}

/// What the log needs of a shard's tables.
pub trait Tables: Send + Sync + 'static {
    /// How far they had come when they were opened.
    fn applied(&self) -> Applied;
    /// Takes committed entries in order, to be applied when it is worth it; returns at once.
    /// They never refuse: the group slows itself by [`Tables::backlog`].
    fn enqueue(&self, entries: Vec<CommittedEntry>);
    /// Records enqueued and not yet applied.
    fn backlog(&self) -> usize;
    /// Log id and membership of the last entry that is on stable storage **in the tables' own
    /// file** (checkpointed and synced): below it the log may be purged. `None`: none yet.
    fn checkpointed(&self) -> Option<Applied>;
}

/// How to start a shard's group.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Which shard.
    pub shard: ShardId,
    /// This node in the group.
    pub node_id: u64,
    /// Longest wait for a proposal; after it the outcome is unknown.
    pub propose_timeout_ms: u64,
}

/// A shard's replicated log.
pub struct Group {
    _private: (),
}

impl Group {
    /// Starts the group over `store`; an empty one is initialised with this node alone. Entries
    /// above what the tables hold are handed to them again. Returns once this node leads and all
    /// that was committed has been enqueued.
    pub async fn start(
        options: GroupOptions,
        store: Arc<LogStore>,
        tables: Arc<dyn Tables>,
    ) -> Result<Self, ShardError> {
        let _ = (options, store, tables);
        Err(ShardError::Stopped("no log".into()))
    }

    /// Appends a batch and waits until it is committed; it has been enqueued to the tables by
    /// then. One at a time. On [`ShardError::Unknown`] it may yet be committed.
    pub async fn propose(&self, batch: Batch<Gathered>) -> Result<Batch<Committed>, ShardError> {
        let _ = batch;
        Err(ShardError::Stopped("no log".into()))
    }

    /// The term this node leads in, if it leads.
    pub fn leading_term(&self) -> Option<u64> {
        None
    }

    /// The last committed position that has been handed to the tables.
    pub fn committed(&self) -> Position {
        Position::default()
    }

    /// Purges what the tables have checkpointed; call now and then.
    pub async fn purge(&self) -> Result<(), ShardError> {
        Ok(())
    }

    /// Stops the group; what was committed stays.
    pub async fn shutdown(&self) {}
}

//! The log: the commit point of a shard, one openraft group each, over one store for the node.
//!
//! openraft 0.9 stays behind this module: no type of it is named outside `log/`.
//!
//! The files: [`codec`] makes bytes of a batch; `type_config` and `group` are openraft's side, with
//! `storage` and `state_machine` between it and ours; `network` and [`copies`] lead to the other
//! members, in the messages of `wire`; [`store`] is the node's one stream, written
//! by `writer` as `frame`s into `segment` files, remembered in `index`, and read back by
//! `recovery`.

mod alone;
mod archive;
mod arrivals;
pub mod codec;
pub mod copies;
mod elections;
mod floor;
mod frame;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod group;
mod hand_over;
mod heard;
mod hold;
mod index;
mod lag;
mod network;
mod recovery;
mod rounds;
mod runtime;
mod segment;
mod state_machine;
mod storage;
pub mod store;
mod tail;
mod type_config;
mod wire;
mod writer;

use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_engine::ids::ShardId;

use crate::batch::{Batch, Committed};
use crate::error::ShardError;
use crate::peer::NodeId;

pub use alone::{Held, applied_by};
pub use archive::{ARCHIVE_BYTES_MAX, Archived, read_archive};
pub use frame::EntryId;
pub use group::{Group, Members, QUORUM_MAX, Role};
pub use index::{GroupState, StoredVote};
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
    /// What it holds instead in the membership group: bytes that are its own affair.
    pub change: Option<Bytes>,
}

/// What the log needs of a shard's tables.
pub trait Tables: Send + Sync + 'static {
    /// How far they had come when they were opened, or when a copy was installed since.
    fn applied(&self) -> Applied;
    /// Takes committed entries in order, to be applied when it is worth it; returns at once.
    /// They never refuse: the group slows itself by [`Tables::backlog`].
    fn enqueue(&self, entries: Vec<CommittedEntry>);
    /// Records enqueued and not yet applied.
    fn backlog(&self) -> usize;
    /// Writes a copy of the tables to a new file at `to`, consistent and synced, for a member that
    /// has fallen too far behind, and tells what it holds: at least what was checkpointed before.
    /// Work goes on meanwhile. A file that is there is left alone.
    fn copy(&self, to: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>>;
    /// Tells what the copy at `from` holds, which another node has sent: an error when it is none
    /// of these tables, or not sound. Changes nothing.
    fn check(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>>;
    /// Takes a checked copy's place: puts the file at `from` where the tables are, and goes on
    /// from what it holds, which is returned. Nothing is changed when it is not of these tables,
    /// or no further than they are already.
    fn install(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>>;
    /// Log id and membership of the last entry that is on stable storage **in the tables' own
    /// file** (checkpointed and synced): below it the log may be purged. `None`: none yet.
    fn checkpointed(&self) -> Option<Applied>;
}

/// How to start this node's part in a group.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Which group: a shard's number, or [`ShardId::MEMBERSHIP`]'s.
    pub group: ShardId,
    /// This node in the group.
    pub node_id: NodeId,
    /// Whether an empty log begins a group of this node alone; else it waits to be added to one.
    pub founds: bool,
    /// Where files of copies being sent and received are kept.
    pub copies_dir: PathBuf,
    /// Longest wait for a proposal; after it the outcome is unknown.
    pub propose_timeout_ms: u64,
}

#[cfg(test)]
mod tests;

//! What goes wrong around a shard, other than a caller's mistake.

use opcode_engine::Rejected;
use opcode_engine::ids::{RunNo, ShardId};

use crate::peer::NodeId;

/// The world's faults: retried by the caller, or stopping the shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file could not be read, written or synced.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// libSQL refused.
    #[error("{what}: {message}")]
    Store {
        /// What was being done.
        what: String,
        /// libSQL's words.
        message: String,
    },
    /// What is on disk contradicts itself; nothing was changed.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// A row of the tables is not what was written: its checksum is another.
    #[error("damaged data: row {key} of {table} is not what was written: its checksum is another")]
    DamagedRow {
        /// Its table.
        table: &'static str,
        /// Its key there.
        key: String,
        /// The run from whose events it can be written anew; none when it stands for itself.
        run: Option<RunNo>,
    },
    /// The data is another cluster's, another format's, or in use; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// This node does not lead the shard's group.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// It may or may not have been committed.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The shard has stopped.
    #[error("the shard has stopped: {0}")]
    Stopped(String),
}

/// Why a call to a shard gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The caller's: refused, nothing changed.
    #[error("{}", .0.message)]
    Rejected(Rejected),
    /// No run of this id.
    #[error("no workflow {0}")]
    NotFound(String),
    /// The queue is full: not applied, try again.
    #[error("the shard's queue is full")]
    Overloaded,
    /// The leader's disk is full: not applied, try again when there is room.
    #[error("the disk of the node that leads the shard is full")]
    StorageFull,
    /// This node does not lead the shard: not applied; ask the leader.
    #[error("this node does not lead shard {shard}")]
    NotLeader {
        /// Which shard.
        shard: ShardId,
        /// Who leads it, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// No leader or no quorum, or the shard stopped.
    #[error("{message}")]
    Unavailable {
        /// Whether it may have been applied all the same.
        applied_unknown: bool,
        /// Why.
        message: String,
    },
}

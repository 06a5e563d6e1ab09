//! Batches: records on their way to the disk, typed by how far they have come.
//!
//! Only the log makes a [`Committed`] one, and only a committed one releases anything: replies,
//! steps to workers, notifications.

use std::sync::Arc;

use crate::record::Record;

/// A position in a shard's log: of an entry, total within the shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    /// The leader's term that the entry was proposed in.
    pub term: u64,
    /// The entry's index in the shard's log.
    pub index: u64,
}

/// Gathered by the shard's loop; on no disk yet.
#[derive(Clone, Copy, Debug)]
pub struct Gathered(());

/// On stable storage of a majority.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    position: Position,
}

/// Records that are appended, committed and applied together.
#[derive(Clone, Debug)]
pub struct Batch<S> {
    records: Arc<Vec<Record>>,
    state: S,
}

impl<S> Batch<S> {
    /// The records, in order.
    pub fn records(&self) -> &Arc<Vec<Record>> {
        &self.records
    }
}

impl Batch<Gathered> {
    /// A batch to propose.
    pub fn gathered(records: Vec<Record>) -> Self {
        Self { records: Arc::new(records), state: Gathered(()) }
    }
}

impl Batch<Committed> {
    /// For the log alone: the entry at `position` is committed and holds `records`.
    pub(crate) fn committed(records: Arc<Vec<Record>>, position: Position) -> Self {
        Self { records, state: Committed { position } }
    }

    /// Where it stands in the shard's log.
    pub fn position(&self) -> Position {
        self.state.position
    }
}

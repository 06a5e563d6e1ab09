//! The queue's other end, for tables that are simulated: a task takes what waits, and tells how far
//! it has come.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::super::apply::Standing;
use super::{Shared, Stop};
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry};

/// What there is to do for tables that are simulated.
pub(in super::super) struct WorkNow {
    /// They end: after all is applied, when true, or at once.
    pub(in super::super) stop: Option<bool>,
    pub(in super::super) install: Option<(PathBuf, oneshot::Sender<Result<Applied, ShardError>>)>,
    pub(in super::super) entries: Vec<CommittedEntry>,
}

impl Shared {
    /// What there is to do now, for tables that are simulated.
    pub(in super::super) fn work_now(&self) -> WorkNow {
        let mut queue = self.queue.lock();
        WorkNow {
            stop: queue.stop.map(|stop| stop == Stop::Close),
            install: queue.install.take(),
            entries: queue.take(),
        }
    }

    /// Tells that entries of so many records are applied, up to a standing.
    pub(in super::super) fn applied(&self, records: usize, standing: &Standing) {
        self.backlog.fetch_sub(records, Ordering::Relaxed);
        let position = Some(standing.position);
        self.progress.send_modify(|progress| progress.position = position);
    }

    /// Tells that what was applied is on stable storage.
    pub(in super::super) fn has_checkpointed(&self, standing: Option<&Standing>) {
        *self.checkpointed.lock() = standing.map(|s| s.applied.clone());
    }

    /// Tells that the tables are closed.
    pub(in super::super) fn has_closed(&self) {
        self.end();
        self.progress.send_modify(|progress| progress.is_closed = true);
    }
}

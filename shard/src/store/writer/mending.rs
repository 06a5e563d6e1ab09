//! Rows that are not what was written, found by a read or by the writer itself: their runs' views are
//! written anew, and whoever came upon them goes on. What the writer cannot mend for itself stops the
//! tables.

use std::time::Instant;

use opcode_engine::ids::RunNo;
use tokio::sync::oneshot;

use super::{CHECKPOINT_AFTER, Shared, Writer};
use crate::error::ShardError;
use crate::log::CommittedEntry;
use crate::store::{MENDS_MAX, tell_damage};

/// What is to be mended, and who waits for it.
pub(super) struct Mending {
    what: Damaged,
    reply: oneshot::Sender<()>,
}

/// Rows that are not what was written.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Damaged {
    /// In the views of a run; `is_again` when they were written anew already, to no avail.
    Run { no: RunNo, is_again: bool },
    /// Labels that no run has.
    Labels,
}

impl Shared {
    /// Has the writer write views anew; the reply is dropped when it cannot, or is stopping.
    pub(in crate::store) fn mend(&self, what: Damaged) -> oneshot::Receiver<()> {
        let (reply, mended) = oneshot::channel();
        let mut queue = self.queue.lock();
        if !queue.has_ended {
            queue.mendings.push(Mending { what, reply });
            self.wake.notify_one();
        }
        mended
    }
}

impl Writer {
    /// Does what [`Shared::mend`] asked for. What cannot be mended is in the way of that run's readers
    /// alone.
    pub(super) fn mend(&mut self, mending: Mending) {
        let what = mending.what;
        match self.write_anew(what) {
            // Whoever read may have gone.
            Ok(()) => drop(mending.reply.send(())),
            Err(error) => {
                tracing::error!(shard = %self.options.shard, ?what, %error, "views could not be written anew");
            }
        }
    }

    /// Applies entries; a row in the way that is not what was written is mended first.
    pub(super) fn apply_mending(&mut self, entries: &[CommittedEntry]) -> Result<bool, ShardError> {
        let mut mended = None;
        for _ in 0..MENDS_MAX {
            match self.applier().apply(entries) {
                Err(ref error @ ShardError::DamagedRow { run: Some(no), .. }) => {
                    tell_damage(self.options.shard, Some(error));
                    self.write_anew(Damaged::Run { no, is_again: mended == Some(no) })?;
                    mended = Some(no);
                }
                other => return other,
            }
        }
        self.applier().apply(entries)
    }

    fn write_anew(&mut self, what: Damaged) -> Result<(), ShardError> {
        match what {
            Damaged::Run { no, is_again } => self.applier().mend(no, is_again)?,
            Damaged::Labels => self.applier().mend_labels()?,
        }
        tracing::warn!(shard = %self.options.shard, ?what, "views were written anew from the events");
        // Like every other transaction.
        self.tell_feed();
        let now = Instant::now();
        self.dirty_since.get_or_insert(now);
        self.checkpoint_at.get_or_insert(now + CHECKPOINT_AFTER);
        Ok(())
    }
}

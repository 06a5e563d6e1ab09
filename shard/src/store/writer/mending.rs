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
    no: RunNo,
    is_again: bool,
    reply: oneshot::Sender<()>,
}

impl Shared {
    /// Has the writer write a run's views anew; the reply is dropped when it cannot, or is stopping.
    pub(in crate::store) fn mend(&self, no: RunNo, is_again: bool) -> oneshot::Receiver<()> {
        let (reply, mended) = oneshot::channel();
        let mut queue = self.queue.lock();
        if !queue.has_ended {
            queue.mendings.push(Mending { no, is_again, reply });
            self.wake.notify_one();
        }
        mended
    }
}

impl Writer {
    /// Does what [`Shared::mend`] asked for. What cannot be mended is in the way of that run's readers
    /// alone.
    pub(super) fn mend(&mut self, mending: Mending) {
        match self.mend_run(mending.no, mending.is_again) {
            // Whoever read may have gone.
            Ok(()) => drop(mending.reply.send(())),
            Err(error) => {
                let (shard, run) = (self.options.shard, mending.no.0);
                tracing::error!(%shard, run, %error, "its views could not be written anew");
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
                    self.mend_run(no, mended == Some(no))?;
                    mended = Some(no);
                }
                other => return other,
            }
        }
        self.applier().apply(entries)
    }

    fn mend_run(&mut self, no: RunNo, is_again: bool) -> Result<(), ShardError> {
        self.applier().mend(no, is_again)?;
        tracing::warn!(shard = %self.options.shard, run = no.0, "its views were written anew from its events");
        // Like every other transaction.
        self.tell_feed();
        let now = Instant::now();
        self.dirty_since.get_or_insert(now);
        self.checkpoint_at.get_or_insert(now + CHECKPOINT_AFTER);
        Ok(())
    }
}

//! What the writer does differently while somebody copies the tables frame by frame: it rolls the
//! WAL instead of checkpointing as it goes. See [`Feed`](crate::replica::feed::Feed).
//!
//! The tables come first: what goes wrong with the frames ends their stream and nothing else, and
//! whoever followed it begins anew.

use std::time::{Duration, Instant};

use super::{CHECKPOINT_AFTER, CheckpointMode, LOCK_TIMEOUT, RESTART_TIMEOUT, Writer};
use crate::error::ShardError;
use crate::replica::feed::{STUCK_FRAMES_MAX, Wish};

/// How long until a roll that a reader was in the way of is tried again.
const ROLL_AGAIN: Duration = Duration::from_secs(1);
/// The same when the frames could not be copied: the disk may be full.
const COPY_AGAIN: Duration = Duration::from_secs(5);

impl Writer {
    /// Tells that a transaction was committed.
    pub(super) fn tell_feed(&mut self) {
        let frames = self.applier().connection().wal_frames();
        if let Err(error) = self.shared.feed.committed(frames) {
            self.end_feed(&error.to_string());
        }
    }

    /// Begins, rolls or ends the stream of frames, whichever is due.
    pub(super) fn tend_feed(&mut self) -> Result<(), ShardError> {
        let now = Instant::now();
        match self.shared.feed.wish(now) {
            Wish::Rest => {}
            Wish::End => {
                tracing::info!(shard = %self.options.shard, "nobody copies the tables any more");
                self.end_feed("");
            }
            Wish::At(at) => self.checkpoint_at = Some(at),
            Wish::Roll => match self.roll_after.filter(|at| now < *at) {
                Some(at) if self.shared.feed.is_on() => self.checkpoint_at = Some(at),
                // Who waits for the stream to begin asks again.
                Some(_) => {}
                None => self.roll()?,
            },
        }
        Ok(())
    }

    /// Moves the whole WAL into the main file and has it start over, once its frames are copied.
    fn roll(&mut self) -> Result<(), ShardError> {
        if let Err(error) = self.shared.feed.before_roll() {
            self.end_feed(&error.to_string());
            return Ok(());
        }
        self.applier().connection().busy_timeout(RESTART_TIMEOUT);
        let checkpoint = self.checkpoint(CheckpointMode::Truncate);
        self.applier().connection().busy_timeout(LOCK_TIMEOUT);
        let left = checkpoint?.frames;
        if left > STUCK_FRAMES_MAX && self.shared.feed.is_on() {
            self.end_feed("a long read keeps the WAL from starting over");
            return Ok(());
        }
        if left > 0 {
            let again = Instant::now() + ROLL_AGAIN;
            (self.roll_after, self.checkpoint_at) = (Some(again), Some(again));
            return Ok(());
        }
        self.roll_after = None;
        if let Err(error) = self.shared.feed.rolled() {
            self.end_feed(&error.to_string());
            return Ok(());
        }
        self.tend_after_roll();
        Ok(())
    }

    fn tend_after_roll(&mut self) {
        self.checkpoint_at = match self.shared.feed.wish(Instant::now()) {
            Wish::At(at) => Some(at),
            Wish::Rest | Wish::Roll | Wish::End => Some(Instant::now() + ROLL_AGAIN),
        };
    }

    /// Back to checkpoints as ever. With a reason, it was not meant to end.
    fn end_feed(&mut self, why: &str) {
        let now = Instant::now();
        if !why.is_empty() {
            tracing::warn!(shard = %self.options.shard, why, "copies of the tables have to begin anew");
            self.roll_after = Some(now + COPY_AGAIN);
        }
        self.shared.feed.end();
        self.dirty_since.get_or_insert(now);
        self.checkpoint_at = Some(now + CHECKPOINT_AFTER);
    }
}

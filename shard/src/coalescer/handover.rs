//! Where a batch changes hands: the loop offers one, the committer takes it, brings it to the log
//! and reports, the loop collects the report. One slot, so at most one batch is in flight.
//!
//! Nothing is lost and nothing is reported twice, closing included: a batch that was taken is
//! reported before [`HandOver::poll_take`] ends, one that was not goes back to whoever closed.
//! It never blocks: both sides are polled, and each wakes the other. Free of any import but the
//! locks, so that loom can model all of it (`tests/loom.rs`).

use std::task::{Context, Poll, Waker};

use super::sync::Mutex;

/// The slot. `B` goes to the committer, `R` comes back.
pub struct HandOver<B, R> {
    slot: Mutex<Slot<B, R>>,
}

struct Slot<B, R> {
    stage: Stage<B, R>,
    closed: bool,
    committer: Option<Waker>,
    owner: Option<Waker>,
}

enum Stage<B, R> {
    Idle,
    Offered(B),
    Taken,
    Reported(R),
}

impl<B, R> Default for HandOver<B, R> {
    fn default() -> Self {
        Self { slot: Mutex::new(Slot { stage: Stage::Idle, closed: false, committer: None, owner: None }) }
    }
}

impl<B, R> HandOver<B, R> {
    fn with<T>(&self, act: impl FnOnce(&mut Slot<B, R>) -> T) -> T {
        // A poisoned lock: some thread panicked between two whole steps; the slot is sound.
        let mut slot = self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        act(&mut slot)
    }

    /// The loop's: offers a batch. Gives it back while one is in flight or unreported, and once
    /// closed.
    pub fn offer(&self, batch: B) -> Result<(), B> {
        let waker = self.with(|slot| {
            if slot.closed || !matches!(slot.stage, Stage::Idle) {
                return Err(batch);
            }
            slot.stage = Stage::Offered(batch);
            Ok(slot.committer.take())
        })?;
        wake(waker);
        Ok(())
    }

    /// Whether a batch is offered, taken, or reported and not yet collected.
    pub fn in_flight(&self) -> bool {
        self.with(|slot| !matches!(slot.stage, Stage::Idle))
    }

    /// The committer's: the batch to commit; `None` once closed.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<B>> {
        self.with(|slot| match std::mem::replace(&mut slot.stage, Stage::Taken) {
            Stage::Offered(batch) => Poll::Ready(Some(batch)),
            Stage::Taken => panic!("the committer took a batch and reported none"),
            stage @ (Stage::Idle | Stage::Reported(_)) => {
                slot.stage = stage;
                if slot.closed {
                    return Poll::Ready(None);
                }
                slot.committer = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    /// The committer's: what came of the batch it took.
    pub fn report(&self, report: R) {
        let waker = self.with(|slot| {
            assert!(matches!(slot.stage, Stage::Taken), "only a batch that was taken is reported");
            slot.stage = Stage::Reported(report);
            slot.owner.take()
        });
        wake(waker);
    }

    /// The loop's: the report on its batch; `None` once closed with nothing left to report.
    pub fn poll_reported(&self, cx: &mut Context<'_>) -> Poll<Option<R>> {
        self.with(|slot| match std::mem::replace(&mut slot.stage, Stage::Idle) {
            Stage::Reported(report) => Poll::Ready(Some(report)),
            Stage::Idle if slot.closed => Poll::Ready(None),
            stage @ (Stage::Idle | Stage::Offered(_) | Stage::Taken) => {
                slot.stage = stage;
                slot.owner = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    }

    /// Either side's: nothing more is taken. Returns a batch that was offered and not taken; one
    /// that was taken is still reported and collected.
    pub fn close(&self) -> Option<B> {
        let (batch, committer, owner) = self.with(|slot| {
            slot.closed = true;
            let batch = match std::mem::replace(&mut slot.stage, Stage::Idle) {
                Stage::Offered(batch) => Some(batch),
                stage @ (Stage::Idle | Stage::Taken | Stage::Reported(_)) => {
                    slot.stage = stage;
                    None
                }
            };
            (batch, slot.committer.take(), slot.owner.take())
        });
        wake(committer);
        wake(owner);
        batch
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

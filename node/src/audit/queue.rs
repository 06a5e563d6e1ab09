//! Calls that wait to be written, and those who wait until they are.

use std::time::{Duration, Instant};

use opcode_router::audit::{Call, NotRecorded};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Longest time that a call waits which nobody waits for.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Longest time that calls are counted which are not taken down, before an entry says so.
const COUNT_MAX: Duration = Duration::from_secs(10);
/// Calls that wait at most; of more only the number is kept.
const CALLS_MAX: usize = 32 * 1024;
/// Calls that do not wait for more.
const CALLS_ENOUGH: usize = 4 * 1024;

type Written = Result<(), String>;

/// What is written together.
pub(super) struct Batch {
    pub(super) calls: Vec<Call>,
    pub(super) calls_count: u64,
    /// Calls that have no entry, when it is time to say so.
    pub(super) not_recorded: NotRecorded,
    pub(super) waiting: Vec<oneshot::Sender<Written>>,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    waiting: Vec<oneshot::Sender<Written>>,
    not_recorded: NotRecorded,
    /// When what is here has to be written at the latest.
    due: Option<Instant>,
    is_closed: bool,
}

impl State {
    fn due_within(&mut self, within: Duration) -> bool {
        let wanted = Instant::now() + within;
        let is_sooner = self.due.is_none_or(|due| wanted < due);
        if is_sooner {
            self.due = Some(wanted);
        }
        is_sooner
    }
}

impl Queue {
    /// Takes a call. Only the first of a batch wakes the writer, and the one that makes it enough.
    pub(super) fn push(&self, call: Call) {
        let mut state = self.state.lock();
        if state.calls.len() >= CALLS_MAX {
            state.not_recorded.lost += 1;
            metrics::counter!("opcode_audit_lost_total").increment(1);
            return;
        }
        state.calls.push(call);
        let wakes = match state.calls.len() {
            1 => state.due_within(WAIT_MAX),
            CALLS_ENOUGH => state.due_within(Duration::ZERO),
            _ => false,
        };
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Takes a call, or none, and resolves once all that is here is on stable storage.
    pub(super) fn wait(&self, call: Option<Call>) -> impl Future<Output = Written> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.calls.extend(call);
        state.waiting.push(sender);
        state.due_within(Duration::ZERO);
        drop(state);
        self.wake.notify_one();
        async { receiver.await.unwrap_or_else(|_| Err("the audit log has ended".to_owned())) }
    }

    /// Counts a refused call that is not taken down.
    pub(super) fn skip_refused(&self) {
        let mut state = self.state.lock();
        state.not_recorded.refused += 1;
        let wakes = state.due_within(COUNT_MAX);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Counts calls that could not be written, and again what was to be told of others.
    pub(super) fn lost(&self, calls: u64, told: NotRecorded) {
        let mut state = self.state.lock();
        state.not_recorded.lost += calls + told.lost;
        state.not_recorded.refused += told.refused;
        state.due_within(COUNT_MAX);
    }

    /// No more calls come.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// Waits until something is due, and takes all that is here; none once the queue is closed and
    /// empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        loop {
            let is_due = state.due.is_some_and(|due| due <= Instant::now());
            let is_empty = state.calls.is_empty() && state.waiting.is_empty();
            if state.is_closed && is_empty {
                return None;
            }
            if is_due || state.is_closed {
                break;
            }
            match state.due {
                Some(due) => _ = self.wake.wait_until(&mut state, due),
                None => self.wake.wait(&mut state),
            }
        }
        state.due = None;
        let calls = std::mem::take(&mut state.calls);
        let calls_count = calls.len() as u64;
        let not_recorded = std::mem::take(&mut state.not_recorded);
        let waiting = std::mem::take(&mut state.waiting);
        Some(Batch { calls, calls_count, not_recorded, waiting })
    }
}

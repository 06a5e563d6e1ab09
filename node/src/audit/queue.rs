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
    /// When it is time to say so; at once when somebody asks for entries.
    tell_at: Option<Instant>,
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

    /// Has it said within [`COUNT_MAX`] how many calls were not taken down.
    fn tell(&mut self) -> bool {
        self.tell_at.get_or_insert_with(|| Instant::now() + COUNT_MAX);
        self.due_within(COUNT_MAX)
    }

    /// What there is to say, when it is time.
    fn told(&mut self, now: Instant) -> NotRecorded {
        match self.tell_at {
            Some(at) if at > now => {
                self.due = Some(at);
                NotRecorded::default()
            }
            Some(_) | None => {
                self.tell_at = None;
                std::mem::take(&mut self.not_recorded)
            }
        }
    }
}

impl Queue {
    /// Takes a call. Only the first of a batch wakes the writer, and the one that makes it enough.
    pub(super) fn push(&self, call: Call) {
        let mut state = self.state.lock();
        if state.calls.len() >= CALLS_MAX {
            state.not_recorded.lost += 1;
            state.tell();
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
        if call.is_none() {
            state.tell_at = None;
        }
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
        let wakes = state.tell();
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Counts calls that could not be written.
    pub(super) fn lost(&self, lost: NotRecorded) {
        let mut state = self.state.lock();
        state.not_recorded.lost += lost.lost;
        state.not_recorded.refused += lost.refused;
        state.tell();
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
        let not_recorded = state.told(Instant::now());
        let calls = std::mem::take(&mut state.calls);
        let waiting = std::mem::take(&mut state.waiting);
        Some(Batch { calls, not_recorded, waiting })
    }
}

//! The coalescer: records that arrive while one batch is on its way leave together in the next.
//!
//! openraft 0.9 waits for a group's flush before it takes the group's next entry, so a second
//! batch in flight gains nothing: one is in flight, and the next gathers meanwhile. The disk's
//! own pace makes the batches large under load and leaves a lone record alone. A batch is cut at
//! [`Limits::batch_bytes_max`], between pushes; more than [`Limits::gathered_bytes_max`] is refused
//! to be gathered, which is how the loop learns to stop reading its queue.
//!
//! It never splits the records of one push, never reorders, and has no clock: times come in.
//! [`handover`] is the other half: where a batch changes hands between the loop and its committer.

pub mod handover;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::record::Record;

/// What [`handover`] locks with; the loom test puts loom's own here.
mod sync {
    pub(super) use std::sync::Mutex;
}

/// When a batch is ready.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A batch of this size goes at once, and none grows larger by a further push.
    pub batch_bytes_max: usize,
    /// Longest wait for company while no batch is in flight; zero leaves the gathering to the
    /// time that the batch before takes.
    pub linger_us_max: u64,
    /// Above this, [`Coalescer::is_full`].
    pub gathered_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch_bytes_max: 256 * 1024, linger_us_max: 0, gathered_bytes_max: 8 * 1024 * 1024 }
    }
}

impl Limits {
    /// Longest linger that [`Coalescer::new`] accepts.
    pub const LINGER_US_MAX: u64 = 1_000;
}

struct Push<W> {
    records: Vec<Record>,
    bytes: usize,
    waiter: W,
    at: Instant,
}

/// Gathers records, each push with whoever waits for its commit.
pub struct Coalescer<W> {
    limits: Limits,
    pushes: VecDeque<Push<W>>,
    bytes: usize,
    closed: bool,
}

impl<W> Coalescer<W> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        assert!(limits.linger_us_max <= Limits::LINGER_US_MAX, "a batch lingers at most 1 ms");
        Self { limits, pushes: VecDeque::new(), bytes: 0, closed: false }
    }

    /// Adds records of about `bytes` and their waiter; they commit together. Gives the waiter back
    /// once closed.
    pub fn push(&mut self, records: Vec<Record>, bytes: usize, waiter: W, now: Instant) -> Result<(), W> {
        if self.closed {
            return Err(waiter);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.pushes.push_back(Push { records, bytes, waiter, at: now });
        Ok(())
    }

    /// The next batch and its waiters in order, when one should leave now: nothing is in flight
    /// and there is enough, or it has waited long enough.
    pub fn take_ready(&mut self, in_flight: bool, now: Instant) -> Option<(Vec<Record>, Vec<W>)> {
        if in_flight || self.deadline()? > now {
            return None;
        }
        let mut records = Vec::new();
        let mut waiters = Vec::new();
        let mut bytes = 0_usize;
        while let Some(push) = self.pushes.front() {
            if !waiters.is_empty() && bytes.saturating_add(push.bytes) > self.limits.batch_bytes_max {
                break;
            }
            let push = self.pushes.pop_front().expect("the front was just seen");
            bytes = bytes.saturating_add(push.bytes);
            self.bytes = self.bytes.saturating_sub(push.bytes);
            records.extend(push.records);
            waiters.push(push.waiter);
        }
        Some((records, waiters))
    }

    /// When what is gathered should leave if nothing is in flight by then; `None` when empty.
    pub fn deadline(&self) -> Option<Instant> {
        let oldest = self.pushes.front()?.at;
        let at_once = self.closed || self.bytes >= self.limits.batch_bytes_max;
        Some(if at_once { oldest } else { oldest + Duration::from_micros(self.limits.linger_us_max) })
    }

    /// Whether the owner should stop pushing for now.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limits.gathered_bytes_max
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }

    /// Takes nothing more; what is gathered leaves without waiting for company.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Gives every waiter back, in order, and drops the records: leadership or the log is lost.
    pub fn abandon(&mut self) -> Vec<W> {
        self.bytes = 0;
        self.pushes.drain(..).map(|push| push.waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use opcode_engine::ids::DefinitionHash;

    use super::*;

    fn records(n: u8) -> Vec<Record> {
        vec![Record::Definition { hash: DefinitionHash([n; 32]), source: "{}".into() }]
    }

    fn limits() -> Limits {
        Limits { batch_bytes_max: 100, linger_us_max: 1_000, gathered_bytes_max: 300 }
    }

    #[test]
    fn waits_for_company_only_while_small_and_young() {
        let start = Instant::now();
        let later = start + Duration::from_millis(1);
        let mut gather = Coalescer::new(limits());
        assert!(gather.take_ready(false, start).is_none(), "nothing was pushed");
        gather.push(records(1), 40, 'a', start).unwrap();
        assert!(gather.take_ready(false, start).is_none(), "it lingers");
        assert!(gather.take_ready(true, later).is_none(), "one is in flight");
        assert_eq!(gather.take_ready(false, later).unwrap(), (records(1), vec!['a']));
        gather.push(records(2), 100, 'b', later).unwrap();
        assert_eq!(gather.take_ready(false, later).unwrap().1, vec!['b'], "large enough at once");
        assert!(gather.is_empty());
    }

    #[test]
    fn cuts_between_pushes_and_keeps_their_order() {
        let now = Instant::now();
        let mut gather = Coalescer::new(limits());
        for (n, bytes) in [(1, 60), (2, 30), (3, 30), (4, 500), (5, 1)] {
            gather.push(records(n), bytes, n, now).unwrap();
        }
        assert!(gather.is_full());
        let mut taken = Vec::new();
        gather.close();
        while let Some((_, waiters)) = gather.take_ready(false, now) {
            taken.push(waiters);
        }
        assert_eq!(taken, [vec![1, 2], vec![3], vec![4], vec![5]]);
        assert!(!gather.is_full());
    }

    #[test]
    fn a_closed_one_sends_what_it_has_and_takes_no_more() {
        let now = Instant::now();
        let mut gather = Coalescer::new(limits());
        gather.push(records(1), 1, 'a', now).unwrap();
        gather.close();
        assert_eq!(gather.push(records(2), 1, 'b', now), Err('b'));
        assert_eq!(gather.take_ready(false, now).unwrap().1, vec!['a']);
        gather.push(records(3), 1, 'c', now).unwrap_err();
        assert!(gather.abandon().is_empty());
    }

    #[test]
    fn abandoning_gives_every_waiter_back() {
        let now = Instant::now();
        let mut gather = Coalescer::new(limits());
        gather.push(records(1), 400, 'a', now).unwrap();
        gather.push(records(2), 1, 'b', now).unwrap();
        assert_eq!(gather.abandon(), ['a', 'b']);
        assert!(gather.is_empty() && !gather.is_full());
    }
}

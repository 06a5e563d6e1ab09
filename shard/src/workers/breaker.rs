//! Circuit breakers: one for each action (and host, for `http.*`) that keeps failing.
//!
//! Five outages in a row open a breaker; an open one refuses at once; after 30 s one call at a
//! time may probe, and its success closes the breaker. Only outages count: what the caller did
//! wrong says nothing about the other side. The clock comes in as data. A breaker never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Outages in a row that open a breaker.
pub const FAILURES_TO_OPEN: u32 = 5;
/// How long an open breaker refuses everything.
pub const OPEN_FOR: Duration = Duration::from_secs(30);
/// Breakers that are remembered; healthy ones take no place.
pub const KEYS_MAX: usize = 10_000;

/// A change of state, by its name in events.
pub type Change = &'static str;

/// What a call told about the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Healthy,
    /// It does not.
    Outage,
    /// Nothing either way: the call was wrong, or was given up.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant },
    HalfOpen { is_probing: bool },
}

/// All breakers of a node.
#[derive(Debug, Default)]
pub struct Breakers {
    states: Mutex<HashMap<String, State>>,
}

/// A call that was let through; tell it what came of it. Dropped without a word, it counts as
/// [`Verdict::Unknown`], so that an abandoned probe does not lock its breaker.
#[derive(Debug)]
pub struct Ticket {
    breakers: Arc<Breakers>,
    key: String,
    is_probe: bool,
    is_settled: bool,
    /// The change that letting it through made: `half_open`, for a probe.
    pub change: Option<Change>,
}

/// A call that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the next probe may go, from now.
    pub retry_after: Duration,
}

impl Breakers {
    /// Lets a call through, or refuses it.
    pub fn admit(self: &Arc<Self>, key: &str, now: Instant) -> Result<Ticket, Refused> {
        let mut states = self.states.lock();
        let state = states.get(key).copied().unwrap_or(State::Closed { failures: 0 });
        let (is_probe, change) = match state {
            State::Closed { .. } => (false, None),
            State::Open { since } => {
                let left = OPEN_FOR.saturating_sub(now.saturating_duration_since(since));
                if !left.is_zero() {
                    return Err(Refused { retry_after: left });
                }
                (true, Some("half_open"))
            }
            State::HalfOpen { is_probing: true } => return Err(Refused { retry_after: Duration::ZERO }),
            State::HalfOpen { is_probing: false } => (true, None),
        };
        if is_probe {
            states.insert(key.to_owned(), State::HalfOpen { is_probing: true });
        }
        drop(states);
        Ok(Ticket { breakers: Arc::clone(self), key: key.to_owned(), is_probe, is_settled: false, change })
    }

    /// How many are open, and how many half open.
    pub fn open_and_half_open(&self) -> (usize, usize) {
        let states = self.states.lock();
        let count = |is: fn(&State) -> bool| states.values().filter(|state| is(state)).count();
        (
            count(|state| matches!(state, State::Open { .. })),
            count(|state| matches!(state, State::HalfOpen { .. })),
        )
    }

    fn settle(&self, key: &str, is_probe: bool, verdict: Verdict, now: Instant) -> Option<Change> {
        let mut states = self.states.lock();
        let state = states.get(key).copied().unwrap_or(State::Closed { failures: 0 });
        let (next, change) = match (state, verdict) {
            (State::Closed { .. }, Verdict::Healthy) => (State::Closed { failures: 0 }, None),
            (State::Closed { failures }, Verdict::Outage) if failures + 1 >= FAILURES_TO_OPEN => {
                (State::Open { since: now }, Some("open"))
            }
            (State::Closed { failures }, Verdict::Outage) => (State::Closed { failures: failures + 1 }, None),
            // A call let through before the breaker opened says nothing new.
            (State::Open { .. }, _) => return None,
            (State::HalfOpen { .. }, _) if !is_probe => return None,
            (State::HalfOpen { .. }, Verdict::Healthy) => (State::Closed { failures: 0 }, Some("closed")),
            (State::HalfOpen { .. }, Verdict::Outage) => (State::Open { since: now }, Some("open")),
            (State::HalfOpen { .. }, Verdict::Unknown) => (State::HalfOpen { is_probing: false }, None),
            (State::Closed { .. }, Verdict::Unknown) => return None,
        };
        if next == (State::Closed { failures: 0 }) {
            states.remove(key);
        } else if states.len() < KEYS_MAX || states.contains_key(key) {
            states.insert(key.to_owned(), next);
        } else if let Some(idle) = closed_key(&states) {
            states.remove(&idle);
            states.insert(key.to_owned(), next);
        } else {
            return None;
        }
        change
    }
}

fn closed_key(states: &HashMap<String, State>) -> Option<String> {
    states.iter().find(|(_, s)| matches!(s, State::Closed { .. })).map(|(key, _)| key.clone())
}

impl Ticket {
    /// Says what came of the call; the change that this makes, if any.
    pub fn settle(mut self, verdict: Verdict, now: Instant) -> Option<Change> {
        self.is_settled = true;
        self.breakers.settle(&self.key, self.is_probe, verdict, now)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled && self.is_probe {
            // The clock plays no part in an unknown verdict.
            self.breakers.settle(&self.key, true, Verdict::Unknown, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script against one breaker: `f` an outage, `s` a success, `u` an unknown,
    /// `+N` seconds pass. Each call answers `.`, a change, or `X` when it is refused.
    fn check(script: &str, expected: &str) {
        let breakers = Arc::new(Breakers::default());
        let mut now = Instant::now();
        let mut trace = Vec::new();
        for word in script.split_whitespace() {
            if let Some(seconds) = word.strip_prefix('+') {
                now += Duration::from_secs(seconds.parse().unwrap());
                continue;
            }
            let verdict = match word {
                "f" => Verdict::Outage,
                "s" => Verdict::Healthy,
                "u" => Verdict::Unknown,
                other => panic!("no such word: {other}"),
            };
            match breakers.admit("http.get a", now) {
                Err(_) => trace.push("X".to_owned()),
                Ok(ticket) => {
                    let before = ticket.change;
                    let after = ticket.settle(verdict, now);
                    let changes: Vec<_> = before.into_iter().chain(after).collect();
                    trace.push(if changes.is_empty() { ".".into() } else { changes.join(">") });
                }
            }
        }
        assert_eq!(trace.join(" "), expected, "{script}");
    }

    #[test]
    fn table() {
        check("f f f f f", ". . . . open");
        check("f f f f s f f f f f", ". . . . . . . . . open");
        check("f f f f u f", ". . . . . open");
        check("u u u u u u u", ". . . . . . .");
        check("f f f f f f +29 s +1 s s", ". . . . open X X half_open>closed .");
        check("f f f f f +30 f s +30 s", ". . . . open half_open>open X half_open>closed");
        check("f f f f f +30 u s", ". . . . open half_open closed");
    }

    #[test]
    fn one_probe_at_a_time_and_an_abandoned_one_frees_its_place() {
        let breakers = Arc::new(Breakers::default());
        let start = Instant::now();
        for _ in 0..FAILURES_TO_OPEN {
            breakers.admit("k", start).unwrap().settle(Verdict::Outage, start);
        }
        let later = start + OPEN_FOR;
        let probe = breakers.admit("k", later).unwrap();
        assert_eq!(probe.change, Some("half_open"));
        assert!(breakers.admit("k", later).is_err());
        drop(probe);
        let second = breakers.admit("k", later).unwrap();
        assert_eq!(second.settle(Verdict::Healthy, later), Some("closed"));
        assert!(breakers.admit("k", later).is_ok());
    }

    #[test]
    fn keys_are_apart_and_late_results_change_nothing() {
        let breakers = Arc::new(Breakers::default());
        let now = Instant::now();
        let late_failure = breakers.admit("a", now).unwrap();
        let late_success = breakers.admit("a", now).unwrap();
        for _ in 0..FAILURES_TO_OPEN {
            breakers.admit("a", now).unwrap().settle(Verdict::Outage, now);
        }
        assert_eq!(late_failure.settle(Verdict::Outage, now), None);
        assert_eq!(late_success.settle(Verdict::Healthy, now), None);
        assert!(breakers.admit("a", now).is_err());
        assert!(breakers.admit("b", now).is_ok());
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let breakers = Arc::new(Breakers::default());
        let now = Instant::now();
        for i in 0..KEYS_MAX + 100 {
            breakers.admit(&format!("k{i}"), now).unwrap().settle(Verdict::Outage, now);
        }
        assert_eq!(breakers.states.lock().len(), KEYS_MAX);
    }
}

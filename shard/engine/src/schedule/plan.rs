//! What is to be done now: which slots are due, which of them were missed, and which have to wait for
//! the run before them.
//!
//! Where a schedule stands only moves forward. It moves after the runs have been started, so that a
//! crash in between starts them again, under the same ids: then they are there already.

use serde::{Deserialize, Serialize};

use super::Trigger;
use crate::ids::Timestamp;

/// Slots acted on at a time; the others come next.
pub const ROUND_SLOTS_MAX: usize = 1_000;
/// Slots that wait for the run before them, at most. Later ones stay due until there is room.
pub const WAITING_SLOTS_MAX: usize = 1_000;
/// A slot that is acted on so late was missed: longer than it takes until another node leads.
pub const ON_TIME_MS: u64 = 30_000;

/// What becomes of slots that came while nobody could act on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The last of all that are due has its run, the others are left out.
    #[default]
    One,
    /// Each has its run.
    All,
}

/// What becomes of a slot that comes before the run of an earlier one has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out. Missed slots that shall all have their run are not: they wait.
    #[default]
    Skip,
    /// It waits for that run to end.
    Queue,
    /// It has its run at once.
    Parallel,
}

/// Both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Policy {
    pub missed: Missed,
    pub overlap: Overlap,
}

/// Where a schedule stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Up to here every slot has been started, left out, or waits. A clock that goes back changes
    /// nothing of that.
    pub done: Timestamp,
    /// Slots that wait for the run before them, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Timestamp>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing before this time, unless a run ends that is waited for; nothing at all without one.
    Wait(Option<Timestamp>),
    /// Start the runs of these slots, oldest first. Then the schedule stands `after`.
    Move {
        /// The slots; none when there are only some to leave out or to let wait.
        start: Vec<Timestamp>,
        /// Where it stands then.
        after: Standing,
    },
}

/// Slots taken in hand.
struct Taken {
    /// That came while nobody could act on them, of those that shall have their run nevertheless.
    missed: Vec<Timestamp>,
    /// The last that is due, when its time has only just come.
    on_time: Option<Timestamp>,
    /// Up to here all are, or are left out.
    done: Timestamp,
}

/// Plans at the time `now`; `is_running` says whether the run of the last slot that was started has
/// not ended.
pub fn plan(
    trigger: &Trigger,
    policy: Policy,
    standing: &Standing,
    now: Timestamp,
    is_running: bool,
) -> Plan {
    let room = match policy.overlap {
        Overlap::Parallel => ROUND_SLOTS_MAX,
        Overlap::Skip | Overlap::Queue => WAITING_SLOTS_MAX.saturating_sub(standing.waiting.len()),
    };
    let taken = take(trigger, policy.missed, standing.done, now, room.min(ROUND_SLOTS_MAX));
    let mut after = Standing { done: taken.done, waiting: standing.waiting.clone() };
    let start = match policy.overlap {
        Overlap::Parallel => {
            after.waiting.extend(taken.missed.into_iter().chain(taken.on_time));
            std::mem::take(&mut after.waiting)
        }
        Overlap::Queue => {
            after.waiting.extend(taken.missed.into_iter().chain(taken.on_time));
            first_of(&mut after.waiting, is_running)
        }
        Overlap::Skip => {
            let (waits, at_once) = match policy.missed {
                Missed::All => (taken.missed, taken.on_time),
                Missed::Skip | Missed::One => (Vec::new(), taken.on_time.or(taken.missed.last().copied())),
            };
            after.waiting.extend(waits);
            match after.waiting.is_empty() && !is_running {
                true => at_once.into_iter().collect(),
                false => first_of(&mut after.waiting, is_running),
            }
        }
    };
    if start.is_empty() && after == *standing {
        return Plan::Wait(trigger.next_after(standing.done));
    }
    Plan::Move { start, after }
}

/// The first that waits, once nothing runs.
fn first_of(waiting: &mut Vec<Timestamp>, is_running: bool) -> Vec<Timestamp> {
    let count = usize::from(!is_running && !waiting.is_empty());
    waiting.drain(..count).collect()
}

/// At most `room` of the slots that are due.
fn take(trigger: &Trigger, missed: Missed, done: Timestamp, now: Timestamp, room: usize) -> Taken {
    let nothing = Taken { missed: Vec::new(), on_time: None, done };
    if room == 0 || now <= done {
        return nothing;
    }
    let is_on_time = |slot: Timestamp| now.since_ms(slot) <= ON_TIME_MS;
    match missed {
        Missed::Skip | Missed::One => {
            let Some(last) = trigger.last_slot(done, now) else { return nothing };
            let on_time = Some(last).filter(|slot| is_on_time(*slot));
            let late = (missed == Missed::One && on_time.is_none()).then_some(last);
            Taken { missed: late.into_iter().collect(), on_time, done: last }
        }
        Missed::All => {
            let mut slots = trigger.slots(done, now, room);
            let Some(last) = slots.last().copied() else { return nothing };
            let is_last_due = trigger.next_after(last).is_none_or(|next| next > now);
            let on_time = slots.pop_if(|slot| is_last_due && is_on_time(*slot));
            Taken { missed: slots, on_time, done: last }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::Interval;
    use super::*;

    const MINUTE: i64 = 60_000;

    fn minutely() -> Trigger {
        Trigger::Interval(Interval::parse("1m").unwrap())
    }

    /// Minutes as times.
    fn at(minutes: &[i64]) -> Vec<Timestamp> {
        minutes.iter().map(|minute| Timestamp(minute * MINUTE)).collect()
    }

    /// What is done at `now_s` by a schedule that fires each minute, stands at minute 10, and where
    /// slots of these minutes wait: minutes to start, then minutes that wait, then where it stands.
    fn check(
        (missed, overlap): (Missed, Overlap),
        waiting: &[i64],
        now_s: i64,
        is_running: bool,
        expected: Option<(&[i64], &[i64], i64)>,
    ) {
        let standing = Standing { done: Timestamp(10 * MINUTE), waiting: at(waiting) };
        let policy = Policy { missed, overlap };
        let planned = plan(&minutely(), policy, &standing, Timestamp(now_s * 1_000), is_running);
        let expected = match expected {
            None => Plan::Wait(Some(Timestamp(11 * MINUTE))),
            Some((start, waiting, done)) => Plan::Move {
                start: at(start),
                after: Standing { done: Timestamp(done * MINUTE), waiting: at(waiting) },
            },
        };
        assert_eq!(planned, expected, "{policy:?}, {waiting:?} wait, at {now_s} s, running: {is_running}");
    }

    #[test]
    fn a_slot_on_time() {
        use {Missed as M, Overlap as O};
        let now = 11 * 60 + 1;
        for missed in [M::Skip, M::One, M::All] {
            for overlap in [O::Skip, O::Queue, O::Parallel] {
                check((missed, overlap), &[], 10 * 60, false, None);
                check((missed, overlap), &[], 5 * 60, false, None);
                check((missed, overlap), &[], now, false, Some((&[11], &[], 11)));
            }
            check((missed, O::Skip), &[], now, true, Some((&[], &[], 11)));
            check((missed, O::Queue), &[], now, true, Some((&[], &[11], 11)));
            check((missed, O::Queue), &[9, 10], now, true, Some((&[], &[9, 10, 11], 11)));
            check((missed, O::Queue), &[9, 10], now, false, Some((&[9], &[10, 11], 11)));
            check((missed, O::Parallel), &[], now, true, Some((&[11], &[], 11)));
        }
    }

    #[test]
    fn slots_that_were_missed() {
        use {Missed as M, Overlap as O};
        let late = 13 * 60 + 59;
        let on_time = 13 * 60 + 1;
        for overlap in [O::Skip, O::Queue, O::Parallel] {
            check((M::Skip, overlap), &[], late, false, Some((&[], &[], 13)));
            check((M::Skip, overlap), &[], on_time, false, Some((&[13], &[], 13)));
            check((M::One, overlap), &[], late, false, Some((&[13], &[], 13)));
            check((M::One, overlap), &[], on_time, false, Some((&[13], &[], 13)));
        }
        check((M::All, O::Parallel), &[], late, false, Some((&[11, 12, 13], &[], 13)));
        check((M::All, O::Parallel), &[9], late, true, Some((&[9, 11, 12, 13], &[], 13)));
        check((M::All, O::Queue), &[], late, false, Some((&[11], &[12, 13], 13)));
        check((M::All, O::Queue), &[], late, true, Some((&[], &[11, 12, 13], 13)));
        check((M::One, O::Queue), &[], late, true, Some((&[], &[13], 13)));
        check((M::One, O::Skip), &[], late, true, Some((&[], &[], 13)));
        check((M::All, O::Skip), &[], late, false, Some((&[11], &[12, 13], 13)));
        check((M::All, O::Skip), &[], late, true, Some((&[], &[11, 12, 13], 13)));
        check((M::All, O::Skip), &[], on_time, false, Some((&[11], &[12], 13)));
        check((M::All, O::Skip), &[], on_time, true, Some((&[], &[11, 12], 13)));
    }

    #[test]
    fn what_waits_is_started_when_nothing_runs() {
        use {Missed as M, Overlap as O};
        for overlap in [O::Skip, O::Queue] {
            check((M::One, overlap), &[8, 9], 10 * 60, true, None);
            check((M::One, overlap), &[8, 9], 10 * 60, false, Some((&[8], &[9], 10)));
        }
        check((M::One, O::Parallel), &[8, 9], 10 * 60, true, Some((&[8, 9], &[], 10)));
    }

    #[test]
    fn rounds_are_bounded_and_go_on() {
        let policy = Policy { missed: Missed::All, overlap: Overlap::Parallel };
        let mut standing = Standing { done: Timestamp(0), waiting: Vec::new() };
        let now = Timestamp(2_500 * MINUTE);
        let mut rounds = Vec::new();
        while let Plan::Move { start, after } = plan(&minutely(), policy, &standing, now, false) {
            rounds.push(start.len());
            standing = after;
        }
        assert_eq!(rounds, [1_000, 1_000, 500]);
        // As many wait as may; the others are still due, and nothing is lost.
        let policy = Policy { missed: Missed::All, overlap: Overlap::Queue };
        let standing = Standing { done: Timestamp(0), waiting: Vec::new() };
        let Plan::Move { start, after } = plan(&minutely(), policy, &standing, now, true) else { panic!() };
        assert_eq!((start.len(), after.waiting.len(), after.done), (0, 1_000, Timestamp(1_000 * MINUTE)));
        assert_eq!(plan(&minutely(), policy, &after, now, true), Plan::Wait(Some(Timestamp(1_001 * MINUTE))));
    }

    #[test]
    fn one_that_fires_once_is_done_then() {
        let trigger = Trigger::At(Timestamp(11 * MINUTE));
        let standing = Standing { done: Timestamp(10 * MINUTE), waiting: Vec::new() };
        let policy = Policy::default();
        let now = Timestamp(11 * MINUTE);
        let Plan::Move { start, after } = plan(&trigger, policy, &standing, now, false) else { panic!() };
        assert_eq!(start, [now]);
        assert_eq!(plan(&trigger, policy, &after, Timestamp(i64::MAX), false), Plan::Wait(None));
    }

    fn missed() -> impl Strategy<Value = Missed> {
        prop::sample::select(&[Missed::Skip, Missed::One, Missed::All][..])
    }

    fn overlap() -> impl Strategy<Value = Overlap> {
        prop::sample::select(&[Overlap::Skip, Overlap::Queue, Overlap::Parallel][..])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever the clock does, and wherever a crash cuts in before a move is kept: a slot is
        /// started by one move at most that is kept, where the schedule stands never moves back, and
        /// under `all` every slot has its run but those that `skip` leaves out for an overlap.
        #[test]
        fn each_slot_is_started_once_at_most_and_none_is_lost(
            missed in missed(),
            overlap in overlap(),
            looks in prop::collection::vec((-600..900_i64, any::<bool>(), prop::bool::weighted(0.2)), 1..60),
        ) {
            let (trigger, policy) = (minutely(), Policy { missed, overlap });
            let mut standing = Standing { done: Timestamp(0), waiting: Vec::new() };
            let (mut now, mut latest) = (Timestamp(0), Timestamp(0));
            let mut started = BTreeSet::new();
            for (jump_s, is_running, crashes) in looks {
                now = Timestamp((now.0 + jump_s * 1_000).max(0));
                latest = latest.max(now);
                if let Plan::Move { start, after } = plan(&trigger, policy, &standing, now, is_running) {
                    prop_assert!(after.done >= standing.done);
                    prop_assert!(start.iter().all(|slot| *slot <= latest));
                    if crashes {
                        continue;
                    }
                    for slot in start {
                        prop_assert!(started.insert(slot), "{slot:?} is started twice");
                    }
                    standing = after;
                }
            }
            while let Plan::Move { start, after } = plan(&trigger, policy, &standing, latest, false) {
                for slot in start {
                    prop_assert!(started.insert(slot), "{slot:?} is started twice");
                }
                standing = after;
            }
            prop_assert!(standing.waiting.is_empty());
            let all: BTreeSet<_> =
                trigger.slots(Timestamp(0), latest, usize::MAX).into_iter().collect();
            prop_assert!(started.is_subset(&all));
            if missed == Missed::All && overlap != Overlap::Skip {
                prop_assert_eq!(started, all);
            }
        }
    }
}

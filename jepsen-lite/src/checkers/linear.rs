//! Whether a history of operations is linearizable: Wing and Gong's search, with Lowe's memory of
//! configurations that were tried.
//!
//! A history is linearizable if every operation can be given a moment between its invocation and
//! its answer, so that all of them, done one after the other in that order, answer what they
//! answered. One without an answer may take effect at any time after its invocation, or never. The
//! search is exponential in the worst case, so it is bounded; a search that hits its bound proves
//! nothing, and that is a verdict of its own, which is never a success.

use std::collections::HashSet;
use std::hash::Hash;

/// What operations do, one after the other.
pub(crate) trait Model {
    type State: Clone + Eq + Hash;
    type Op: PartialEq;

    /// The state before all operations.
    fn start(&self) -> Self::State;

    /// The state after `op`; `None` when it cannot have been answered so, or done at all, in `state`.
    fn apply(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation with its times, in whatever unit, of one clock.
#[derive(Clone, Debug)]
pub(crate) struct Recorded<O> {
    pub(crate) op: O,
    pub(crate) begun: u64,
    /// `None`: nobody knows whether it took effect, or will.
    pub(crate) ended: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// No order does it. One that goes as far as any, by places in the history.
    Broken(Vec<usize>),
    /// The bound was reached before there was an answer.
    Unknown,
}

/// A set of places in a history.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Places(Box<[u64]>);

impl Places {
    fn none(of: usize) -> Self {
        Self(vec![0; of.div_ceil(64)].into())
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn with(&self, place: usize) -> Self {
        let mut more = self.clone();
        more.0[place / 64] |= 1 << (place % 64);
        more
    }
}

/// Operations that were done, in which order, and the state they left.
struct Configuration<S> {
    done: Places,
    order: Vec<usize>,
    state: S,
}

/// Whether nobody knows of it, as of another that asks for the same.
fn is_twin<O: PartialEq>(one: &Recorded<O>, op: &O) -> bool {
    one.ended.is_none() && one.op == *op
}

/// Searches an order, and tries at most `configurations_max` configurations.
pub(crate) fn check<M: Model>(model: &M, history: &[Recorded<M::Op>], configurations_max: usize) -> Verdict {
    // By invocation, so that the operations that may come next stand close together.
    let mut by_time: Vec<usize> = (0..history.len()).collect();
    by_time.sort_by_key(|place| history[*place].begun);
    let start = Configuration { done: Places::none(history.len()), order: Vec::new(), state: model.start() };
    let mut tried = HashSet::from([(start.done.clone(), start.state.clone())]);
    let mut farthest = Vec::new();
    let mut open = vec![start];
    while let Some(at) = open.pop() {
        let is_left = |place: &usize| !at.done.has(*place);
        let answered = by_time.iter().filter(|place| is_left(place));
        // Whatever was answered first must be done before all that was asked after that answer.
        let Some(first_answer) = answered.filter_map(|place| history[*place].ended).min() else {
            return Verdict::Linearizable;
        };
        let mut next: Vec<(usize, M::State)> = Vec::new();
        for place in by_time.iter().copied().filter(is_left) {
            let Recorded { op, begun, ended } = &history[place];
            if *begun > first_answer {
                break;
            }
            let Some(state) = model.apply(&at.state, op) else { continue };
            match (state == at.state, ended) {
                // It changes nothing, so no order is lost by doing it at once.
                (true, Some(_)) => {
                    next = vec![(place, state)];
                    break;
                }
                // It need not happen, and if it did, nobody could tell.
                (true, None) => {}
                // One like it, of which as little is known, was asked for before: whatever this can
                // do now or later, that can do. Without this, so many of the same kind would be tried
                // in so many ways.
                (false, None) if next.iter().any(|(other, _)| is_twin(&history[*other], op)) => {}
                (false, _) => next.push((place, state)),
            }
        }
        if at.order.len() >= farthest.len() {
            farthest.clone_from(&at.order);
        }
        // The last is tried first: those with an answer, the earliest answer before the others.
        next.sort_by_key(|(place, _)| std::cmp::Reverse(history[*place].ended.unwrap_or(u64::MAX)));
        for (place, state) in next {
            let done = at.done.with(place);
            if !tried.insert((done.clone(), state.clone())) {
                continue;
            }
            if tried.len() > configurations_max {
                return Verdict::Unknown;
            }
            let order = at.order.iter().copied().chain([place]).collect();
            open.push(Configuration { done, order, state });
        }
    }
    Verdict::Broken(farthest)
}

#[cfg(test)]
mod tests {
    use super::{Model, Recorded, Verdict, check};

    const MANY: usize = 100_000;

    /// A number that is read, written, and written if it is another.
    struct Register;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Op {
        Read(u8),
        Write(u8),
        /// From, to; it took effect.
        Swap(u8, u8),
    }

    impl Model for Register {
        type State = u8;
        type Op = Op;

        fn start(&self) -> u8 {
            0
        }

        fn apply(&self, state: &u8, op: &Op) -> Option<u8> {
            match *op {
                Op::Read(seen) => (seen == *state).then_some(*state),
                Op::Write(new) => Some(new),
                Op::Swap(from, to) => (from == *state).then_some(to),
            }
        }
    }

    fn verdict(history: &[(Op, u64, Option<u64>)]) -> Verdict {
        let history: Vec<_> =
            history.iter().map(|&(op, begun, ended)| Recorded { op, begun, ended }).collect();
        check(&Register, &history, MANY)
    }

    fn is_broken(history: &[(Op, u64, Option<u64>)]) -> bool {
        matches!(verdict(history), Verdict::Broken(_))
    }

    #[test]
    fn nothing_and_one_after_the_other_are_linearizable() {
        assert_eq!(verdict(&[]), Verdict::Linearizable);
        let history = [
            (Op::Read(0), 1, Some(2)),
            (Op::Write(1), 3, Some(4)),
            (Op::Swap(1, 2), 5, Some(6)),
            (Op::Read(2), 7, Some(8)),
        ];
        assert_eq!(verdict(&history), Verdict::Linearizable);
    }

    #[test]
    fn what_happens_at_the_same_time_has_any_order() {
        let both_ways =
            |seen| [(Op::Write(1), 1, Some(10)), (Op::Write(2), 2, Some(9)), (Op::Read(seen), 11, Some(12))];
        assert_eq!(verdict(&both_ways(1)), Verdict::Linearizable);
        assert_eq!(verdict(&both_ways(2)), Verdict::Linearizable);
        assert!(is_broken(&both_ways(0)));
    }

    #[test]
    fn a_stale_read_is_broken() {
        assert!(is_broken(&[(Op::Write(1), 1, Some(2)), (Op::Read(0), 3, Some(4))]));
    }

    #[test]
    fn a_read_that_goes_back_is_broken() {
        let history = [(Op::Write(1), 1, Some(20)), (Op::Read(1), 2, Some(3)), (Op::Read(0), 4, Some(5))];
        assert!(is_broken(&history));
        let forward = [(Op::Write(1), 1, Some(20)), (Op::Read(0), 2, Some(3)), (Op::Read(1), 4, Some(5))];
        assert_eq!(verdict(&forward), Verdict::Linearizable);
    }

    #[test]
    fn a_lost_update_is_broken() {
        // Both say that they found 0; the second cannot have.
        assert!(is_broken(&[(Op::Swap(0, 1), 1, Some(5)), (Op::Swap(0, 2), 2, Some(6))]));
    }

    #[test]
    fn an_effect_before_its_invocation_is_broken() {
        assert!(is_broken(&[(Op::Read(1), 1, Some(2)), (Op::Write(1), 3, Some(4))]));
        assert!(is_broken(&[(Op::Read(1), 1, Some(2)), (Op::Write(1), 3, None)]));
    }

    #[test]
    fn what_is_unknown_takes_effect_late_or_never() {
        let never = [(Op::Write(1), 1, None), (Op::Read(0), 5, Some(6))];
        assert_eq!(verdict(&never), Verdict::Linearizable);
        let late = [(Op::Write(1), 1, None), (Op::Read(0), 5, Some(6)), (Op::Read(1), 7, Some(8))];
        assert_eq!(verdict(&late), Verdict::Linearizable);
        let twice = [
            (Op::Write(1), 1, None),
            (Op::Read(1), 2, Some(3)),
            (Op::Write(2), 4, Some(5)),
            (Op::Read(1), 6, Some(7)),
        ];
        assert!(is_broken(&twice));
    }

    #[test]
    fn a_broken_history_says_how_far_it_goes() {
        let history = [(Op::Write(1), 1, Some(2)), (Op::Read(1), 3, Some(4)), (Op::Read(7), 5, Some(6))];
        assert_eq!(verdict_of(&history), Verdict::Broken(vec![0, 1]));
    }

    fn verdict_of(history: &[(Op, u64, Option<u64>)]) -> Verdict {
        verdict(history)
    }

    #[test]
    fn a_search_without_end_is_no_success() {
        // Every subset of these may have happened, and none explains what was read.
        let mut history: Vec<_> =
            (0..40).map(|n| Recorded { op: Op::Write(n), begun: 1, ended: None }).collect();
        history.push(Recorded { op: Op::Read(99), begun: 2, ended: Some(3) });
        assert_eq!(check(&Register, &history, 1_000), Verdict::Unknown);
    }

    #[test]
    fn many_of_the_same_of_which_nothing_is_known_are_no_more_work_than_one() {
        let write = |n: u64| Recorded { op: Op::Write((n % 2) as u8 + 1), begun: n, ended: None };
        let mut history: Vec<_> = (0..60).map(write).collect();
        // Back and forth, each time by another of them.
        for n in 0..20 {
            history.push(Recorded {
                op: Op::Read(n % 2 + 1),
                begun: 100 + u64::from(n) * 2,
                ended: Some(101 + u64::from(n) * 2),
            });
        }
        assert_eq!(check(&Register, &history, MANY), Verdict::Linearizable);
        history.push(Recorded { op: Op::Read(3), begun: 200, ended: Some(201) });
        assert!(matches!(check(&Register, &history, MANY), Verdict::Broken(_)));
    }

    #[test]
    fn many_at_a_time_are_still_told() {
        let mut history: Vec<_> =
            (0..8).flat_map(|n| [(Op::Write(n), 1, Some(100)), (Op::Read(n), 1, Some(100))]).collect();
        assert_eq!(verdict(&history), Verdict::Linearizable);
        history.push((Op::Read(9), 1, Some(100)));
        assert!(is_broken(&history));
    }
}

//! One run as its clients see it, done to one operation after the other: it is there or not, has
//! taken some signals, each once, and has ended or not.

use super::linear::Model;

/// Signals that a run waits for.
pub(crate) const SIGNALS: usize = 5;

/// What was asked, with what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `true`: it was made; `false`: it was there already; `None`: nobody knows.
    Submit(Option<bool>),
    /// A signal, and the sequence at which it was taken, where that is known.
    Signal(usize, Option<u64>),
    /// A cancel that was taken, or may have been.
    Cancel,
    /// A command that the run refused, since it had ended.
    Refused,
    /// An answer that there is no such run.
    Absent,
    /// A read that showed these signals, with their sequences.
    Saw(Vec<(usize, u64)>),
    /// A read that showed this end, or none.
    Showed(End),
    /// What nobody asks for: it ends by itself.
    EndsByItself(End),
}

/// Whether and how a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Not,
    Completed,
    Cancelled,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    is_there: bool,
    /// Taken or not, and at which sequence if that was ever told.
    signals: [Option<Option<u64>>; SIGNALS],
    /// The highest sequence that was told.
    last: u64,
    /// A cancel was taken: it will end so, unless it has ended.
    is_cancelling: bool,
    end: End,
}

impl State {
    fn saw(&self, seen: &[(usize, u64)]) -> bool {
        let is_known = |(number, sequence): &(usize, u64)| match self.signals.get(*number) {
            Some(Some(told)) => told.is_none_or(|told| told == *sequence),
            Some(None) | None => false,
        };
        self.signals.iter().flatten().count() == seen.len() && seen.iter().all(is_known)
    }

    /// After a signal; each is taken once, in the order of the sequences.
    fn signalled(&self, number: usize, sequence: Option<u64>) -> Option<Self> {
        let mut next = self.clone();
        let slot = next.signals.get_mut(number)?;
        match (*slot, sequence) {
            (Some(Some(first)), Some(again)) if first != again => return None,
            (Some(Some(_)), _) | (Some(None), None) => {}
            (Some(None), Some(told)) => *slot = Some(Some(told)),
            (None, _) if self.end != End::Not => return None,
            (None, Some(told)) if told <= self.last => return None,
            (None, told) => {
                *slot = Some(told);
                next.last = told.unwrap_or(self.last);
            }
        }
        Some(next)
    }
}

/// The rules.
pub(crate) struct Run;

impl Model for Run {
    type State = State;
    type Op = Op;

    fn start(&self) -> State {
        State { is_there: false, signals: [None; SIGNALS], last: 0, is_cancelling: false, end: End::Not }
    }

    fn apply(&self, state: &State, op: &Op) -> Option<State> {
        match op {
            Op::Submit(is_new) => {
                let is_possible = is_new.is_none_or(|is_new| is_new != state.is_there);
                is_possible.then(|| State { is_there: true, ..state.clone() })
            }
            Op::Absent => (!state.is_there).then(|| state.clone()),
            _ if !state.is_there => None,
            Op::Signal(number, sequence) => state.signalled(*number, *sequence),
            Op::Cancel => (state.end == End::Not).then(|| State { is_cancelling: true, ..state.clone() }),
            Op::Refused => (state.end != End::Not).then(|| state.clone()),
            Op::Saw(seen) => state.saw(seen).then(|| state.clone()),
            Op::Showed(end) => (state.end == *end).then(|| state.clone()),
            Op::EndsByItself(end) => {
                let is_due = match end {
                    End::Completed => !state.is_cancelling && state.signals.iter().all(Option::is_some),
                    End::Cancelled => state.is_cancelling,
                    End::Not => false,
                };
                (state.end == End::Not && is_due).then(|| State { end: *end, ..state.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Recorded, Verdict, check};
    use super::*;

    /// Operations one after the other.
    fn verdict(ops: Vec<Op>) -> Verdict {
        let history: Vec<_> = (0..)
            .zip(ops)
            .map(|(n, op)| {
                let ended = (!matches!(op, Op::EndsByItself(_))).then_some(n * 2 + 1);
                Recorded { op, begun: n * 2, ended }
            })
            .collect();
        check(&Run, &history, 10_000)
    }

    fn is_broken(ops: Vec<Op>) -> bool {
        matches!(verdict(ops), Verdict::Broken(_))
    }

    #[test]
    fn a_run_from_start_to_end() {
        let mut ops = vec![Op::Absent, Op::Submit(Some(true)), Op::Submit(Some(false)), Op::Saw(vec![])];
        ops.push(Op::EndsByItself(End::Completed));
        for number in 0..SIGNALS {
            ops.push(Op::Signal(number, Some(10 + number as u64)));
            ops.push(Op::Signal(number, Some(10 + number as u64)));
        }
        ops.push(Op::Saw((0..SIGNALS).map(|number| (number, 10 + number as u64)).collect()));
        ops.extend([Op::Showed(End::Completed), Op::Refused]);
        assert_eq!(verdict(ops), Verdict::Linearizable);
    }

    #[test]
    fn a_run_is_made_once_and_stays() {
        assert!(is_broken(vec![Op::Submit(Some(true)), Op::Submit(Some(true))]));
        assert!(is_broken(vec![Op::Submit(Some(true)), Op::Absent]));
        assert!(is_broken(vec![Op::Submit(Some(false)), Op::Submit(Some(true))]));
        assert!(is_broken(vec![Op::Submit(Some(false)), Op::Absent]));
        assert!(is_broken(vec![Op::Absent, Op::Submit(Some(false)), Op::Saw(vec![])]), "made by nobody");
        let unknown = vec![Op::Absent, Op::Submit(None), Op::Submit(Some(false)), Op::Saw(vec![])];
        assert_eq!(verdict(unknown), Verdict::Linearizable);
    }

    #[test]
    fn a_signal_is_taken_once_and_seen_from_then_on() {
        let submit = Op::Submit(Some(true));
        let taken = Op::Signal(0, Some(3));
        assert!(is_broken(vec![submit.clone(), taken.clone(), Op::Saw(vec![])]), "a stale read");
        assert!(is_broken(vec![submit.clone(), taken.clone(), Op::Saw(vec![(0, 3), (0, 4)])]), "twice");
        assert!(is_broken(vec![submit.clone(), taken.clone(), Op::Signal(0, Some(4))]), "taken again");
        assert!(is_broken(vec![submit.clone(), taken.clone(), Op::Signal(1, Some(2))]), "taken before");
        assert!(is_broken(vec![submit.clone(), Op::Saw(vec![(0, 3)]), taken]), "seen before it was sent");
        assert!(is_broken(vec![submit, Op::Signal(0, None), Op::Saw(vec![]), Op::Saw(vec![(1, 3)])]));
    }

    #[test]
    fn a_run_ends_for_a_reason_and_once() {
        let ends = Op::EndsByItself(End::Cancelled);
        let submit = Op::Submit(Some(true));
        assert!(is_broken(vec![ends.clone(), submit.clone(), Op::Showed(End::Cancelled)]));
        let cancelled = vec![ends.clone(), submit.clone(), Op::Cancel, Op::Showed(End::Not), Op::Refused];
        assert_eq!(verdict(cancelled), Verdict::Linearizable);
        assert!(is_broken(vec![ends, submit, Op::Cancel, Op::Showed(End::Cancelled), Op::Showed(End::Not)]));
    }
}

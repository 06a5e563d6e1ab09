//! Step instances: one step at one place of one run, with all that is known of it.
//!
//! Instances live in an arena and name each other by index. Nothing here decides anything.

use std::sync::Arc;

use serde_json::Value;

use crate::definition::{DecisionOption, SpecIx};
use crate::error::Fault;
use crate::fsm::StepStatus;
use crate::ids::{Sequence, Timestamp};

/// An instance's place in its run's arena.
pub(crate) type InstanceIx = u32;

/// The handle's instance for what the run itself evaluates, its output.
pub(crate) const RUN_ITSELF: InstanceIx = u32::MAX;

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    OnComplete,
    OnError,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The top level, scheduled as a DAG.
    Root,
    /// A lane of a composite: a branch, an iteration, an item.
    Lane { parent: InstanceIx, lane: u32, position: u32 },
    /// A hook of the run.
    Hook(Hook),
    /// The compensation of a completed step.
    Compensation { of: InstanceIx },
}

/// One step at one place.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Full id.
    pub(crate) id: Arc<str>,
    pub(crate) spec: SpecIx,
    pub(crate) place: Place,
    /// As the last event left it; see [`Instance::current`].
    pub(crate) status: StepStatus,
    pub(crate) flags: Flags,
    /// Attempts begun, over all rounds, so that a late result is told from a new one.
    pub(crate) attempt: u32,
    /// Attempts that the retry policy does not count: earlier rounds and interruptions.
    pub(crate) uncounted: u32,
    /// Interruptions in a row: since it began, had a result, or somebody had it go on.
    pub(crate) interruptions: u32,
    /// Dependencies not done yet; top level only.
    pub(crate) unmet: u32,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    /// Since when it has its status, for `/why`.
    pub(crate) since: Timestamp,
    /// When the attempt times out.
    pub(crate) deadline: Option<Timestamp>,
    /// When its wait, its decision's time or its rest before a retry ends.
    pub(crate) timer: Option<Timestamp>,
    /// Its output, or that of the fallback that took its place.
    pub(crate) output: Option<Arc<Value>>,
    pub(crate) error: Option<Arc<Fault>>,
    /// The instance that took this failed one's place.
    pub(crate) stand_in: Option<InstanceIx>,
    /// Failed instances that this one, a fallback, settles with itself.
    pub(crate) stands_for: Vec<InstanceIx>,
    pub(crate) detail: Detail,
}

/// Facts of an instance that are true or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// What is known is of an earlier round of its composite; it counts as pending.
    pub(crate) stale: bool,
    /// It belongs to a definition that the run no longer has.
    pub(crate) gone: bool,
    pub(crate) is_composite: bool,
    pub(crate) is_fallback_only: bool,
    /// A fallback that was called for.
    pub(crate) called: bool,
    /// Done, as its scope sees it.
    pub(crate) settled: bool,
    /// Started while its guard is still being evaluated.
    pub(crate) guard_pending: bool,
    /// Suspended by an interruption.
    pub(crate) interrupted: bool,
    /// Its failure is passed over and its completion is next.
    pub(crate) ignoring: bool,
    /// Its failure calls for a fallback.
    pub(crate) handled: bool,
    /// Its retries are used up.
    pub(crate) exhausted: bool,
    /// Skipped since what is around it ended, so a retry of the run runs it.
    pub(crate) cut_off: bool,
    pub(crate) compensated: bool,
    /// Its child runs, and it waits for the child's end.
    pub(crate) waits_for_child: bool,
}

/// What an instance knows by its type, while it runs and after.
#[derive(Clone, Debug)]
pub(crate) enum Detail {
    None,
    Composite(Box<Composite>),
    Wait(Box<Waiting>),
    Decision(Box<PendingDecision>),
}

/// How far a composite has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Composite {
    /// What a `for_each` or a map goes over.
    pub(crate) items: Option<Arc<Vec<Value>>>,
    /// What a condition chose, and the value that chose it.
    pub(crate) branch: Option<Arc<str>>,
    pub(crate) value: Option<Arc<Value>>,
    /// Branches, iterations or items begun, by number.
    pub(crate) lanes: Vec<Lane>,
    /// Lanes under way.
    pub(crate) open: u32,
    /// Iterations or items reported as ended.
    pub(crate) reported: u64,
    pub(crate) is_race: bool,
    /// The branch that won a race.
    pub(crate) winner: Option<u32>,
    /// The last sub-step that failed for good.
    pub(crate) failed_by: Option<InstanceIx>,
    /// Its last event but `step_completed` is written.
    pub(crate) finished: bool,
}

impl Composite {
    /// Whether its outcome is decided, so that none of its sub-steps starts any more.
    pub(crate) fn is_decided(&self) -> bool {
        self.finished || self.winner.is_some() || self.failure().is_some()
    }

    /// The sub-step by whose failure it fails: any, or in a race the last of all branches.
    pub(crate) fn failure(&self) -> Option<InstanceIx> {
        self.failed_by.filter(|_| !self.is_race || self.open == 0 && self.winner.is_none())
    }
}

/// Sub-steps that run one after another: consecutive instances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) first: InstanceIx,
    pub(crate) count: u32,
    /// The first one that is not done.
    pub(crate) cursor: u32,
    pub(crate) state: LaneState,
}

/// How a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneState {
    Open,
    Done,
    /// Its end was reported, for iterations and items.
    Reported,
    Failed,
}

/// A wait under way.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) signal: Option<Arc<str>>,
    pub(crate) since: Timestamp,
    /// Its output, once it is over.
    pub(crate) output: Option<Arc<Value>>,
}

/// A decision under way.
#[derive(Clone, Debug)]
pub(crate) struct PendingDecision {
    pub(crate) decision_id: Arc<str>,
    pub(crate) context: Value,
    pub(crate) options: Vec<DecisionOption>,
    pub(crate) target_agent: Option<Arc<str>>,
    pub(crate) fallback: Option<Arc<str>>,
    pub(crate) timeout_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    /// Its output, once it is resolved.
    pub(crate) resolution: Option<Arc<Value>>,
}

/// A data signal that nothing has waited for yet.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) sequence: Sequence,
    /// The names it answers to.
    pub(crate) names: [Option<String>; 2],
    pub(crate) payload: Value,
}

impl Instance {
    /// A pending instance.
    pub(crate) fn new(id: Arc<str>, spec: SpecIx, place: Place, flags: Flags, now: Timestamp) -> Self {
        Self {
            id,
            spec,
            place,
            status: StepStatus::Pending,
            flags,
            attempt: 0,
            uncounted: 0,
            interruptions: 0,
            unmet: 0,
            started_at: None,
            completed_at: None,
            since: now,
            deadline: None,
            timer: None,
            output: None,
            error: None,
            stand_in: None,
            stands_for: Vec::new(),
            detail: Detail::None,
        }
    }

    /// Its status in this round.
    pub(crate) fn current(&self) -> StepStatus {
        if self.flags.stale { StepStatus::Pending } else { self.status }
    }

    /// Whether it runs and is neither a composite nor done.
    pub(crate) fn is_active(&self) -> bool {
        match self.current() {
            StepStatus::Scheduled | StepStatus::Running | StepStatus::Suspended | StepStatus::Retrying => {
                true
            }
            StepStatus::Pending | StepStatus::Completed | StepStatus::Failed | StepStatus::Skipped => false,
        }
    }

    /// Its lanes and so on, for a composite that has begun.
    pub(crate) fn composite(&self) -> Option<&Composite> {
        match &self.detail {
            Detail::Composite(composite) => Some(composite),
            Detail::None | Detail::Wait(_) | Detail::Decision(_) => None,
        }
    }

    /// The decision that is pending here.
    pub(crate) fn pending_decision(&self) -> Option<&PendingDecision> {
        match &self.detail {
            Detail::Decision(decision)
                if decision.resolution.is_none() && self.current() == StepStatus::Suspended =>
            {
                Some(decision)
            }
            Detail::Decision(_) | Detail::None | Detail::Wait(_) | Detail::Composite(_) => None,
        }
    }

    /// The id of the decision that was asked for here and not resolved, suspended or about to be.
    pub(crate) fn open_decision(&self) -> Option<Arc<str>> {
        match &self.detail {
            Detail::Decision(decision) if decision.resolution.is_none() && self.is_active() => {
                Some(decision.decision_id.clone())
            }
            Detail::Decision(_) | Detail::None | Detail::Wait(_) | Detail::Composite(_) => None,
        }
    }

    /// The signal waited for here.
    pub(crate) fn awaited_signal(&self) -> Option<&Arc<str>> {
        match &self.detail {
            Detail::Wait(wait) if wait.output.is_none() && self.current() == StepStatus::Suspended => {
                wait.signal.as_ref()
            }
            Detail::Wait(_) | Detail::None | Detail::Composite(_) | Detail::Decision(_) => None,
        }
    }

    /// The earliest of its timers.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        match (self.deadline, self.timer) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

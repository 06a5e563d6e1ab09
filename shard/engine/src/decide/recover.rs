//! Recovery: a run just replayed by a new leader goes on from its events.
//!
//! What completed is not run again, what was decided is not asked again. An action with a side
//! effect that was under way may have happened: it gets `workflow_interrupted` and then its
//! `on_interrupt`; after too many in a row it is a dead letter, left for an operator. Pure actions and evaluations are simply raised again.

use crate::catalogue;
use crate::child;
use crate::definition::{OnInterrupt, StepKind};
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{
    InterruptAction, StepRetrying, StepSuspended, SuspendReason, WorkflowInterrupted,
};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::run::Run;
use crate::run::instance::InstanceIx;

/// Interruptions in a row after which a step is not tried again by itself: it may be what ends the
/// processes that run it. The run waits for an operator then.
pub const INTERRUPTIONS_MAX: u32 = 10;

impl Run {
    /// Whether a step with a side effect was under way when the run was last told anything: on a
    /// run just replayed, whoever ran it may still do so.
    pub fn was_interrupted(&self) -> bool {
        !self.state.status.is_terminal()
            && (0..self.state.instances.len())
                .filter_map(|ix| InstanceIx::try_from(ix).ok())
                .any(|ix| self.interrupted(ix).is_some())
    }

    pub(super) fn recover(&mut self) {
        if self.state.status.is_terminal() || self.state.status == WorkflowStatus::Pending {
            return;
        }
        self.work.running.clear();
        self.work.asked.clear();
        self.work.effects.clear();
        self.work.swept = false;
        for ix in 0..self.state.instances.len() {
            let ix = InstanceIx::try_from(ix).expect("a run's events bound its instances");
            if let Some(on_interrupt) = self.interrupted(ix) {
                self.interrupt(ix, on_interrupt);
            }
        }
        self.state.look_everywhere();
    }

    /// What an interruption does to a step, if it is one.
    fn interrupted(&self, ix: InstanceIx) -> Option<OnInterrupt> {
        let instance = self.state.get(ix);
        let is_under_way = instance.current() == StepStatus::Running
            && !instance.flags.guard_pending
            && !instance.flags.ignoring
            && !instance.flags.gone;
        let spec = self.state.definition.step(instance.spec);
        let StepKind::Action { action, .. } = &spec.kind else { return None };
        // To start a child twice is to start it once, so that is simply raised again too.
        let is_pure = catalogue::find(action).is_some_and(|a| a.is_pure) || &**action == child::ACTION;
        (is_under_way && !is_pure).then_some(spec.on_interrupt)
    }

    fn interrupt(&mut self, ix: InstanceIx, on_interrupt: OnInterrupt) {
        let attempt = self.state.get(ix).attempt;
        let is_last = self.state.get(ix).interruptions + 1 >= INTERRUPTIONS_MAX;
        let dead_letter = is_last && on_interrupt == OnInterrupt::Retry;
        let action = match on_interrupt {
            OnInterrupt::Retry if dead_letter => InterruptAction::Suspend,
            OnInterrupt::Retry => InterruptAction::Retry,
            OnInterrupt::Suspend => InterruptAction::Suspend,
            OnInterrupt::Fail => InterruptAction::Fail,
        };
        self.emit(Some(ix), Body::WorkflowInterrupted(WorkflowInterrupted { attempt, action, dead_letter }));
        match action {
            InterruptAction::Retry if self.state.held => {
                let retrying = StepRetrying {
                    attempt: attempt + 1,
                    at: self.work.now,
                    error: None,
                    interrupted: true,
                    decision_id: None,
                    child: None,
                };
                self.emit(Some(ix), Body::StepRetrying(Box::new(retrying)));
            }
            InterruptAction::Retry => self.next_attempt(ix, true),
            InterruptAction::Suspend => {
                let suspended = StepSuspended { reason: SuspendReason::Interrupted, due: None };
                self.emit(Some(ix), Body::StepSuspended(suspended));
            }
            InterruptAction::Fail => {
                let message = "the step was under way when its shard's process ended";
                self.fail_for_good(ix, Fault::new(Code::ExecutionError, message));
            }
        }
    }
}

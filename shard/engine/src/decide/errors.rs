//! Failures: a further attempt, the step's `on_error`, or the failure of what is around it.

use serde_json::json;

use super::Purpose;
use crate::command::Effect;
use crate::definition::{OnError, StepKind};
use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{
    ErrorHandlerInvoked, HandlerStrategy, SkipReason, StepFailed, StepIgnored, StepRetryAttempt, StepRetrying,
};
use crate::fsm::StepStatus;
use crate::retry;
use crate::run::Run;
use crate::run::instance::{InstanceIx, Place, RUN_ITSELF};

impl Run {
    /// An attempt of a step failed. `exhausted`: below it a step's retries were used up.
    pub(super) fn fail(&mut self, ix: InstanceIx, fault: Fault, exhausted: bool) {
        self.fail_with(ix, fault, exhausted, true);
    }

    /// The same where another attempt would only fail again.
    pub(super) fn fail_for_good(&mut self, ix: InstanceIx, fault: Fault) {
        self.fail_with(ix, fault, false, false);
    }

    fn fail_with(&mut self, ix: InstanceIx, fault: Fault, exhausted: bool, may_retry: bool) {
        let fault = self.place_fault(ix, fault);
        self.stop_below(ix, SkipReason::ParentEnded);
        self.abandon(ix);
        let definition = self.state.definition.clone();
        let instance = self.state.get(ix);
        let spec = definition.step(instance.spec);
        let decision_id = instance.open_decision();
        let child = self.child_to_call_off(ix);
        let policy = match (&spec.retry, spec.on_error) {
            (Some(policy), _) => Some(policy),
            (None, OnError::Retry) => Some(&retry::DEFAULT_POLICY),
            (None, OnError::FailWorkflow | OnError::Ignore | OnError::Fallback(_)) => None,
        };
        // The attempts that count, the one that has just failed included.
        let tried = instance.attempt.saturating_sub(instance.uncounted).max(1);
        let may_retry = may_retry && fault.code.is_retryable();
        if let Some(policy) = policy
            && may_retry
            && tried <= policy.max
        {
            let delay_ms = retry::delay_ms(policy, tried, self.state.id.as_str(), &instance.id);
            let retrying = StepRetrying {
                attempt: instance.attempt + 1,
                at: self.after(delay_ms),
                error: Some(fault),
                interrupted: false,
                decision_id,
                child,
            };
            self.emit(Some(ix), Body::StepRetrying(Box::new(retrying)));
            return;
        }
        let exhausted = exhausted || may_retry && policy.is_some_and(|p| p.max > 0);
        match spec.on_error {
            OnError::Ignore => {
                self.invoke_handler(ix, HandlerStrategy::Ignore, fault.clone());
                self.emit(
                    Some(ix),
                    Body::StepIgnored(Box::new(StepIgnored { error: fault, decision_id, child })),
                );
            }
            OnError::Fallback(_) if self.fallback_of(ix).is_some() => {
                self.invoke_handler(ix, HandlerStrategy::FallbackStep, fault.clone());
                self.emit_failed(ix, fault, exhausted, true);
                self.call_for_fallback(ix);
            }
            OnError::Fallback(_) | OnError::FailWorkflow | OnError::Retry => {
                self.emit_failed(ix, fault, exhausted, false);
            }
        }
    }

    /// A step fails and the run with it, whatever stands around it.
    pub(super) fn fail_fatally(&mut self, ix: InstanceIx, fault: Fault) {
        let error = self.place_fault(ix, fault);
        let failed = StepFailed {
            error,
            exhausted: false,
            fatal: true,
            handled: false,
            decision_id: None,
            child: self.child_to_call_off(ix),
        };
        self.emit(Some(ix), Body::StepFailed(Box::new(failed)));
    }

    fn emit_failed(&mut self, ix: InstanceIx, error: Fault, exhausted: bool, handled: bool) {
        let decision_id = self.state.get(ix).open_decision();
        let child = self.child_to_call_off(ix);
        let failed = StepFailed { error, exhausted, fatal: false, handled, decision_id, child };
        self.emit(Some(ix), Body::StepFailed(Box::new(failed)));
    }

    fn invoke_handler(&mut self, ix: InstanceIx, strategy: HandlerStrategy, error: Fault) {
        let invoked = ErrorHandlerInvoked { strategy, error, forced: false };
        self.emit(Some(ix), Body::ErrorHandlerInvoked(Box::new(invoked)));
    }

    /// The fault with the step it happened in, cut to what fits an event.
    fn place_fault(&self, ix: InstanceIx, fault: Fault) -> Fault {
        let mut fault = bounded(fault);
        fault.step_id.get_or_insert_with(|| self.state.get(ix).id.to_string());
        fault
    }

    /// The instance that is a step's fallback, beside it.
    pub(super) fn fallback_of(&self, ix: InstanceIx) -> Option<InstanceIx> {
        let instance = self.state.get(ix);
        let OnError::Fallback(fallback) = self.state.definition.step(instance.spec).on_error else {
            return None;
        };
        match instance.place {
            Place::Root => {
                let found = self.state.root_of[fallback.0 as usize];
                (found != RUN_ITSELF).then_some(found)
            }
            Place::Lane { parent, lane, .. } => {
                let lane = self.state.get(parent).composite()?.lanes[lane as usize];
                (lane.first..lane.first + lane.count)
                    .find(|&sibling| self.state.get(sibling).spec == fallback)
            }
            Place::Hook(_) | Place::Compensation { .. } => None,
        }
    }

    /// Begins the next attempt of a step whose rest is over.
    pub(super) fn retry_if_rested(&mut self, ix: InstanceIx) {
        let is_rested = self.state.get(ix).timer.is_none_or(|at| at <= self.work.now);
        if is_rested && !self.state.held && self.is_current_place(ix) {
            self.next_attempt(ix, false);
        }
    }

    /// Whether what is around the step still runs.
    fn is_current_place(&self, ix: InstanceIx) -> bool {
        match self.state.get(ix).place {
            Place::Root => self.state.ending.is_none(),
            Place::Lane { parent, .. } => self.state.get(parent).current() == StepStatus::Running,
            Place::Hook(_) | Place::Compensation { .. } => true,
        }
    }

    /// Begins a further attempt; `interrupted`: one that the retry policy does not count.
    pub(super) fn next_attempt(&mut self, ix: InstanceIx, interrupted: bool) {
        let instance = self.state.get(ix);
        let attempt = instance.attempt + 1;
        let due = self.state.definition.step(instance.spec).timeout_ms.map(|ms| self.after(ms));
        self.work.asked.remove(&ix);
        let next = StepRetryAttempt { attempt, due, interrupted, revived: false };
        self.emit(Some(ix), Body::StepRetryAttempt(next));
    }

    /// Stops everything under way below a composite.
    pub(super) fn stop_below(&mut self, ix: InstanceIx, reason: SkipReason) {
        for child in self.active_below(ix) {
            self.stop(child, reason);
        }
    }

    /// Stops one step that is under way.
    pub(super) fn stop(&mut self, ix: InstanceIx, reason: SkipReason) {
        self.abandon(ix);
        self.skip(ix, reason);
    }

    /// What is under way below a composite, the deepest first.
    pub(super) fn active_below(&self, ix: InstanceIx) -> Vec<InstanceIx> {
        let mut found = Vec::new();
        let mut stack = vec![ix];
        while let Some(ix) = stack.pop() {
            let Some(composite) = self.state.get(ix).composite() else { continue };
            for lane in &composite.lanes {
                for child in lane.first..lane.first + lane.count {
                    if self.state.get(child).is_active() {
                        found.push(child);
                        stack.push(child);
                    }
                }
            }
        }
        found.reverse();
        found
    }

    /// Tells whoever works on the step's attempt that it is no longer wanted.
    pub(super) fn abandon(&mut self, ix: InstanceIx) {
        self.work.running.remove(&ix);
        let asked = self.work.asked.remove(&ix);
        let instance = self.state.get(ix);
        let kind = &self.state.definition.step(instance.spec).kind;
        let acts = matches!(kind, StepKind::Action { .. }) && instance.current() == StepStatus::Running;
        if acts || asked.is_some_and(|purpose| !matches!(purpose, Purpose::Output)) {
            let handle = self.handle_of(ix);
            self.work.effects.push(Effect::Abandon(handle));
        }
    }

    /// A step's attempt has run out of time.
    pub(super) fn time_out(&mut self, ix: InstanceIx) {
        let timeout_ms = self.state.definition.step(self.state.get(ix).spec).timeout_ms.unwrap_or(0);
        let fault = Fault::new(Code::TimeoutError, format!("the step took longer than {timeout_ms} ms"));
        self.fail(ix, fault, false);
    }
}

/// The fault with a message and details that fit an event.
pub(super) fn bounded(mut fault: Fault) -> Fault {
    let most = super::EVENT_BYTES_MAX / 8;
    if super::size::json_bytes(&fault.details, most).is_none_or(|bytes| bytes > most) {
        fault.details = json!({ "omitted": "the details of this error are too big" });
    }
    if fault.message.len() > MESSAGE_BYTES_MAX {
        let end = fault.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        fault.message.truncate(end);
        fault.message.push('…');
    }
    fault
}

/// Longest message of a fault, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

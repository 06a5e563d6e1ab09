//! The fold: what each event makes of the state. The only code that changes it.
//!
//! It cannot fail on an event that the rules have just made; on a stored log that is damaged it
//! says what is broken.

use std::sync::Arc;

use super::instance::InstanceIx;
use super::state::State;
use crate::definition::Definition;
use crate::event::{Body, Event};
use crate::fsm::WorkflowStatus;
use crate::ids::DefinitionHash;

/// Finds compiled definitions by hash.
pub(crate) type Definitions<'a> = &'a mut dyn FnMut(DefinitionHash) -> Option<Arc<Definition>>;

impl State {
    /// Folds a stored event, whose step is named by its full id.
    pub(crate) fn fold_stored(&mut self, event: &Event, definitions: Definitions<'_>) -> Result<(), String> {
        self.follows(event)?;
        let step = match &event.step_id {
            None => None,
            Some(id) => Some(*self.by_id.get(id).ok_or_else(|| format!("there is no step {id}"))?),
        };
        self.fold(step, event, definitions)
    }

    /// Folds an event of the step `step`.
    pub(crate) fn fold(
        &mut self,
        step: Option<InstanceIx>,
        event: &Event,
        definitions: Definitions<'_>,
    ) -> Result<(), String> {
        self.follows(event)?;
        self.sequence = event.sequence;
        self.last_at = event.timestamp;
        self.fold_body(step, event, definitions)
            .map_err(|e| format!("event {}, {}: {e}", event.sequence.0, event.body.event_type().as_str()))
    }

    fn follows(&self, event: &Event) -> Result<(), String> {
        if event.sequence == self.sequence.next() {
            return Ok(());
        }
        Err(format!("event {} follows event {}", event.sequence.0, self.sequence.0))
    }

    fn fold_body(
        &mut self,
        step: Option<InstanceIx>,
        event: &Event,
        definitions: Definitions<'_>,
    ) -> Result<(), String> {
        let at = event.timestamp;
        let ix = || step.ok_or_else(|| "it names no step".to_owned());
        match &event.body {
            Body::WorkflowStarted(_) => return Err("it is not the first".into()),
            Body::WorkflowCompleted(e) => self.fold_run_completed(e, at)?,
            Body::WorkflowFailed(e) => self.fold_run_failed(e, at)?,
            Body::WorkflowCancelled(_) => self.finish(WorkflowStatus::Cancelled, at)?,
            Body::WorkflowSuspended(e) => self.fold_run_suspended(e)?,
            Body::WorkflowResumed(e) => self.fold_resumed(e, at, definitions)?,
            Body::WorkflowTimedOut(e) => self.fold_timed_out(e),
            Body::WorkflowInterrupted(_) => self.get_mut(ix()?).interruptions += 1,
            Body::StepScheduled(e) => self.fold_scheduled(ix()?, e, at)?,
            Body::StepStarted(e) => self.fold_started(ix()?, e, at)?,
            Body::StepCompleted(e) => self.fold_completed(ix()?, &e.output, at)?,
            Body::StepFailed(e) => self.fold_failed(ix()?, e, at)?,
            Body::StepSkipped(e) => self.fold_skipped(ix()?, e, at)?,
            Body::StepRetrying(e) => self.fold_retrying(ix()?, e, at)?,
            Body::StepSuspended(e) => self.fold_suspended(ix()?, e, at)?,
            Body::StepRetryAttempt(e) => self.fold_retry_attempt(ix()?, e, at)?,
            Body::StepFallback(e) => self.fold_fallback(ix()?, e)?,
            Body::StepIgnored(e) => self.fold_ignored(ix()?, e, at)?,
            Body::ErrorHandlerInvoked(e) if step.is_none() => self.fold_run_failure(e),
            Body::ErrorHandlerInvoked(_) => {}
            Body::DecisionRequested(e) => self.fold_decision_requested(ix()?, e, at),
            Body::DecisionResolved(e) => self.fold_decision_resolved(ix()?, e, event)?,
            Body::SignalReceived(e) => self.fold_signal(e, event),
            Body::VariableSet(e) => self.set_variable(&e.name, e.value.clone()),
            Body::DagMutated(e) => self.fold_mutated(e, definitions)?,
            Body::CircuitBreakerOpen(_) | Body::CircuitBreakerHalfOpen(_) | Body::CircuitBreakerClosed(_) => {
            }
            Body::ConditionEvaluated(e) => self.fold_condition(ix()?, e)?,
            Body::LoopIterStarted(e) => self.fold_iteration(ix()?, e)?,
            Body::LoopIterCompleted(e) => self.fold_iteration_completed(ix()?, e)?,
            Body::LoopCompleted(_) | Body::ParallelCompleted(_) => self.fold_composite_completed(ix()?)?,
            Body::ParallelStarted(e) => self.fold_parallel(ix()?, e)?,
            Body::WaitStarted(e) => self.fold_wait_started(ix()?, e, at),
            Body::WaitCompleted(e) => self.fold_wait_completed(ix()?, e, at)?,
            Body::CompensationStarted(e) => self.fold_compensation_started(ix()?, &e.compensation)?,
            Body::CompensationCompleted(_) | Body::CompensationFailed(_) => self.fold_compensated(ix()?)?,
            Body::Custom(_) => {}
        }
        Ok(())
    }
}

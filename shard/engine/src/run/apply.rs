//! The fold: what each event makes of the state. The only code that changes it.
//!
//! It cannot fail on an event that the rules have just made; on a stored log that is damaged it
//! says what is broken.

use std::sync::Arc;

use super::instance::{Detail, InstanceIx, LaneState, Mail, PendingDecision, Place, Waiting};
use super::state::{Ending, Look, State, run_fault};
use crate::command::SignalType;
use crate::definition::{Definition, LoopMode, StepKind};
use crate::event::payload::{
    ConditionEvaluated, DecisionRequested, DecisionResolved, LoopIterStarted, ParallelMode, ParallelStarted,
    ResumeCause, SignalReceived, SkipReason, StepFailed, StepRetrying, StepStarted, StepSuspended,
    SuspendReason, TimeoutAction, WaitCompleted, WorkflowResumed, WorkflowTimedOut,
};
use crate::event::{Body, Event};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::{DefinitionHash, Timestamp};

/// Finds compiled definitions by hash.
pub(crate) type Definitions<'a> = &'a mut dyn FnMut(DefinitionHash) -> Option<Arc<Definition>>;

impl State {
    /// Folds a stored event, whose step is named by its full id.
    pub(crate) fn fold_stored(&mut self, event: &Event, definitions: Definitions<'_>) -> Result<(), String> {
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
        if event.sequence != self.sequence.next() {
            return Err(format!("event {} follows event {}", event.sequence.0, self.sequence.0));
        }
        self.sequence = event.sequence;
        self.last_at = event.timestamp;
        match step {
            Some(ix) => self.fold_step(ix, event),
            None => self.fold_run(event, definitions),
        }
        .map_err(|e| format!("event {}, {}: {e}", event.sequence.0, event.body.event_type().as_str()))
    }

    fn fold_run(&mut self, event: &Event, definitions: Definitions<'_>) -> Result<(), String> {
        let at = event.timestamp;
        match &event.body {
            Body::WorkflowCompleted(e) => {
                self.output = Some(e.output.clone());
                self.finish(WorkflowStatus::Completed, at)
            }
            Body::WorkflowFailed(e) => {
                self.error = Some(Arc::new(e.error.clone()));
                self.finish(WorkflowStatus::Failed, at)
            }
            Body::WorkflowCancelled(_) => self.finish(WorkflowStatus::Cancelled, at),
            Body::WorkflowSuspended(e) => {
                self.held |= e.held;
                if self.status != WorkflowStatus::Suspended {
                    self.set_run_status(WorkflowStatus::Suspended)?;
                }
                Ok(())
            }
            Body::WorkflowResumed(e) => self.fold_resumed(e, at, definitions),
            Body::WorkflowTimedOut(e) => {
                self.fold_timed_out(e);
                Ok(())
            }
            Body::ErrorHandlerInvoked(e) => {
                self.forced |= e.forced;
                self.end(Ending::Failed(e.error.clone()));
                Ok(())
            }
            Body::SignalReceived(e) => {
                self.fold_signal(e, event);
                Ok(())
            }
            Body::VariableSet(e) => {
                self.set_variable(&e.name, e.value.clone());
                Ok(())
            }
            Body::DagMutated(e) => {
                let definition = definitions(e.definition)
                    .ok_or_else(|| format!("there is no definition {}", e.definition))?;
                self.replace_definition(definition)
            }
            Body::Custom(_)
            | Body::CircuitBreakerOpen(_)
            | Body::CircuitBreakerHalfOpen(_)
            | Body::CircuitBreakerClosed(_) => Ok(()),
            Body::WorkflowStarted(_)
            | Body::WorkflowInterrupted(_)
            | Body::StepScheduled(_)
            | Body::StepStarted(_)
            | Body::StepCompleted(_)
            | Body::StepFailed(_)
            | Body::StepSkipped(_)
            | Body::StepRetrying(_)
            | Body::StepSuspended(_)
            | Body::StepRetryAttempt(_)
            | Body::StepFallback(_)
            | Body::StepIgnored(_)
            | Body::DecisionRequested(_)
            | Body::DecisionResolved(_)
            | Body::ConditionEvaluated(_)
            | Body::LoopIterStarted(_)
            | Body::LoopIterCompleted(_)
            | Body::LoopCompleted(_)
            | Body::ParallelStarted(_)
            | Body::ParallelCompleted(_)
            | Body::WaitStarted(_)
            | Body::WaitCompleted(_)
            | Body::CompensationStarted(_)
            | Body::CompensationCompleted(_)
            | Body::CompensationFailed(_) => Err("it names no step, or is not the first".into()),
        }
    }

    fn fold_step(&mut self, ix: InstanceIx, event: &Event) -> Result<(), String> {
        let at = event.timestamp;
        match &event.body {
            Body::StepScheduled(e) if e.reset => self.fold_reset(ix),
            Body::StepScheduled(_) => self.set_status(ix, StepStatus::Scheduled, at),
            Body::StepStarted(e) => self.fold_started(ix, e, at),
            Body::StepCompleted(e) => self.fold_completed(ix, &e.output, at),
            Body::StepFailed(e) => self.fold_failed(ix, e, at),
            Body::StepSkipped(e) => {
                self.set_status(ix, StepStatus::Skipped, at)?;
                self.set_timers(ix, None, None, false);
                let instance = self.get_mut(ix);
                instance.completed_at = Some(at);
                instance.flags.cut_off = matches!(e.reason, SkipReason::Cancelled | SkipReason::RunFailed);
                self.settle(ix);
                Ok(())
            }
            Body::StepRetrying(e) => self.fold_retrying(ix, e, at),
            Body::StepSuspended(e) => self.fold_suspended(ix, e, at),
            Body::StepRetryAttempt(e) => {
                self.discard_children(ix);
                self.set_status(ix, StepStatus::Running, at)?;
                self.set_timers(ix, e.due, None, false);
                let instance = self.get_mut(ix);
                instance.attempt = e.attempt;
                instance.uncounted += u32::from(e.interrupted);
                instance.flags.interrupted = false;
                instance.detail = Detail::None;
                self.agenda.push_back(Look::Step(ix));
                Ok(())
            }
            Body::StepFallback(e) => {
                let fallback = *self.by_id.get(&e.fallback_step).ok_or("the fallback does not exist")?;
                self.call_fallback(ix, fallback);
                Ok(())
            }
            Body::StepIgnored(e) => {
                let instance = self.get_mut(ix);
                instance.error = Some(Arc::new(e.error.clone()));
                instance.flags.ignoring = true;
                self.agenda.push_back(Look::Step(ix));
                Ok(())
            }
            Body::VariableSet(e) => {
                self.set_variable(&e.name, e.value.clone());
                Ok(())
            }
            Body::SignalReceived(e) => {
                self.fold_signal(e, event);
                Ok(())
            }
            Body::CompensationStarted(e) => self.fold_compensation_started(ix, &e.compensation),
            Body::CompensationCompleted(_) | Body::CompensationFailed(_) => {
                if self.compensable.pop() != Some(ix) {
                    return Err("it was not the next to be compensated".into());
                }
                self.get_mut(ix).flags.compensated = true;
                self.agenda.push_back(Look::Run);
                Ok(())
            }
            Body::DecisionRequested(_)
            | Body::DecisionResolved(_)
            | Body::ConditionEvaluated(_)
            | Body::LoopIterStarted(_)
            | Body::LoopIterCompleted(_)
            | Body::LoopCompleted(_)
            | Body::ParallelStarted(_)
            | Body::ParallelCompleted(_)
            | Body::WaitStarted(_)
            | Body::WaitCompleted(_) => self.fold_progress(ix, event),
            Body::WorkflowInterrupted(_)
            | Body::ErrorHandlerInvoked(_)
            | Body::Custom(_)
            | Body::CircuitBreakerOpen(_)
            | Body::CircuitBreakerHalfOpen(_)
            | Body::CircuitBreakerClosed(_) => Ok(()),
            Body::WorkflowStarted(_)
            | Body::WorkflowCompleted(_)
            | Body::WorkflowFailed(_)
            | Body::WorkflowCancelled(_)
            | Body::WorkflowSuspended(_)
            | Body::WorkflowResumed(_)
            | Body::WorkflowTimedOut(_)
            | Body::DagMutated(_) => Err("it names a step".into()),
        }
    }

    /// Events of a step that runs, by its type.
    fn fold_progress(&mut self, ix: InstanceIx, event: &Event) -> Result<(), String> {
        let at = event.timestamp;
        match &event.body {
            Body::DecisionRequested(e) => {
                self.fold_decision_requested(ix, e, at);
                Ok(())
            }
            Body::DecisionResolved(e) => self.fold_decision_resolved(ix, e, event),
            Body::ConditionEvaluated(e) => self.fold_condition(ix, e),
            Body::LoopIterStarted(e) => self.fold_iteration(ix, e),
            Body::LoopIterCompleted(e) => {
                let composite = self.composite_mut(ix)?;
                let lane = usize::try_from(e.index).ok().and_then(|index| composite.lanes.get_mut(index));
                match lane {
                    Some(lane) if lane.state == LaneState::Done => lane.state = LaneState::Reported,
                    _ => return Err("its iteration has not ended".into()),
                }
                composite.reported += 1;
                self.agenda.push_back(Look::Step(ix));
                Ok(())
            }
            Body::LoopCompleted(_) | Body::ParallelCompleted(_) => {
                self.composite_mut(ix)?.finished = true;
                self.agenda.push_back(Look::Step(ix));
                Ok(())
            }
            Body::ParallelStarted(e) => self.fold_parallel(ix, e),
            Body::WaitStarted(e) => {
                let deadline = self.get(ix).deadline;
                self.set_timers(ix, deadline, e.until, false);
                let wait = Waiting { signal: e.signal.clone(), since: at, output: None };
                self.get_mut(ix).detail = Detail::Wait(Box::new(wait));
                self.agenda.push_back(Look::Step(ix));
                Ok(())
            }
            Body::WaitCompleted(e) => self.fold_wait_completed(ix, e, at),
            _ => unreachable!("its one caller picks these"),
        }
    }

    fn set_run_status(&mut self, to: WorkflowStatus) -> Result<(), String> {
        if !self.status.can_become(to) {
            return Err(format!("a run cannot go from {} to {}", self.status.as_str(), to.as_str()));
        }
        self.status = to;
        Ok(())
    }

    fn finish(&mut self, to: WorkflowStatus, at: Timestamp) -> Result<(), String> {
        if to == WorkflowStatus::Completed && self.status == WorkflowStatus::Suspended {
            return Err("a suspended run cannot complete".into());
        }
        self.set_run_status(to)?;
        self.completed_at = Some(at);
        self.held = false;
        self.set_due(None);
        self.agenda.clear();
        Ok(())
    }

    fn fold_resumed(
        &mut self,
        e: &WorkflowResumed,
        at: Timestamp,
        definitions: Definitions<'_>,
    ) -> Result<(), String> {
        match e.cause {
            ResumeCause::Retry => {
                if !self.status.can_retry() {
                    return Err("the run has not ended".into());
                }
                self.fold_run_retry(e, definitions)?;
            }
            ResumeCause::Started | ResumeCause::Unblocked | ResumeCause::Operator => {
                self.set_run_status(WorkflowStatus::Active)?;
            }
        }
        if self.started_at.is_none() {
            self.started_at = Some(at);
            self.show_workflow();
        }
        self.set_due(e.due);
        if e.cause != ResumeCause::Unblocked {
            self.held = false;
            self.look_everywhere();
        }
        Ok(())
    }

    fn fold_run_retry(&mut self, e: &WorkflowResumed, definitions: Definitions<'_>) -> Result<(), String> {
        self.status = WorkflowStatus::Active;
        self.attempt = e.attempt.unwrap_or(self.attempt + 1);
        (self.ending, self.forced, self.held) = (None, false, false);
        (self.output, self.error, self.completed_at) = (None, None, None);
        if let Some(params) = &e.params {
            self.params = params.clone();
        }
        if let Some(version) = &e.version {
            self.version = Some(version.clone());
        }
        for hook in self.hooks.into_iter().flatten() {
            self.discard_children(hook);
            self.get_mut(hook).flags.stale = true;
            self.get_mut(hook).flags.settled = false;
        }
        if let Some(hash) = e.definition {
            let definition = definitions(hash).ok_or_else(|| format!("there is no definition {hash}"))?;
            self.replace_definition(definition)?;
        }
        self.show_workflow();
        self.count_dependencies();
        Ok(())
    }

    fn fold_timed_out(&mut self, e: &WorkflowTimedOut) {
        self.set_due(None);
        match e.action {
            TimeoutAction::Fail => self.end(Ending::Failed(e.error.clone())),
            TimeoutAction::Cancel => {
                self.end(Ending::Cancelled { reason: Some(e.error.message.clone()), agent_id: None });
            }
            TimeoutAction::Suspend => {
                self.held = true;
                self.agenda.push_back(Look::Run);
            }
        }
    }

    fn fold_signal(&mut self, e: &SignalReceived, event: &Event) {
        if let Some(id) = &e.signal_id {
            self.delivered.insert(id.clone(), event.sequence);
        }
        match e.kind {
            SignalType::Data => {
                let name = e.payload.get("name").and_then(|n| n.as_str()).map(str::to_owned);
                let names = [name, e.target.clone()];
                self.mailbox.push(Mail { sequence: event.sequence, names, payload: e.payload.clone() });
                for ix in &self.suspended {
                    if self.instances[*ix as usize].awaited_signal().is_some() {
                        self.agenda.push_back(Look::Step(*ix));
                    }
                }
            }
            SignalType::Cancel => {
                self.forced |= self.ending.is_some();
                self.end(Ending::Cancelled { reason: e.reason.clone(), agent_id: event.agent_id.clone() });
            }
            SignalType::Decision | SignalType::Retry | SignalType::Skip => {}
        }
    }

    fn set_variable(&mut self, name: &str, value: serde_json::Value) {
        let context = Arc::make_mut(&mut self.context);
        if let Some(map) = context.as_object_mut() {
            map.insert(name.to_owned(), value);
        }
    }

    /// A top-level step is to run again.
    fn fold_reset(&mut self, ix: InstanceIx) -> Result<(), String> {
        if !self.status.can_retry() || self.get(ix).place != Place::Root {
            return Err("only a top-level step of a run that has ended is reset".into());
        }
        self.discard_children(ix);
        self.compensable.retain(|&c| c != ix);
        self.forget(ix);
        Ok(())
    }

    fn fold_started(&mut self, ix: InstanceIx, e: &StepStarted, at: Timestamp) -> Result<(), String> {
        let instance = self.get(ix);
        if e.attempt <= instance.attempt {
            return Err(format!("attempt {} follows attempt {}", e.attempt, instance.attempt));
        }
        self.set_status(ix, StepStatus::Running, at)?;
        self.set_timers(ix, e.due, None, false);
        let instance = self.get_mut(ix);
        instance.attempt = e.attempt;
        instance.uncounted = e.attempt - 1;
        instance.started_at = Some(at);
        instance.flags.guard_pending = e.guard_pending;
        if let Place::Hook(super::instance::Hook::OnComplete) = instance.place {
            self.end(Ending::Completed);
        }
        Ok(())
    }

    fn fold_completed(
        &mut self,
        ix: InstanceIx,
        output: &Arc<serde_json::Value>,
        at: Timestamp,
    ) -> Result<(), String> {
        self.set_status(ix, StepStatus::Completed, at)?;
        self.set_timers(ix, None, None, false);
        let definition = self.definition.clone();
        let instance = self.get_mut(ix);
        instance.output = Some(output.clone());
        instance.completed_at = Some(at);
        let spec = definition.step(instance.spec);
        let is_compensation = matches!(instance.place, Place::Compensation { .. });
        if let Some(compensation) = spec.compensate
            && !instance.flags.ignoring
            && !is_compensation
        {
            let id = format!("{}.compensate.{}", instance.id, definition.step(compensation).id);
            self.compensable.push(ix);
            // One of an earlier attempt of the run undid that attempt's step, not this one.
            if let Some(&earlier) = self.by_id.get(id.as_str()) {
                let flags = &mut self.get_mut(earlier).flags;
                (flags.stale, flags.settled) = (true, false);
            }
        }
        self.settle(ix);
        Ok(())
    }

    fn fold_failed(&mut self, ix: InstanceIx, e: &StepFailed, at: Timestamp) -> Result<(), String> {
        self.set_status(ix, StepStatus::Failed, at)?;
        self.set_timers(ix, None, None, false);
        let instance = self.get_mut(ix);
        instance.error = Some(Arc::new(e.error.clone()));
        instance.completed_at = Some(at);
        instance.flags.exhausted = e.exhausted;
        instance.flags.handled = e.handled;
        let (place, attempts) = (instance.place, instance.attempt - instance.uncounted.min(instance.attempt));
        if e.handled {
            self.agenda.push_back(Look::Step(ix));
            return Ok(());
        }
        if e.fatal {
            self.end(Ending::Failed(e.error.clone()));
        }
        match place {
            Place::Root => self.end(Ending::Failed(run_fault(&e.error, e.exhausted, attempts))),
            Place::Lane { parent, lane, .. } => self.fail_lane(parent, lane, ix),
            Place::Hook(_) | Place::Compensation { .. } => {
                self.get_mut(ix).flags.settled = true;
                self.agenda.push_back(Look::Run);
            }
        }
        Ok(())
    }

    fn fold_retrying(&mut self, ix: InstanceIx, e: &StepRetrying, at: Timestamp) -> Result<(), String> {
        self.set_status(ix, StepStatus::Retrying, at)?;
        self.set_timers(ix, None, Some(e.at), true);
        let instance = self.get_mut(ix);
        instance.error = e.error.clone().map(Arc::new);
        instance.uncounted += u32::from(e.interrupted);
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    fn fold_suspended(&mut self, ix: InstanceIx, e: &StepSuspended, at: Timestamp) -> Result<(), String> {
        self.set_status(ix, StepStatus::Suspended, at)?;
        if e.reason == SuspendReason::Interrupted {
            self.set_timers(ix, None, None, false);
            let instance = self.get_mut(ix);
            instance.flags.interrupted = true;
            instance.detail = Detail::None;
        } else {
            self.agenda.push_back(Look::Step(ix));
        }
        Ok(())
    }

    fn fold_decision_requested(&mut self, ix: InstanceIx, e: &DecisionRequested, at: Timestamp) {
        let deadline = self.get(ix).deadline;
        self.set_timers(ix, deadline, e.timeout_at, false);
        self.get_mut(ix).detail = Detail::Decision(Box::new(PendingDecision {
            decision_id: e.decision_id.clone(),
            context: e.context.clone(),
            options: e.options.clone(),
            target_agent: e.target_agent.clone(),
            fallback: e.fallback.clone(),
            timeout_at: e.timeout_at,
            created_at: at,
            resolution: None,
        }));
        self.agenda.push_back(Look::Step(ix));
    }

    fn fold_decision_resolved(
        &mut self,
        ix: InstanceIx,
        e: &DecisionResolved,
        event: &Event,
    ) -> Result<(), String> {
        if let Some(id) = &e.signal_id {
            self.delivered.insert(id.clone(), event.sequence);
        }
        self.set_status(ix, StepStatus::Running, event.timestamp)?;
        let deadline = self.get(ix).deadline;
        self.set_timers(ix, deadline, None, false);
        match &mut self.get_mut(ix).detail {
            Detail::Decision(decision) => decision.resolution = Some(e.resolution.clone()),
            Detail::None | Detail::Wait(_) | Detail::Composite(_) => {
                return Err("no decision is pending".into());
            }
        }
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    fn fold_wait_completed(
        &mut self,
        ix: InstanceIx,
        e: &WaitCompleted,
        at: Timestamp,
    ) -> Result<(), String> {
        if self.get(ix).current() == StepStatus::Suspended {
            self.set_status(ix, StepStatus::Running, at)?;
        }
        let deadline = self.get(ix).deadline;
        self.set_timers(ix, deadline, None, false);
        if let Some(sequence) = e.signal {
            self.mailbox.retain(|mail| mail.sequence != sequence);
        }
        match &mut self.get_mut(ix).detail {
            Detail::Wait(wait) => wait.output = Some(e.output.clone()),
            Detail::None | Detail::Decision(_) | Detail::Composite(_) => return Err("no wait began".into()),
        }
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    fn fold_condition(&mut self, ix: InstanceIx, e: &ConditionEvaluated) -> Result<(), String> {
        if std::mem::take(&mut self.get_mut(ix).flags.guard_pending) {
            self.agenda.push_back(Look::Step(ix));
            return Ok(());
        }
        let composite = self.composite_mut(ix)?;
        composite.value = Some(Arc::new(e.value.clone()));
        composite.branch.clone_from(&e.branch);
        self.agenda.push_back(Look::Step(ix));
        let Some(branch) = &e.branch else { return Ok(()) };
        let definition = self.definition.clone();
        let StepKind::Condition { branches, default, .. } = &definition.step(self.get(ix).spec).kind else {
            return Err("the step is no condition".into());
        };
        let chosen = branches.iter().find(|(name, _)| name == branch).map(|(_, steps)| steps);
        let steps = chosen.or(default.as_ref()).ok_or("the step has no such branch")?;
        self.open_lane(ix, branch, steps)
    }

    fn fold_iteration(&mut self, ix: InstanceIx, e: &LoopIterStarted) -> Result<(), String> {
        let definition = self.definition.clone();
        let (body, prefix) = match &definition.step(self.get(ix).spec).kind {
            StepKind::Loop { body, mode, .. } => {
                if let (LoopMode::ForEach(_), 0, None) = (mode, e.index, &e.items) {
                    return Err("its items are missing".into());
                }
                (body, "iter")
            }
            StepKind::Map { body, .. } => (body, "item"),
            StepKind::Action { .. }
            | StepKind::Condition { .. }
            | StepKind::All { .. }
            | StepKind::Race { .. }
            | StepKind::Wait(_)
            | StepKind::Reasoning(_) => return Err("the step has no iterations".into()),
        };
        let composite = self.composite_mut(ix)?;
        if usize::try_from(e.index) != Ok(composite.lanes.len()) {
            return Err("it is not the next iteration".into());
        }
        if let Some(items) = &e.items {
            composite.items = Some(items.clone());
        }
        self.open_lane(ix, &format!("{prefix}_{}", e.index), body)
    }

    fn fold_parallel(&mut self, ix: InstanceIx, e: &ParallelStarted) -> Result<(), String> {
        let definition = self.definition.clone();
        match (&definition.step(self.get(ix).spec).kind, e.mode) {
            (StepKind::All { branches }, ParallelMode::All)
            | (StepKind::Race { branches }, ParallelMode::Race) => {
                self.composite_mut(ix)?;
                for (number, steps) in branches.iter().enumerate() {
                    self.open_lane(ix, &format!("branch_{number}"), steps)?;
                }
            }
            (StepKind::Map { .. }, ParallelMode::Map) => {
                let items = e.items.clone().ok_or("its items are missing")?;
                self.composite_mut(ix)?.items = Some(items);
            }
            _ => return Err("the step is of another mode".into()),
        }
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    fn fold_compensation_started(&mut self, of: InstanceIx, id: &Arc<str>) -> Result<(), String> {
        let spec =
            self.definition.step(self.get(of).spec).compensate.ok_or("the step has no compensation")?;
        let place = Place::Compensation { of };
        let ix = match self.by_id.get(id) {
            Some(&ix) => {
                self.discard_children(ix);
                self.forget(ix);
                ix
            }
            None => self.create(id.clone(), spec, place),
        };
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }
}

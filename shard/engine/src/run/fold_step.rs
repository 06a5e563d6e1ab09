//! The fold of events of one step: attempts, results, and how far a running step has come.

use std::sync::Arc;

use super::instance::{Detail, Hook, InstanceIx, LaneState, PendingDecision, Place, Waiting};
use super::state::{Ending, Look, State, run_fault};
use crate::definition::{LoopMode, StepKind};
use crate::event::Event;
use crate::event::payload::{
    ConditionEvaluated, DecisionRequested, DecisionResolved, LoopIterCompleted, LoopIterStarted,
    ParallelMode, ParallelStarted, SkipReason, StepFailed, StepFallback, StepIgnored, StepRetryAttempt,
    StepRetrying, StepScheduled, StepSkipped, StepStarted, StepSuspended, SuspendReason, WaitCompleted,
    WaitStarted,
};
use crate::fsm::StepStatus;
use crate::ids::Timestamp;

impl State {
    pub(super) fn fold_scheduled(
        &mut self,
        ix: InstanceIx,
        e: &StepScheduled,
        at: Timestamp,
    ) -> Result<(), String> {
        if e.reset { self.fold_reset(ix) } else { self.set_status(ix, StepStatus::Scheduled, at) }
    }

    pub(super) fn fold_skipped(
        &mut self,
        ix: InstanceIx,
        e: &StepSkipped,
        at: Timestamp,
    ) -> Result<(), String> {
        self.set_status(ix, StepStatus::Skipped, at)?;
        self.set_timers(ix, None, None, false);
        let instance = self.get_mut(ix);
        instance.completed_at = Some(at);
        instance.flags.cut_off = match e.reason {
            SkipReason::Cancelled | SkipReason::RunFailed | SkipReason::ParentEnded => true,
            SkipReason::Condition | SkipReason::Signal | SkipReason::RaceLost => false,
        };
        self.settle(ix);
        Ok(())
    }

    pub(super) fn fold_retry_attempt(
        &mut self,
        ix: InstanceIx,
        e: &StepRetryAttempt,
        at: Timestamp,
    ) -> Result<(), String> {
        if e.attempt <= self.get(ix).attempt {
            return Err(format!("attempt {} follows attempt {}", e.attempt, self.get(ix).attempt));
        }
        if e.revived {
            self.revive(ix, at)?;
        } else {
            self.discard_children(ix);
            self.set_status(ix, StepStatus::Running, at)?;
            self.get_mut(ix).detail = Detail::None;
        }
        self.set_timers(ix, e.due, None, false);
        let instance = self.get_mut(ix);
        instance.attempt = e.attempt;
        if e.revived {
            instance.uncounted = e.attempt - 1;
        } else {
            instance.uncounted += u32::from(e.interrupted);
        }
        if instance.flags.interrupted {
            instance.interruptions = 0;
        }
        instance.flags.interrupted = false;
        instance.flags.waits_for_child = false;
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    pub(super) fn fold_fallback(&mut self, ix: InstanceIx, e: &StepFallback) -> Result<(), String> {
        let fallback = self.named(&e.fallback_step).ok_or("the fallback does not exist")?;
        self.call_fallback(ix, fallback);
        Ok(())
    }

    pub(super) fn fold_ignored(
        &mut self,
        ix: InstanceIx,
        e: &StepIgnored,
        at: Timestamp,
    ) -> Result<(), String> {
        if self.get(ix).current() != StepStatus::Running {
            self.set_status(ix, StepStatus::Running, at)?;
        }
        self.set_timers(ix, None, None, false);
        let instance = self.get_mut(ix);
        instance.error = Some(Arc::new(e.error.clone()));
        instance.flags.ignoring = true;
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    pub(super) fn fold_iteration_completed(
        &mut self,
        ix: InstanceIx,
        e: &LoopIterCompleted,
    ) -> Result<(), String> {
        let composite = self.composite_mut(ix)?;
        match usize::try_from(e.index).ok().and_then(|index| composite.lanes.get_mut(index)) {
            Some(lane) if lane.state == LaneState::Done => lane.state = LaneState::Reported,
            Some(_) | None => return Err("its iteration has not ended".into()),
        }
        composite.reported += 1;
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    pub(super) fn fold_composite_completed(&mut self, ix: InstanceIx) -> Result<(), String> {
        self.composite_mut(ix)?.finished = true;
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    pub(super) fn fold_wait_started(&mut self, ix: InstanceIx, e: &WaitStarted, at: Timestamp) {
        if e.child.is_some() {
            self.get_mut(ix).flags.waits_for_child = true;
            return;
        }
        let deadline = self.get(ix).deadline;
        self.set_timers(ix, deadline, e.until, false);
        let wait = Waiting { signal: e.signal.clone(), since: at, output: None };
        self.get_mut(ix).detail = Detail::Wait(Box::new(wait));
        self.agenda.push_back(Look::Step(ix));
    }

    pub(super) fn fold_compensated(&mut self, of: InstanceIx) -> Result<(), String> {
        if self.compensable.pop() != Some(of) {
            return Err("it was not the next to be compensated".into());
        }
        self.get_mut(of).flags.compensated = true;
        self.agenda.push_back(Look::Run);
        Ok(())
    }

    /// A step of a run that is run again has to run again.
    pub(super) fn fold_reset(&mut self, ix: InstanceIx) -> Result<(), String> {
        if !self.status.can_retry() {
            return Err("only a step of a run that has ended is reset".into());
        }
        self.discard_children(ix);
        self.compensable.retain(|&c| c != ix);
        self.forget(ix);
        self.reopen_lane_of(ix);
        Ok(())
    }

    pub(super) fn fold_started(
        &mut self,
        ix: InstanceIx,
        e: &StepStarted,
        at: Timestamp,
    ) -> Result<(), String> {
        let instance = self.get(ix);
        if e.attempt <= instance.attempt {
            return Err(format!("attempt {} follows attempt {}", e.attempt, instance.attempt));
        }
        self.set_status(ix, StepStatus::Running, at)?;
        self.set_timers(ix, e.due, None, false);
        let instance = self.get_mut(ix);
        instance.attempt = e.attempt;
        instance.uncounted = e.attempt - 1;
        instance.interruptions = 0;
        instance.started_at = Some(at);
        instance.flags.guard_pending = e.guard_pending;
        instance.flags.waits_for_child = false;
        if let Place::Hook(Hook::OnComplete) = instance.place {
            self.end(Ending::Completed);
        }
        Ok(())
    }

    pub(super) fn fold_completed(
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
            if let Some(earlier) = self.named(&id) {
                let flags = &mut self.get_mut(earlier).flags;
                (flags.stale, flags.settled) = (true, false);
            }
        }
        self.settle(ix);
        Ok(())
    }

    pub(super) fn fold_failed(
        &mut self,
        ix: InstanceIx,
        e: &StepFailed,
        at: Timestamp,
    ) -> Result<(), String> {
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

    pub(super) fn fold_retrying(
        &mut self,
        ix: InstanceIx,
        e: &StepRetrying,
        at: Timestamp,
    ) -> Result<(), String> {
        self.set_status(ix, StepStatus::Retrying, at)?;
        self.set_timers(ix, None, Some(e.at), true);
        let instance = self.get_mut(ix);
        instance.error = e.error.clone().map(Arc::new);
        if e.error.is_some() {
            instance.interruptions = 0;
        }
        instance.uncounted += u32::from(e.interrupted);
        self.agenda.push_back(Look::Step(ix));
        Ok(())
    }

    pub(super) fn fold_suspended(
        &mut self,
        ix: InstanceIx,
        e: &StepSuspended,
        at: Timestamp,
    ) -> Result<(), String> {
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

    pub(super) fn fold_decision_requested(&mut self, ix: InstanceIx, e: &DecisionRequested, at: Timestamp) {
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

    pub(super) fn fold_decision_resolved(
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

    pub(super) fn fold_wait_completed(
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

    pub(super) fn fold_condition(&mut self, ix: InstanceIx, e: &ConditionEvaluated) -> Result<(), String> {
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

    pub(super) fn fold_iteration(&mut self, ix: InstanceIx, e: &LoopIterStarted) -> Result<(), String> {
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

    pub(super) fn fold_parallel(&mut self, ix: InstanceIx, e: &ParallelStarted) -> Result<(), String> {
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

    pub(super) fn fold_compensation_started(&mut self, of: InstanceIx, id: &Arc<str>) -> Result<(), String> {
        let spec =
            self.definition.step(self.get(of).spec).compensate.ok_or("the step has no compensation")?;
        let place = Place::Compensation { of };
        let ix = match self.named(id) {
            Some(ix) => {
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

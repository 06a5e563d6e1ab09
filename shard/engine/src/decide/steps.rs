//! Steps: when one may start, what its start is, and what its result does.

use std::sync::Arc;

use serde_json::Value;

use super::{EVENT_BYTES_MAX, Purpose, size};
use crate::catalogue;
use crate::command::{Effect, Emission, StepHandle};
use crate::definition::StepKind;
use crate::error::{Code, Fault};
use crate::event::payload::{
    Breaker, Custom, SkipReason, StepCompleted, StepFallback, StepScheduled, StepSkipped, StepStarted,
    VariableSet,
};
use crate::event::{Body, NOTICE};
use crate::fsm::StepStatus;
use crate::run::Run;
use crate::run::instance::{InstanceIx, LaneState, Place};

/// Most bytes of the run's `context`, all variables together.
const CONTEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Run {
    /// Does what follows from a step's own state, if anything.
    pub(super) fn look_at_step(&mut self, ix: InstanceIx) {
        let instance = self.state.get(ix);
        if instance.flags.gone {
            return;
        }
        match instance.current() {
            StepStatus::Pending | StepStatus::Scheduled => self.start_if_ready(ix),
            StepStatus::Running => self.go_on(ix),
            StepStatus::Suspended => {
                self.look_at_mail(ix);
            }
            StepStatus::Retrying => self.retry_if_rested(ix),
            StepStatus::Failed => {
                if instance.flags.handled && instance.stand_in.is_none() && !instance.flags.stale {
                    self.call_for_fallback(ix);
                }
            }
            StepStatus::Completed | StepStatus::Skipped => {}
        }
    }

    /// Whether a pending step's turn has come.
    fn is_ready(&self, ix: InstanceIx) -> bool {
        let instance = self.state.get(ix);
        if instance.flags.settled {
            return false;
        }
        let may_run = !instance.flags.is_fallback_only || instance.flags.called;
        match instance.place {
            Place::Root => {
                self.state.ending.is_none() && may_run && (instance.unmet == 0 || instance.flags.called)
            }
            Place::Lane { parent, lane, position } => {
                let parent = self.state.get(parent);
                let is_running = parent.current() == StepStatus::Running && !parent.flags.ignoring;
                let composite = parent.composite().filter(|c| is_running && !c.is_decided());
                composite.is_some_and(|composite| {
                    let lane = &composite.lanes[lane as usize];
                    let turn = lane.cursor == position && may_run || instance.flags.called;
                    lane.state == LaneState::Open && turn
                })
            }
            Place::Hook(_) | Place::Compensation { .. } => true,
        }
    }

    pub(super) fn start_if_ready(&mut self, ix: InstanceIx) {
        if !self.is_ready(ix) || !self.is_wanted(ix) {
            return;
        }
        if self.state.held {
            if self.state.get(ix).current() == StepStatus::Pending {
                self.emit(Some(ix), Body::StepScheduled(StepScheduled { reset: false }));
            }
            return;
        }
        let definition = self.state.definition.clone();
        if definition.step(self.state.get(ix).spec).guard.is_some() {
            self.ask(ix, Purpose::Guard);
        } else {
            self.start_step(ix, false);
            self.go_on(ix);
        }
    }

    /// Hooks and compensations are looked at everywhere too, and start only when called for.
    fn is_wanted(&self, ix: InstanceIx) -> bool {
        match self.state.get(ix).place {
            Place::Root | Place::Lane { .. } => true,
            Place::Hook(hook) => self.hook_is_due(hook),
            Place::Compensation { of } => self.state.compensable.last() == Some(&of) && !self.state.forced,
        }
    }

    pub(super) fn start_step(&mut self, ix: InstanceIx, guard_pending: bool) {
        let instance = self.state.get(ix);
        let attempt = instance.attempt + 1;
        let due = self.state.definition.step(instance.spec).timeout_ms.map(|ms| self.after(ms));
        self.emit(Some(ix), Body::StepStarted(StepStarted { attempt, due, guard_pending }));
    }

    pub(super) fn skip(&mut self, ix: InstanceIx, reason: SkipReason) {
        let decision_id = self.state.get(ix).open_decision();
        let child = self.child_to_call_off(ix);
        self.emit(Some(ix), Body::StepSkipped(StepSkipped { reason, decision_id, child }));
    }

    /// Does what a running step does next, found from how far it has come.
    pub(super) fn go_on(&mut self, ix: InstanceIx) {
        let instance = self.state.get(ix);
        if instance.flags.ignoring {
            self.emit(Some(ix), Body::StepCompleted(StepCompleted { output: Arc::new(Value::Null) }));
            return;
        }
        if let Some(by) = instance.composite().and_then(|composite| composite.failure()) {
            return self.fail_by(ix, by);
        }
        if self.work.asked.contains_key(&ix) {
            return;
        }
        if instance.flags.guard_pending {
            self.ask(ix, Purpose::Guard);
            return;
        }
        let definition = self.state.definition.clone();
        match &definition.step(instance.spec).kind {
            StepKind::Action { action, .. } if self.runs_child(ix) => self.execute_child(ix, action.clone()),
            StepKind::Action { action, .. } => self.execute(ix, action.clone()),
            StepKind::Condition { .. } => self.go_on_condition(ix),
            StepKind::Loop { mode, .. } => self.go_on_loop(ix, mode),
            StepKind::All { .. } | StepKind::Race { .. } => self.go_on_branches(ix),
            StepKind::Map { concurrency_max, .. } => self.go_on_map(ix, *concurrency_max),
            StepKind::Wait(what) => self.go_on_wait(ix, what),
            StepKind::Reasoning(_) => self.go_on_reasoning(ix),
        }
    }

    /// Asks for the action to be run, once for each attempt.
    pub(super) fn execute(&mut self, ix: InstanceIx, action: Arc<str>) {
        let handle = self.handle_of(ix);
        if self.work.running.insert(ix, handle.attempt) != Some(handle.attempt) {
            let is_pure = catalogue::find(&action).is_some_and(|a| a.is_pure);
            self.work.effects.push(Effect::Execute { handle, action, is_pure });
        }
    }

    pub(super) fn handle_of(&self, ix: InstanceIx) -> StepHandle {
        StepHandle { instance: ix, attempt: self.state.get(ix).attempt }
    }

    /// An action ended. A result that no attempt waits for is none.
    pub(super) fn finished(
        &mut self,
        handle: StepHandle,
        result: Result<Value, Fault>,
        emissions: Vec<Emission>,
    ) {
        let Some(ix) = self.running_action(handle) else { return };
        self.work.running.remove(&ix);
        // What could not be started leaves no child behind.
        self.work.childless = Some(handle);
        let mut result = result;
        let mut fatal = false;
        for emission in emissions {
            match emission {
                Emission::Custom { event, data } => match check_custom(&event, &data) {
                    Ok(()) => self.emit(Some(ix), Body::Custom(Box::new(Custom { event, data }))),
                    Err(fault) => result = Err(fault),
                },
                Emission::Notify { data } => match check_custom(NOTICE, &data) {
                    // Addressed as no event of the author's own can be.
                    Ok(()) => {
                        let body = Body::Custom(Box::new(Custom { event: NOTICE.to_owned(), data }));
                        self.emit_by(Some(ix), body, self.state.agent_id.clone());
                    }
                    Err(fault) => result = Err(fault),
                },
                Emission::Set { name, value } => match self.check_variable(&name, &value) {
                    Ok(()) => {
                        self.emit(Some(ix), Body::VariableSet(Box::new(VariableSet { name, value })));
                    }
                    Err(fault) => result = Err(fault),
                },
                Emission::FailRun(fault) => (result, fatal) = (Err(fault), true),
                Emission::Breaker { action, state } => {
                    let breaker = Breaker { action };
                    let body = match state {
                        "open" => Body::CircuitBreakerOpen(breaker),
                        "half_open" => Body::CircuitBreakerHalfOpen(breaker),
                        _ => Body::CircuitBreakerClosed(breaker),
                    };
                    self.emit(Some(ix), body);
                }
            }
        }
        match result {
            Ok(output) => self.complete(ix, output),
            Err(fault) if fatal => self.fail_fatally(ix, fault),
            Err(fault) => self.fail(ix, fault, false),
        }
    }

    /// The instance whose action this attempt is, while it is under way.
    pub(super) fn running_action(&self, handle: StepHandle) -> Option<InstanceIx> {
        let instance = self.state.instances.get(handle.instance as usize)?;
        let is_action = matches!(self.state.definition.step(instance.spec).kind, StepKind::Action { .. });
        let is_current = instance.attempt == handle.attempt
            && instance.current() == StepStatus::Running
            && !instance.flags.guard_pending
            && !instance.flags.gone;
        (is_action && is_current && !self.state.status.is_terminal()).then_some(handle.instance)
    }

    /// The step has its output, if that is within bounds.
    pub(super) fn complete(&mut self, ix: InstanceIx, output: Value) {
        match check_size(&output, "the step's output") {
            Ok(()) => self.emit(Some(ix), Body::StepCompleted(StepCompleted { output: Arc::new(output) })),
            Err(fault) => self.fail(ix, fault, false),
        }
    }

    /// The fallback of a failed step is called for.
    pub(super) fn call_for_fallback(&mut self, ix: InstanceIx) {
        let Some(fallback) = self.fallback_of(ix) else { return };
        let fallback_step = self.state.get(fallback).id.clone();
        self.emit(Some(ix), Body::StepFallback(StepFallback { fallback_step }));
    }

    /// Whether a variable may be set: its name, its size, and that of all of them.
    pub(super) fn check_variable(&self, name: &str, value: &Value) -> Result<(), Fault> {
        check_size(value, "the variable's value")?;
        let present = size::json_bytes(&self.state.context, CONTEXT_BYTES_MAX).unwrap_or(usize::MAX);
        let added = size::json_bytes(value, EVENT_BYTES_MAX).unwrap_or(usize::MAX).saturating_add(name.len());
        if name.is_empty() || name.len() > crate::ids::ID_BYTES_MAX {
            return Err(Fault::new(Code::ValidationError, "a variable's name is 1 to 128 bytes"));
        }
        if present.saturating_add(added) > CONTEXT_BYTES_MAX {
            let message = format!("the variables of the run are over {CONTEXT_BYTES_MAX} bytes");
            return Err(Fault::new(Code::NonRetryable, message));
        }
        Ok(())
    }
}

/// Whether an event of the author's may be written.
fn check_custom(event: &str, data: &Value) -> Result<(), Fault> {
    if event.is_empty() || event.len() > crate::ids::ID_BYTES_MAX {
        return Err(Fault::new(Code::ValidationError, "an event's name is 1 to 128 bytes"));
    }
    check_size(data, "the event's data")
}

/// Whether a value may stand in an event.
pub(super) fn check_size(value: &Value, what: &str) -> Result<(), Fault> {
    // What stands beside the value in its event is far smaller than this.
    const BESIDE: usize = 4 * 1024;
    match size::json_bytes(value, EVENT_BYTES_MAX) {
        Some(bytes) if bytes <= EVENT_BYTES_MAX - BESIDE => Ok(()),
        Some(_) => Err(Fault::new(
            Code::NonRetryable,
            format!("{what} is over the limit of {EVENT_BYTES_MAX} bytes"),
        )),
        None => Err(Fault::new(Code::NonRetryable, format!("{what} is nested too deep"))),
    }
}

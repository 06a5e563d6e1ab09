//! The end of a run: output, compensation, hook, last event, in this order.
//!
//! How it ends is decided once; a hook or a compensation that fails is recorded and changes
//! nothing. The run is reported as ended only when its hook has ended. A second `cancel` cuts
//! compensation and hook short.

use serde_json::{Map, Value};

use crate::event::Body;
use crate::event::payload::{
    ErrorHandlerInvoked, HandlerStrategy, SkipReason, WorkflowCancelled, WorkflowCompleted, WorkflowFailed,
};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::run::Run;
use crate::run::instance::{Hook, InstanceIx, Place};
use crate::run::state::Ending;

impl Run {
    /// Does what follows for the run as a whole.
    pub(super) fn look_at_run(&mut self) {
        match (self.state.status, &self.state.ending) {
            (WorkflowStatus::Pending, None) => {}
            (WorkflowStatus::Completed | WorkflowStatus::Failed | WorkflowStatus::Cancelled, _) => {}
            (WorkflowStatus::Active | WorkflowStatus::Suspended, None) => {
                if self.state.root_open == 0 {
                    self.end_completed();
                }
            }
            (_, Some(Ending::Completed)) => self.end_completed(),
            (_, Some(Ending::Failed(_) | Ending::Cancelled { .. })) => self.end_badly(),
        }
    }

    fn end_completed(&mut self) {
        if self.state.held {
            return;
        }
        if self.state.forced {
            self.sweep(SkipReason::Cancelled);
        }
        let Some(output) = self.work.output.clone() else {
            let definition = self.state.definition.clone();
            match &definition.output {
                Some(template) => self.ask_output(template),
                None => {
                    let output = self.sink_outputs();
                    self.have_output(Ok(output));
                }
            }
            return;
        };
        if !self.state.forced && !self.run_hook(Hook::OnComplete) {
            return;
        }
        self.work.output = None;
        let parent = self.waiting_parent();
        self.emit(None, Body::WorkflowCompleted(WorkflowCompleted { output, parent }));
    }

    fn end_badly(&mut self) {
        let Some(ending) = self.state.ending.clone() else { return };
        let reason = match &ending {
            Ending::Cancelled { .. } => SkipReason::Cancelled,
            Ending::Failed(_) | Ending::Completed => SkipReason::RunFailed,
        };
        self.sweep(reason);
        if !self.state.forced && !self.compensate() {
            return;
        }
        let parent = self.waiting_parent();
        match ending {
            Ending::Cancelled { reason, agent_id } => {
                self.emit_by(None, Body::WorkflowCancelled(WorkflowCancelled { reason, parent }), agent_id);
            }
            Ending::Failed(error) => {
                if self.state.forced || self.run_hook(Hook::OnError) {
                    self.emit(None, Body::WorkflowFailed(Box::new(WorkflowFailed { error, parent })));
                }
            }
            Ending::Completed => unreachable!("its caller has another ending"),
        }
    }

    /// The output of each completed step that nothing depends on.
    fn sink_outputs(&self) -> Value {
        let definition = &self.state.definition;
        let mut outputs = Map::new();
        for &spec in &definition.root {
            let step = definition.step(spec);
            let instance = self.state.get(self.state.root_of[spec.0 as usize]);
            if step.dependents.is_empty() && instance.current() == StepStatus::Completed {
                outputs.insert(step.id.to_string(), instance.output.as_deref().cloned().unwrap_or_default());
            }
        }
        Value::Object(outputs)
    }

    /// Stops what is under way, once; a cancellation also skips what had not started.
    fn sweep(&mut self, reason: SkipReason) {
        if self.work.swept {
            return;
        }
        self.work.swept = true;
        for ix in 0..self.state.instances.len() {
            let ix = InstanceIx::try_from(ix).expect("a run's events bound its instances");
            let instance = self.state.get(ix);
            let is_step = match instance.place {
                Place::Root => true,
                Place::Lane { .. } => false,
                Place::Hook(_) | Place::Compensation { .. } => self.state.forced,
            };
            if instance.flags.gone || !is_step {
                continue;
            }
            let is_pending = instance.current() == StepStatus::Pending && instance.place == Place::Root;
            if instance.is_active() {
                self.stop_below(ix, reason);
                self.stop(ix, reason);
            } else if is_pending && reason == SkipReason::Cancelled {
                self.skip(ix, reason);
            }
        }
    }

    /// Whether a hook has its turn: the run ends so, and all that comes before it is done.
    pub(super) fn hook_is_due(&self, hook: Hook) -> bool {
        match (hook, &self.state.ending) {
            (Hook::OnComplete, None | Some(Ending::Completed)) => {
                self.state.root_open == 0 && self.work.output.is_some()
            }
            (Hook::OnError, Some(Ending::Failed(_))) => {
                self.work.swept && self.state.compensable.is_empty() && !self.state.forced
            }
            (Hook::OnComplete, Some(Ending::Failed(_) | Ending::Cancelled { .. }))
            | (Hook::OnError, None | Some(Ending::Completed | Ending::Cancelled { .. })) => false,
        }
    }

    /// Starts a hook; whether it has ended, or there is none.
    fn run_hook(&mut self, hook: Hook) -> bool {
        let slot = match hook {
            Hook::OnComplete => 0,
            Hook::OnError => 1,
        };
        let Some(ix) = self.state.hooks[slot] else { return true };
        let instance = self.state.get(ix);
        if instance.flags.settled && !instance.flags.stale {
            return true;
        }
        if instance.current() == StepStatus::Pending
            && !self.state.held
            && let (Hook::OnError, Some(Ending::Failed(error))) = (hook, self.state.ending.clone())
        {
            let strategy = HandlerStrategy::FailWorkflow;
            let invoked = ErrorHandlerInvoked { strategy, error, forced: false };
            self.emit(Some(ix), Body::ErrorHandlerInvoked(Box::new(invoked)));
        }
        if matches!(self.state.get(ix).current(), StepStatus::Pending | StepStatus::Scheduled) {
            self.start_if_ready(ix);
        }
        let instance = self.state.get(ix);
        instance.flags.settled && !instance.flags.stale
    }
}

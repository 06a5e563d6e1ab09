//! Steps that run a child: that it has been started, that it has ended, that it is called off.

use std::sync::Arc;

use crate::child::{self, ChildRef, Outcome, Parent, child_id};
use crate::command::StepHandle;
use crate::definition::StepKind;
use crate::event::Body;
use crate::event::payload::WaitStarted;
use crate::fsm::StepStatus;
use crate::ids::WorkflowId;
use crate::run::Run;
use crate::run::instance::InstanceIx;

impl Run {
    /// The child of this attempt has been started: the start need not be sent again.
    pub(super) fn child_started(&mut self, handle: StepHandle) {
        let Some(ix) = self.running_action(handle) else { return };
        let Some(child) = self.child_of(ix) else { return };
        self.work.running.remove(&ix);
        if !self.state.get(ix).flags.waits_for_child {
            let due = self.state.get(ix).deadline;
            let started = WaitStarted { until: None, signal: None, child: Some(child), due };
            self.emit(Some(ix), Body::WaitStarted(started));
        }
    }

    /// A child has ended, and the step with it. The start need not have been reported: the child
    /// may be quicker than the answer to it.
    pub(super) fn child_ended(&mut self, child: &WorkflowId, step_id: &str, attempt: u32, outcome: Outcome) {
        let Some(ix) = self.state.named(step_id) else { return };
        let handle = StepHandle { instance: ix, attempt };
        let Some(ix) = self.running_action(handle) else { return };
        if self.child_of(ix).as_ref() != Some(child) {
            return;
        }
        self.abandon(ix);
        self.work.childless = Some(handle);
        match child::result_of(child, outcome) {
            Ok(output) => self.complete(ix, output),
            Err(fault) => self.fail(ix, fault, false),
        }
    }

    /// The run's parent no longer wants it. Unlike a second cancellation, a second call-off does
    /// not cut compensation short: it may be the first one again.
    pub(super) fn called_off(&mut self, parent: &Parent) {
        let is_child = self.state.parent.as_ref().is_some_and(|known| known.is_same(parent));
        if !is_child || self.state.status.is_terminal() || self.state.ending.is_some() {
            return;
        }
        let Parent { workflow_id, step_id, .. } = parent;
        let reason = format!("step {step_id} of {} no longer waits for it", workflow_id.local());
        self.receive_cancel(None, Some(reason), None);
    }

    /// The child that goes with a step that ends now otherwise than by its child's end.
    pub(super) fn child_to_call_off(&self, ix: InstanceIx) -> Option<ChildRef> {
        if self.work.childless == Some(self.handle_of(ix)) {
            return None;
        }
        let workflow_id = self.child_of(ix)?;
        Some(ChildRef { workflow_id, attempt: self.state.get(ix).attempt })
    }

    /// The child of the attempt that is under way, if that runs one.
    pub(crate) fn child_of(&self, ix: InstanceIx) -> Option<WorkflowId> {
        let instance = self.state.get(ix);
        let is_under_way = instance.current() == StepStatus::Running
            && !instance.flags.guard_pending
            && !instance.flags.ignoring
            && !instance.flags.gone;
        if !is_under_way || !self.runs_child(ix) {
            return None;
        }
        Some(child_id(&self.state.id, &instance.id, instance.attempt))
    }

    /// Whether a step runs a child.
    pub(super) fn runs_child(&self, ix: InstanceIx) -> bool {
        let spec = self.state.definition.step(self.state.get(ix).spec);
        matches!(&spec.kind, StepKind::Action { action, .. } if &**action == child::ACTION)
    }

    /// Who is to be told that the run ends.
    pub(super) fn waiting_parent(&self) -> Option<Box<Parent>> {
        self.state.parent.clone().filter(|parent| parent.waits)
    }

    /// Asks for the action of a step that runs a child, unless the child runs already.
    pub(super) fn execute_child(&mut self, ix: InstanceIx, action: Arc<str>) {
        if !self.state.get(ix).flags.waits_for_child {
            self.execute(ix, action);
        }
    }
}

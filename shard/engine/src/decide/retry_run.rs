//! A run that has ended is run again: what had failed, or from a step on.
//!
//! Steps that completed and are not downstream of one that runs again keep their outputs. A
//! composite that failed goes on where it had come to: of a map of a hundred items only those
//! that failed or were cut off run again. Named as `from_step`, or with a step in it undone by a
//! compensation, or under another definition, it runs again as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::start;
use crate::command::{Reason, Signal};
use crate::definition::{Definition, OnError, SpecIx};
use crate::error::{Code, Rejected};
use crate::event::Body;
use crate::event::payload::{ResumeCause, StepRetryAttempt, StepScheduled, WorkflowResumed};
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::Sequence;
use crate::run::Run;
use crate::run::instance::{InstanceIx, Place, RUN_ITSELF};

impl Run {
    pub(super) fn retry_run(
        &mut self,
        from_step: Option<&str>,
        params: Option<Value>,
        definition: Option<(Arc<Definition>, Arc<str>)>,
        reason: &Reason,
    ) -> Result<(), Rejected> {
        if !self.state.status.can_retry() {
            let status = self.state.status.as_str();
            let message = format!("the run is {status}: only one that has ended is run again");
            return Err(Rejected::new(Code::InvalidTransition, message));
        }
        if self.state.status == WorkflowStatus::Completed && from_step.is_none() {
            let message = "the run has completed: say from_step, the first step to run again";
            return Err(Rejected::new(Code::InvalidTransition, message));
        }
        let from = from_step.map(|step| self.find_step(step, |_| true)).transpose()?;
        let taken = definition.as_ref().map_or(&self.state.definition, |(taken, _)| taken);
        let params = match params {
            Some(params) => Some(start::merge_params(taken, params, &self.state.context)?),
            None if definition.is_some() => {
                let present = Value::clone(&self.state.params);
                Some(start::merge_params(taken, present, &self.state.context)?)
            }
            None => {
                taken.check_params(&self.state.params)?;
                None
            }
        };
        if let Some(params) = &params {
            start::bound(params, &self.state.context)?;
        }
        self.run_again(from, params, definition, reason);
        Ok(())
    }

    /// A `retry` signal to a step of a run that has ended.
    pub(super) fn retry_from_failed(
        &mut self,
        ix: InstanceIx,
        signal: &Signal,
    ) -> Result<Sequence, Rejected> {
        self.state.definition.check_params(&self.state.params)?;
        let reason = Reason { agent_id: signal.agent_id.clone(), reason: signal.reasoning.clone() };
        self.run_again(Some(ix), None, None, &reason);
        Ok(self.state.sequence)
    }

    fn run_again(
        &mut self,
        from: Option<InstanceIx>,
        params: Option<Value>,
        definition: Option<(Arc<Definition>, Arc<str>)>,
        reason: &Reason,
    ) {
        for (ix, is_revived) in self.to_run_again(from, definition.is_none()) {
            if is_revived {
                self.revive(ix);
            } else {
                self.reset(ix);
            }
        }
        let taken = definition.as_ref().map_or(&self.state.definition, |(taken, _)| taken);
        let due = taken.timeout_ms.map(|ms| self.after(ms));
        let body = WorkflowResumed {
            cause: ResumeCause::Retry,
            reason: reason.reason.clone().map(super::lifecycle::bounded),
            due,
            attempt: Some(self.state.attempt + 1),
            params: params.map(Arc::new),
            definition: definition.as_ref().map(|(taken, _)| taken.hash),
            version: definition.as_ref().map(|(_, version)| version.clone()),
        };
        if let Some((taken, _)) = definition {
            self.work.definitions.push(taken.clone());
            self.work.definition = Some(taken);
        }
        (self.work.swept, self.work.output) = (false, None);
        self.work.asked.clear();
        self.emit_by(None, Body::WorkflowResumed(Box::new(body)), reason.agent_id.clone());
    }

    /// The top-level step that an instance is part of.
    fn top_of(&self, ix: InstanceIx) -> InstanceIx {
        let mut ix = ix;
        loop {
            ix = match self.state.get(ix).place {
                Place::Root | Place::Hook(_) => return ix,
                Place::Lane { parent, .. } => parent,
                Place::Compensation { of } => of,
            };
        }
    }

    fn reset(&mut self, ix: InstanceIx) {
        self.emit(Some(ix), Body::StepScheduled(StepScheduled { reset: true }));
    }

    /// Lets a composite go on: what did not end well in it runs again.
    fn revive(&mut self, ix: InstanceIx) {
        let mut stack = vec![ix];
        while let Some(ix) = stack.pop() {
            let instance = self.state.get(ix);
            let lanes = instance.composite().map(|c| c.lanes.clone()).unwrap_or_default();
            let attempt = instance.attempt + 1;
            let due = self.state.definition.step(instance.spec).timeout_ms.map(|ms| self.after(ms));
            let next = StepRetryAttempt { attempt, due, interrupted: true, revived: true };
            for child in lanes.iter().flat_map(|lane| lane.first..lane.first + lane.count) {
                if !self.did_not_end(child) {
                    continue;
                }
                if self.state.get(child).composite().is_some() {
                    stack.push(child);
                } else {
                    self.reset(child);
                }
            }
            self.emit(Some(ix), Body::StepRetryAttempt(next));
        }
    }

    /// Whether a step began and did not come to an end of its own that counts as done.
    fn did_not_end(&self, ix: InstanceIx) -> bool {
        let instance = self.state.get(ix);
        match instance.current() {
            StepStatus::Completed | StepStatus::Pending => false,
            StepStatus::Skipped => instance.flags.cut_off,
            StepStatus::Failed => !instance.flags.settled,
            StepStatus::Scheduled | StepStatus::Running | StepStatus::Suspended | StepStatus::Retrying => {
                true
            }
        }
    }

    /// Top-level steps that must not keep what they have, and whether they go on where they had
    /// come to: `from`, what did not end well or was undone, and all that comes after these.
    fn to_run_again(&self, from: Option<InstanceIx>, may_revive: bool) -> Vec<(InstanceIx, bool)> {
        let definition = &self.state.definition;
        let undone: BTreeSet<InstanceIx> = (0_u32..)
            .zip(&self.state.instances)
            .filter(|(_, instance)| instance.flags.compensated && !instance.flags.stale)
            .map(|(ix, _)| self.top_of(ix))
            .collect();
        let top = from.map(|ix| self.top_of(ix));
        let is_revived = |ix: InstanceIx| {
            let is_named = from == Some(ix);
            let has_begun = self.state.get(ix).composite().is_some();
            may_revive && has_begun && self.did_not_end(ix) && !is_named && !undone.contains(&ix)
        };
        let mut marked = vec![false; definition.steps.len()];
        let mut queue: Vec<SpecIx> = Vec::new();
        for &spec in &definition.root {
            let ix = self.state.root_of[spec.0 as usize];
            if self.did_not_end(ix) || Some(ix) == top || undone.contains(&ix) {
                queue.push(spec);
            }
        }
        while let Some(spec) = queue.pop() {
            if std::mem::replace(&mut marked[spec.0 as usize], true) {
                continue;
            }
            let step = definition.step(spec);
            queue.extend(&step.dependents);
            if let OnError::Fallback(fallback) = step.on_error {
                queue.push(fallback);
            }
        }
        let roots = definition.root.iter().filter(|spec| marked[spec.0 as usize]);
        roots
            .map(|spec| self.state.root_of[spec.0 as usize])
            // A step that never began has nothing to forget.
            .filter(|&ix| ix != RUN_ITSELF && self.state.get(ix).current() != StepStatus::Pending)
            .map(|ix| (ix, is_revived(ix)))
            .collect()
    }
}

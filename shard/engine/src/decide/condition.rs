//! Condition steps: one value chooses one branch, whose steps run one after another.

use serde_json::{Value, json};

use super::Purpose;
use crate::definition::StepKind;
use crate::event::Body;
use crate::event::payload::ConditionEvaluated;
use crate::run::Run;
use crate::run::instance::{Composite, InstanceIx, LaneState};
use crate::run::state::Look;

impl Run {
    /// Evaluates the condition, or completes what matched nothing.
    pub(super) fn go_on_condition(&mut self, ix: InstanceIx) {
        match self.state.get(ix).composite() {
            None => self.ask(ix, Purpose::Branch),
            Some(composite) if composite.lanes.is_empty() => {
                let branch = composite.value.as_deref().map(branch_name);
                self.complete(ix, json!({ "branch": branch, "skipped": true }));
            }
            Some(_) => self.state.agenda.push_back(Look::Lane(ix, 0)),
        }
    }

    pub(super) fn have_branch(&mut self, ix: InstanceIx, value: Value) {
        let definition = self.state.definition.clone();
        let StepKind::Condition { branches, default, .. } = &definition.step(self.state.get(ix).spec).kind
        else {
            unreachable!("only conditions choose a branch");
        };
        let name = branch_name(&value);
        let branch = branches.iter().find(|(branch, _)| **branch == *name).map(|(branch, _)| branch.clone());
        let branch = branch.or_else(|| default.as_ref().map(|_| "default".into()));
        // The value is shown in the step's output, so a big one is cut to what can name a branch.
        let value = if name.len() > VALUE_BYTES_MAX { Value::String("…".into()) } else { value };
        self.emit(Some(ix), Body::ConditionEvaluated(ConditionEvaluated { value, branch }));
    }

    /// The chosen branch has ended.
    pub(super) fn end_condition(&mut self, ix: InstanceIx) {
        let Some(composite) = self.state.get(ix).composite() else { return };
        if composite.lanes.first().is_some_and(|lane| lane.state == LaneState::Done) {
            let output = json!({ "branch": composite.branch, "output": self.lane_output(composite, 0) });
            self.complete(ix, output);
        }
    }

    /// The last output of a lane: that of its last step that completed.
    pub(super) fn lane_output(&self, composite: &Composite, lane: usize) -> Value {
        let lane = &composite.lanes[lane];
        let last = (lane.first..lane.first + lane.count)
            .rev()
            .map(|ix| self.state.get(ix))
            .find(|step| !step.flags.stale && step.flags.settled && step.output.is_some());
        last.and_then(|step| step.output.as_deref().cloned()).unwrap_or_default()
    }

    /// A composite fails by the failure of a sub-step.
    pub(super) fn fail_by(&mut self, ix: InstanceIx, by: InstanceIx) {
        let child = self.state.get(by);
        let exhausted = child.flags.exhausted;
        let fault = child.error.as_deref().cloned().expect("a failed step has its error");
        self.fail(ix, fault, exhausted);
    }
}

/// Longest value of a condition that is written down.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// The branch that a value names.
fn branch_name(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

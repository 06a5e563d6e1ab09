//! Compensation: what completed is undone in reverse order when the run fails or is cancelled.

use std::sync::Arc;

use crate::error::{Code, Fault};
use crate::event::Body;
use crate::event::payload::{CompensationCompleted, CompensationFailed, CompensationStarted};
use crate::fsm::StepStatus;
use crate::run::Run;

impl Run {
    /// Does what is next in undoing; whether all is undone. A compensation that fails is
    /// recorded, and the next one runs all the same.
    pub(super) fn compensate(&mut self) -> bool {
        while let Some(&of) = self.state.compensable.last() {
            let definition = self.state.definition.clone();
            let step = self.state.get(of);
            let Some(spec) = definition.step(step.spec).compensate else { return true };
            let id: Arc<str> = format!("{}.compensate.{}", step.id, definition.step(spec).id).into();
            let under_way = self.state.named(&id).filter(|&ix| !self.state.get(ix).flags.stale);
            let Some(ix) = under_way else {
                self.emit(Some(of), Body::CompensationStarted(CompensationStarted { compensation: id }));
                return false;
            };
            let instance = self.state.get(ix);
            match instance.current() {
                StepStatus::Completed | StepStatus::Skipped => {
                    let completed = CompensationCompleted { compensation: id };
                    self.emit(Some(of), Body::CompensationCompleted(completed));
                }
                StepStatus::Failed => {
                    let error = instance
                        .error
                        .as_deref()
                        .cloned()
                        .unwrap_or_else(|| Fault::new(Code::StepFailed, "the compensation failed"));
                    let failed = CompensationFailed { compensation: id, error };
                    self.emit(Some(of), Body::CompensationFailed(Box::new(failed)));
                }
                StepStatus::Pending | StepStatus::Scheduled => {
                    self.start_if_ready(ix);
                    return false;
                }
                StepStatus::Running | StepStatus::Suspended | StepStatus::Retrying => return false,
            }
        }
        true
    }
}

//! The fold of events of the run as a whole: its status, its ending, its signals and variables.

use std::sync::Arc;

use super::apply::Definitions;
use super::instance::Mail;
use super::state::{Ending, Look, State};
use crate::command::SignalType;
use crate::event::Event;
use crate::event::payload::{
    DagMutated, ErrorHandlerInvoked, ResumeCause, SignalReceived, TimeoutAction, WorkflowCompleted,
    WorkflowFailed, WorkflowResumed, WorkflowSuspended, WorkflowTimedOut,
};
use crate::fsm::WorkflowStatus;
use crate::ids::Timestamp;

impl State {
    pub(super) fn fold_run_completed(&mut self, e: &WorkflowCompleted, at: Timestamp) -> Result<(), String> {
        self.output = Some(e.output.clone());
        self.finish(WorkflowStatus::Completed, at)
    }

    pub(super) fn fold_run_failed(&mut self, e: &WorkflowFailed, at: Timestamp) -> Result<(), String> {
        self.error = Some(Arc::new(e.error.clone()));
        self.finish(WorkflowStatus::Failed, at)
    }

    pub(super) fn fold_run_suspended(&mut self, e: &WorkflowSuspended) -> Result<(), String> {
        self.held |= e.held;
        if self.status == WorkflowStatus::Suspended {
            return Ok(());
        }
        self.set_run_status(WorkflowStatus::Suspended)
    }

    /// The run fails for a reason that lies in no step.
    pub(super) fn fold_run_failure(&mut self, e: &ErrorHandlerInvoked) {
        self.forced |= e.forced;
        self.end(Ending::Failed(e.error.clone()));
    }

    pub(super) fn fold_mutated(
        &mut self,
        e: &DagMutated,
        definitions: Definitions<'_>,
    ) -> Result<(), String> {
        let definition =
            definitions(e.definition).ok_or_else(|| format!("there is no definition {}", e.definition))?;
        self.replace_definition(definition)
    }

    pub(super) fn set_run_status(&mut self, to: WorkflowStatus) -> Result<(), String> {
        if !self.status.can_become(to) {
            return Err(format!("a run cannot go from {} to {}", self.status.as_str(), to.as_str()));
        }
        self.status = to;
        Ok(())
    }

    pub(super) fn finish(&mut self, to: WorkflowStatus, at: Timestamp) -> Result<(), String> {
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

    pub(super) fn fold_resumed(
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

    pub(super) fn fold_run_retry(
        &mut self,
        e: &WorkflowResumed,
        definitions: Definitions<'_>,
    ) -> Result<(), String> {
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

    pub(super) fn fold_timed_out(&mut self, e: &WorkflowTimedOut) {
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

    pub(super) fn fold_signal(&mut self, e: &SignalReceived, event: &Event) {
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

    pub(super) fn set_variable(&mut self, name: &str, value: serde_json::Value) {
        let context = Arc::make_mut(&mut self.context);
        if let Some(map) = context.as_object_mut() {
            map.insert(name.to_owned(), value);
        }
    }
}

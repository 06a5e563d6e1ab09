//! What an operator says to a run: cancel, suspend, resume.

use std::sync::Arc;

use serde_json::Value;

use super::resumed;
use crate::command::{Reason, SignalType};
use crate::error::{Code, Rejected};
use crate::event::Body;
use crate::event::payload::{ResumeCause, SignalReceived, WorkflowSuspended};
use crate::fsm::WorkflowStatus;
use crate::run::Run;
use crate::run::instance::InstanceIx;

impl Run {
    /// Ends the run. A second time, while it undoes what it did, cuts that short.
    pub(super) fn cancel(&mut self, reason: &Reason) -> Result<(), Rejected> {
        self.refuse_if_ended("cancelled")?;
        self.receive_cancel(reason.agent_id.clone(), reason.reason.clone(), None);
        Ok(())
    }

    pub(super) fn receive_cancel(
        &mut self,
        agent_id: Option<Arc<str>>,
        reason: Option<String>,
        signal_id: Option<Arc<str>>,
    ) {
        let received = SignalReceived {
            kind: SignalType::Cancel,
            target: None,
            payload: Value::Null,
            signal_id,
            reason: reason.map(bounded),
        };
        self.emit_by(None, Body::SignalReceived(Box::new(received)), agent_id);
        if self.state.forced {
            self.work.swept = false;
        }
    }

    /// Starts no more steps until the run is resumed; what is under way goes on to its end.
    pub(super) fn suspend(&mut self, reason: &Reason) -> Result<(), Rejected> {
        self.refuse_if_ended("suspended")?;
        if self.state.held {
            return Err(Rejected::new(Code::InvalidTransition, "the run is suspended already"));
        }
        if self.state.status == WorkflowStatus::Pending {
            let message = "the run has not started: cancel it, or wait for its start_at";
            return Err(Rejected::new(Code::InvalidTransition, message));
        }
        let suspended = WorkflowSuspended { held: true, reason: reason.reason.clone().map(bounded) };
        self.emit_by(None, Body::WorkflowSuspended(suspended), reason.agent_id.clone());
        Ok(())
    }

    /// Goes on after a suspension by an operator, a timeout or an interruption.
    pub(super) fn resume(&mut self, reason: &Reason) -> Result<(), Rejected> {
        self.refuse_if_ended("resumed")?;
        let interrupted: Vec<InstanceIx> =
            self.state.suspended.iter().copied().filter(|&ix| self.state.get(ix).flags.interrupted).collect();
        if !self.state.held && interrupted.is_empty() {
            let message = match self.state.status {
                WorkflowStatus::Suspended => "the run waits for a decision or a signal, not to be resumed",
                _ => "the run is not suspended",
            };
            return Err(Rejected::new(Code::InvalidTransition, message));
        }
        if self.state.status == WorkflowStatus::Suspended {
            let timeout = self.state.definition.timeout_ms.filter(|_| self.state.ending.is_none());
            let due = self.state.due.or(timeout.map(|ms| self.after(ms)));
            let body = resumed(ResumeCause::Operator, due, reason.reason.clone().map(bounded));
            self.emit_by(None, body, reason.agent_id.clone());
        }
        for ix in interrupted {
            self.next_attempt(ix, true);
        }
        Ok(())
    }

    pub(super) fn refuse_if_ended(&self, what: &str) -> Result<(), Rejected> {
        if !self.state.status.is_terminal() {
            return Ok(());
        }
        let status = self.state.status.as_str();
        Err(Rejected::new(Code::InvalidTransition, format!("the run is {status} and cannot be {what}")))
    }
}

/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 4 * 1024;

/// The reason, cut to what is kept.
pub(super) fn bounded(mut reason: String) -> String {
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    reason.truncate(end);
    reason
}

//! Views: what one event changes in the tables, a pure function of the event alone.
//!
//! The tables are written from this on every replica, and checked against it by the rebuild, so
//! that no row can say what the log does not.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::event::EventType;
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::{DefinitionHash, Timestamp};

/// One row's change. `None` in a field leaves the column as it is, unless said otherwise.
#[derive(Debug)]
pub enum Change {
    /// A run begins.
    RunStarted(Box<RunStarted>),
    /// A run's status changes.
    Run {
        /// The new status.
        status: WorkflowStatus,
        /// When it first became active.
        started_at: Option<Timestamp>,
        /// When it ended; a run that goes on again has `Some(None)`.
        completed_at: Option<Option<Timestamp>>,
        /// Output, for a completed one.
        output: Option<Box<RawValue>>,
        /// Fault, for a failed one; `Some(None)` clears it.
        error: Option<Option<Box<RawValue>>>,
        /// The run's own timer (timeout, `start_at`); `Some(None)` clears it.
        due: Option<Option<Timestamp>>,
    },
    /// A run has another definition (a mutation, a retry with another version).
    Definition(DefinitionHash),
    /// A step changes.
    Step(StepChange),
    /// A decision is asked for.
    DecisionRequested(Box<DecisionRequested>),
    /// A decision of this id is no longer pending; `status` is `resolved`, `timed_out` or `cancelled`.
    DecisionClosed {
        /// Which.
        decision_id: String,
        /// How it closed.
        status: &'static str,
        /// The resolution as shown.
        resolution: Option<Box<RawValue>>,
    },
    /// All pending decisions of the run are withdrawn (it ended).
    DecisionsWithdrawn,
}

/// The columns of a new `workflows` row.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct RunStarted {
    pub workflow_id: String,
    pub status: WorkflowStatus,
    pub definition: DefinitionHash,
    pub template: Option<String>,
    pub version: Option<String>,
    pub agent_id: Option<String>,
    pub labels: Vec<(String, String)>,
    pub body_hash: Option<u64>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub due: Option<Timestamp>,
}

/// The columns of a `step_state` row that an event sets. The row's key is (run, full step id).
#[derive(Debug)]
#[allow(missing_docs)]
pub struct StepChange {
    pub status: StepStatus,
    pub attempts: Option<u32>,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub output: Option<Box<RawValue>>,
    pub error: Option<Box<RawValue>>,
    /// Always written: the step's pending timer, or none.
    pub due: Option<Timestamp>,
}

/// The columns of a `pending_decisions` row.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct DecisionRequested {
    pub decision_id: String,
    pub step_id: String,
    pub context: Box<RawValue>,
    pub options: Box<RawValue>,
    pub target_agent: Option<String>,
    pub fallback: Option<String>,
    pub timeout_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// What an event changes in the tables. The error names what is broken in `data`.
pub fn changes(
    event_type: EventType,
    step_id: Option<&Arc<str>>,
    data: &[u8],
    timestamp: Timestamp,
) -> Result<Vec<Change>, String> {
    let _ = (event_type, step_id, data, timestamp);
    Ok(Vec::new())
}

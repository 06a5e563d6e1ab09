//! Views: what one event changes in the tables, a pure function of the event alone.
//!
//! The tables are written from this on every replica, and checked against it by the rebuild, so
//! that no row can say what the log does not.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::event::EventType;
use crate::event::payload::{self, ResumeCause};
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
    /// The event leaves a message to another run owed ([`crate::child::owed`]).
    MessageOwed,
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
    /// From 1.
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
    let made = match event_type {
        EventType::WorkflowStarted
        | EventType::WorkflowCompleted
        | EventType::WorkflowFailed
        | EventType::WorkflowCancelled
        | EventType::WorkflowSuspended
        | EventType::WorkflowResumed
        | EventType::DagMutated => run_changes(event_type, data, timestamp),
        EventType::StepScheduled
        | EventType::StepStarted
        | EventType::StepCompleted
        | EventType::StepFailed
        | EventType::StepSkipped
        | EventType::StepRetrying
        | EventType::StepSuspended
        | EventType::StepRetryAttempt
        | EventType::StepIgnored
        | EventType::WaitStarted
        | EventType::WaitCompleted => step_changes(event_type, data, timestamp),
        EventType::DecisionRequested => decision_requested(step_id, data, timestamp),
        EventType::DecisionResolved => decision_resolved(data),
        // A timeout, a cancellation and a failure show with the events that follow from them.
        EventType::WorkflowTimedOut
        | EventType::WorkflowInterrupted
        | EventType::StepFallback
        | EventType::ErrorHandlerInvoked
        | EventType::SignalReceived
        | EventType::VariableSet
        | EventType::CircuitBreakerOpen
        | EventType::CircuitBreakerHalfOpen
        | EventType::CircuitBreakerClosed
        | EventType::ConditionEvaluated
        | EventType::LoopIterStarted
        | EventType::LoopIterCompleted
        | EventType::LoopCompleted
        | EventType::ParallelStarted
        | EventType::ParallelCompleted
        | EventType::CompensationStarted
        | EventType::CompensationCompleted
        | EventType::CompensationFailed
        | EventType::Custom => Ok(Vec::new()),
    };
    made.map_err(|e| format!("{}: {e}", event_type.as_str()))
}

fn run_changes(event_type: EventType, data: &[u8], at: Timestamp) -> serde_json::Result<Vec<Change>> {
    Ok(match event_type {
        EventType::WorkflowStarted => {
            let e: payload::WorkflowStarted = serde_json::from_slice(data)?;
            vec![Change::RunStarted(Box::new(RunStarted {
                workflow_id: e.workflow_id.to_string(),
                status: e.status,
                definition: e.definition,
                template: e.template.map(|t| t.to_string()),
                version: e.version.map(|v| v.to_string()),
                agent_id: e.agent_id.map(|a| a.to_string()),
                labels: e.labels.into_iter().collect(),
                body_hash: e.body_hash,
                created_at: at,
                started_at: (e.status == WorkflowStatus::Active).then_some(at),
                due: e.due,
            }))]
        }
        EventType::WorkflowCompleted => {
            let e: Output = serde_json::from_slice(data)?;
            ended(WorkflowStatus::Completed, at, e.output, None).chain(owed(e.parent)).collect()
        }
        EventType::WorkflowFailed => {
            let e: Error = serde_json::from_slice(data)?;
            ended(WorkflowStatus::Failed, at, None, e.error).chain(owed(e.parent)).collect()
        }
        EventType::WorkflowCancelled => {
            let e: Output = serde_json::from_slice(data)?;
            ended(WorkflowStatus::Cancelled, at, None, None).chain(owed(e.parent)).collect()
        }
        EventType::WorkflowSuspended => vec![run(WorkflowStatus::Suspended)],
        EventType::WorkflowResumed => {
            let e: payload::WorkflowResumed = serde_json::from_slice(data)?;
            let is_retry = e.cause == ResumeCause::Retry;
            let resumed = Change::Run {
                status: WorkflowStatus::Active,
                started_at: (e.cause == ResumeCause::Started).then_some(at),
                completed_at: is_retry.then_some(None),
                output: None,
                error: is_retry.then_some(None),
                due: Some(e.due),
            };
            e.definition.map(Change::Definition).into_iter().chain([resumed]).collect()
        }
        EventType::DagMutated => {
            let e: Mutated = serde_json::from_slice(data)?;
            vec![Change::Definition(e.definition)]
        }
        _ => unreachable!("its one caller picks these"),
    })
}

fn step_changes(event_type: EventType, data: &[u8], at: Timestamp) -> serde_json::Result<Vec<Change>> {
    Ok(match event_type {
        EventType::StepScheduled => {
            let e: payload::StepScheduled = serde_json::from_slice(data)?;
            vec![step(if e.reset { StepStatus::Pending } else { StepStatus::Scheduled }, None)]
        }
        EventType::StepStarted => {
            let e: payload::StepStarted = serde_json::from_slice(data)?;
            let running = step_change(StepStatus::Running, e.due);
            vec![Change::Step(StepChange { attempts: Some(e.attempt), started_at: Some(at), ..running })]
        }
        EventType::StepRetryAttempt => {
            let e: payload::StepRetryAttempt = serde_json::from_slice(data)?;
            let running = step_change(StepStatus::Running, e.due);
            vec![Change::Step(StepChange { attempts: Some(e.attempt), ..running })]
        }
        EventType::StepCompleted => {
            let e: Output = serde_json::from_slice(data)?;
            let done = step_change(StepStatus::Completed, None);
            vec![Change::Step(StepChange { completed_at: Some(at), output: e.output, ..done })]
        }
        EventType::StepFailed | EventType::StepSkipped => {
            let e: Error = serde_json::from_slice(data)?;
            let is_failed = event_type == EventType::StepFailed;
            let status = if is_failed { StepStatus::Failed } else { StepStatus::Skipped };
            let done = step_change(status, None);
            let change = StepChange { completed_at: Some(at), error: e.error, ..done };
            closed(e.decision_id, "cancelled").chain([Change::Step(change)]).chain(owed(e.child)).collect()
        }
        EventType::StepRetrying => {
            let e: Retrying = serde_json::from_slice(data)?;
            let resting = step_change(StepStatus::Retrying, Some(e.at));
            let change = StepChange { error: e.error, ..resting };
            closed(e.decision_id, "cancelled").chain([Change::Step(change)]).chain(owed(e.child)).collect()
        }
        EventType::StepIgnored => {
            let e: Error = serde_json::from_slice(data)?;
            let change = StepChange { error: e.error, ..step_change(StepStatus::Running, None) };
            closed(e.decision_id, "cancelled").chain([Change::Step(change)]).chain(owed(e.child)).collect()
        }
        EventType::StepSuspended => {
            let e: Due = serde_json::from_slice(data)?;
            vec![step(StepStatus::Suspended, e.due)]
        }
        EventType::WaitStarted | EventType::WaitCompleted => {
            let e: Due = serde_json::from_slice(data)?;
            vec![step(StepStatus::Running, e.due)]
        }
        _ => unreachable!("its one caller picks these"),
    })
}

fn decision_requested(
    step_id: Option<&Arc<str>>,
    data: &[u8],
    at: Timestamp,
) -> serde_json::Result<Vec<Change>> {
    let e: Requested = serde_json::from_slice(data)?;
    Ok(vec![Change::DecisionRequested(Box::new(DecisionRequested {
        decision_id: e.decision_id,
        step_id: step_id.map(|s| s.to_string()).unwrap_or_default(),
        context: e.context,
        options: e.options,
        target_agent: e.target_agent,
        fallback: e.fallback,
        timeout_at: e.timeout_at,
        created_at: at,
    }))])
}

fn decision_resolved(data: &[u8]) -> serde_json::Result<Vec<Change>> {
    let e: Resolved = serde_json::from_slice(data)?;
    let closed = Change::DecisionClosed {
        decision_id: e.decision_id,
        status: if e.timed_out { "timed_out" } else { "resolved" },
        resolution: Some(e.resolution),
    };
    Ok(vec![closed, step(StepStatus::Running, e.due)])
}

/// A run's status and nothing else.
fn run(status: WorkflowStatus) -> Change {
    Change::Run { status, started_at: None, completed_at: None, output: None, error: None, due: None }
}

fn ended(
    status: WorkflowStatus,
    at: Timestamp,
    output: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
) -> impl Iterator<Item = Change> {
    let ended = Change::Run {
        status,
        started_at: None,
        completed_at: Some(Some(at)),
        output,
        error: error.map(Some),
        due: Some(None),
    };
    [ended, Change::DecisionsWithdrawn].into_iter()
}

fn step_change(status: StepStatus, due: Option<Timestamp>) -> StepChange {
    StepChange {
        status,
        attempts: None,
        started_at: None,
        completed_at: None,
        output: None,
        error: None,
        due,
    }
}

fn step(status: StepStatus, due: Option<Timestamp>) -> Change {
    Change::Step(step_change(status, due))
}

fn closed(decision_id: Option<String>, status: &'static str) -> impl Iterator<Item = Change> {
    decision_id
        .map(|decision_id| Change::DecisionClosed { decision_id, status, resolution: None })
        .into_iter()
}

/// A message is owed when the event names whom to.
fn owed(whom: Option<IgnoredAny>) -> Option<Change> {
    whom.map(|_| Change::MessageOwed)
}

/// The parts of payloads that rows are made of; values stay text.
#[derive(Deserialize)]
struct Output {
    output: Option<Box<RawValue>>,
    parent: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Error {
    error: Option<Box<RawValue>>,
    decision_id: Option<String>,
    parent: Option<IgnoredAny>,
    child: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Retrying {
    #[serde(with = "payload::time")]
    at: Timestamp,
    error: Option<Box<RawValue>>,
    decision_id: Option<String>,
    child: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Due {
    #[serde(default, with = "payload::time_option")]
    due: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Mutated {
    #[serde(with = "payload::hash")]
    definition: DefinitionHash,
}

#[derive(Deserialize)]
struct Requested {
    decision_id: String,
    context: Box<RawValue>,
    options: Box<RawValue>,
    target_agent: Option<String>,
    fallback: Option<String>,
    #[serde(default, with = "payload::time_option")]
    timeout_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Resolved {
    decision_id: String,
    resolution: Box<RawValue>,
    #[serde(default)]
    timed_out: bool,
    #[serde(default, with = "payload::time_option")]
    due: Option<Timestamp>,
}

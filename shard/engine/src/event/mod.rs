//! Events: the only way a run changes. Immutable, numbered, folded by `Run::apply`.
//!
//! An event's `data` is JSON text, opaque to the log and the tables; its numeric codes are
//! frozen, since they stand in files.

pub mod payload;

use std::sync::Arc;

use crate::ids::{Sequence, Timestamp};

/// Name of the `custom` event of `workflow.notify`. Its `agent_id` is whom it is for, which tells it
/// from one that an author gave this name: those are addressed to nobody.
pub const NOTICE: &str = "workflow.notify";

macro_rules! event_types {
    ($($variant:ident = $code:literal $name:literal),* $(,)?) => {
        /// Every type of event, with the code that files hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum EventType { $($variant = $code),* }

        impl EventType {
            /// All of them, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The type with this code, if there is one.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The type with this name, if there is one.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The code that files hold.
            pub fn code(self) -> u8 {
                self as u8
            }
        }
    };
}

event_types! {
    WorkflowStarted = 1 "workflow_started",
    WorkflowCompleted = 2 "workflow_completed",
    WorkflowFailed = 3 "workflow_failed",
    WorkflowCancelled = 4 "workflow_cancelled",
    WorkflowSuspended = 5 "workflow_suspended",
    WorkflowResumed = 6 "workflow_resumed",
    WorkflowTimedOut = 7 "workflow_timed_out",
    WorkflowInterrupted = 8 "workflow_interrupted",
    StepScheduled = 20 "step_scheduled",
    StepStarted = 21 "step_started",
    StepCompleted = 22 "step_completed",
    StepFailed = 23 "step_failed",
    StepSkipped = 24 "step_skipped",
    StepRetrying = 25 "step_retrying",
    StepSuspended = 26 "step_suspended",
    StepRetryAttempt = 27 "step_retry_attempt",
    StepFallback = 28 "step_fallback",
    StepIgnored = 29 "step_ignored",
    ErrorHandlerInvoked = 30 "error_handler_invoked",
    DecisionRequested = 40 "decision_requested",
    DecisionResolved = 41 "decision_resolved",
    SignalReceived = 42 "signal_received",
    VariableSet = 43 "variable_set",
    DagMutated = 44 "dag_mutated",
    CircuitBreakerOpen = 50 "circuit_breaker_open",
    CircuitBreakerHalfOpen = 51 "circuit_breaker_half_open",
    CircuitBreakerClosed = 52 "circuit_breaker_closed",
    ConditionEvaluated = 60 "condition_evaluated",
    LoopIterStarted = 61 "loop_iter_started",
    LoopIterCompleted = 62 "loop_iter_completed",
    LoopCompleted = 63 "loop_completed",
    ParallelStarted = 64 "parallel_started",
    ParallelCompleted = 65 "parallel_completed",
    WaitStarted = 66 "wait_started",
    WaitCompleted = 67 "wait_completed",
    CompensationStarted = 70 "compensation_started",
    CompensationCompleted = 71 "compensation_completed",
    CompensationFailed = 72 "compensation_failed",
    Custom = 80 "custom",
}

/// One event of one run.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its place in the run's log.
    pub sequence: Sequence,
    /// What happened; encodes to the event's `data`.
    pub body: Body,
    /// Full id of the step it is about.
    pub step_id: Option<Arc<str>>,
    /// Who caused it, when somebody did.
    pub agent_id: Option<Arc<str>>,
    /// When it was decided.
    pub timestamp: Timestamp,
}

macro_rules! bodies {
    ($($variant:ident($payload:ty)),* $(,)?) => {
        /// What happened, typed; one variant for each [`EventType`].
        #[derive(Clone, Debug)]
        #[allow(missing_docs)]
        pub enum Body { $($variant($payload)),* }

        impl Body {
            /// Its type.
            pub fn event_type(&self) -> EventType {
                match self { $(Self::$variant(_) => EventType::$variant),* }
            }

            fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
                match self { $(Self::$variant(payload) => serde_json::to_writer(out, payload)),* }
            }

            /// Reads it back from its type and JSON text; the error says what is broken.
            pub fn decode(event_type: EventType, data: &[u8]) -> Result<Self, String> {
                let read = match event_type {
                    $(EventType::$variant => serde_json::from_slice(data).map(Self::$variant)),*
                };
                read.map_err(|e| format!("{}: {e}", event_type.as_str()))
            }
        }
    };
}

bodies! {
    WorkflowStarted(Box<payload::WorkflowStarted>),
    WorkflowCompleted(payload::WorkflowCompleted),
    WorkflowFailed(Box<payload::WorkflowFailed>),
    WorkflowCancelled(payload::WorkflowCancelled),
    WorkflowSuspended(payload::WorkflowSuspended),
    WorkflowResumed(Box<payload::WorkflowResumed>),
    WorkflowTimedOut(Box<payload::WorkflowTimedOut>),
    WorkflowInterrupted(payload::WorkflowInterrupted),
    StepScheduled(payload::StepScheduled),
    StepStarted(payload::StepStarted),
    StepCompleted(payload::StepCompleted),
    StepFailed(Box<payload::StepFailed>),
    StepSkipped(payload::StepSkipped),
    StepRetrying(Box<payload::StepRetrying>),
    StepSuspended(payload::StepSuspended),
    StepRetryAttempt(payload::StepRetryAttempt),
    StepFallback(payload::StepFallback),
    StepIgnored(Box<payload::StepIgnored>),
    ErrorHandlerInvoked(Box<payload::ErrorHandlerInvoked>),
    DecisionRequested(Box<payload::DecisionRequested>),
    DecisionResolved(Box<payload::DecisionResolved>),
    SignalReceived(Box<payload::SignalReceived>),
    VariableSet(Box<payload::VariableSet>),
    DagMutated(Box<payload::DagMutated>),
    CircuitBreakerOpen(payload::Breaker),
    CircuitBreakerHalfOpen(payload::Breaker),
    CircuitBreakerClosed(payload::Breaker),
    ConditionEvaluated(payload::ConditionEvaluated),
    LoopIterStarted(payload::LoopIterStarted),
    LoopIterCompleted(payload::LoopIterCompleted),
    LoopCompleted(payload::LoopCompleted),
    ParallelStarted(payload::ParallelStarted),
    ParallelCompleted(payload::ParallelCompleted),
    WaitStarted(payload::WaitStarted),
    WaitCompleted(payload::WaitCompleted),
    CompensationStarted(payload::CompensationStarted),
    CompensationCompleted(payload::CompensationCompleted),
    CompensationFailed(Box<payload::CompensationFailed>),
    Custom(Box<payload::Custom>),
}

impl Body {
    /// Appends its JSON text to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(out).expect("a payload is JSON, and writing to memory cannot fail");
    }
}

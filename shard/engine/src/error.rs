//! What can be wrong: codes, faults of steps and runs, problems of a definition, refusals.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every code of the specification, §6, plus those of the HTTP contract that the engine meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Code {
    ExecutionError,
    TimeoutError,
    StepFailed,
    StoreError,
    InterpolationError,
    IsolationError,
    VaultError,
    ActionUnavailable,
    ValidationError,
    NotFound,
    Conflict,
    InvalidTransition,
    CycleDetected,
    NonRetryable,
    PermissionDenied,
    CircuitOpen,
    AssertionFailed,
    PathDenied,
    RetryExhausted,
    Cancelled,
    SignalFailed,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::ExecutionError,
        Self::TimeoutError,
        Self::StepFailed,
        Self::StoreError,
        Self::InterpolationError,
        Self::IsolationError,
        Self::VaultError,
        Self::ActionUnavailable,
        Self::ValidationError,
        Self::NotFound,
        Self::Conflict,
        Self::InvalidTransition,
        Self::CycleDetected,
        Self::NonRetryable,
        Self::PermissionDenied,
        Self::CircuitOpen,
        Self::AssertionFailed,
        Self::PathDenied,
        Self::RetryExhausted,
        Self::Cancelled,
        Self::SignalFailed,
    ];

    /// The code as it stands in answers, `SCREAMING_SNAKE_CASE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExecutionError => "EXECUTION_ERROR",
            Self::TimeoutError => "TIMEOUT_ERROR",
            Self::StepFailed => "STEP_FAILED",
            Self::StoreError => "STORE_ERROR",
            Self::InterpolationError => "INTERPOLATION_ERROR",
            Self::IsolationError => "ISOLATION_ERROR",
            Self::VaultError => "VAULT_ERROR",
            Self::ActionUnavailable => "ACTION_UNAVAILABLE",
            Self::ValidationError => "VALIDATION_ERROR",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict => "CONFLICT",
            Self::InvalidTransition => "INVALID_TRANSITION",
            Self::CycleDetected => "CYCLE_DETECTED",
            Self::NonRetryable => "NON_RETRYABLE",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::CircuitOpen => "CIRCUIT_OPEN",
            Self::AssertionFailed => "ASSERTION_FAILED",
            Self::PathDenied => "PATH_DENIED",
            Self::RetryExhausted => "RETRY_EXHAUSTED",
            Self::Cancelled => "CANCELLED",
            Self::SignalFailed => "SIGNAL_FAILED",
        }
    }

    /// Whether a step that failed so may be tried again.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::ExecutionError
            | Self::TimeoutError
            | Self::StepFailed
            | Self::StoreError
            | Self::InterpolationError
            | Self::IsolationError
            | Self::VaultError
            | Self::ActionUnavailable => true,
            Self::ValidationError
            | Self::NotFound
            | Self::Conflict
            | Self::InvalidTransition
            | Self::CycleDetected
            | Self::NonRetryable
            | Self::PermissionDenied
            | Self::CircuitOpen
            | Self::AssertionFailed
            | Self::PathDenied
            | Self::RetryExhausted
            | Self::Cancelled
            | Self::SignalFailed => false,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a step or a run failed: `{code, message, details, step_id}` everywhere it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind of failure.
    pub code: Code,
    /// One sentence for a person.
    pub message: String,
    /// Data for a program, `null` when there is none.
    #[serde(default)]
    pub details: Value,
    /// Full id of the step it happened in, when it happened in one.
    #[serde(default)]
    pub step_id: Option<String>,
}

impl Fault {
    /// A fault with no details and no step yet.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Value::Null, step_id: None }
    }

    /// The same fault with details.
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// One thing wrong with a definition or a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// JSON pointer (RFC 6901) from the root of what was sent.
    pub pointer: String,
    /// Line in the text that was sent, from 1, for text that is not JSON at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column from 1: in the line above, or in the expression at `pointer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// One sentence for a person, with "did you mean" where that helps.
    pub message: String,
}

impl Problem {
    /// A problem at `pointer`.
    pub fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), line: None, column: None, message: message.into() }
    }

    /// The same problem at a column of the expression there.
    pub fn column(mut self, column: u32) -> Self {
        self.column = Some(column);
        self
    }
}

/// A definition or its params refused: every problem found, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// `VALIDATION_ERROR` or `CYCLE_DETECTED`.
    pub code: Code,
    /// All that is wrong, in the order of the text.
    pub problems: Vec<Problem>,
}

/// A command refused: nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// Why, as a code.
    pub code: Code,
    /// Why, for a person, and what to do about it.
    pub message: String,
    /// The step it is about.
    pub step_id: Option<String>,
    /// Single problems, for a refusal with code `VALIDATION_ERROR`.
    pub problems: Vec<Problem>,
}

impl Rejected {
    /// A refusal with no step and no single problems.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), step_id: None, problems: Vec::new() }
    }
}

impl From<Invalid> for Rejected {
    fn from(invalid: Invalid) -> Self {
        let message = match invalid.problems.as_slice() {
            [one] => format!("{}: {}", one.pointer, one.message),
            many => format!("{} problems, the first at {}: {}", many.len(), many[0].pointer, many[0].message),
        };
        Self { code: invalid.code, message, step_id: None, problems: invalid.problems }
    }
}

//! Expressions: CEL, jq, Expr, and the interpolation that puts their values into JSON.
//!
//! Everything is compiled and checked once per definition and evaluated under a [`Budget`], so
//! that no text, however hostile, stalls a shard, exhausts memory or overflows a stack. jq is the
//! one language that cannot be bounded from inside: it is only ever *run* through a
//! [`JqRunner`], which a shard implements with a process that it can kill.

pub mod cel;
#[allow(clippy::module_inception)]
pub mod expr;
pub mod guard;
pub mod interpolate;
pub mod jq;
mod meter;
mod names;
mod path;
pub mod scope;

pub use meter::Meter;
pub use scope::{OwnedScope, References, Scope};

use serde_json::Value;

/// Longest source of one expression, in bytes.
pub const SOURCE_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of one expression: brackets, unary chains, lambdas.
pub const NESTING_MAX: usize = 64;
/// Most tokens of one expression; bounds the left-recursive chains that overflow parsers.
pub const TOKENS_MAX: usize = 2_000;

/// What one evaluation may cost. Counting, not a clock, so that it is deterministic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Evaluation steps: one per node visited and per element touched.
    pub steps: u64,
    /// Bytes of values built, as the allocator has them: nodes and spare room of lists included.
    pub bytes: usize,
}

impl Budget {
    /// What a shard's loop spends at most on one expression: well under a millisecond.
    pub const INLINE: Self = Self { steps: 10_000, bytes: 256 * 1024 };
    /// What a worker thread spends at most: under 100 ms and 16 MiB.
    pub const WORKER: Self = Self { steps: 1_000_000, bytes: 14 * 1024 * 1024 };
}

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalError {
    /// The expression is at fault; the message is for its author.
    Failed {
        /// One sentence.
        message: String,
        /// Column in the source from 1, when known.
        column: Option<u32>,
    },
    /// The budget ran out: try again with [`Budget::WORKER`], and with that it is a failure.
    OverBudget,
    /// It holds jq, and no runner was given.
    NeedsWorker,
}

impl EvalError {
    /// A failure with no column.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), column: None }
    }
}

impl std::fmt::Display for EvalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed { message, column: Some(column) } => write!(f, "{message} (column {column})"),
            Self::Failed { message, column: None } => f.write_str(message),
            Self::OverBudget => f.write_str("the expression costs more than an expression may"),
            Self::NeedsWorker => f.write_str("jq runs in a worker only"),
        }
    }
}

/// What is wrong with an expression's text, found when it is compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprProblem {
    /// Column from 1, in characters.
    pub column: u32,
    /// One sentence, with "did you mean" where that helps.
    pub message: String,
}

/// How a reference to a step looks from where an expression stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// It may have finished by then.
    Visible,
    /// No such step; the nearest name, if one is near.
    Unknown { suggestion: Option<String> },
    /// It exists, but cannot have finished by then; why, as a clause ("it runs after this step").
    TooLate { reason: String },
}

/// What an expression is checked against.
pub struct Env<'a> {
    /// How the step of this id (short, or a full path) looks from here.
    pub step: &'a dyn Fn(&str) -> Visibility,
    /// Whether `loop` (`iter`) exists here.
    pub in_loop: bool,
    /// Whether the root `data` exists here (`expr.eval` and `jq` with a `data` param).
    pub has_data: bool,
}

/// Runs jq where it can be killed.
pub trait JqRunner {
    /// Whether it runs anything at all, so that nobody prepares an input for one that does not.
    fn is_ready(&self) -> bool {
        true
    }
    /// All outputs of `filter` on `input`, within the runner's own bounds of time and memory.
    fn run(&self, filter: &str, input: &Value) -> Result<Vec<Value>, EvalError>;
}

/// The runner of a place that must not wait: it refuses.
pub struct NoJq;

impl JqRunner for NoJq {
    fn is_ready(&self) -> bool {
        false
    }
    fn run(&self, _: &str, _: &Value) -> Result<Vec<Value>, EvalError> {
        Err(EvalError::NeedsWorker)
    }
}

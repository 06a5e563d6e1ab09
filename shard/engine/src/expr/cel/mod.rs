//! CEL: parsed by the `cel` crate, checked and evaluated by us, since the crate can bound neither.
//!
//! 1. [`text`] bounds the source (length, tokens, nesting, chains) and makes `loop` a name.
//! 2. The crate parses it and expands the macros.
//! 3. [`check`] resolves every name, recognises the macros again, and flattens chains.
//! 4. [`eval`] walks that tree under a budget over borrowed JSON.
//!
//! Where this differs from CEL, since its values are JSON:
//! - A field, key or element that is not there is `null`, and so is any field of `null`; `has()`
//!   tells what is there. A field of a string, number or bool is an error.
//! - `int`, `uint` and `double` mix in arithmetic: `0.5 + 1` is `1.5`. Integer overflow and
//!   integer division by zero are errors; a result that is NaN or infinite is an error.
//! - Values of different types are unequal, and their order is an error.
//! - Reading a step that has not run is an error that names it.
//! - No messages, no clock, no time zone names but `UTC` and offsets.

mod check;
mod eval;
mod functions;
mod node;
mod operators;
mod pattern;
mod signature;
mod text;
mod time;
mod value;

use std::sync::Arc;

use cel::parser::{ParseError, Parser};
use serde_json::Value;

use self::eval::Evaluator;
use self::node::Node;
use self::value::Val;
use super::{Budget, Env, EvalError, ExprProblem, Meter, References, Scope};

/// A compiled, checked CEL expression.
#[derive(Clone, Debug)]
pub struct Cel {
    source: Arc<str>,
    references: References,
    root: Arc<Node>,
}

impl Cel {
    /// Compiles and checks; every problem at once, one if it is a matter of grammar.
    pub fn compile(source: &str, env: &Env<'_>) -> Result<Self, Vec<ExprProblem>> {
        let text = text::prepare(source).map_err(|problem| vec![problem])?;
        let parser = Parser::new()
            .max_recursion_depth(2 * text::DEPTH_MAX as u16)
            .error_recovery_limit(0)
            .enable_ident_escape_syntax(true);
        let (expr, info) =
            parser.parse_with_source_info(&text).map_err(|errors| grammar(&text, &errors.errors))?;
        let checked = check::check(&expr, &info, &text, env);
        if !checked.problems.is_empty() {
            return Err(checked.problems);
        }
        Ok(Self { source: source.into(), references: checked.references, root: Arc::new(checked.root) })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The steps it reads.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// The value, within the budget.
    pub fn eval(&self, scope: &dyn Scope, budget: Budget) -> Result<Value, EvalError> {
        self.eval_metered(scope, &mut Meter::new(budget))
    }

    /// The value, within what is left on `meter`.
    pub fn eval_metered(&self, scope: &dyn Scope, meter: &mut Meter) -> Result<Value, EvalError> {
        self.run(scope, meter, |value, evaluator| value.to_json(evaluator.scope, &mut evaluator.meter))
    }

    /// The answer of a guard or a `while`, within the budget; anything but a bool is an error.
    pub fn eval_bool(&self, scope: &dyn Scope, budget: Budget) -> Result<bool, EvalError> {
        self.run(scope, &mut Meter::new(budget), |value, _| match value.plain() {
            Val::Bool(answer) => Ok(answer),
            other => {
                Err(EvalError::failed(format!("a condition is a bool, and this is {}", other.type_name())))
            }
        })
    }

    fn run<T>(
        &self,
        scope: &dyn Scope,
        meter: &mut Meter,
        take: impl for<'a> FnOnce(&Val<'a>, &mut Evaluator<'a>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let mut evaluator = Evaluator::new(scope, *meter);
        let taken = evaluator.eval(&self.root).and_then(|value| take(&value, &mut evaluator));
        *meter = evaluator.meter;
        taken
    }
}

/// The name of the branch that a condition step's value chooses: strings as they are, everything
/// else as JSON (`true`, `42`, `null`).
pub fn branch_name(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        other => other.to_string(),
    }
}

/// What the parser says, in our words: its first complaint, since those after it are guesses.
fn grammar(text: &str, errors: &[ParseError]) -> Vec<ExprProblem> {
    let first = errors.iter().find(|error| !error.msg.contains("recovery attempt")).or(errors.first());
    let (line, column, message) =
        first.map_or((1, 1, "not an expression"), |error| (error.pos.0, error.pos.1, error.msg.as_str()));
    let before: usize = text
        .split_inclusive('\n')
        .take(usize::try_from(line - 1).unwrap_or(0))
        .map(|l| l.chars().count())
        .sum();
    let column = u32::try_from(before).unwrap_or(0) + u32::try_from(column).unwrap_or(1).max(1);
    let message = match message.strip_prefix("Syntax error: ") {
        None => message.to_owned(),
        Some(syntax) if syntax.contains("<EOF>") => "the expression ends too early".to_owned(),
        Some(_) => match text.chars().nth(column as usize - 1) {
            Some(c) => format!("unexpected `{c}`"),
            None => "the expression ends too early".to_owned(),
        },
    };
    vec![ExprProblem { column, message }]
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

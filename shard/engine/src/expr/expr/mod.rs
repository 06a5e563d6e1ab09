//! Expr (the language of expr-lang.org): our own engine, for `expr.eval` and `${{ expr: … }}`.
//!
//! An expression goes through four stages: [`lexer`] (text to bounded tokens), [`parser`] (tokens
//! to a flat arena of nodes, names resolved), [`check`] (references and patterns, every problem at
//! once) and [`eval`] (nodes to a value, over borrowed JSON, every step and byte counted).
//!
//! What differs from the Go implementation, because values here are JSON:
//! - Integers that leave 64 bits become floats; a float without a fraction is written as an
//!   integer; dividing by zero is an error, since JSON has no infinity. A number that is only
//!   passed on keeps every digit.
//! - Strings are indexed, sliced, measured and searched by characters, never by bytes.
//! - `toJSON` writes compact text, keys in order; `string` of anything but a string is its JSON.
//! - The left side of `??` forgives: there an undefined name, a step that is not done, a field of
//!   nil and an index out of range are all nil. Everywhere else they are errors.
//! - In a predicate, `.name` and `#` are the element and nothing else. `map(xs, {a: .b})` is
//!   accepted for `map(xs, {{a: .b}})`.
//! - Patterns of `matches` are those of the `regex` crate, with `\d`, `\w`, `\s` and `\b` in their
//!   ASCII meaning.
//! - `now`, `date`, `duration` and `timezone` are refused: a value must not depend on the clock,
//!   and JSON has no dates.
//!
//! It never recurses deeper than [`parser::DEPTH_MAX`] says, so two megabytes of stack are plenty.

mod ast;
mod builtins;
mod check;
mod eval;
mod lexer;
mod parser;
mod pattern;
mod predicates;
mod value;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use super::{Budget, Env, EvalError, ExprProblem, Meter, References, Scope};

/// A compiled, checked Expr expression.
#[derive(Clone, Debug)]
pub struct Expr {
    source: Arc<str>,
    program: Arc<ast::Program>,
    references: References,
}

impl Expr {
    /// Compiles and checks: one problem for text that cannot be read, otherwise all of them.
    pub fn compile(source: &str, env: &Env<'_>) -> Result<Self, Vec<ExprProblem>> {
        let tokens = lexer::lex(source).map_err(|problem| vec![problem])?;
        let (mut program, mut problems) = parser::parse(tokens, env)?;
        let references = check::check(&mut program, env, &mut problems);
        if problems.is_empty() {
            Ok(Self { source: source.into(), program: Arc::new(program), references })
        } else {
            problems.sort_by_key(|problem| problem.column);
            Err(problems)
        }
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
        eval::evaluate(&self.program, scope, meter)
    }
}

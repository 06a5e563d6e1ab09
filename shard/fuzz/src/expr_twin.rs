//! Expr against its slow twin: the bytes grow a tree, which is printed, evaluated by the engine, and
//! evaluated by the reference: equal values, or both an error.

use opcode_engine::expr::expr::Expr;
use opcode_engine::expr::{Budget, EvalError};
use serde_json::Value;

use crate::choices::Choices;
use crate::reference::{self, Refused};
use crate::tree::{Grower, print};
use crate::world;

/// Levels of a tree.
const DEPTH: usize = 5;

/// How one tree came out, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    /// Both gave this value.
    Value,
    /// Both failed.
    Error,
    /// One of them had too much to do.
    TooMuch,
}

/// Runs one tree.
pub fn expr_twin(data: &[u8]) {
    compare(data);
}

/// Runs one tree and tells how it came out.
pub fn compare(data: &[u8]) -> Outcome {
    let mut choices = Choices::new(data);
    let tree = Grower::new(&mut choices).any(DEPTH);
    let source = print(&tree, &mut choices);
    let compiled = match Expr::compile(&source, &world::ENV) {
        Ok(compiled) => compiled,
        Err(problems) if problems.iter().all(|p| is_a_bound(&p.message)) => return Outcome::TooMuch,
        Err(problems) => panic!("{source}\ndoes not compile: {problems:?}\n{tree:?}"),
    };
    let ours = compiled.eval(world::scope(), Budget::WORKER);
    let theirs = reference::evaluate(&tree, world::scope());
    match (&ours, &theirs) {
        (Err(EvalError::OverBudget), _) | (_, Err(Refused::TooMuch)) => Outcome::TooMuch,
        (Err(EvalError::Failed { .. }), Err(Refused::Failed)) => Outcome::Error,
        (Ok(ours), Ok(theirs)) if same(ours, theirs) => Outcome::Value,
        _ => panic!("{source}\ngives {ours:?}\nand by the reference {theirs:?}\n{tree:?}"),
    }
}

fn is_a_bound(message: &str) -> bool {
    ["too deep", "deeper than", "more than", "longer than"].iter().any(|bound| message.contains(bound))
}

/// Equal to the last digit, but that a float may be written as an integer.
pub(crate) fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            let as_float = |text: &str| text.parse::<f64>().ok();
            ours == theirs
                || (ours.parse::<i64>().is_err() != theirs.parse::<i64>().is_err()
                    && as_float(&ours) == as_float(&theirs))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.keys().eq(theirs.keys()) && ours.iter().all(|(name, value)| same(value, &theirs[name]))
        }
        (ours, theirs) => ours == theirs,
    }
}

//! `expr.eval`: the program that the engine compiled, or one that interpolation has just made.

use std::sync::Arc;

use opcode_engine::expr::expr::Expr;
use opcode_engine::expr::{Budget, Env, EvalError, OwnedScope, Visibility};
use opcode_engine::{Code, Fault};
use serde_json::{Map, Value};

use super::Call;
use super::params::Params;

/// `None` when the budget ran out.
pub(super) fn eval(params: Params<'_>, call: &Call, budget: Budget) -> Option<Result<Value, Fault>> {
    let (program, scope) = match program_of(params, call) {
        Ok(found) => found,
        Err(fault) => return Some(Err(fault)),
    };
    match program.eval(scope.as_ref(), budget) {
        Ok(value) => Some(Ok(Value::Object(Map::from_iter([("result".to_owned(), value)])))),
        Err(EvalError::OverBudget) => None,
        Err(e) => Some(Err(Fault::new(Code::ExecutionError, format!("expr.eval: {e}")))),
    }
}

fn program_of(params: Params<'_>, call: &Call) -> Result<(Arc<Expr>, Arc<OwnedScope>), Fault> {
    let data = params.given("data");
    if let Some((program, scope)) = &call.program {
        let scope = match data {
            Some(data) if scope.data.is_none() => {
                Arc::new(OwnedScope { data: Some(Arc::new(data.clone())), ..OwnedScope::clone(scope) })
            }
            _ => Arc::clone(scope),
        };
        return Ok((Arc::clone(program), scope));
    }
    // The text was made by interpolation, so it was not compiled with the definition, and its
    // values are in it already: it reads `data` only.
    let source = params.require_str("expression")?;
    let env =
        Env { step: &|_| Visibility::Unknown { suggestion: None }, in_loop: false, has_data: data.is_some() };
    let program = Expr::compile(source, &env).map_err(|problems| {
        let first = problems.first().map_or("", |p| p.message.as_str());
        params.invalid("expression", &format!("does not compile: {first}"))
    })?;
    let scope = OwnedScope { data: data.map(|d| Arc::new(d.clone())), ..OwnedScope::default() };
    Ok((Arc::new(program), Arc::new(scope)))
}

/// The fault of an expression that is too costly even for a worker.
pub(super) fn over_budget() -> Fault {
    Fault::new(Code::NonRetryable, format!("expr.eval: {}", EvalError::OverBudget))
}

//! CEL: any text compiles or is refused with a place in it; what compiles gives the same value each
//! time, whatever the budget, as long as there is enough of it.

use opcode_engine::expr::cel::Cel;
use opcode_engine::expr::{Budget, EvalError};
use serde_json::Value;

use crate::world;

/// More than what a shard's loop spends, and still little.
pub(crate) const MORE: Budget = Budget { steps: 60_000, bytes: 2 * 1024 * 1024 };

/// Runs one text.
pub fn cel(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let compiled = match Cel::compile(source, &world::ENV) {
        Ok(compiled) => compiled,
        Err(problems) => return world::assert_problems(source, &problems),
    };
    assert_eq!(compiled.source(), source);
    let references = compiled.references();
    assert!(references.steps.is_sorted_by(|a, b| a < b), "{source:?}: {references:?}");
    let eval = |budget| compiled.eval(world::scope(), budget);
    let value = agreed(source, &eval);
    let answer = compiled.eval_bool(world::scope(), MORE);
    match (&value, &answer) {
        (Ok(Value::Bool(value)), Ok(answer)) => assert_eq!(value, answer, "{source:?}"),
        // Making JSON of it costs something, too.
        (Err(EvalError::OverBudget), Ok(_)) | (Ok(_) | Err(_), Err(_)) => {}
        (value, answer) => panic!("{source:?} gives {value:?}, and as a condition {answer:?}"),
    }
}

/// The value under the larger budget, which is the same under the smaller one and the second time.
pub(crate) fn agreed(
    source: &str,
    eval: &dyn Fn(Budget) -> Result<Value, EvalError>,
) -> Result<Value, EvalError> {
    let inline = eval(Budget::INLINE);
    let more = eval(MORE);
    if inline != Err(EvalError::OverBudget) {
        assert_eq!(inline, more, "{source:?} with more to spend");
    }
    match &more {
        Ok(value) => world::assert_json(source, value, MORE.bytes),
        Err(error) => world::assert_failure(source, error),
    }
    assert_eq!(eval(MORE), more, "{source:?} the second time");
    more
}

//! Expr: any text compiles or is refused with a place in it; what compiles gives the same value each
//! time, whatever the budget, as long as there is enough of it.

use opcode_engine::expr::expr::Expr;

use crate::{cel, world};

/// Runs one text.
pub fn expr(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let compiled = match Expr::compile(source, &world::ENV) {
        Ok(compiled) => compiled,
        Err(problems) => return world::assert_problems(source, &problems),
    };
    assert_eq!(compiled.source(), source);
    let references = compiled.references();
    assert!(references.steps.is_sorted_by(|a, b| a < b), "{source:?}: {references:?}");
    let value = cel::agreed(source, &|budget| compiled.eval(world::scope(), budget));
    let in_brackets = format!("({source}\n)");
    let again = Expr::compile(&in_brackets, &world::ENV).map(|again| again.eval(world::scope(), cel::MORE));
    match (value, again) {
        (Ok(value), Ok(again)) => assert_eq!(again, Ok(value), "{source:?} in brackets"),
        // A bracket more may be one too many, and columns move by one.
        (Err(_), _) | (Ok(_), Err(_)) => {}
    }
}

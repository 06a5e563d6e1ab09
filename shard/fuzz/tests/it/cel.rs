//! CEL against its published conformance cases.

use opcode_engine::expr::Budget;
use opcode_engine::expr::cel::Cel;
use opcode_fuzz::world;

use crate::tables::cases;

fn ours(source: &str) -> (String, String) {
    match Cel::compile(source, &world::ENV) {
        Err(problems) => ("error".to_owned(), format!("{problems:?}")),
        Ok(cel) => match cel.eval(world::scope(), Budget::WORKER) {
            Ok(value) => (value.to_string(), String::new()),
            Err(error) => ("error".to_owned(), error.to_string()),
        },
    }
}

#[test]
fn cel_gives_what_its_conformance_suite_says() {
    let cases = cases("cel.txt", 1);
    assert!(cases.len() > 500, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let (found, why) = ours(&case.given[0]);
        if found != case.engine() {
            wrong.push(format!(
                "line {}: {} gives {found} {why}, not {}",
                case.line,
                case.given[0],
                case.engine()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let differing = cases.iter().filter(|case| case.ours.is_some()).count();
    println!("{} cases of CEL, {differing} of them differ by design", cases.len());
}

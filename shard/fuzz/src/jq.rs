//! jq: any text compiles or is refused with a place in it, on a stack that it cannot overflow. Only
//! what is short and cannot run long is also run, since nothing bounds a filter from inside.

use opcode_engine::expr::jq::{Jq, run_unbounded};
use serde_json::{Value, json};

use crate::world;

/// Longest filter that is run: each `,` may double the outputs.
const RUN_BYTES_MAX: usize = 40;
/// Words that end soon whatever they are given.
const QUICK: [&str; 34] = [
    "length",
    "keys",
    "values",
    "map",
    "select",
    "first",
    "last",
    "tostring",
    "tonumber",
    "type",
    "not",
    "empty",
    "add",
    "has",
    "sort",
    "unique",
    "reverse",
    "join",
    "split",
    "tojson",
    "fromjson",
    "to_entries",
    "from_entries",
    "and",
    "or",
    "if",
    "then",
    "else",
    "elif",
    "end",
    "try",
    "null",
    "true",
    "false",
];
/// What may fill memory or repeat: assignments make room, `*` repeats strings, `..` and `?//` recurse.
const SLOW: [&str; 7] = ["=", "*", "..", "$", "@", "/", "e9"];

/// Runs one text.
pub fn jq(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    match Jq::compile(source, &world::ENV) {
        Ok(compiled) => {
            assert_eq!(compiled.source(), source);
            assert!(compiled.references().steps.is_empty() && !compiled.references().all_steps);
        }
        Err(problems) => return world::assert_problems(source, &problems),
    }
    if !is_quick(source) {
        return;
    }
    let input = json!({"a": 1, "b": [3, 1, 2], "s": "x,y", "o": {"k": "v", "n": null}, "f": 1.5});
    let outputs = run_unbounded(source, &input);
    assert_eq!(run_unbounded(source, &input), outputs, "{source:?} the second time");
    match outputs {
        Ok(outputs) => world::assert_json(source, &Value::Array(outputs), 64 * 1024 * 1024),
        Err(error) => world::assert_failure(source, &error),
    }
}

/// Whether running `source` is sure to end soon.
fn is_quick(source: &str) -> bool {
    let words = source.split(|c: char| !c.is_ascii_alphabetic() && c != '_');
    let mut words = words.filter(|word| word.len() > 1);
    source.len() <= RUN_BYTES_MAX
        && !SLOW.iter().any(|slow| source.contains(slow))
        && words.all(|word| QUICK.contains(&word))
}

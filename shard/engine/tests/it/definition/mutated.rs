//! Published examples with random damage: refused or accepted, never a panic, and every problem
//! points at something that is there.

use std::sync::LazyLock;

use opcode_engine::definition::Definition;
use opcode_engine::{Code, Invalid};
use proptest::prelude::*;
use serde_json::{Value, json};

static EXAMPLES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    super::accepted::examples().iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect()
});

/// What a value is replaced by.
fn scrap(kind: u8) -> Value {
    match kind % 16 {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1.5e300),
        3 => json!(""),
        4 => json!("${{"),
        5 => json!("${{ steps['check-stock'].body ?? }}"),
        6 => json!("steps.nowhere.x + loop.item"),
        7 => json!([]),
        8 => json!({}),
        9 => json!([[[{"a/b~": 1}]]]),
        10 => json!("999999999999h"),
        11 => json!({"$ref": "#"}),
        12 => json!({"id": "new", "type": "loop", "config": {"mode": "map", "body": [{"id": "new"}]}}),
        13 => json!("jq: .[] | error"),
        14 => json!("\u{0}\u{1F600}"),
        _ => json!("workflow.run"),
    }
}

/// Walks to a place that the numbers choose and damages it.
fn damage(value: &mut Value, path: &[u8], how: u8) {
    let Some((first, rest)) = path.split_first() else {
        *value = scrap(how);
        return;
    };
    let first = usize::from(*first);
    match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(first % map.len()).unwrap().clone();
            match (rest.is_empty(), how % 5) {
                (true, 0) => drop(map.remove(&key)),
                (true, 1) => {
                    let moved = map.remove(&key).unwrap();
                    map.insert(format!("{key}x"), moved);
                }
                _ => damage(map.get_mut(&key).unwrap(), rest, how),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let index = first % items.len();
            match (rest.is_empty(), how % 5) {
                (true, 0) => drop(items.remove(index)),
                (true, 1) => items.push(items[index].clone()),
                (true, 2) => items.reverse(),
                _ => damage(&mut items[index], rest, how),
            }
        }
        other => *other = scrap(how),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_is_told_where_it_is(
        example in any::<prop::sample::Index>(),
        wounds in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..12), any::<u8>()), 1..4),
    ) {
        let mut value = example.get(&EXAMPLES).clone();
        for (path, how) in &wounds {
            damage(&mut value, path, *how);
        }
        if let Err(Invalid { code, problems }) = Definition::parse(&value.to_string()) {
            prop_assert!(!problems.is_empty());
            prop_assert!(matches!(code, Code::ValidationError | Code::CycleDetected));
            for problem in &problems {
                prop_assert!(value.pointer(&problem.pointer).is_some(), "{problem:?} in {value}");
                prop_assert!(!problem.message.is_empty());
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[\[\]{}:,"\\a-c0-9. eE+-]{0,60}"#) {
        // Agreement with serde_json, which reads the same language but for repeated keys.
        let ours = Definition::parse(&text).err().map(|invalid| invalid.problems[0].line.is_none());
        let theirs = serde_json::from_str::<Value>(&text).is_ok();
        let is_repeated_key = Definition::parse(&text).is_err_and(|i| i.problems[0].message.contains("twice"));
        prop_assert!(ours == Some(theirs) || is_repeated_key, "{text}: {ours:?} {theirs}");
    }
}

//! How big a value is as JSON, without making the text; and whether it is nested too deep.

use serde_json::Value;

/// Deepest nesting of a value in an event, below what a JSON parser reads back.
pub(crate) const VALUE_DEPTH_MAX: usize = 100;

/// About how many bytes of JSON `value` is, never less than without escapes; stops counting
/// beyond `most`. `None` when it is nested deeper than [`VALUE_DEPTH_MAX`].
pub(crate) fn json_bytes(value: &Value, most: usize) -> Option<usize> {
    let mut bytes = 0;
    add(value, most, VALUE_DEPTH_MAX, &mut bytes).then_some(bytes)
}

fn add(value: &Value, most: usize, depth: usize, bytes: &mut usize) -> bool {
    if depth == 0 {
        return false;
    }
    if *bytes > most {
        return true;
    }
    match value {
        Value::Null | Value::Bool(_) => *bytes += 5,
        Value::Number(n) => *bytes += n.as_str().len(),
        Value::String(s) => *bytes += string_bytes(s),
        Value::Array(items) => {
            *bytes += 2 + items.len();
            return items.iter().all(|item| add(item, most, depth - 1, bytes));
        }
        Value::Object(map) => {
            *bytes += 2;
            return map.iter().all(|(key, item)| {
                *bytes += string_bytes(key) + 2;
                add(item, most, depth - 1, bytes)
            });
        }
    }
    true
}

/// Bytes of a string in JSON, escapes counted.
fn string_bytes(text: &str) -> usize {
    let escaped = |b: u8| match b {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..=0x1f => 5,
        _ => 0,
    };
    text.len() + 2 + text.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{VALUE_DEPTH_MAX, json_bytes};
    use serde_json::{Value, json};

    #[test]
    fn the_count_is_no_less_than_the_text() {
        for value in [json!({"a": [1, 2.5, "x\n\u{1}", null, true], "b": {}}), json!(""), json!([[], [[]]])] {
            let text = value.to_string().len();
            let counted = json_bytes(&value, usize::MAX).unwrap();
            assert!(counted >= text && counted <= text + 16, "{value}: {counted} for {text}");
        }
    }

    #[test]
    fn deep_values_are_told() {
        let mut value = Value::Null;
        for _ in 1..VALUE_DEPTH_MAX {
            value = json!([value]);
        }
        assert!(json_bytes(&value, usize::MAX).is_some());
        assert!(json_bytes(&json!([value]), usize::MAX).is_none());
    }
}

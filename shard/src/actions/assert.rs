//! `assert.*`: a step that fails with `ASSERTION_FAILED` when something is not so.
//!
//! Numbers are equal when their values are, whatever their spelling: `1`, `1.0` and `10e-1`.

use opcode_engine::{Code, Fault};
use regex::RegexBuilder;
use serde_json::{Map, Number, Value, json};

use super::params::{Params, text_of};

/// Compiled size of a pattern, in bytes; more is refused.
const REGEX_BYTES_MAX: usize = 256 * 1024;
/// Schema violations that are listed.
const VIOLATIONS_MAX: usize = 20;

pub(super) fn equals(params: Params<'_>) -> Result<Value, Fault> {
    let (expected, actual) = (params.require("expected")?, params.require("actual")?);
    if is_equal(expected, actual) {
        return pass();
    }
    fail(params, "the values are not equal", json!({"expected": expected, "actual": actual}))
}

pub(super) fn contains(params: Params<'_>) -> Result<Value, Fault> {
    let (haystack, needle) = (params.require("haystack")?, params.require("needle")?);
    let is_in = match haystack {
        Value::String(text) => text.contains(text_of(needle).as_ref()),
        Value::Array(items) => items.iter().any(|item| is_equal(item, needle)),
        Value::Object(fields) => needle.as_str().is_some_and(|key| fields.contains_key(key)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            return Err(params.invalid("haystack", "must be a string, an array or an object"));
        }
    };
    if is_in {
        return pass();
    }
    fail(params, "the value is not in it", json!({"expected": needle, "actual": haystack}))
}

pub(super) fn matches(params: Params<'_>) -> Result<Value, Fault> {
    let value = params.require_text("value")?;
    let pattern = params.require_str("pattern")?;
    let regex = RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|e| params.invalid("pattern", &format!("is not a regular expression: {e}")))?;
    match regex.find(&value) {
        Some(found) => Ok(json!({"pass": true, "matches": found.as_str()})),
        None => fail(params, "the value does not match", json!({"expected": pattern, "actual": value})),
    }
}

pub(super) fn schema(params: Params<'_>) -> Result<Value, Fault> {
    let (data, schema) = (params.require("data")?, params.require("schema")?);
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .build(schema)
        .map_err(|e| params.invalid("schema", &format!("is not a JSON Schema: {e}")))?;
    let violations: Vec<Value> = validator
        .iter_errors(data)
        .take(VIOLATIONS_MAX)
        .map(|e| json!({"pointer": e.instance_path().to_string(), "message": e.to_string()}))
        .collect();
    if violations.is_empty() {
        return pass();
    }
    fail(
        params,
        "the data does not fit the schema",
        json!({"expected": schema, "actual": data, "violations": violations}),
    )
}

pub(super) fn truthy(params: Params<'_>) -> Result<Value, Fault> {
    let value = params.require("value")?;
    let is_truthy = match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => !is_same_number(n, &Number::from(0)),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    };
    if is_truthy {
        return pass();
    }
    fail(
        params,
        "the value is false, null, zero or empty",
        json!({"expected": "a truthy value", "actual": value}),
    )
}

fn pass() -> Result<Value, Fault> {
    Ok(Value::Object(Map::from_iter([("pass".to_owned(), Value::Bool(true))])))
}

fn fail(params: Params<'_>, why: &str, details: Value) -> Result<Value, Fault> {
    let message = match params.str("message")? {
        Some(message) if !message.is_empty() => message.to_owned(),
        _ => format!("assertion failed: {why}"),
    };
    Err(Fault::new(Code::AssertionFailed, message).with_details(details))
}

/// Deep equality in which a number is its value. Depth is bounded by the JSON parser.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => is_same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| is_equal(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Compares decimal digits and exponents, so that long integers keep all their digits.
fn is_same_number(a: &Number, b: &Number) -> bool {
    a == b || decimal(a.as_str()) == decimal(b.as_str())
}

/// Sign, significant digits and exponent of a JSON number, in one form for each value.
fn decimal(text: &str) -> (bool, String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    // An exponent beyond this range is as good as any other beyond it.
    let exponent: i64 =
        exponent.parse().unwrap_or(if exponent.starts_with('-') { -1 << 40 } else { 1 << 40 });
    let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let exponent = exponent - fraction.len() as i64 + (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0').to_owned();
    if significant.is_empty() { (false, significant, 0) } else { (is_negative, significant, exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Action = fn(Params<'_>) -> Result<Value, Fault>;

    fn code(action: Action, params: Value) -> Option<Code> {
        action(Params::new("assert", &params)).err().map(|f| f.code)
    }

    fn number(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn numbers_are_their_values() {
        let same = [("1", "1.0"), ("100", "1e2"), ("0", "-0.0"), ("0.10", "1e-1"), ("-5", "-5.00")];
        for (a, b) in same {
            assert!(is_equal(&number(a), &number(b)), "{a} {b}");
        }
        let different = [("1", "2"), ("9007199254740993", "9007199254740992"), ("1", "-1"), ("10", "1")];
        for (a, b) in different {
            assert!(!is_equal(&number(a), &number(b)), "{a} {b}");
        }
    }

    #[test]
    fn equals_says_what_was_expected() {
        let nested = json!({"expected": {"a": [1, {"b": null}]}, "actual": {"a": [1.0, {"b": null}]}});
        assert_eq!(code(equals, nested), None);
        let params = json!({"expected": 1, "actual": "1", "message": "they differ"});
        let fault = equals(Params::new("assert.equals", &params)).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (Code::AssertionFailed, "they differ"));
        assert_eq!(fault.details, json!({"expected": 1, "actual": "1"}));
        assert_eq!(code(equals, json!({"expected": 1})), Some(Code::ValidationError));
    }

    #[test]
    fn contains_looks_into_strings_lists_and_objects() {
        assert_eq!(code(contains, json!({"haystack": "price 42", "needle": 42})), None);
        assert_eq!(code(contains, json!({"haystack": [1, [2]], "needle": [2.0]})), None);
        assert_eq!(code(contains, json!({"haystack": {"a": 1}, "needle": "a"})), None);
        assert_eq!(code(contains, json!({"haystack": [], "needle": 1})), Some(Code::AssertionFailed));
        assert_eq!(code(contains, json!({"haystack": 5, "needle": 5})), Some(Code::ValidationError));
    }

    #[test]
    fn matches_is_bounded() {
        let found = matches(Params::new("m", &json!({"value": "v1.2.3", "pattern": "\\d+\\.\\d+"}))).unwrap();
        assert_eq!(found, json!({"pass": true, "matches": "1.2"}));
        assert_eq!(code(matches, json!({"value": "x", "pattern": "^y"})), Some(Code::AssertionFailed));
        for pattern in ["(", "(a{1000}){1000}", "((a{100}){100}){100}"] {
            assert_eq!(code(matches, json!({"value": "x", "pattern": pattern})), Some(Code::ValidationError));
        }
    }

    #[test]
    fn schema_lists_every_violation() {
        let schema_ = json!({"type": "object", "required": ["a"], "properties": {"b": {"type": "integer"}}});
        assert_eq!(code(schema, json!({"data": {"a": 1, "b": 2}, "schema": schema_})), None);
        let params = json!({"data": {"b": "x"}, "schema": schema_});
        let fault = schema(Params::new("assert.schema", &params)).unwrap_err();
        assert_eq!(fault.code, Code::AssertionFailed);
        assert_eq!(fault.details["violations"].as_array().unwrap().len(), 2);
        assert_eq!(code(schema, json!({"data": 1, "schema": {"type": 5}})), Some(Code::ValidationError));
    }

    #[test]
    fn truthy_follows_the_usual_rules() {
        for value in [json!(true), json!(1), json!("x"), json!([0]), json!({"a": 0})] {
            assert_eq!(code(truthy, json!({"value": value})), None);
        }
        for value in [json!(null), json!(false), json!(0.0), json!(""), json!([]), json!({})] {
            assert_eq!(code(truthy, json!({"value": value})), Some(Code::AssertionFailed));
        }
    }
}

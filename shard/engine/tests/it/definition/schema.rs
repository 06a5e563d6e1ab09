//! `input_schema`: compiled with the definition, asked with the params.

use opcode_engine::definition::Definition;
use serde_json::{Value, json};

use super::{expect, log};

fn with_schema(schema: Value) -> Value {
    json!({"name": "n", "input_schema": schema, "definition": {"steps": [log("a", &[])]}})
}

fn compiled(schema: Value) -> Definition {
    super::accepted(&with_schema(schema))
}

#[test]
fn params_are_checked_with_every_violation_at_once() {
    let d = compiled(json!({"type": "object", "required": ["url", "n"], "properties": {
        "url": {"type": "string", "pattern": "^http"}, "n": {"type": "integer", "minimum": 3}}}));
    assert_eq!(d.check_params(&json!({"url": "http://x", "n": 3})), Ok(()));
    let problems = d.check_params(&json!({"url": "ftp://x", "n": 1})).unwrap_err().problems;
    let pointers: Vec<&str> = problems.iter().map(|p| p.pointer.as_str()).collect();
    assert_eq!(pointers, ["/params/n", "/params/url"]);
    let missing = d.check_params(&json!({})).unwrap_err().problems;
    assert_eq!(missing.len(), 2);
    assert!(missing[0].message.contains("url") && missing[0].pointer == "/params");
    let none = Definition::parse(&json!({"steps": [log("a", &[])]}).to_string()).unwrap();
    assert_eq!(none.check_params(&json!({"anything": 1})), Ok(()));
}

#[test]
fn big_numbers_are_compared_with_all_their_digits() {
    let d = compiled(json!({"properties": {"n": {"type": "integer", "maximum": 9007199254740993_u64}}}));
    assert_eq!(d.check_params(&json!({"n": 9007199254740993_u64})), Ok(()));
    assert!(d.check_params(&json!({"n": 9007199254740994_u64})).is_err());
}

#[test]
fn schemas_that_are_none() {
    expect(&with_schema(json!("x")), &[("/input_schema", "an object or a boolean is expected")]);
    expect(&with_schema(json!({"type": "strng"})), &[("/input_schema/type", "not a JSON Schema")]);
    expect(
        &with_schema(json!({"properties": {"a": {"minimum": "x"}}})),
        &[("/input_schema/properties/a/minimum", "not a JSON Schema")],
    );
    expect(
        &with_schema(json!({"$ref": "https://example.com/s.json"})),
        &[("/input_schema/$ref", "leads out of the schema")],
    );
    expect(
        &with_schema(json!({"items": [{"$ref": "file:///etc/passwd"}]})),
        &[("/input_schema/items/0/$ref", "leads out")],
    );
    expect(&with_schema(json!({"$ref": "#/$defs/none"})), &[("/input_schema", "not a JSON Schema")]);
    expect(&with_schema(json!({"pattern": "(a"})), &[("/input_schema/pattern", "not a JSON Schema")]);
}

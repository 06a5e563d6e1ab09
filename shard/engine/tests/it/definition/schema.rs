//! `input_schema`: compiled with the definition, asked with the params.

use opcode_engine::definition::Definition;
use serde_json::{Value, json};

use super::{expect, log};

pub(super) fn with_schema(schema: Value) -> Value {
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
    expect(
        &with_schema(json!({"items": {"$id": "http://a/b"}})),
        &[("/input_schema/items/$id", "as a whole")],
    );
    expect(&with_schema(json!({"pattern": "(a"})), &[("/input_schema/pattern", "not a JSON Schema")]);
}

/// Asked with `params`, refused as too costly, and soon.
fn too_costly(schema: Value, params: &Value) {
    let d = compiled(schema);
    let start = std::time::Instant::now();
    let problems = d.check_params(params).unwrap_err().problems;
    assert!(problems.len() == 1 && problems[0].message.contains("too long"), "{problems:?}");
    assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn schemas_that_would_take_years_are_refused_before_they_start() {
    let twice = |target: &str| json!({"allOf": [{"$ref": target}, {"$ref": target}]});
    let mut defs: serde_json::Map<String, Value> =
        (0..40).map(|n| (format!("d{n}"), twice(&format!("#/$defs/d{}", n + 1)))).collect();
    defs.insert("d40".into(), json!({"type": "string"}));
    too_costly(json!({"$ref": "#/$defs/d0", "$defs": defs}), &json!("x"));

    let nested = (0..60).fold(json!({}), |inner, _| json!({"a": inner}));
    too_costly(json!({"properties": {"a": twice("#")}}), &nested);
    too_costly(json!({"$anchor": "me", "properties": {"a": twice("#me")}}), &nested);
    too_costly(
        json!({"$dynamicAnchor": "me", "additionalProperties": {"oneOf": [{"$dynamicRef": "#me"}, {"$dynamicRef": "#me"}]}}),
        &nested,
    );
    too_costly(
        json!({"$defs": {"a b": {"properties": {"a": twice("#/$defs/a%20b")}}}, "$ref": "#/$defs/a%20b"}),
        &nested,
    );

    let many: Vec<Value> = (0..500).map(|n| json!({"const": n})).collect();
    too_costly(json!({"items": {"anyOf": many}}), &json!(vec![1_000; 5_000]));

    let mut chain: serde_json::Map<String, Value> =
        (0..9_000).map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}))).collect();
    chain.insert("d9000".into(), json!({}));
    too_costly(json!({"$ref": "#/$defs/d0", "$defs": chain}), &json!(1));
}

#[test]
fn recursive_schemas_are_fine_where_they_end() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$dynamicAnchor": "x", "$dynamicRef": "#x"}),
    ] {
        assert_eq!(compiled(schema).check_params(&json!({"a": 1})), Ok(()));
    }
    let tree = compiled(json!({"type": "object", "required": ["v"], "properties": {
        "v": {"type": "integer"}, "left": {"$ref": "#"}, "right": {"$ref": "#"}}}));
    let deep = (0..100).fold(json!({"v": 1}), |inner, n| json!({"v": n, "left": {"v": 1}, "right": inner}));
    assert_eq!(tree.check_params(&deep), Ok(()));
    let wrong = (0..3).fold(json!({"v": "x"}), |inner, n| json!({"v": n, "left": inner}));
    assert_eq!(tree.check_params(&wrong).unwrap_err().problems[0].pointer, "/params/left/left/left/v");
}

#[test]
fn a_pattern_cannot_backtrack_for_ever() {
    let d = compiled(json!({"properties": {"a": {"pattern": "^(a+)+$"}}}));
    let start = std::time::Instant::now();
    assert!(d.check_params(&json!({"a": format!("{}b", "a".repeat(50_000))})).is_err());
    assert!(start.elapsed() < std::time::Duration::from_secs(60));
    expect(
        &with_schema(json!({"pattern": "(\\w{1000}){1000}"})),
        &[("/input_schema/pattern", "not a JSON Schema")],
    );
}

#[test]
fn long_values_are_not_quoted() {
    let d = compiled(json!({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}));
    let problems =
        d.check_params(&json!({"a": "y".repeat(100_000), "b": ["y".repeat(1_000)]})).unwrap_err().problems;
    assert!(
        problems.iter().all(|p| !p.message.contains("yyy") && p.message.contains("integer")),
        "{problems:?}"
    );
}

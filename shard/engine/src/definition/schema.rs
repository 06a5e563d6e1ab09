//! The `input_schema` of a template file: JSON Schema 2020-12, compiled once, with nothing in it
//! that reaches out of the text or costs without bound.

use serde_json::Value;

use super::fields::{Object, shown, under};
use super::{InputSchema, schema_cost};
use crate::error::Problem;

/// Most violations that are told one by one.
const VIOLATIONS_MAX: usize = 100;
/// Longest value that a violation quotes, in bytes.
const VALUE_BYTES_SHOWN_MAX: usize = 100;
/// Deepest nesting of a schema, since its compiler recurses.
const SCHEMA_NESTING_MAX: usize = 48;
/// Most memory of one compiled `pattern`.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// Compiles the schema in field `name`, if there is one.
pub(super) fn compile(object: &Object<'_>, name: &str) -> Option<InputSchema> {
    let source = object.get(name)?;
    if !matches!(source, Value::Object(_) | Value::Bool(_)) {
        object.wrong(name, "an object or a boolean", source);
        return None;
    }
    let before = remote_references(source, &object.at(name));
    if !before.is_empty() {
        object.report.all(before);
        return None;
    }
    let patterns = jsonschema::PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
    let built = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .with_pattern_options(patterns)
        .offline()
        .build(source);
    match built {
        Ok(validator) => Some(InputSchema { source: source.clone(), validator }),
        Err(error) => {
            let pointer = format!("{}{}", object.at(name), error.instance_path());
            object
                .report
                .at(pointer, format!("not a JSON Schema (2020-12): {}", shorter(&error.to_string())));
            None
        }
    }
}

/// References that lead out of the schema, and nesting that is too deep.
fn remote_references(schema: &Value, pointer: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut left = vec![(schema, pointer.to_owned(), 0)];
    while let Some((value, pointer, depth)) = left.pop() {
        if depth > SCHEMA_NESTING_MAX {
            problems.push(Problem::at(pointer, format!("a schema may nest {SCHEMA_NESTING_MAX} deep")));
            break;
        }
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let pointer = under(&pointer, name);
                    if let ("$ref" | "$dynamicRef", Value::String(target)) = (name.as_str(), field)
                        && !target.starts_with('#')
                    {
                        let message = format!(
                            "{} leads out of the schema; only \"#…\" may be referred to",
                            shown(target)
                        );
                        problems.push(Problem::at(pointer.clone(), message));
                    }
                    if name == "$id" && field.is_string() && depth > 0 {
                        let message = "only the schema as a whole may have an \"$id\"";
                        problems.push(Problem::at(pointer.clone(), message));
                    }
                    left.push((field, pointer, depth + 1));
                }
            }
            Value::Array(items) => left.extend(
                items.iter().enumerate().map(|(i, item)| (item, under(&pointer, &i.to_string()), depth + 1)),
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    problems
}

/// What of `params` violates `schema`; pointers start with `/params`.
pub(super) fn violations(schema: &InputSchema, params: &Value) -> Vec<Problem> {
    if !schema_cost::is_affordable(&schema.source, params) {
        let message = "checking these params against input_schema would take too long: \
                       the schema refers to itself too often, or the params are too large for it";
        return vec![Problem::at("/params", message)];
    }
    let violation = |error: jsonschema::ValidationError<'_>| {
        let is_short = match error.instance().as_ref() {
            Value::Array(_) | Value::Object(_) => false,
            Value::String(text) => text.len() <= VALUE_BYTES_SHOWN_MAX,
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
        };
        let message = if is_short { error.to_string() } else { error.masked().to_string() };
        Problem::at(format!("/params{}", error.instance_path()), shorter(&message))
    };
    schema.validator.iter_errors(params).take(VIOLATIONS_MAX).map(violation).collect()
}

/// Messages quote lists of names, however long they are.
fn shorter(message: &str) -> String {
    const MESSAGE_CHARS_MAX: usize = 300;
    if message.chars().count() <= MESSAGE_CHARS_MAX {
        return message.to_owned();
    }
    let head: String = message.chars().take(MESSAGE_CHARS_MAX / 2).collect();
    let skipped = message.chars().count() - MESSAGE_CHARS_MAX / 2;
    let tail: String = message.chars().skip(skipped).collect();
    format!("{head} … {tail}")
}

//! What checking a value against a schema costs, counted before it is done.
//!
//! A schema of a few lines can cost years: `allOf` with two references to the same definition,
//! twenty levels deep, or a recursive one that meets nested params. The validator has no budget,
//! so this walks schema and value first, counts each evaluation that the validator could make,
//! remembers the count of what is referred to repeatedly, and stops where it is too much.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Most evaluations of a subschema on a part of a value: about a tenth of a second.
pub(super) const EVALUATIONS_MAX: u64 = 1_000_000;
/// Deepest nesting of evaluations, since the validator recurses.
const DEPTH_MAX: usize = 600;

/// Whether checking `value` against `schema` stays within the bounds.
pub(super) fn is_affordable(schema: &Value, value: &Value) -> bool {
    let mut anchors = HashMap::new();
    find_anchors(schema, &mut anchors);
    let mut counter = Counter { root: schema, anchors, known: HashMap::new(), visits_left: EVALUATIONS_MAX };
    counter.cost(schema, value, 0).is_some_and(|cost| cost <= EVALUATIONS_MAX)
}

fn find_anchors<'a>(schema: &'a Value, anchors: &mut HashMap<&'a str, &'a Value>) {
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                for keyword in ["$anchor", "$dynamicAnchor"] {
                    if let Some(Value::String(name)) = fields.get(keyword) {
                        anchors.insert(name, value);
                    }
                }
                left.extend(fields.values());
            }
            Value::Array(items) => left.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

struct Counter<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// Cost of what a reference led to, by the addresses of schema and value; `None` while it is
    /// being counted, since the validator stops at a reference that meets itself.
    known: HashMap<(*const Value, *const Value), Option<u64>>,
    visits_left: u64,
}

impl<'a> Counter<'a> {
    /// Evaluations of `schema` on `value`; `None` when they are too many or too deep.
    fn cost(&mut self, schema: &'a Value, value: &'a Value, depth: usize) -> Option<u64> {
        self.visits_left = self.visits_left.checked_sub(1)?;
        if depth > DEPTH_MAX {
            return None;
        }
        let Value::Object(keywords) = schema else { return Some(1) };
        let mut cost = 1 + flat_cost(keywords, value);
        for (keyword, part) in keywords {
            cost = cost.saturating_add(self.in_place(keyword, part, value, depth + 1)?);
        }
        match value {
            Value::Object(fields) => cost = cost.saturating_add(self.fields(keywords, fields, depth + 1)?),
            Value::Array(items) => cost = cost.saturating_add(self.items(keywords, items, depth + 1)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        // To know what is left over, the validator goes through its siblings once more.
        let asks_again =
            ["unevaluatedProperties", "unevaluatedItems"].iter().any(|k| keywords.contains_key(*k));
        Some(if asks_again { cost.saturating_mul(2) } else { cost }).filter(|cost| *cost <= EVALUATIONS_MAX)
    }

    fn in_place(&mut self, keyword: &str, part: &'a Value, value: &'a Value, depth: usize) -> Option<u64> {
        match (keyword, part) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => self.sum(schemas, value, depth),
            ("not" | "if" | "then" | "else", schema) => self.cost(schema, value, depth),
            ("dependentSchemas", Value::Object(schemas)) => self.sum(schemas.values(), value, depth),
            ("$ref" | "$dynamicRef", Value::String(target)) => {
                let Some(schema) = self.target(target) else { return Some(0) };
                let key = (std::ptr::from_ref(schema), std::ptr::from_ref(value));
                if let Some(known) = self.known.get(&key) {
                    return Some(known.unwrap_or(0));
                }
                self.known.insert(key, None);
                let cost = self.cost(schema, value, depth)?;
                self.known.insert(key, Some(cost));
                Some(cost)
            }
            _ => Some(0),
        }
    }

    fn fields(
        &mut self,
        keywords: &'a Map<String, Value>,
        fields: &'a Map<String, Value>,
        depth: usize,
    ) -> Option<u64> {
        let mut cost = 0_u64;
        if let Some(Value::Object(properties)) = keywords.get("properties") {
            for (name, schema) in properties {
                if let Some(field) = fields.get(name) {
                    cost = cost.saturating_add(self.cost(schema, field, depth)?);
                }
            }
        }
        let by_pattern = keywords.get("patternProperties").and_then(Value::as_object);
        let mut any_field: Vec<&Value> = by_pattern.into_iter().flat_map(Map::values).collect();
        any_field.extend(
            ["additionalProperties", "unevaluatedProperties"].iter().filter_map(|k| keywords.get(*k)),
        );
        for schema in any_field {
            cost = cost.saturating_add(self.product(schema, fields.values(), depth)?);
        }
        if let Some(names) = keywords.get("propertyNames") {
            let one = self.cost(names, &Value::Null, depth)?;
            cost = cost.saturating_add(one.saturating_mul(fields.len() as u64));
        }
        Some(cost)
    }

    fn items(&mut self, keywords: &'a Map<String, Value>, items: &'a [Value], depth: usize) -> Option<u64> {
        let mut cost = 0_u64;
        if let Some(Value::Array(schemas)) = keywords.get("prefixItems") {
            for (schema, item) in schemas.iter().zip(items) {
                cost = cost.saturating_add(self.cost(schema, item, depth)?);
            }
        }
        for schema in ["items", "contains", "unevaluatedItems"].iter().filter_map(|k| keywords.get(*k)) {
            cost = cost.saturating_add(self.product(schema, items, depth)?);
        }
        Some(cost)
    }

    fn sum(
        &mut self,
        schemas: impl IntoIterator<Item = &'a Value>,
        value: &'a Value,
        depth: usize,
    ) -> Option<u64> {
        schemas
            .into_iter()
            .try_fold(0, |sum: u64, schema| Some(sum.saturating_add(self.cost(schema, value, depth)?)))
    }

    fn product(
        &mut self,
        schema: &'a Value,
        values: impl IntoIterator<Item = &'a Value>,
        depth: usize,
    ) -> Option<u64> {
        values
            .into_iter()
            .try_fold(0, |sum: u64, value| Some(sum.saturating_add(self.cost(schema, value, depth)?)))
    }

    /// What a reference leads to: the root, a pointer, or an anchor. Schemas with `$id` inside
    /// are refused before, so there is nothing else.
    fn target(&self, target: &str) -> Option<&'a Value> {
        let fragment = target.strip_prefix('#')?;
        let fragment = percent_decoded(fragment);
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&fragment);
        }
        self.anchors.get(fragment.as_str()).copied()
    }
}

/// Cost of keywords that look at the value itself: long lists, patterns on long text.
fn flat_cost(keywords: &Map<String, Value>, value: &Value) -> u64 {
    let listed = ["enum", "required"].iter().filter_map(|k| keywords.get(*k)?.as_array()).map(Vec::len);
    let text = match value {
        Value::String(text) if keywords.contains_key("pattern") || keywords.contains_key("format") => {
            text.len()
        }
        Value::Array(items) if keywords.contains_key("uniqueItems") => 8 * items.len(),
        Value::Object(fields) if keywords.contains_key("patternProperties") => 8 * fields.len(),
        _ => 0,
    };
    (listed.sum::<usize>() + text) as u64 / 8
}

fn percent_decoded(fragment: &str) -> String {
    let bytes = fragment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| fragment.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

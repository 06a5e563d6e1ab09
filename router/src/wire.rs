//! Reading JSON bodies strictly: unknown fields, wrong types, duplicate keys and missing fields
//! are all found at once, each with its pointer. Values stay raw text until they are asked for,
//! so that a definition is never parsed twice and numbers keep every digit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use opcode_engine::ids::{ID_BYTES_MAX, Timestamp};
use opcode_engine::{Code, Problem};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::access::Caller;
use crate::error::ApiError;
use crate::strict;

/// Labels of one run at most.
const LABELS_MAX: usize = 64;
/// Longest value of a label, in bytes.
const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Longest free text (a reason, a reasoning), in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// An object's fields as raw text, in order.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// Checks that `text` is one JSON value; the error has its line and column.
pub(crate) fn check_syntax(text: &str) -> Result<&RawValue, ApiError> {
    serde_json::from_str::<&RawValue>(text).map_err(|error| ApiError::malformed(syntax_problem(&error)))
}

fn syntax_problem(error: &serde_json::Error) -> Problem {
    let position = format!(" at line {} column {}", error.line(), error.column());
    let reason = error.to_string();
    let reason = reason.strip_suffix(&position).unwrap_or(&reason);
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Problem {
        pointer: String::new(),
        line: Some(narrow(error.line())),
        column: Some(narrow(error.column())),
        message: format!("not JSON: {reason}{position}"),
    }
}

/// The JSON type of a raw value, for messages.
pub(crate) fn type_of(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A reader of one object: take every field that is known, then [`Fields::finish`].
pub(crate) struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    pointer: String,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// Reads a body: not JSON is 400, not an object is 422.
    pub(crate) fn of_body(text: &'a str) -> Result<Self, ApiError> {
        match serde_json::from_str::<Object<'a>>(text) {
            Ok(object) => Ok(Self::new(object, String::new())),
            Err(error) if error.is_data() => {
                let raw = check_syntax(text)?;
                Err(invalid(vec![wrong_type("", "an object", raw)]))
            }
            Err(error) => Err(ApiError::malformed(syntax_problem(&error))),
        }
    }

    /// Reads an object within a body that is known to be JSON.
    pub(crate) fn of_raw(raw: &'a RawValue, pointer: &str) -> Result<Self, Problem> {
        serde_json::from_str::<Object<'a>>(raw.get())
            .map(|object| Self::new(object, pointer.to_owned()))
            .map_err(|_| wrong_type(pointer, "an object", raw))
    }

    fn new(Object(entries): Object<'a>, pointer: String) -> Self {
        let mut fields = Self { entries, pointer, known: Vec::with_capacity(10), problems: Vec::new() };
        for (place, (name, _)) in fields.entries.iter().enumerate() {
            if fields.entries[..place].iter().any(|(earlier, _)| earlier == name) {
                fields.problems.push(Problem::at(fields.pointer_to(name), "is given more than once"));
            }
        }
        fields
    }

    /// A pointer to a field of this object.
    pub(crate) fn pointer_to(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, strict::escaped(name))
    }

    /// Whether a field is there, whatever its type; `null` counts as absent.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.entries.iter().any(|(entry, raw)| entry == name && raw.get() != "null")
    }

    /// Notes a problem with a field.
    pub(crate) fn problem(&mut self, name: &str, message: impl Into<String>) {
        let pointer = self.pointer_to(name);
        self.problems.push(Problem::at(pointer, message));
    }

    /// Notes problems found elsewhere.
    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    /// A field's raw text; `null` counts as absent.
    pub(crate) fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.known.push(name);
        let (_, raw) = self.entries.iter().find(|(entry, _)| entry == name)?;
        (raw.get() != "null").then_some(*raw)
    }

    /// A field of some JSON type, by the first byte of its text.
    fn typed(&mut self, name: &'static str, first: u8, expected: &str) -> Option<&'a RawValue> {
        let raw = self.raw(name)?;
        if raw.get().as_bytes().first() == Some(&first) {
            return Some(raw);
        }
        let problem = wrong_type(&self.pointer_to(name), expected, raw);
        self.problems.push(problem);
        None
    }

    /// A string of at most 64 KiB.
    pub(crate) fn string(&mut self, name: &'static str) -> Option<String> {
        let raw = self.typed(name, b'"', "a string")?;
        match serde_json::from_str::<String>(raw.get()) {
            Ok(text) if text.len() <= TEXT_BYTES_MAX => Some(text),
            Ok(_) => {
                self.problem(name, format!("is longer than {TEXT_BYTES_MAX} bytes"));
                None
            }
            Err(error) => {
                self.problem(name, format!("is not a valid string: {error}"));
                None
            }
        }
    }

    /// A name: a string of 1 to 128 bytes without control characters.
    pub(crate) fn name(&mut self, name: &'static str) -> Option<String> {
        let text = self.string(name)?;
        if text.is_empty() || text.len() > ID_BYTES_MAX || text.chars().any(char::is_control) {
            self.problem(name, "must be 1 to 128 bytes long, without control characters");
            return None;
        }
        Some(text)
    }

    /// The agent that `caller` asks for something as; another than its token's is refused.
    pub(crate) fn agent(&mut self, caller: &Caller) -> Result<Option<Arc<str>>, ApiError> {
        caller.speaks_for(self.name("agent_id").map(Arc::from))
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let raw = self.raw(name)?;
        match raw.get() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                let problem = wrong_type(&self.pointer_to(name), "a boolean", raw);
                self.problems.push(problem);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        let raw = self.raw(name)?;
        match raw.get().parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.problem(name, format!("must be a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// Any value.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<Value> {
        let raw = self.raw(name)?;
        self.value_of(name, raw)
    }

    /// An object.
    pub(crate) fn object(&mut self, name: &'static str) -> Option<Value> {
        let raw = self.typed(name, b'{', "an object")?;
        self.value_of(name, raw)
    }

    fn value_of(&mut self, name: &'static str, raw: &RawValue) -> Option<Value> {
        let pointer = self.pointer_to(name);
        let duplicates = strict::duplicate_keys(raw.get());
        if !duplicates.is_empty() {
            self.problems.extend(duplicates.into_iter().map(|problem| below(&pointer, problem)));
            return None;
        }
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(Problem::at(pointer, format!("cannot be read: {error}")));
                None
            }
        }
    }

    /// A list of raw values.
    pub(crate) fn list(&mut self, name: &'static str) -> Option<Vec<&'a RawValue>> {
        let raw = self.typed(name, b'[', "an array")?;
        serde_json::from_str(raw.get()).ok()
    }

    /// A string or a list of strings.
    pub(crate) fn strings(&mut self, name: &'static str) -> Vec<String> {
        let Some(raw) = self.raw(name) else { return Vec::new() };
        let read = if raw.get().starts_with('"') {
            serde_json::from_str(raw.get()).map(|one| vec![one])
        } else {
            serde_json::from_str(raw.get())
        };
        read.unwrap_or_else(|_| {
            self.problem(name, "must be a string or a list of strings");
            Vec::new()
        })
    }

    /// Labels: strings by name.
    pub(crate) fn labels(&mut self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let Some(raw) = self.typed("labels", b'{', "an object of strings") else { return labels };
        let pointer = self.pointer_to("labels");
        let read = match Fields::of_raw(raw, &pointer) {
            Ok(read) => read,
            Err(problem) => {
                self.problems.push(problem);
                return labels;
            }
        };
        if read.entries.len() > LABELS_MAX {
            self.problem("labels", format!("has more than {LABELS_MAX} labels"));
        }
        self.problems.extend(read.problems);
        for (name, value) in read.entries.iter().take(LABELS_MAX) {
            match label(name, value) {
                Ok(text) => _ = labels.insert(name.clone().into_owned(), text),
                Err(message) => {
                    let pointer = format!("{pointer}/{}", strict::escaped(name));
                    self.problems.push(Problem::at(pointer, message));
                }
            }
        }
        labels
    }

    /// An RFC 3339 time.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.string(name)?;
        Timestamp::parse_rfc3339(&text).map_err(|message| self.problem(name, message)).ok()
    }

    /// Ends the reading: fields never asked for are unknown. Every problem found.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        for (name, _) in &self.entries {
            if !self.known.contains(&name.as_ref()) {
                let message = unknown("field", name, &self.known);
                self.problems.push(Problem::at(self.pointer_to(name), message));
            }
        }
        self.problems
    }

    /// Ends the reading of an object that may say more than was asked for. Every problem found.
    pub(crate) fn noted(self) -> Vec<Problem> {
        self.problems
    }

    /// [`Fields::finish`], as an error of the whole request.
    pub(crate) fn done(self) -> Result<(), ApiError> {
        let problems = self.finish();
        if problems.is_empty() { Ok(()) } else { Err(invalid(problems)) }
    }
}

/// A body refused with these problems.
pub(crate) fn invalid(problems: Vec<Problem>) -> ApiError {
    ApiError::invalid(Code::ValidationError, problems)
}

/// A problem whose pointer started at `pointer`'s value.
pub(crate) fn below(pointer: &str, mut problem: Problem) -> Problem {
    problem.pointer.insert_str(0, pointer);
    problem
}

pub(crate) fn wrong_type(pointer: &str, expected: &str, found: &RawValue) -> Problem {
    Problem::at(pointer, format!("must be {expected}, not {}", type_of(found)))
}

fn label(name: &str, value: &RawValue) -> Result<String, String> {
    if name.is_empty() || name.len() > ID_BYTES_MAX || name.contains([':', ',']) {
        return Err("a label's name is 1 to 128 bytes without `:` and `,`".into());
    }
    if !value.get().starts_with('"') {
        return Err(format!("must be a string, not {}", type_of(value)));
    }
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) if text.len() <= LABEL_VALUE_BYTES_MAX => Ok(text),
        Ok(_) => Err(format!("is longer than {LABEL_VALUE_BYTES_MAX} bytes")),
        Err(error) => Err(format!("is not a valid string: {error}")),
    }
}

/// The message for a name that does not exist, with the nearest one that does.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(candidate, name), *candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let shown = shortened(name);
    match nearest {
        Some((_, candidate)) => format!("unknown {what} `{shown}`; did you mean `{candidate}`?"),
        None => format!("unknown {what} `{shown}`; known are {}", known.join(", ")),
    }
}

/// Text from outside, short enough to be echoed.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl FnOnce(&mut Fields<'_>)) -> Vec<(String, String)> {
        let mut fields = Fields::of_body(text).expect("an object");
        read(&mut fields);
        fields.finish().into_iter().map(|p| (p.pointer, p.message)).collect()
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let text =
            r#"{"parms":{},"agent_id":3,"labels":{"a":1,"b":"x"},"params":{"x":1,"x":2},"id":"a","id":"b"}"#;
        let found = problems(text, |fields| {
            _ = fields.string("id");
            _ = fields.object("params");
            _ = fields.agent(&Caller::default());
            assert_eq!(fields.labels().len(), 1);
        });
        let expect = [
            ("/id", "is given more than once"),
            ("/params/x", "is given more than once"),
            ("/agent_id", "must be a string, not a number"),
            ("/labels/a", "must be a string, not a number"),
            ("/parms", "unknown field `parms`; did you mean `params`?"),
        ];
        let found: Vec<_> = found.iter().map(|(p, m)| (p.as_str(), m.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn text_that_is_not_json_has_a_line_and_a_column() {
        let Err(error) = Fields::of_body("{\n  \"a\": 1,\n  oops\n}") else { panic!("accepted") };
        assert_eq!(error.status(), 400);
        let problem = &error.problems()[0];
        assert_eq!((problem.line, problem.column), (Some(3), Some(3)));
    }

    #[test]
    fn a_value_that_is_no_object_is_told_so() {
        let Err(error) = Fields::of_body("[1]") else { panic!("accepted") };
        assert_eq!((error.status().as_u16(), error.detail()), (422, "must be an object, not an array"));
    }

    #[test]
    fn numbers_keep_every_digit() {
        let text = r#"{"n":123456789012345678901234567890.10}"#;
        let mut fields = Fields::of_body(text).expect("an object");
        let value = fields.value("n").expect("a number");
        assert_eq!(value.to_string(), "123456789012345678901234567890.10");
    }

    #[test]
    fn nesting_without_end_is_refused_not_followed() {
        let text = format!("{{\"params\":{{\"a\":{}{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
        let found = problems(&text, |fields| _ = fields.object("params"));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("recursion limit"), "{}", found[0].1);
    }
}

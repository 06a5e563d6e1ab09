//! Reading the fields of JSON objects, telling every problem on the way instead of stopping.
//!
//! A field that is `null` counts as absent throughout: definitions written out by programs are
//! full of them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Plugins;
use super::duration::parse_duration_ms;
use super::text::push_segment;
use crate::error::Problem;

/// Most problems that are told one by one.
pub const PROBLEMS_MAX: usize = 1_000;
/// Character comparisons spent on "did you mean" for one definition.
const SUGGESTION_COMPARISONS_MAX: usize = 5_000_000;

/// Collects the problems of one definition.
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    untold: Cell<usize>,
    cycles: Cell<usize>,
    comparisons_left: Cell<usize>,
    /// What is read was accepted once: what has been refused only since then counts for nothing.
    pub(super) is_stored: bool,
    /// Namespaces of actions that plugins bring; none: any may be one.
    pub(super) plugins: Option<Vec<Arc<str>>>,
}

impl Report {
    pub(super) fn new(is_stored: bool, plugins: Plugins<'_>) -> Self {
        Self {
            is_stored,
            plugins: match plugins {
                Plugins::Of(namespaces) => Some(namespaces.to_vec()),
                Plugins::Any => None,
            },
            problems: RefCell::default(),
            untold: Cell::new(0),
            cycles: Cell::new(0),
            comparisons_left: Cell::new(SUGGESTION_COMPARISONS_MAX),
        }
    }

    pub(super) fn add(&self, problem: Problem) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(problem);
        } else {
            self.untold.set(self.untold.get() + 1);
        }
    }

    pub(super) fn at(&self, pointer: impl Into<String>, message: impl Into<String>) {
        self.add(Problem::at(pointer, message));
    }

    pub(super) fn all(&self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|p| self.add(p));
    }

    /// A problem that is told however many there are, being why reading stops.
    pub(super) fn insist(&self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.borrow_mut().push(Problem::at(pointer, message));
    }

    /// A cycle: a problem whose code may become the code of the whole.
    pub(super) fn cycle(&self, pointer: impl Into<String>, message: impl Into<String>) {
        self.cycles.set(self.cycles.get() + 1);
        self.at(pointer, message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// The problems, how many more there were, and whether all of them are cycles.
    pub(super) fn into_problems(self) -> (Vec<Problem>, usize, bool) {
        let problems = self.problems.into_inner();
        let only_cycles = problems.len() + self.untold.get() == self.cycles.get();
        (problems, self.untold.get(), only_cycles)
    }

    /// The candidate nearest to `wrong`, when one is near enough to be meant.
    pub(super) fn nearest<'c>(
        &self,
        wrong: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        let length = wrong.chars().count();
        let farthest = (length / 3).clamp(1, 3);
        let mut best: Option<(usize, &str)> = None;
        for candidate in candidates {
            self.comparisons_left.set(self.comparisons_left.get().saturating_sub(1));
            if candidate.len().abs_diff(wrong.len()) > 2 * farthest {
                continue;
            }
            let cost = candidate.len() * wrong.len() + 1;
            let left = self.comparisons_left.get();
            if cost > left {
                break;
            }
            self.comparisons_left.set(left - cost);
            let distance = strsim::osa_distance(wrong, candidate);
            if distance <= farthest && best.is_none_or(|(d, _)| distance < d) {
                best = Some((distance, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }

    /// `; did you mean "x"?` or nothing.
    pub(super) fn did_you_mean<'c>(
        &self,
        wrong: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> String {
        self.nearest(wrong, candidates).map_or_else(String::new, |c| format!("; did you mean {c:?}?"))
    }
}

/// `text`, cut short for a message.
pub(super) fn shown(text: &str) -> String {
    if text.chars().count() <= 60 {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(57).collect();
    format!("{:?}", head + "…")
}

/// What a value is, for messages.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `pointer` with one more segment.
pub(super) fn under(pointer: &str, segment: &str) -> String {
    let mut pointer = pointer.to_owned();
    push_segment(&mut pointer, segment);
    pointer
}

/// An object being read, with its place.
pub(super) struct Object<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) pointer: String,
    pub(super) report: &'a Report,
}

impl<'a> Object<'a> {
    /// `value` as an object; anything else is a problem.
    pub(super) fn of(value: &'a Value, pointer: String, report: &'a Report) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { map, pointer, report }),
            other => {
                report.at(pointer, format!("an object is expected, this is {}", type_of(other)));
                None
            }
        }
    }

    /// Every field that is none of `names` is a problem.
    pub(super) fn only(&self, names: &[&str]) {
        for field in self.map.keys().filter(|k| !names.contains(&k.as_str())) {
            let hint = self.report.did_you_mean(field, names.iter().copied());
            self.report.at(self.at(field), format!("unknown field {}{hint}", shown(field)));
        }
    }

    /// Pointer of a field.
    pub(super) fn at(&self, name: &str) -> String {
        under(&self.pointer, name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    pub(super) fn wrong(&self, name: &str, expected: &str, value: &Value) {
        self.report.at(self.at(name), format!("{expected} is expected, this is {}", type_of(value)));
    }

    pub(super) fn missing(&self, name: &str, why: &str) {
        self.report.at(self.pointer.clone(), format!("{name:?} is missing{why}"));
    }

    /// A string; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        match self.get(name)? {
            Value::String(text) => Some(text.as_str()).filter(|t| !t.is_empty()),
            other => {
                self.wrong(name, "a string", other);
                None
            }
        }
    }

    /// A string that must be there.
    pub(super) fn required_text(&self, name: &str, why: &str) -> Option<&'a str> {
        match self.get(name) {
            Some(Value::String(text)) if text.is_empty() => self.report.at(self.at(name), "it is empty"),
            Some(_) => return self.text(name),
            None => self.missing(name, why),
        }
        None
    }

    pub(super) fn list(&self, name: &str) -> Option<&'a [Value]> {
        match self.get(name)? {
            Value::Array(list) => Some(list),
            other => {
                self.wrong(name, "a list", other);
                None
            }
        }
    }

    pub(super) fn object(&self, name: &str) -> Option<Object<'a>> {
        Object::of(self.get(name)?, self.at(name), self.report)
    }

    /// A whole number from `least` to `most`.
    pub(super) fn whole(&self, name: &str, least: u64, most: u64) -> Option<u64> {
        let value = self.get(name)?;
        let Value::Number(number) = value else {
            self.wrong(name, "a number", value);
            return None;
        };
        let found = number.as_u64().filter(|n| (least..=most).contains(n));
        if found.is_none() {
            self.report.at(
                self.at(name),
                format!("a whole number from {least} to {most} is expected, not {number}"),
            );
        }
        found
    }

    /// A duration; `"30s"`.
    pub(super) fn duration(&self, name: &str, may_be_zero: bool) -> Option<u64> {
        let text = match self.get(name)? {
            Value::Number(n) => {
                let message = format!("a number has no unit; \"{n}s\" or \"{n}ms\" is a duration");
                self.report.at(self.at(name), message);
                return None;
            }
            _ => self.text(name)?,
        };
        match parse_duration_ms(text) {
            Ok(0) if !may_be_zero => {
                self.report.at(self.at(name), "a duration longer than 0 is expected");
                None
            }
            Ok(duration_ms) => Some(duration_ms),
            Err(why) => {
                self.report.at(self.at(name), format!("{} is not a duration: {why}", shown(text)));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*found);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = self.report.did_you_mean(text, known.iter().copied());
        let message = format!("{} is none of {}{hint}", shown(text), known.join(", "));
        self.report.at(self.at(name), message);
        None
    }
}

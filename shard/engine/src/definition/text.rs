//! JSON text to a value, for text that may be hostile.
//!
//! A reader of our own, since a definition may nest deeper than `serde_json` reads (32 steps in
//! steps are over 128 brackets), a repeated key is a mistake to be told, and problems are listed
//! in the order of the text, which a parsed value no longer knows. It never recurses deeper than
//! [`JSON_NESTING_MAX`].

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use crate::error::Problem;

/// Deepest nesting of arrays and objects: 32 steps in steps are 4 each, and as much again.
pub(super) const JSON_NESTING_MAX: usize = 256;
/// Most repeated keys that are told one by one.
const DUPLICATES_MAX: usize = 100;

/// Reads `text` whole. Text that is not JSON gives one problem with line and column; repeated
/// keys give one each, with pointers.
pub(super) fn read(text: &str) -> Result<Value, Vec<Problem>> {
    let mut reader = Reader::new(text, None);
    let value = reader.document().map_err(|problem| vec![problem])?;
    if reader.duplicates.is_empty() { Ok(value) } else { Err(reader.duplicates) }
}

/// Sorts `problems` by where in `text`, which has been read before, the values they point at are.
pub(super) fn sort(text: &str, problems: &mut [Problem]) {
    let wanted = problems.iter().map(|p| (p.pointer.clone(), usize::MAX)).collect();
    let mut reader = Reader::new(text, Some(wanted));
    if reader.document().is_err() {
        return;
    }
    let ranks = reader.wanted.unwrap_or_default();
    let rank = |pointer: &str| ranks.get(pointer).copied().unwrap_or(usize::MAX);
    problems.sort_by_cached_key(|p| (rank(&p.pointer), p.column));
}

/// `segment` escaped for a JSON pointer (RFC 6901).
pub(super) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    pointer: String,
    duplicates: Vec<Problem>,
    /// Pointers whose place is asked for, with their rank once seen.
    wanted: Option<HashMap<String, usize>>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, wanted: Option<HashMap<String, usize>>) -> Self {
        Self { text, at: 0, depth: 0, pointer: String::new(), duplicates: Vec::new(), wanted }
    }

    fn document(&mut self) -> Result<Value, Problem> {
        let value = self.value()?;
        self.skip_space();
        if self.at < self.text.len() {
            Err(self.wrong("nothing may follow the JSON value"))
        } else {
            Ok(value)
        }
    }

    fn value(&mut self) -> Result<Value, Problem> {
        self.skip_space();
        if let Some(wanted) = &mut self.wanted
            && let Some(rank) = wanted.get_mut(&self.pointer)
        {
            *rank = self.at;
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.wrong("a JSON value is expected here")),
            None => Err(self.wrong("the text ends where a JSON value is expected")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Problem>) -> Result<Value, Problem> {
        if self.depth == JSON_NESTING_MAX {
            return Err(self.wrong(format!("JSON may nest {JSON_NESTING_MAX} deep, not deeper")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, Problem> {
        let mut map = Map::new();
        let parent = self.pointer.len();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key in double quotes is expected here"));
            }
            let key_at = self.at;
            let key = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.wrong("a colon is expected after a key"));
            }
            push_segment(&mut self.pointer, &key);
            let value = self.value()?;
            if map.insert(key, value).is_some() && self.duplicates.len() < DUPLICATES_MAX {
                let mut problem = Problem::at(self.pointer.clone(), "this key stands twice in its object");
                let (line, column) = self.place(key_at);
                (problem.line, problem.column) = (Some(line), Some(column));
                self.duplicates.push(problem);
            }
            self.pointer.truncate(parent);
            self.skip_space();
            if self.take(b'}') {
                return Ok(Value::Object(map));
            }
            if !self.take(b',') {
                return Err(self.wrong("a comma or the end of the object is expected here"));
            }
        }
    }

    fn array(&mut self) -> Result<Value, Problem> {
        let mut list = Vec::new();
        let parent = self.pointer.len();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::Array(list));
        }
        loop {
            push_segment(&mut self.pointer, &list.len().to_string());
            let value = self.value()?;
            list.push(value);
            self.pointer.truncate(parent);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::Array(list));
            }
            if !self.take(b',') {
                return Err(self.wrong("a comma or the end of the array is expected here"));
            }
        }
    }

    /// A string, from its opening quote on.
    fn string(&mut self) -> Result<String, Problem> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(0x00..0x20) => {
                    self.at = end;
                    return Err(self.wrong("a control character in a string must be escaped"));
                }
                Some(_) => end += 1,
                None => return Err(self.wrong("this string has no end")),
            }
        }
        let quoted = &self.text[start..=end];
        self.at = end + 1;
        if !quoted.contains('\\') {
            return Ok(quoted[1..quoted.len() - 1].to_owned());
        }
        serde_json::from_str(quoted).map_err(|_| {
            self.at = start;
            self.wrong("this string holds an escape that JSON does not have")
        })
    }

    fn number(&mut self) -> Result<Value, Problem> {
        let rest = &self.text[self.at..];
        let is_part = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let length = rest.bytes().take_while(|b| is_part(b)).count();
        let number: Number =
            rest[..length].parse().map_err(|_| self.wrong("this is not a number of JSON"))?;
        self.at += length;
        Ok(Value::Number(number))
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Problem> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a JSON value is expected here"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Line and column, from 1, in characters. Walks the text, so only for problems.
    fn place(&self, at: usize) -> (u32, u32) {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (
            count(before.bytes().filter(|b| *b == b'\n').count() + 1),
            count(before[line_start..].chars().count() + 1),
        )
    }

    fn wrong(&self, message: impl Into<String>) -> Problem {
        let (line, column) = self.place(self.at);
        let mut problem = Problem::at(String::new(), message);
        (problem.line, problem.column) = (Some(line), Some(column));
        problem
    }
}

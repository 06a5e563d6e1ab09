//! Takes secrets' values out of what comes back from an action, before it becomes an event.
//!
//! The other side need not keep a value as it was sent. A mask finds it as it is, in whatever case,
//! in hex, in base64 at any offset in a longer text (so also in `Authorization: Basic`), and all of
//! these where the text around is percent-encoded, form-encoded or escaped as in a JSON string, one
//! in another; of a value of several lines each line alone, of one that is JSON each text in it, and
//! of one that is a URL what stands before and behind its host.
//! What was made of a value otherwise, a hash or every second letter, it does not find: actions that
//! could do so and record it take no secrets.
//!
//! It reads a text once for each way to decode it, so its cost grows with the text's length alone.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use opcode_engine::Fault;
use opcode_engine::command::Emission;
use opcode_engine::planted;
use serde_json::Value;

use super::VALUE_BYTES_MIN;
use crate::actions::Outcome;

/// Encodings that are looked through, one in another.
const DEPTH_MAX: usize = 2;
/// Shortest piece of a URL's path or query that is taken for a secret: shorter ones are words.
const URL_PIECE_BYTES_MIN: usize = 12;

/// What finds some secrets' values.
pub struct Mask {
    finder: Option<AhoCorasick>,
    /// For each needle, whose it is and whether it is base64.
    about: Vec<About>,
    /// Some value holds a blank, which a form writes as `+`.
    has_blank: bool,
}

#[derive(Clone)]
struct About {
    label: String,
    is_base64: bool,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} needles)", self.about.len())
    }
}

impl Mask {
    /// One that finds nothing.
    pub fn none() -> Self {
        Self::of(std::iter::empty())
    }

    /// A mask of these secrets, names and values.
    pub(crate) fn of<'s>(secrets: impl Iterator<Item = (&'s str, &'s str)>) -> Self {
        let mut needles: Vec<Vec<u8>> = Vec::new();
        let mut about = Vec::new();
        let mut has_blank = false;
        for (name, value) in secrets {
            let label = format!("[secret {name}]");
            has_blank |= value.contains(' ');
            let mut add = |needle: Vec<u8>, is_base64: bool| {
                if needle.len() >= VALUE_BYTES_MIN {
                    needles.push(needle);
                    about.push(About { label: label.clone(), is_base64 });
                }
            };
            let parts = parts(value);
            let trimmed = Some(value.trim()).filter(|trimmed| trimmed.len() < value.len());
            for text in [value].into_iter().chain(trimmed) {
                add(text.as_bytes().to_vec(), false);
                add(hex::encode(text).into_bytes(), false);
                base64_forms(text.as_bytes()).into_iter().for_each(|form| add(form, true));
            }
            parts.into_iter().for_each(|part| add(part.into_bytes(), false));
        }
        let built = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            // It costs more to make than it saves on the little that an action gives back.
            .prefilter(false)
            .build(&needles);
        needles.iter_mut().for_each(zeroize::Zeroize::zeroize);
        let finder = (!about.is_empty()).then(|| built.expect("the needles are under its limits"));
        Self { finder, about, has_blank }
    }

    /// Whether some value stands in a text.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        self.masked(text).is_some()
    }

    /// All of an outcome without the values.
    pub(crate) fn outcome(&self, outcome: Outcome) -> Outcome {
        let Outcome { result, emissions } = outcome;
        let result = match result {
            Ok(output) => Ok(self.value(output)),
            Err(fault) if planted::is("secret-in-error") => Err(fault),
            Err(fault) => Err(self.fault(fault)),
        };
        let emissions = emissions.into_iter().map(|emission| self.emission(emission)).collect();
        Outcome { result, emissions }
    }

    fn emission(&self, emission: Emission) -> Emission {
        match emission {
            Emission::Custom { event, data } => {
                Emission::Custom { event: self.text(event), data: self.value(data) }
            }
            Emission::Notify { data } => Emission::Notify { data: self.value(data) },
            Emission::Set { name, value } => {
                Emission::Set { name: self.text(name), value: self.value(value) }
            }
            Emission::FailRun(fault) => Emission::FailRun(self.fault(fault)),
            // It names a host, which a secret may be a part of.
            Emission::Breaker { action, state } => Emission::Breaker { action: self.text(action), state },
        }
    }

    fn fault(&self, fault: Fault) -> Fault {
        let Fault { code, message, details, step_id } = fault;
        Fault { code, message: self.text(message), details: self.value(details), step_id }
    }

    /// A value of JSON with the same shape; a number that is a secret becomes a text.
    pub(super) fn value(&self, value: Value) -> Value {
        match value {
            Value::Null | Value::Bool(_) => value,
            Value::Number(number) => {
                let text = number.to_string();
                match self.masked(&text) {
                    Some(masked) => Value::String(masked),
                    None => Value::Number(number),
                }
            }
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, field)| (self.text(name), self.value(field))).collect()
            }
        }
    }

    /// A text without the values.
    pub fn text(&self, text: String) -> String {
        self.masked(&text).unwrap_or(text)
    }

    /// The same, if there was one in it.
    fn masked(&self, text: &str) -> Option<String> {
        let mut hits = Vec::new();
        self.look(&Reading::plain(text), DEPTH_MAX, text.len(), &mut hits);
        if hits.is_empty() {
            return None;
        }
        hits.sort_by_key(|hit: &Hit| (hit.range.start, std::cmp::Reverse(hit.range.end)));
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        for Hit { range, label } in hits {
            let (start, end) = (text.floor_char_boundary(range.start), text.ceil_char_boundary(range.end));
            // What overlaps goes under the same mask.
            if start >= at {
                masked.push_str(&text[at..start]);
                masked.push_str(&self.about[label].label);
            }
            at = at.max(end);
        }
        masked.push_str(&text[at..]);
        Some(masked)
    }

    /// Finds what stands in a reading, and in what it may be the encoding of.
    fn look(&self, reading: &Reading<'_>, depth: usize, end: usize, hits: &mut Vec<Hit>) {
        let Some(finder) = &self.finder else { return };
        let bytes = reading.bytes();
        let before = hits.len();
        // Every one, also where values overlap; they come in the order of their ends.
        for found in finder.find_overlapping_iter(bytes) {
            let label = found.pattern().as_usize();
            let mut range = found.range();
            if self.about[label].is_base64 {
                widen(bytes, &mut range);
            }
            let range = reading.origin(range.start, end)..reading.origin(range.end, end);
            match hits[before..].last_mut() {
                Some(last) if range.start < last.range.end => {
                    last.range = last.range.start.min(range.start)..last.range.end.max(range.end);
                }
                Some(_) | None => hits.push(Hit { range, label }),
            }
        }
        if depth == 0 {
            return;
        }
        let has = |byte: u8| bytes.contains(&byte);
        if has(b'%') {
            self.look(&reading.decoded(percent), depth - 1, end, hits);
        }
        if self.has_blank && has(b'+') {
            self.look(&reading.decoded(form), depth - 1, end, hits);
        }
        if has(b'\\') {
            self.look(&reading.decoded(escape), depth - 1, end, hits);
        }
    }
}

/// Where a value stands, and whose it is by its needle.
struct Hit {
    range: Range<usize>,
    label: usize,
}

/// Parts of a value that are as secret alone: its lines, the texts in it when it is JSON, and what
/// only those know who know it when it is a URL.
fn parts(value: &str) -> Vec<String> {
    let mut parts = Vec::new();
    if value.contains('\n') {
        parts.extend(value.lines().map(|line| line.trim().to_owned()));
    }
    if value.trim_start().starts_with(['{', '[', '"'])
        && let Ok(json) = serde_json::from_str::<Value>(value)
    {
        gather_texts(&json, &mut parts);
    }
    if let Some((_, rest)) = value.trim().split_once("://") {
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let user = authority.rsplit_once('@').map_or("", |(user, _host)| user);
        parts.extend(user.split(':').map(str::to_owned));
        let pieces = path.split(['/', '?', '#', '&', '=']).filter(|piece| piece.len() >= URL_PIECE_BYTES_MIN);
        parts.extend(pieces.map(str::to_owned));
    }
    parts
}

fn gather_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => texts.push(number.to_string()),
        Value::String(text) => {
            texts.push(text.clone());
            texts.extend(text.lines().filter(|_| text.contains('\n')).map(|line| line.trim().to_owned()));
        }
        Value::Array(items) => items.iter().for_each(|item| gather_texts(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| gather_texts(field, texts)),
    }
}

/// What stands in base64 of any text that holds these bytes, whatever comes before and after: for
/// each of three offsets the digits that depend on nothing else, in both alphabets.
fn base64_forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for offset in 0..3_usize {
        let mut padded = vec![0; offset];
        padded.extend_from_slice(bytes);
        // Each digit is 6 bits; those that share bits with what stands before or after are left out.
        let (first, last) = ((offset * 8).div_ceil(6), padded.len() * 8 / 6);
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            let form = encoded.as_bytes()[first..last].to_vec();
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

/// Takes in the digits at both ends that hold some bits of the value and some of its neighbours.
fn widen(bytes: &[u8], range: &mut Range<usize>) {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    if range.start > 0 && bytes.get(range.start - 1).is_some_and(is_digit) {
        range.start -= 1;
    }
    if bytes.get(range.end).is_some_and(is_digit) {
        range.end += 1;
    }
}

/// A text, or what it says once it is decoded, with where each byte of that came from.
enum Reading<'t> {
    Plain(&'t [u8]),
    Decoded { bytes: Vec<u8>, origins: Vec<u32> },
}

impl<'t> Reading<'t> {
    fn plain(text: &'t str) -> Self {
        Self::Plain(text.as_bytes())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Decoded { bytes, .. } => bytes,
        }
    }

    /// Where the byte at `index` came from in the text, which ends at `end`.
    fn origin(&self, index: usize, end: usize) -> usize {
        match self {
            Self::Plain(_) => index,
            Self::Decoded { origins, .. } => origins.get(index).map_or(end, |origin| *origin as usize),
        }
    }

    /// The same, decoded: `decode` takes the start of the rest off, if that is an encoding, and gives
    /// what it stands for and its length.
    fn decoded(&self, decode: fn(&[u8]) -> Option<(Letter, usize)>) -> Reading<'static> {
        let from = self.bytes();
        let (mut bytes, mut origins) = (Vec::with_capacity(from.len()), Vec::with_capacity(from.len()));
        let mut at = 0;
        while at < from.len() {
            let (letter, length) = decode(&from[at..]).unwrap_or((Letter::Byte(from[at]), 1));
            let mut buffer = [0; 4];
            let said = match letter {
                Letter::Byte(byte) => {
                    buffer[0] = byte;
                    &buffer[..1]
                }
                Letter::Char(letter) => letter.encode_utf8(&mut buffer).as_bytes(),
            };
            let origin = u32::try_from(self.origin(at, from.len())).unwrap_or(u32::MAX);
            for byte in said {
                bytes.push(*byte);
                origins.push(origin);
            }
            at += length;
        }
        Reading::Decoded { bytes, origins }
    }
}

enum Letter {
    Byte(u8),
    Char(char),
}

fn hex_number(digits: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u32::from_str_radix(text, 16).ok()
}

/// `%41`.
fn percent(rest: &[u8]) -> Option<(Letter, usize)> {
    let digits = rest.strip_prefix(b"%")?.get(..2)?;
    Some((Letter::Byte(u8::try_from(hex_number(digits)?).ok()?), 3))
}

/// `%41`, and `+` for a blank.
fn form(rest: &[u8]) -> Option<(Letter, usize)> {
    if rest.first() == Some(&b'+') { Some((Letter::Byte(b' '), 1)) } else { percent(rest) }
}

/// `\n`, `\/`, `\u0041`, `\x41`.
fn escape(rest: &[u8]) -> Option<(Letter, usize)> {
    let rest = rest.strip_prefix(b"\\")?;
    let unit = |at: usize| rest.get(at..at + 4).and_then(hex_number);
    Some(match rest.first()? {
        b'n' => (Letter::Byte(b'\n'), 2),
        b't' => (Letter::Byte(b'\t'), 2),
        b'r' => (Letter::Byte(b'\r'), 2),
        b'b' => (Letter::Byte(8), 2),
        b'f' => (Letter::Byte(12), 2),
        b'x' => (Letter::Byte(u8::try_from(rest.get(1..3).and_then(hex_number)?).ok()?), 4),
        b'u' => match (unit(1)?, rest.get(5..7) == Some(&b"\\u"[..])) {
            (high @ 0xD800..0xDC00, true) => {
                let low = unit(7)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                (Letter::Char(char::from_u32(0x10000 + ((high - 0xD800) << 10) + low)?), 12)
            }
            (unit, _) => (Letter::Char(char::from_u32(unit)?), 6),
        },
        other if other.is_ascii_punctuation() => (Letter::Byte(*other), 2),
        _ => return None,
    })
}

//! Regular expressions whose size, and so whose time, is bounded.

use regex::{Regex, RegexBuilder};

use super::super::EvalError;
use super::super::Meter;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;
/// Deepest nesting of groups.
const NEST_MAX: u32 = 32;
/// Steps that compiling costs: more than a shard's loop may spend, so it happens in a worker.
const COMPILE_STEPS: usize = 20_000;
/// Sizes a pattern may compile to, in bytes, and what matching eight bytes of text then costs in
/// steps. The engine may visit every state for every byte, so a larger program pays more.
const TIERS: [(usize, usize); 3] = [(8 * 1024, 4), (32 * 1024, 16), (128 * 1024, 64)];

/// A compiled pattern that knows what it costs.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    steps_per_8_bytes: usize,
}

impl Pattern {
    /// Compiles, or says in one sentence what is wrong with the pattern.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let ascii = ascii_classes(source);
        for (size, steps_per_8_bytes) in TIERS {
            match RegexBuilder::new(&ascii).size_limit(size).nest_limit(NEST_MAX).build() {
                Ok(regex) => return Ok(Self { regex, steps_per_8_bytes }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(error) => {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default();
                    return Err(format!("not a pattern: {}", reason.trim_start_matches("error: ")));
                }
            }
        }
        Err("the pattern is too large".to_owned())
    }

    /// As [`Self::compile`], while evaluating.
    pub(super) fn compile_metered(source: &str, meter: &mut Meter) -> Result<Self, EvalError> {
        meter.elements(COMPILE_STEPS)?;
        Self::compile(source).map_err(EvalError::failed)
    }

    pub(super) fn is_match(&self, text: &str, meter: &mut Meter) -> Result<bool, EvalError> {
        meter.elements((1 + text.len() / 8).saturating_mul(self.steps_per_8_bytes))?;
        Ok(self.regex.is_match(text))
    }
}

/// Gives the Perl classes their ASCII meaning, which is the language's and keeps programs small.
fn ascii_classes(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str(r"[\t\n\f\r ]"),
            Some('S') => out.push_str(r"[^\t\n\f\r ]"),
            Some('b') => out.push_str(r"(?-u:\b)"),
            Some('B') => out.push_str(r"(?-u:\B)"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

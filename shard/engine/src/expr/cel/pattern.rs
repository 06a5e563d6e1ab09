//! Regular expressions of `matches`: bounded in size when compiled and in cost when run.

use regex::RegexBuilder;

use super::node::Pattern;

/// Steps that compiling a computed pattern costs, whatever it is: the worst takes milliseconds.
pub(super) const COMPILE_STEPS: u64 = 20_000;
/// Computed patterns kept during one evaluation.
pub(super) const KEPT_MAX: usize = 8;
/// Longest pattern, in bytes.
const SOURCE_BYTES_MAX: usize = 1024;

/// Sizes of compiled programs, in bytes, with the steps that 64 bytes of text cost: at worst every
/// byte of text meets every state of the program.
const CLASSES: [(usize, u64); 3] = [(8 << 10, 8), (64 << 10, 64), (256 << 10, 1024)];

/// Compiles a pattern, or says why not.
pub(super) fn compile(source: &str) -> Result<Pattern, String> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("the pattern has more than {SOURCE_BYTES_MAX} bytes"));
    }
    let mut error = String::new();
    for (size, cost) in CLASSES {
        let built =
            RegexBuilder::new(source).size_limit(size).dfa_size_limit(256 << 10).nest_limit(32).build();
        match built {
            Ok(regex) => return Ok(Pattern { regex, cost }),
            Err(regex::Error::CompiledTooBig(_)) => error = "the pattern is too large".into(),
            // The crate's message draws the pattern over several lines; its last says why.
            Err(other) => {
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                return Err(format!("the pattern is no regular expression: {reason}"));
            }
        }
    }
    Err(error)
}

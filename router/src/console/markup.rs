//! What pages say in more than plain text: times, states, JSON; all of it written here is safe to stand in
//! HTML as it is.

use std::fmt;

use askama::filters::HtmlSafe;
use opcode_engine::ids::Timestamp;
use opcode_shard::clock::Clock;
use serde_json::Value;

/// Longest text of one value on a page, in bytes; what is longer is cut, and says so.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// HTML, made from nothing that was not escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Markup(pub(super) String);

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Markup {}

/// Text for HTML.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
        safe
    })
}

pub(super) fn now() -> Timestamp {
    Clock::default().now()
}

/// A time of the contract, told from now.
pub(super) fn when(time: &str) -> Markup {
    let at = Timestamp::parse_rfc3339(time);
    let time = escaped(time);
    Markup(match at {
        Ok(at) => format!("<time datetime=\"{time}\" title=\"{time}\">{}</time>", told(at.0 - now().0)),
        Err(_) => time,
    })
}

/// The same of one that may be missing.
pub(super) fn when_if(time: Option<&String>) -> Markup {
    time.map_or_else(Markup::default, |time| when(time))
}

/// A distance from now, in ms.
fn told(ms: i64) -> String {
    match ms {
        -1_999..=0 => "just now".to_owned(),
        ..-1_999 => format!("{} ago", span(ms.unsigned_abs())),
        1.. => format!("in {}", span(ms.unsigned_abs())),
    }
}

/// A length of time in one or two units.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms} ms"),
        1..=9 => format!("{s}.{} s", ms % 1_000 / 100),
        10..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that suits them.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// A status of a run, a step, a node: a sign, its word, and its colour.
pub(super) fn badge(status: &str) -> Markup {
    let sign = match status {
        "completed" | "alive" | "resolved" | "in sync" => "✓",
        "failed" | "gone" => "✕",
        "running" | "active" => "▶",
        "retrying" => "↻",
        "suspended" | "paused" => "‖",
        "skipped" | "timed_out" => "»",
        "cancelled" => "⊘",
        "scheduled" => "◷",
        _ => "○",
    };
    let class: String = status.chars().filter(|c| c.is_ascii_lowercase()).collect();
    let word = escaped(&status.replace('_', " "));
    Markup(format!(
        "<span class=\"badge s-{class}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span>{word}</span>"
    ))
}

/// JSON as it is read best, cut when it is very long.
pub(super) fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    if text.len() > VALUE_BYTES_MAX {
        let end = text.floor_char_boundary(VALUE_BYTES_MAX);
        let whole = text.len();
        text.truncate(end);
        text.push_str(&format!("\n… cut here: it has {whole} bytes"));
    }
    text
}

/// JSON in one short line.
pub(super) fn short(value: &Value, chars_max: usize) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    cut(&text, chars_max)
}

/// A text's beginning.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_numbers_are_told_shortly() {
        for (ms, text) in
            [(0, "0 ms"), (1_500, "1.5 s"), (61_000, "61 s"), (600_000, "10 min"), (259_200_000, "3 days")]
        {
            assert_eq!(span(ms), text);
        }
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(number(12), "12");
        assert_eq!(bytes(12_345), "12 kB");
    }

    #[test]
    fn what_is_hostile_stays_text() {
        let evil = "<script>alert('x')</script>";
        for markup in [badge(evil), when(evil)] {
            assert!(!markup.0.contains("<script"), "{markup}");
        }
        assert_eq!(cut("abcdef", 3), "ab…");
    }
}

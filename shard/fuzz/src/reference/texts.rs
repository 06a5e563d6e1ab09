//! Strings of the reference, as lists of characters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde_json::Value;

use super::numbers::{integer, text_of};
use super::{Evaluated, Refused, SIZE_MAX, failed};

fn text(value: &Value) -> Result<&str, Refused> {
    value.as_str().ok_or(Refused::Failed)
}

/// `contains`, `startsWith`, `endsWith`, `matches`; nil has no text in it and is in none.
pub(super) fn test(operator: &str, left: &Value, right: &Value) -> Evaluated {
    if operator != "matches" && (left.is_null() || right.is_null()) {
        return Ok(Value::Bool(false));
    }
    let (left, right) = (text(left)?, text(right)?);
    Ok(Value::Bool(match operator {
        "matches" => Regex::new(right).or_else(|_| failed())?.is_match(left),
        "startsWith" => position(left, right, 0) == Some(0),
        "endsWith" => characters(left).ends_with(&characters(right)),
        _ => position(left, right, 0).is_some(),
    }))
}

fn characters(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// Where, in characters, `part` first stands at or after `from`.
fn position(whole: &str, part: &str, from: usize) -> Option<usize> {
    let (whole, part) = (characters(whole), characters(part));
    (from..=whole.len()).find(|at| whole[*at..].starts_with(&part))
}

/// A value as compact JSON, keys in order, numbers in their one spelling.
pub(super) fn json(value: &Value) -> String {
    match value {
        Value::Number(number) => text_of(number),
        Value::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let entry = |name: &String| format!("{}:{}", Value::String(name.clone()), json(&fields[name]));
            format!("{{{}}}", names.into_iter().map(entry).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

/// A function of strings; `None` when there is none of this name.
pub(super) fn call(name: &str, arguments: &[Value]) -> Option<Evaluated> {
    let is_one = matches!(
        name,
        "upper"
            | "lower"
            | "trim"
            | "trimPrefix"
            | "trimSuffix"
            | "replace"
            | "repeat"
            | "split"
            | "splitAfter"
            | "indexOf"
            | "lastIndexOf"
            | "hasPrefix"
            | "hasSuffix"
            | "toBase64"
    );
    is_one.then(|| run(name, arguments))
}

fn run(name: &str, arguments: &[Value]) -> Evaluated {
    let whole = text(&arguments[0])?;
    let second = || text(arguments.get(1).unwrap_or(&Value::Null));
    Ok(match name {
        "upper" => Value::String(whole.to_uppercase()),
        "lower" => Value::String(whole.to_lowercase()),
        "trim" => Value::String(match arguments.get(1) {
            None => trimmed(whole, &char::is_whitespace),
            Some(_) => {
                let cut = characters(second()?);
                trimmed(whole, &|c| cut.contains(&c))
            }
        }),
        "trimPrefix" => {
            let prefix = second()?;
            let skipped = if position(whole, prefix, 0) == Some(0) { characters(prefix).len() } else { 0 };
            Value::String(whole.chars().skip(skipped).collect())
        }
        "trimSuffix" => {
            let (all, suffix) = (characters(whole), characters(second()?));
            let kept = if all.ends_with(&suffix) { all.len() - suffix.len() } else { all.len() };
            Value::String(all.into_iter().take(kept).collect())
        }
        "replace" => {
            let limit = arguments.get(3).map_or(Ok(-1), integer)?;
            Value::String(replaced(whole, second()?, text(&arguments[2])?, limit))
        }
        "repeat" => {
            let Ok(times) = usize::try_from(integer(&arguments[1])?) else { return failed() };
            if whole.len().saturating_mul(times) > SIZE_MAX {
                return Err(Refused::TooMuch);
            }
            Value::String((0..times).map(|_| whole).collect())
        }
        "split" | "splitAfter" => {
            let limit = arguments.get(2).map_or(Ok(-1), integer)?;
            split(whole, second()?, limit, name == "splitAfter").into_iter().map(Value::String).collect()
        }
        "indexOf" => Value::from(position(whole, second()?, 0).map_or(-1, |at| at as i64)),
        "lastIndexOf" => {
            let part = second()?;
            let last = (0..=whole.chars().count()).rev().find(|at| position(whole, part, *at) == Some(*at));
            Value::from(last.map_or(-1, |at| at as i64))
        }
        "hasPrefix" => Value::Bool(position(whole, second()?, 0) == Some(0)),
        "hasSuffix" => Value::Bool(characters(whole).ends_with(&characters(second()?))),
        _ => Value::String(STANDARD.encode(whole)),
    })
}

fn trimmed(text: &str, cut: &dyn Fn(char) -> bool) -> String {
    let mut kept = characters(text);
    while kept.last().is_some_and(|c| cut(*c)) {
        kept.pop();
    }
    kept.into_iter().skip_while(|c| cut(*c)).collect()
}

/// The first `limit` occurrences of `old`, all when it is negative; the empty text stands before
/// each character and at the end.
fn replaced(whole: &str, old: &str, new: &str, limit: i64) -> String {
    let (all, old) = (characters(whole), characters(old));
    let (mut left, mut at, mut text) = (limit, 0, String::new());
    while at <= all.len() {
        let is_here = left != 0 && all[at..].starts_with(&old);
        if is_here {
            text.push_str(new);
            left -= 1;
            at += old.len();
        }
        if !is_here || old.is_empty() {
            text.extend(all.get(at));
            at += 1;
        }
    }
    text
}

/// The parts between separators, at most `limit` unless it is negative; an empty separator stands
/// between all characters.
fn split(whole: &str, separator: &str, limit: i64, keep: bool) -> Vec<String> {
    let all = characters(whole);
    let separator = characters(separator);
    if limit == 0 || (separator.is_empty() && all.is_empty()) {
        return Vec::new();
    }
    let mut parts = vec![String::new()];
    let mut at = 0;
    while at < all.len() {
        let has_room = limit < 0 || (parts.len() as i64) < limit;
        if separator.is_empty() && at > 0 && has_room {
            parts.push(String::new());
        }
        if !separator.is_empty() && has_room && all[at..].starts_with(&separator) {
            if let Some(last) = parts.last_mut().filter(|_| keep) {
                last.extend(&separator);
            }
            parts.push(String::new());
            at += separator.len();
            continue;
        }
        if let Some(last) = parts.last_mut() {
            last.push(all[at]);
        }
        at += 1;
    }
    parts
}

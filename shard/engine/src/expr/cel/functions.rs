//! CEL's functions, on values already evaluated; each charges what it reads and builds.

use std::rc::Rc;

use base64::Engine;
use chrono::{DateTime, FixedOffset, TimeDelta};

use super::eval::Evaluator;
use super::node::{Call, Func, Part, Pattern};
use super::value::Val;
use super::{pattern, time};
use crate::expr::EvalError;

/// What a call may end with: a value, or a message without its column.
pub(super) type Outcome<'a> = Result<Val<'a>, EvalError>;

/// What an allocation costs beside its contents.
pub(super) const ALLOCATION_BYTES: usize = 32;

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::failed(message))
}

/// Runs `call` on `args`, the receiver first. The checker has seen that their number is right.
pub(super) fn run<'a>(evaluator: &mut Evaluator<'a>, call: &Call, args: &[Val<'a>]) -> Outcome<'a> {
    let func = call.func;
    match func {
        Func::Size => size(evaluator, &args[0]),
        Func::Contains | Func::StartsWith | Func::EndsWith => {
            let (text, part) = (string(args, 0)?, string(args, 1)?);
            evaluator.meter.scan(text.len() + part.len())?;
            Ok(Val::Bool(match func {
                Func::Contains => text.contains(part),
                Func::StartsWith => text.starts_with(part),
                _ => text.ends_with(part),
            }))
        }
        Func::Matches => matches(evaluator, call.pattern.as_ref(), args),
        Func::LowerAscii => built(evaluator, string(args, 0)?.to_ascii_lowercase()),
        Func::UpperAscii => built(evaluator, string(args, 0)?.to_ascii_uppercase()),
        Func::Trim => built(evaluator, string(args, 0)?.trim().to_owned()),
        Func::Split => split(evaluator, args),
        Func::Join => join(evaluator, args),
        Func::Replace => replace(evaluator, args),
        Func::Substring | Func::CharAt => substring(evaluator, func, args),
        Func::IndexOf | Func::LastIndexOf => index_of(evaluator, func, args),
        Func::TypeOf => Ok(Val::Type(args[0].type_name())),
        Func::ToInt | Func::ToUInt => to_integer(func, &args[0]),
        Func::ToDouble => to_double(&args[0]),
        Func::ToStr => to_str(evaluator, &args[0]),
        Func::ToBool => match (args[0].plain(), args[0].as_str()) {
            (Val::Bool(b), _) => Ok(Val::Bool(b)),
            (_, Some("true" | "True" | "TRUE" | "t" | "1")) => Ok(Val::Bool(true)),
            (_, Some("false" | "False" | "FALSE" | "f" | "0")) => Ok(Val::Bool(false)),
            _ => cannot_convert(&args[0], "bool"),
        },
        Func::ToBytes => match (args[0].plain(), args[0].as_str()) {
            (Val::Bytes(bytes), _) => Ok(Val::Bytes(bytes)),
            (_, Some(text)) => {
                evaluator.meter.text(text)?;
                Ok(Val::Bytes(text.as_bytes().into()))
            }
            _ => cannot_convert(&args[0], "bytes"),
        },
        Func::Dyn => Ok(args[0].clone()),
        Func::ToTimestamp => to_timestamp(&args[0]),
        Func::ToDuration => match (args[0].plain(), args[0].as_str()) {
            (Val::Duration(span), _) => Ok(Val::Duration(span)),
            (_, Some(text)) => match time::parse_duration(text) {
                Some(span) => duration(span),
                None => failed(format!("{text:.64?} is no duration like '1h30m' or '1.5s'")),
            },
            _ => cannot_convert(&args[0], "duration"),
        },
        Func::Get(part) => get_part(args, part),
        Func::Min | Func::Max => extreme(evaluator, func, args),
        Func::Abs | Func::Ceil | Func::Floor | Func::Round => round(func, &args[0]),
        Func::Base64Encode => match args[0].plain() {
            Val::Bytes(bytes) => {
                evaluator.meter.bytes(bytes.len() * 4 / 3)?;
                built(evaluator, base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            _ => failed(format!("base64.encode() wants bytes, not {}", args[0].type_name())),
        },
        Func::Base64Decode => {
            let text = string(args, 0)?;
            evaluator.meter.text(text)?;
            match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Ok(Val::Bytes(bytes.into())),
                Err(error) => failed(format!("base64.decode(): {error}")),
            }
        }
    }
}

fn string<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v str, EvalError> {
    match args[at].as_str() {
        Some(text) => Ok(text),
        None => failed(format!("expected a string, found {}", args[at].type_name())),
    }
}

/// A non-negative position or count.
fn count(args: &[Val<'_>], at: usize) -> Result<usize, EvalError> {
    match args[at].as_integer().map(usize::try_from) {
        Some(Ok(count)) => Ok(count),
        Some(Err(_)) => failed("a position may not be negative"),
        None => failed(format!("expected an integer, found {}", args[at].type_name())),
    }
}

/// How many at most, without such an argument or with a negative one any number.
fn limit(args: &[Val<'_>], at: usize) -> Result<usize, EvalError> {
    match args.get(at).map(|limit| limit.as_integer()) {
        None => Ok(usize::MAX),
        Some(Some(limit)) => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
        Some(None) => failed(format!("a limit is an integer, not {}", args[at].type_name())),
    }
}

/// A string just built: charged after the fact, which is at most once over the budget by the
/// size of one value of the scope.
fn built<'a>(evaluator: &mut Evaluator<'a>, text: String) -> Outcome<'a> {
    evaluator.meter.text(&text)?;
    evaluator.meter.bytes(ALLOCATION_BYTES)?;
    Ok(Val::Text(text.into()))
}

fn cannot_convert<T>(value: &Val<'_>, to: &str) -> Result<T, EvalError> {
    match value.as_str() {
        Some(text) => failed(format!("cannot convert the string {text:.64?} to {to}")),
        None => failed(format!("cannot convert {} to {to}", value.type_name())),
    }
}

fn size<'a>(evaluator: &mut Evaluator<'a>, value: &Val<'a>) -> Outcome<'a> {
    let size = if let Some(text) = value.as_str() {
        evaluator.meter.scan(text.len())?;
        text.chars().count()
    } else if let Val::Bytes(bytes) = value {
        bytes.len()
    } else if let Some(len) = value.len(evaluator.scope) {
        len
    } else {
        return failed(format!("size() wants a string, list or map, not {}", value.type_name()));
    };
    Ok(Val::Int(size as i64))
}

fn matches<'a>(evaluator: &mut Evaluator<'a>, compiled: Option<&Pattern>, args: &[Val<'a>]) -> Outcome<'a> {
    let text = string(args, 0)?;
    let made;
    let pattern = match compiled {
        Some(pattern) => pattern,
        None => {
            made = evaluator.pattern(string(args, 1)?)?;
            &made
        }
    };
    evaluator.meter.steps(1 + text.len() as u64 * pattern.cost / 64)?;
    Ok(Val::Bool(pattern.regex.is_match(text)))
}

impl Evaluator<'_> {
    /// The compiled form of a computed pattern; the last few are kept.
    fn pattern(&mut self, source: &str) -> Result<Pattern, EvalError> {
        self.meter.scan(source.len())?;
        if let Some(kept) = self.patterns.iter().find(|kept| kept.regex.as_str() == source) {
            return Ok(kept.clone());
        }
        self.meter.steps(pattern::COMPILE_STEPS)?;
        let made = pattern::compile(source).map_err(EvalError::failed)?;
        if self.patterns.len() == pattern::KEPT_MAX {
            self.patterns.remove(0);
        }
        self.patterns.push(made.clone());
        Ok(made)
    }
}

fn split<'a>(evaluator: &mut Evaluator<'a>, args: &[Val<'a>]) -> Outcome<'a> {
    let (text, separator) = (string(args, 0)?, string(args, 1)?);
    let limit = limit(args, 2)?;
    evaluator.meter.scan(text.len())?;
    let mut parts = Vec::new();
    let mut push = |part: &str, evaluator: &mut Evaluator<'a>| {
        evaluator.meter.push(size_of::<Val<'_>>())?;
        evaluator.meter.bytes(ALLOCATION_BYTES)?;
        evaluator.meter.text(part)?;
        parts.push(Val::Text(part.into()));
        Ok::<_, EvalError>(())
    };
    if limit > 0 {
        // An empty separator gives characters, not the empty strings around them.
        if separator.is_empty() {
            for (at, (start, c)) in text.char_indices().enumerate() {
                if at + 1 == limit {
                    push(&text[start..], evaluator)?;
                    break;
                }
                push(&text[start..start + c.len_utf8()], evaluator)?;
            }
        } else {
            for part in text.splitn(limit, separator) {
                push(part, evaluator)?;
            }
        }
    }
    Ok(Val::List(Rc::new(parts)))
}

fn join<'a>(evaluator: &mut Evaluator<'a>, args: &[Val<'a>]) -> Outcome<'a> {
    let separator = if args.len() == 2 { string(args, 1)? } else { "" };
    if !args[0].is_list() {
        return failed(format!("join() wants a list of strings, not {}", args[0].type_name()));
    }
    let mut text = String::new();
    for at in 0.. {
        let Some(item) = args[0].item(at) else { break };
        let Some(part) = item.as_str() else {
            return failed(format!("join() wants a list of strings, and item {at} is {}", item.type_name()));
        };
        if at > 0 {
            evaluator.meter.push(separator.len())?;
            text.push_str(separator);
        }
        evaluator.meter.scan(part.len())?;
        evaluator.meter.push(part.len())?;
        text.push_str(part);
    }
    Ok(Val::Text(text.into()))
}

fn replace<'a>(evaluator: &mut Evaluator<'a>, args: &[Val<'a>]) -> Outcome<'a> {
    let (text, from, to) = (string(args, 0)?, string(args, 1)?, string(args, 2)?);
    let limit = limit(args, 3)?;
    evaluator.meter.scan(text.len())?;
    // The result can be far longer than what it is made of, so it is charged before it is built.
    let found = text.matches(from).take(limit).count();
    evaluator.meter.steps(found as u64)?;
    evaluator.meter.bytes(text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Val::Text(text.replacen(from, to, limit).into()))
}

fn substring<'a>(evaluator: &mut Evaluator<'a>, func: Func, args: &[Val<'a>]) -> Outcome<'a> {
    let text = string(args, 0)?;
    evaluator.meter.scan(text.len())?;
    let start = count(args, 1)?;
    let length = text.chars().count();
    // The position after the last character is the empty string in `charAt`.
    let end = match (func, args.len()) {
        (Func::CharAt, _) if start <= length => (start + 1).min(length),
        (Func::CharAt, _) => start,
        (_, 3) => count(args, 2)?,
        _ => length,
    };
    if start > end || end > length {
        return failed(format!("positions {start} to {end} are not in a string of {length} characters"));
    }
    let part: String = text.chars().skip(start).take(end - start).collect();
    built(evaluator, part)
}

fn index_of<'a>(evaluator: &mut Evaluator<'a>, func: Func, args: &[Val<'a>]) -> Outcome<'a> {
    let (text, part) = (string(args, 0)?, string(args, 1)?);
    evaluator.meter.scan(text.len() + part.len())?;
    let skipped = if args.len() == 3 { count(args, 2)? } else { 0 };
    let length = text.chars().count();
    if skipped > length {
        return failed(format!("position {skipped} is not in a string of {length} characters"));
    }
    let start = text.char_indices().nth(skipped).map_or(text.len(), |(at, _)| at);
    let found = match func {
        Func::LastIndexOf => text.rfind(part),
        _ => text[start..].find(part).map(|at| at + start),
    };
    Ok(Val::Int(found.map_or(-1, |at| text[..at].chars().count() as i64)))
}

fn to_integer<'a>(func: Func, value: &Val<'a>) -> Outcome<'a> {
    let to = if func == Func::ToInt { "int" } else { "uint" };
    let integer = match value.plain() {
        Val::Int(i) => i.into(),
        Val::UInt(u) => u.into(),
        Val::Double(d) if d.is_finite() => d.trunc() as i128,
        Val::Timestamp(at) if func == Func::ToInt => at.timestamp().into(),
        other => match other.as_str().map(str::parse::<i128>) {
            Some(Ok(parsed)) => parsed,
            _ => return cannot_convert(value, to),
        },
    };
    let converted = match func {
        Func::ToInt => i64::try_from(integer).ok().map(Val::Int),
        _ => u64::try_from(integer).ok().map(Val::UInt),
    };
    converted.map_or_else(|| failed(format!("{integer} does not fit {to}")), Ok)
}

fn to_double<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value.plain() {
        Val::Int(i) => Ok(Val::Double(i as f64)),
        Val::UInt(u) => Ok(Val::Double(u as f64)),
        Val::Double(d) => Ok(Val::Double(d)),
        other => match other.as_str().map(str::parse::<f64>) {
            Some(Ok(parsed)) => Ok(Val::Double(parsed)),
            _ => cannot_convert(value, "double"),
        },
    }
}

fn to_str<'a>(evaluator: &mut Evaluator<'a>, value: &Val<'a>) -> Outcome<'a> {
    // Digits of JSON are kept as they were written.
    if let Val::Json(serde_json::Value::Number(n)) = value {
        return built(evaluator, n.to_string());
    }
    match value.plain() {
        text @ (Val::Str(_) | Val::Text(_)) => Ok(text),
        Val::Bool(b) => Ok(Val::Str(if b { "true" } else { "false" })),
        Val::Int(i) => built(evaluator, i.to_string()),
        Val::UInt(u) => built(evaluator, u.to_string()),
        Val::Double(d) => built(evaluator, d.to_string()),
        Val::Timestamp(at) => built(evaluator, time::format_timestamp(&at)),
        Val::Duration(span) => built(evaluator, time::format_duration(span)),
        Val::Bytes(bytes) => {
            evaluator.meter.bytes(bytes.len())?;
            match std::str::from_utf8(&bytes) {
                Ok(text) => Ok(Val::Text(text.into())),
                Err(_) => failed("the bytes are not UTF-8"),
            }
        }
        Val::Null | Val::List(_) | Val::Map(_) | Val::Json(_) | Val::Steps | Val::Type(_) => {
            cannot_convert(value, "string")
        }
    }
}

fn to_timestamp<'a>(value: &Val<'a>) -> Outcome<'a> {
    match (value.plain(), value.as_str()) {
        (Val::Timestamp(at), _) => Ok(Val::Timestamp(at)),
        (Val::Int(seconds), _) => match DateTime::from_timestamp(seconds, 0).filter(time::is_in_range) {
            Some(at) => Ok(Val::Timestamp(at)),
            None => failed(format!("{seconds} seconds are out of range")),
        },
        (_, Some(text)) => match time::parse_timestamp(text) {
            Some(at) if time::is_in_range(&at) => Ok(Val::Timestamp(at)),
            Some(_) => failed(format!("{text:.64?} is out of the range of times, the years 1 to 9999")),
            None => failed(format!("{text:.64?} is no RFC 3339 time")),
        },
        _ => cannot_convert(value, "timestamp"),
    }
}

fn get_part<'a>(args: &[Val<'a>], part: Part) -> Outcome<'a> {
    match args[0].plain() {
        Val::Timestamp(at) => {
            let zone = match args.get(1) {
                None => FixedOffset::east_opt(0),
                Some(_) => time::parse_zone(string(args, 1)?),
            };
            match zone {
                Some(zone) => Ok(Val::Int(time::timestamp_part(at.with_timezone(&zone), part))),
                None => failed("a time zone here is 'UTC' or an offset like '+02:00'"),
            }
        }
        Val::Duration(span) => match time::duration_part(span, part) {
            Some(value) => Ok(Val::Int(value)),
            None => failed("a duration has hours, minutes, seconds and milliseconds only"),
        },
        _ => failed(format!("expected a timestamp or duration, found {}", args[0].type_name())),
    }
}

fn extreme<'a>(evaluator: &mut Evaluator<'a>, func: Func, args: &[Val<'a>]) -> Outcome<'a> {
    let items: Box<dyn Iterator<Item = Val<'a>>> = match args {
        [list] if list.is_list() => {
            let list = list.clone();
            Box::new((0..).map_while(move |at| list.item(at)))
        }
        several => Box::new(several.iter().cloned()),
    };
    let wanted = if func == Func::Min { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
    let mut best: Option<Val<'a>> = None;
    for item in items {
        evaluator.meter.steps(1)?;
        let Some(so_far) = &best else {
            best = Some(item);
            continue;
        };
        match item.compare(so_far, &mut evaluator.meter)? {
            Some(order) if order == wanted => best = Some(item),
            Some(_) => {}
            None => {
                return failed(format!("cannot compare {} and {}", so_far.type_name(), item.type_name()));
            }
        }
    }
    best.map_or_else(|| failed("the list is empty"), Ok)
}

fn round<'a>(func: Func, value: &Val<'a>) -> Outcome<'a> {
    match (func, value.plain()) {
        (Func::Abs, Val::Int(i)) => i.checked_abs().map(Val::Int).map_or_else(|| failed("int overflow"), Ok),
        (_, number @ (Val::Int(_) | Val::UInt(_))) => Ok(number),
        (Func::Abs, Val::Double(d)) => Ok(Val::Double(d.abs())),
        (Func::Ceil, Val::Double(d)) => Ok(Val::Double(d.ceil())),
        (Func::Floor, Val::Double(d)) => Ok(Val::Double(d.floor())),
        (Func::Round, Val::Double(d)) => Ok(Val::Double(d.round())),
        _ => failed(format!("expected a number, found {}", value.type_name())),
    }
}

/// `at + span` and `at - span`, if the result is a time at all.
pub(super) fn shift<'a>(at: DateTime<chrono::Utc>, span: TimeDelta) -> Outcome<'a> {
    let shifted = at.checked_add_signed(span).filter(time::is_in_range);
    shifted.map(Val::Timestamp).map_or_else(|| failed("the time is out of range"), Ok)
}

/// A duration, if it is one that CEL has.
pub(super) fn duration<'a>(span: TimeDelta) -> Outcome<'a> {
    if span.num_seconds().abs() > time::DURATION_SECONDS_MAX {
        return failed("the duration is out of range");
    }
    Ok(Val::Duration(span))
}

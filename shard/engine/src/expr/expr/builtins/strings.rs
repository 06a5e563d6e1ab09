//! Functions of strings, and those that turn values into strings and back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::super::EvalError;
use super::super::super::Meter;
use super::super::eval::elements;
use super::super::value::{self, Text, V, View};
use super::{count, failed, integer, size, text};

/// Memory that one byte of JSON text can turn into, at most, but for maps: `[[],[],…]`.
const PARSED_PER_BYTE: usize = 12;

fn built<'a>(meter: &mut Meter, built: String) -> Result<V<'a>, EvalError> {
    V::text(built, meter)
}

pub(super) fn string<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    match args[0].view() {
        View::Str(_) => Ok(args[0].clone()),
        _ => to_json(meter, args),
    }
}

pub(super) fn to_json<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let json = value::write_json(&args[0], false, meter)?;
    Ok(V::Str(Text::Built(json.into())))
}

pub(super) fn from_json<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let text = text(&args[0])?;
    meter.scan(text.len())?;
    meter.bytes(text.len().saturating_mul(PARSED_PER_BYTE))?;
    meter.parses(text)?;
    match serde_json::from_str(text) {
        Ok(json) => V::adopt(json, meter),
        Err(error) => failed(format!("the text is not JSON: {error}")),
    }
}

pub(super) fn to_base64<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let text = text(&args[0])?;
    meter.scan(text.len())?;
    meter.bytes(text.len() * 2)?;
    built(meter, STANDARD.encode(text))
}

pub(super) fn from_base64<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let text = text(&args[0])?;
    meter.scan(text.len())?;
    meter.bytes(text.len())?;
    let bytes = STANDARD.decode(text).or_else(|error| failed(format!("the text is not base64: {error}")))?;
    let text = String::from_utf8(bytes).or_else(|_| failed("the decoded bytes are not UTF-8 text"))?;
    built(meter, text)
}

pub(super) fn join<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let separator = args.get(1).map_or(Ok(""), text)?;
    let mut joined = String::new();
    for (at, item) in elements(&args[0])?.iter().enumerate() {
        meter.elements(1)?;
        let item = text(&item)?;
        meter.push(separator.len() + item.len())?;
        if at > 0 {
            joined.push_str(separator);
        }
        joined.push_str(item);
    }
    Ok(V::Str(Text::Built(joined.into())))
}

/// A list of parts, each paid for.
fn parts<'a, 't>(meter: &mut Meter, parts: impl Iterator<Item = &'t str>) -> Result<V<'a>, EvalError> {
    let mut items = Vec::new();
    for part in parts {
        meter.elements(1)?;
        meter.push(size_of::<V<'_>>())?;
        meter.list(0, 0)?;
        items.push(built(meter, part.to_owned())?);
    }
    V::list(items, meter)
}

/// Splits at every separator; an empty one splits into characters. With a third argument there are
/// at most so many parts.
pub(super) fn split<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, separator) = (text(&args[0])?, text(&args[1])?);
    meter.scan(whole.len())?;
    let limit = args.get(2).map_or(Ok(-1), integer)?;
    match (usize::try_from(limit), separator) {
        (Ok(0), _) => V::list(Vec::new(), meter),
        (Ok(limit), "") => parts(meter, characters(whole, limit)),
        (Err(_), "") => parts(meter, characters(whole, usize::MAX)),
        (Ok(limit), separator) => parts(meter, whole.splitn(limit, separator)),
        (Err(_), separator) => parts(meter, whole.split(separator)),
    }
}

/// The characters of a string, the last of at most `limit` parts being the rest.
fn characters(whole: &str, limit: usize) -> impl Iterator<Item = &str> {
    let mut rest = whole;
    let mut left = limit;
    std::iter::from_fn(move || {
        let c = rest.chars().next()?;
        left -= 1;
        let (part, after) = rest.split_at(if left == 0 { rest.len() } else { c.len_utf8() });
        rest = after;
        Some(part)
    })
}

/// As [`split`], but each part keeps its separator.
pub(super) fn split_after<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, separator) = (text(&args[0])?, text(&args[1])?);
    if separator.is_empty() {
        return split(meter, args);
    }
    meter.scan(whole.len())?;
    let limit = usize::try_from(args.get(2).map_or(Ok(-1), integer)?).unwrap_or(usize::MAX);
    if limit == 0 {
        return V::list(Vec::new(), meter);
    }
    let mut rest = Some(whole);
    let mut left = limit;
    let pieces = std::iter::from_fn(|| {
        let text = rest?;
        left -= 1;
        let at = if left == 0 { None } else { text.find(separator) };
        let (piece, after) = match at {
            Some(at) => {
                let (piece, after) = text.split_at(at + separator.len());
                (piece, Some(after))
            }
            None => (text, None),
        };
        rest = after;
        Some(piece)
    });
    parts(meter, pieces)
}

/// Without white space, or without the characters of the second argument, at both ends.
pub(super) fn trim<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let whole = text(&args[0])?;
    let cut = args.get(1).map(text).transpose()?;
    meter.elements((1 + whole.len() / 32).saturating_mul(1 + cut.map_or(0, str::len) / 4))?;
    let trimmed = match cut {
        Some(cut) => whole.trim_matches(|c| cut.contains(c)),
        None => whole.trim(),
    };
    built(meter, trimmed.to_owned())
}

pub(super) fn trim_prefix<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, prefix) = (text(&args[0])?, text(&args[1])?);
    meter.scan(whole.len())?;
    built(meter, whole.strip_prefix(prefix).unwrap_or(whole).to_owned())
}

pub(super) fn trim_suffix<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, suffix) = (text(&args[0])?, text(&args[1])?);
    meter.scan(whole.len())?;
    built(meter, whole.strip_suffix(suffix).unwrap_or(whole).to_owned())
}

pub(super) fn upper<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let whole = text(&args[0])?;
    meter.elements(1 + whole.len() / 8)?;
    // A letter may become three.
    meter.bytes(whole.len() * 3)?;
    built(meter, whole.to_uppercase())
}

pub(super) fn lower<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let whole = text(&args[0])?;
    meter.elements(1 + whole.len() / 8)?;
    meter.bytes(whole.len() * 3)?;
    built(meter, whole.to_lowercase())
}

/// Replaces the first n occurrences, all without a fourth argument or with a negative one.
pub(super) fn replace<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, old, new) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let limit = args.get(3).map_or(Ok(-1), integer)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    meter.scan(whole.len())?;
    let found = whole.matches(old).take(limit).count();
    meter.elements(found)?;
    meter.bytes(whole.len().saturating_add(found.saturating_mul(new.len())))?;
    built(meter, whole.replacen(old, new, found))
}

pub(super) fn repeat<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, times) = (text(&args[0])?, count(&args[1])?);
    let bytes = whole.len().checked_mul(times).ok_or(EvalError::OverBudget)?;
    meter.scan(bytes)?;
    meter.bytes(bytes)?;
    built(meter, whole.repeat(times))
}

/// Where, in characters, a part begins; -1 when it is not there.
fn found_at<'a>(whole: &str, byte: Option<usize>) -> V<'a> {
    byte.map_or(V::Int(-1), |byte| size(whole[..byte].chars().count()))
}

pub(super) fn index_of<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, part) = (text(&args[0])?, text(&args[1])?);
    meter.scan(whole.len())?;
    Ok(found_at(whole, whole.find(part)))
}

pub(super) fn last_index_of<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, part) = (text(&args[0])?, text(&args[1])?);
    meter.scan(whole.len())?;
    Ok(found_at(whole, whole.rfind(part)))
}

pub(super) fn has_prefix<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, prefix) = (text(&args[0])?, text(&args[1])?);
    meter.scan(prefix.len())?;
    Ok(V::Bool(whole.starts_with(prefix)))
}

pub(super) fn has_suffix<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let (whole, suffix) = (text(&args[0])?, text(&args[1])?);
    meter.scan(suffix.len())?;
    Ok(V::Bool(whole.ends_with(suffix)))
}

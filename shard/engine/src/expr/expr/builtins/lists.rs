//! Functions of arrays and maps.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::EvalError;
use super::super::super::Meter;
use super::super::eval::elements;
use super::super::predicates::sort_pairs;
use super::super::value::{self, MapView, Text, V, View};
use super::{count, failed, integer, size};

fn entries<'v, 'a>(value: &'v V<'a>) -> Result<MapView<'v, 'a>, EvalError> {
    match value.view() {
        View::Map(map) => Ok(map),
        other => failed(format!("expected a map, got {}", other.name())),
    }
}

pub(super) fn len<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    Ok(size(match args[0].view() {
        View::List(list) => list.len(),
        View::Map(map) => map.len(),
        View::Str(text) => {
            meter.scan(text.len())?;
            text.chars().count()
        }
        other => return failed(format!("{} has no length", other.name())),
    }))
}

pub(super) fn first<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    Ok(elements(&args[0])?.get(0).unwrap_or(V::Nil))
}

pub(super) fn last<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let list = elements(&args[0])?;
    Ok(list.len().checked_sub(1).and_then(|at| list.get(at)).unwrap_or(V::Nil))
}

pub(super) fn take<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let list = elements(&args[0])?;
    let count = count(&args[1])?.min(list.len());
    meter.elements(count)?;
    V::list(list.iter().take(count).collect(), meter)
}

pub(super) fn reverse<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let list = elements(&args[0])?;
    meter.elements(list.len())?;
    V::list(list.iter().rev().collect(), meter)
}

pub(super) fn sort<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let list = elements(&args[0])?;
    meter.elements(list.len())?;
    meter.list(list.len(), 2 * size_of::<V<'_>>())?;
    sort_pairs(meter, list.iter().map(|item| (item.clone(), item)).collect(), args.get(1))
}

pub(super) fn uniq<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let mut seen = BTreeSet::new();
    let mut items = Vec::new();
    for item in elements(&args[0])?.iter() {
        meter.elements(1)?;
        if seen.insert(value::write_json(&item, true, meter)?) {
            meter.push(size_of::<V<'_>>())?;
            items.push(item);
        }
    }
    V::list(items, meter)
}

pub(super) fn concat<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let mut items = Vec::new();
    for arg in args {
        let list = elements(arg)?;
        meter.elements(list.len())?;
        meter.push(list.len().saturating_mul(size_of::<V<'_>>()))?;
        items.extend(list.iter());
    }
    V::list(items, meter)
}

pub(super) fn flatten<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let mut items = Vec::new();
    // Lists still to be emptied, in reverse: nesting costs memory that is counted, and no stack.
    let mut pending: Vec<V<'a>> = vec![args[0].clone()];
    elements(&args[0])?;
    while let Some(next) = pending.pop() {
        meter.elements(1)?;
        match next.view() {
            View::List(list) => {
                meter.elements(list.len())?;
                meter.push(list.len().saturating_mul(size_of::<V<'_>>()))?;
                pending.extend(list.iter().rev());
            }
            _ => {
                meter.push(size_of::<V<'_>>())?;
                items.push(next);
            }
        }
    }
    V::list(items, meter)
}

pub(super) fn keys<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let map = entries(&args[0])?;
    meter.elements(map.len())?;
    V::list(map.iter().map(|(key, _)| V::Str(key)).collect(), meter)
}

pub(super) fn values<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let map = entries(&args[0])?;
    meter.elements(map.len())?;
    V::list(map.iter().map(|(_, value)| value).collect(), meter)
}

pub(super) fn to_pairs<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let map = entries(&args[0])?;
    meter.elements(map.len())?;
    let pairs: Result<Vec<_>, _> =
        map.iter().map(|(key, value)| V::list(vec![V::Str(key), value], meter)).collect();
    V::list(pairs?, meter)
}

pub(super) fn from_pairs<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let mut map = BTreeMap::new();
    for pair in elements(&args[0])?.iter() {
        meter.elements(1)?;
        let pair = elements(&pair)?;
        let (Some(key), Some(value), 2) = (pair.get(0), pair.get(1), pair.len()) else {
            return failed("a pair is an array of a key and a value");
        };
        let key = match key {
            V::Str(text) => text,
            V::Json(serde_json::Value::String(text)) => Text::Borrowed(text),
            other => return failed(format!("a key is a string, not {}", other.type_name())),
        };
        map.insert(key, value);
    }
    V::map(map, meter)
}

/// A field or an element, or the third argument (nil without one) where there is none.
pub(super) fn get<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let otherwise = || args.get(2).cloned().unwrap_or(V::Nil);
    Ok(match (args[0].view(), args[1].view()) {
        (View::Map(map), View::Str(key)) => map.get(key).unwrap_or_else(otherwise),
        (View::List(list), View::Int(_) | View::Float(_)) => {
            let index = integer(&args[1])?;
            let at = if index < 0 {
                usize::try_from(index.unsigned_abs()).ok().and_then(|back| list.len().checked_sub(back))
            } else {
                usize::try_from(index).ok()
            };
            at.and_then(|at| list.get(at)).unwrap_or_else(otherwise)
        }
        (View::Nil, _) => otherwise(),
        (base, key) => return failed(format!("{} cannot be indexed with {}", base.name(), key.name())),
    })
}

pub(super) fn type_of<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    Ok(V::Str(Text::Borrowed(args[0].type_name())))
}

//! The functions that run an expression once per element: `filter`, `map`, `reduce` and their kin.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::super::EvalError;
use super::ast::{Id, Op};
use super::eval::{Evaluated, Frame, Machine, arithmetic, elements, truth};
use super::value::{self, ListView, Text, V, View};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    All,
    Any,
    One,
    None,
    Filter,
    Map,
    Count,
    Sum,
    Find,
    FindIndex,
    FindLast,
    FindLastIndex,
    GroupBy,
    SortBy,
    Reduce,
}

/// Runs `which` over `list`; `rest` is the predicate and what follows it.
pub(super) fn run<'a>(
    machine: &mut Machine<'a>,
    which: Predicate,
    list: &V<'a>,
    rest: &'a [Id],
) -> Evaluated<'a> {
    // A map is searched and filtered by its values.
    let values;
    let list = match list.view() {
        View::Map(map) => {
            machine.meter.elements(map.len())?;
            values = V::list(map.iter().map(|(_, value)| value).collect(), &mut machine.meter)?;
            elements(&values)?
        }
        _ => elements(list)?,
    };
    let predicate = rest.first().copied();
    match which {
        Predicate::All => Ok(V::Bool(find(machine, list, predicate, false, false)?.is_none())),
        Predicate::Any => Ok(V::Bool(find(machine, list, predicate, true, false)?.is_some())),
        Predicate::None => Ok(V::Bool(find(machine, list, predicate, true, false)?.is_none())),
        Predicate::One => Ok(V::Bool(selected(machine, list, predicate)?.len() == 1)),
        Predicate::Count => {
            let count = selected(machine, list, predicate)?.len();
            Ok(V::Int(i64::try_from(count).unwrap_or(i64::MAX)))
        }
        Predicate::Filter => {
            let items = selected(machine, list, predicate)?;
            V::list(items, &mut machine.meter)
        }
        Predicate::Map => {
            let items = mapped(machine, list, predicate)?;
            V::list(items, &mut machine.meter)
        }
        Predicate::Sum => {
            let items = mapped(machine, list, predicate)?;
            items.iter().try_fold(V::Int(0), |sum, item| arithmetic(Op::Add, &sum, item))
        }
        Predicate::Find => Ok(find(machine, list, predicate, true, false)?.map_or(V::Nil, |(_, item)| item)),
        Predicate::FindLast => {
            Ok(find(machine, list, predicate, true, true)?.map_or(V::Nil, |(_, item)| item))
        }
        Predicate::FindIndex => Ok(find(machine, list, predicate, true, false)?.map_or(V::Nil, |(at, _)| at)),
        Predicate::FindLastIndex => {
            Ok(find(machine, list, predicate, true, true)?.map_or(V::Nil, |(at, _)| at))
        }
        Predicate::GroupBy => group_by(machine, list, predicate),
        Predicate::SortBy => sort_by(machine, list, rest),
        Predicate::Reduce => reduce(machine, list, rest),
    }
}

/// The predicate's value for one element; without a predicate, the element.
fn test<'a>(machine: &mut Machine<'a>, predicate: Option<Id>, at: usize, element: V<'a>) -> Evaluated<'a> {
    machine.meter.elements(1)?;
    let Some(predicate) = predicate else { return Ok(element) };
    let position = i64::try_from(at).unwrap_or(i64::MAX);
    machine.frames.push(Frame { element, position, accumulator: V::Nil });
    let result = machine.eval(predicate);
    machine.frames.pop();
    result
}

/// The first (or last) element for which the predicate is `wanted`, and where it is.
fn find<'a>(
    machine: &mut Machine<'a>,
    list: ListView<'_, 'a>,
    predicate: Option<Id>,
    wanted: bool,
    from_the_end: bool,
) -> Result<Option<(V<'a>, V<'a>)>, EvalError> {
    for nth in 0..list.len() {
        let at = if from_the_end { list.len() - 1 - nth } else { nth };
        let Some(item) = list.get(at) else { break };
        let result = test(machine, predicate, at, item.clone())?;
        if truth(&result)? == wanted {
            return Ok(Some((V::Int(i64::try_from(at).unwrap_or(i64::MAX)), item)));
        }
    }
    Ok(None)
}

fn selected<'a>(
    machine: &mut Machine<'a>,
    list: ListView<'_, 'a>,
    predicate: Option<Id>,
) -> Result<Vec<V<'a>>, EvalError> {
    let mut items = Vec::new();
    for (at, item) in list.iter().enumerate() {
        let result = test(machine, predicate, at, item.clone())?;
        if truth(&result)? {
            machine.meter.push(size_of::<V<'_>>())?;
            items.push(item);
        }
    }
    Ok(items)
}

fn mapped<'a>(
    machine: &mut Machine<'a>,
    list: ListView<'_, 'a>,
    predicate: Option<Id>,
) -> Result<Vec<V<'a>>, EvalError> {
    let one = |(at, item)| {
        machine.meter.push(size_of::<V<'_>>())?;
        test(machine, predicate, at, item)
    };
    list.iter().enumerate().map(one).collect()
}

fn group_by<'a>(machine: &mut Machine<'a>, list: ListView<'_, 'a>, predicate: Option<Id>) -> Evaluated<'a> {
    let mut groups: BTreeMap<Text<'a>, Vec<V<'a>>> = BTreeMap::new();
    for (at, item) in list.iter().enumerate() {
        let key = match test(machine, predicate, at, item.clone())? {
            V::Str(text) => text,
            key => match key.view() {
                View::Str(text) => {
                    machine.meter.bytes(text.len())?;
                    Text::Built(text.into())
                }
                _ => Text::Built(value::write_json(&key, true, &mut machine.meter)?.into()),
            },
        };
        // A group of one has room for four.
        machine.meter.map(1)?;
        machine.meter.list(4, size_of::<V<'_>>())?;
        groups.entry(key).or_default().push(item);
    }
    let groups: Result<BTreeMap<_, _>, EvalError> =
        groups.into_iter().map(|(key, items)| Ok((key, V::list(items, &mut machine.meter)?))).collect();
    V::map(groups?, &mut machine.meter)
}

/// Sorts stably by keys that are all numbers or all strings.
pub(super) fn sort_pairs<'a>(
    meter: &mut super::super::Meter,
    mut pairs: Vec<(V<'a>, V<'a>)>,
    direction: Option<&V<'a>>,
) -> Evaluated<'a> {
    let descending = match direction.map(V::view) {
        None | Some(View::Str("asc")) => false,
        Some(View::Str("desc")) => true,
        Some(_) => return Err(EvalError::failed("the order is \"asc\" or \"desc\"")),
    };
    let mut text_max = 0;
    for (key, _) in &pairs {
        let (View::Int(_) | View::Float(_) | View::Str(_), Some(_)) =
            (key.view(), value::order_paid(key, &pairs[0].0))
        else {
            let (first, other) = (pairs[0].0.type_name(), key.type_name());
            return Err(EvalError::failed(format!(
                "keys to sort by are all numbers or all strings, not {first} and {other}"
            )));
        };
        if let View::Str(text) = key.view() {
            text_max = text_max.max(text.len());
        }
    }
    // Paid before it starts, since a sort cannot stop in the middle.
    let comparisons = pairs.len() * (1 + pairs.len().checked_ilog2().unwrap_or(0) as usize);
    meter.elements(comparisons.saturating_mul(1 + text_max / 64))?;
    pairs.sort_by(|(a, _), (b, _)| {
        let ordering = value::order_paid(a, b).unwrap_or(Ordering::Equal);
        if descending { ordering.reverse() } else { ordering }
    });
    V::list(pairs.into_iter().map(|(_, item)| item).collect(), meter)
}

fn sort_by<'a>(machine: &mut Machine<'a>, list: ListView<'_, 'a>, rest: &'a [Id]) -> Evaluated<'a> {
    let keys = mapped(machine, list, rest.first().copied())?;
    let direction = rest.get(1).map(|direction| machine.eval(*direction)).transpose()?;
    sort_pairs(&mut machine.meter, keys.into_iter().zip(list.iter()).collect(), direction.as_ref())
}

fn reduce<'a>(machine: &mut Machine<'a>, list: ListView<'_, 'a>, rest: &'a [Id]) -> Evaluated<'a> {
    let Some(predicate) = rest.first() else { return Err(EvalError::failed("`reduce` needs a predicate")) };
    let (mut accumulator, start) = match (rest.get(1), list.get(0)) {
        (Some(initial), _) => (machine.eval(*initial)?, 0),
        (None, Some(first)) => (first, 1),
        (None, None) => {
            return Err(EvalError::failed(
                "`reduce` of an empty array needs an initial value as its third argument",
            ));
        }
    };
    for at in start..list.len() {
        let Some(element) = list.get(at) else { break };
        machine.meter.elements(1)?;
        let position = i64::try_from(at).unwrap_or(i64::MAX);
        machine.frames.push(Frame { element, position, accumulator });
        let result = machine.eval(*predicate);
        machine.frames.pop();
        accumulator = result?;
    }
    Ok(accumulator)
}

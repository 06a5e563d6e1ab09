//! Functions of the reference: of lists and maps, of numbers, and those that run a predicate.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::numbers::{Number, arithmetic, integer, number, of_number, order};
use super::{Evaluated, Evaluator, Refused, equal, failed, texts};
use crate::tree::{PREDICATES, Tree};

impl Evaluator<'_> {
    pub(super) fn call(&mut self, name: &str, arguments: &[Tree]) -> Evaluated {
        let Some((first, rest)) = arguments.split_first() else { return failed() };
        let first = self.eval(first, false)?;
        if PREDICATES.contains(&name) {
            let items = match first {
                Value::Array(items) => items,
                Value::Object(fields) => fields.into_iter().map(|(_, value)| value).collect(),
                _ => return failed(),
            };
            return self.predicate(name, items, rest);
        }
        let mut values = vec![first];
        for argument in rest {
            values.push(self.eval(argument, false)?);
        }
        texts::call(name, &values).unwrap_or_else(|| plain(name, &values))
    }

    fn predicate(&mut self, name: &str, items: Vec<Value>, rest: &[Tree]) -> Evaluated {
        match name {
            "reduce" => return self.reduce(items, rest),
            "find" | "findIndex" | "findLast" | "findLastIndex" => return self.find(name, items, rest),
            "all" | "any" | "none" => return self.quantified(name, items, rest),
            _ => {}
        }
        let mut results = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let result = match rest.first() {
                Some(body) => self.each(body, item.clone(), at, Value::Null)?,
                None => item.clone(),
            };
            results.push(result);
            if matches!(name, "one" | "filter" | "count") && !results[at].is_boolean() {
                return failed();
            }
        }
        let pairs = results.iter().zip(&items);
        let chosen = pairs.clone().filter(|(result, _)| **result == true).map(|(_, item)| item.clone());
        match name {
            "map" => Ok(Value::Array(results)),
            "filter" => Ok(chosen.collect()),
            "count" => Ok(Value::from(chosen.count())),
            "one" => Ok(Value::Bool(chosen.count() == 1)),
            "sum" => sum(&results),
            "groupBy" => {
                let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
                for (key, item) in pairs {
                    let key = group(key);
                    groups.entry(key).or_default().push(item.clone());
                }
                Ok(Value::Object(groups.into_iter().map(|(key, items)| (key, items.into())).collect()))
            }
            _ => {
                let order = rest.get(1).map(|order| self.eval(order, false)).transpose()?;
                sorted(results.into_iter().zip(items).collect(), order)
            }
        }
    }

    /// Stops at the first element that decides.
    fn quantified(&mut self, name: &str, items: Vec<Value>, rest: &[Tree]) -> Evaluated {
        let Some(body) = rest.first() else { return failed() };
        let decides = name != "all";
        for (at, item) in items.into_iter().enumerate() {
            match self.each(body, item, at, Value::Null)? {
                Value::Bool(result) if result == decides => return Ok(Value::Bool(name == "any")),
                Value::Bool(_) => {}
                _ => return failed(),
            }
        }
        Ok(Value::Bool(name != "any"))
    }

    fn find(&mut self, name: &str, items: Vec<Value>, rest: &[Tree]) -> Evaluated {
        let Some(body) = rest.first() else { return failed() };
        let mut numbered: Vec<(usize, Value)> = items.into_iter().enumerate().collect();
        if name.starts_with("findLast") {
            numbered.reverse();
        }
        for (at, item) in numbered {
            match self.each(body, item.clone(), at, Value::Null)? {
                Value::Bool(true) if name.ends_with("Index") => return Ok(Value::from(at)),
                Value::Bool(true) => return Ok(item),
                Value::Bool(false) => {}
                _ => return failed(),
            }
        }
        Ok(Value::Null)
    }

    fn reduce(&mut self, items: Vec<Value>, rest: &[Tree]) -> Evaluated {
        let Some(body) = rest.first() else { return failed() };
        let mut numbered = items.into_iter().enumerate();
        let mut accumulator = match rest.get(1) {
            Some(initial) => self.eval(initial, false)?,
            None => numbered.next().ok_or(Refused::Failed)?.1,
        };
        for (at, item) in numbered {
            accumulator = self.each(body, item, at, accumulator)?;
        }
        Ok(accumulator)
    }
}

/// The name of a group, the same for keys that are equal.
fn group(key: &Value) -> String {
    match (key, number(key)) {
        (Value::String(text), _) => text.clone(),
        (_, Ok(Number::Float(float))) if float.fract() == 0.0 && float.abs() < 9.2e18 => {
            (float as i64).to_string()
        }
        (key, _) => texts::json(key),
    }
}

fn list(value: &Value) -> Result<&Vec<Value>, Refused> {
    value.as_array().ok_or(Refused::Failed)
}

fn map(value: &Value) -> Result<&Map<String, Value>, Refused> {
    value.as_object().ok_or(Refused::Failed)
}

fn plain(name: &str, arguments: &[Value]) -> Evaluated {
    let first = &arguments[0];
    let second = arguments.get(1).unwrap_or(&Value::Null);
    Ok(match name {
        "len" => match first {
            Value::String(text) => Value::from(text.chars().count()),
            Value::Array(items) => Value::from(items.len()),
            Value::Object(fields) => Value::from(fields.len()),
            _ => return failed(),
        },
        "first" => list(first)?.first().cloned().unwrap_or_default(),
        "last" => list(first)?.last().cloned().unwrap_or_default(),
        "take" => {
            let items = list(first)?;
            let Ok(count) = usize::try_from(integer(second)?) else { return failed() };
            items.iter().take(count).cloned().collect()
        }
        "reverse" => list(first)?.iter().rev().cloned().collect(),
        "sort" => {
            let pairs = list(first)?.iter().map(|item| (item.clone(), item.clone())).collect();
            sorted(pairs, arguments.get(1).cloned())?
        }
        "uniq" => {
            let mut kept: Vec<Value> = Vec::new();
            for item in list(first)? {
                if !kept.iter().any(|other| equal(other, item)) {
                    kept.push(item.clone());
                }
            }
            Value::Array(kept)
        }
        "concat" => Value::Array(
            arguments
                .iter()
                .map(list)
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        ),
        "flatten" => flattened(list(first)?),
        "keys" => map(first)?.keys().cloned().map(Value::String).collect(),
        "values" => map(first)?.values().cloned().collect(),
        "toPairs" => map(first)?
            .iter()
            .map(|(name, value)| Value::Array(vec![name.clone().into(), value.clone()]))
            .collect(),
        "get" => get(first, second, arguments.get(2))?,
        "type" => Value::from(type_name(first)),
        "string" | "toJSON" => match first {
            Value::String(text) if name == "string" => Value::String(text.clone()),
            other => Value::String(texts::json(other)),
        },
        "join" => joined(list(first)?, if arguments.len() > 1 { second.as_str() } else { Some("") })?,
        _ => return numeric(name, arguments),
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) if matches!(number(value), Ok(Number::Int(_))) => "int",
        Value::Number(_) => "float",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "map",
    }
}

fn flattened(items: &[Value]) -> Value {
    let flat = items.iter().flat_map(|item| match item {
        Value::Array(inner) => flattened(inner).as_array().cloned().unwrap_or_default(),
        other => vec![other.clone()],
    });
    flat.collect()
}

fn joined(items: &[Value], separator: Option<&str>) -> Evaluated {
    let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
    match (texts, separator) {
        (Some(texts), Some(separator)) => Ok(Value::String(texts.join(separator))),
        _ => failed(),
    }
}

fn get(base: &Value, key: &Value, otherwise: Option<&Value>) -> Evaluated {
    let found = match (base, key) {
        (Value::Null, _) => None,
        (Value::Object(fields), Value::String(name)) => fields.get(name),
        (Value::Array(items), Value::Number(_)) => {
            let at = integer(key)?;
            let at = if at < 0 { at.saturating_add(items.len() as i64) } else { at };
            usize::try_from(at).ok().and_then(|at| items.get(at))
        }
        _ => return failed(),
    };
    Ok(found.or(otherwise).cloned().unwrap_or_default())
}

/// Stable, by keys that are all numbers or all strings.
fn sorted(mut pairs: Vec<(Value, Value)>, direction: Option<Value>) -> Evaluated {
    let descending = match direction.as_ref().map(Value::as_str) {
        None | Some(Some("asc")) => false,
        Some(Some("desc")) => true,
        Some(_) => return failed(),
    };
    let all_numbers = pairs.iter().all(|(key, _)| key.is_number());
    let all_texts = pairs.iter().all(|(key, _)| key.is_string());
    if !all_numbers && !all_texts {
        return failed();
    }
    // Insertion: as slow and as plain as it gets.
    for end in 1..pairs.len() {
        for at in (1..=end).rev() {
            let order = order(&pairs[at - 1].0, &pairs[at].0).unwrap_or(Ordering::Equal);
            if order == (if descending { Ordering::Less } else { Ordering::Greater }) {
                pairs.swap(at - 1, at);
            }
        }
    }
    Ok(pairs.into_iter().map(|(_, item)| item).collect())
}

fn sum(items: &[Value]) -> Evaluated {
    let numbers: Vec<Number> = items.iter().map(number).collect::<Result<_, _>>()?;
    let sum = numbers.into_iter().try_fold(Number::Int(0), |sum, number| arithmetic("+", sum, number))?;
    of_number(sum)
}

/// The numbers among values, which are numbers and lists of them.
fn all_numbers(values: &[Value]) -> Result<Vec<Value>, Refused> {
    let flat = flattened(values).as_array().cloned().unwrap_or_default();
    if flat.iter().all(Value::is_number) { Ok(flat) } else { failed() }
}

fn numeric(name: &str, arguments: &[Value]) -> Evaluated {
    let first = &arguments[0];
    match name {
        "int" | "float" => return converted(name, first),
        "min" | "max" | "mean" | "median" => return statistic(name, all_numbers(arguments)?),
        "abs" | "ceil" | "floor" | "round" => {}
        _ => return bits(name, integer(first)?, arguments.get(1)),
    }
    match (name, number(first)?) {
        ("abs", Number::Int(int)) => {
            of_number(int.checked_abs().map_or(Number::Float((int as f64).abs()), Number::Int))
        }
        (_, Number::Int(_)) => Ok(first.clone()),
        ("abs", Number::Float(float)) => of_number(Number::Float(float.abs())),
        ("ceil", Number::Float(float)) => of_number(Number::Float(float.ceil())),
        ("floor", Number::Float(float)) => of_number(Number::Float(float.floor())),
        (_, Number::Float(float)) => of_number(Number::Float(float.round())),
    }
}

fn converted(name: &str, value: &Value) -> Evaluated {
    if let Value::String(text) = value {
        return match name {
            "int" => text.parse::<i64>().map(Value::from).or_else(|_| failed()),
            _ => of_number(Number::Float(text.parse().or_else(|_| failed())?)),
        };
    }
    match (name, number(value)?) {
        ("int", Number::Float(float)) if float.abs() < 9.2e18 => Ok(Value::from(float.trunc() as i64)),
        ("int", Number::Float(_)) => failed(),
        ("int", Number::Int(int)) => Ok(Value::from(int)),
        (_, number) => of_number(Number::Float(number.float())),
    }
}

fn statistic(name: &str, numbers: Vec<Value>) -> Evaluated {
    let sorted_up = |numbers: Vec<Value>| {
        let sorted = sorted(numbers.into_iter().map(|n| (n.clone(), n)).collect(), None)?;
        Ok(sorted.as_array().cloned().unwrap_or_default())
    };
    let divided = |sum: &Value, by: usize| of_number(arithmetic("/", number(sum)?, Number::Int(by as i64))?);
    match (name, numbers.len()) {
        ("min" | "max", 0) => Ok(Value::Null),
        (_, 0) => of_number(Number::Float(0.0)),
        ("min", _) => Ok(sorted_up(numbers)?[0].clone()),
        ("max", _) => {
            // Of equals the first.
            let best = numbers.iter().skip(1).fold(&numbers[0], |best, next| {
                if order(next, best) == Some(Ordering::Greater) { next } else { best }
            });
            Ok(best.clone())
        }
        ("mean", count) => divided(&sum(&numbers)?, count),
        (_, count) => {
            let sorted = sorted_up(numbers)?;
            match count % 2 {
                1 => Ok(sorted[count / 2].clone()),
                _ => divided(&sum(&sorted[count / 2 - 1..=count / 2])?, 2),
            }
        }
    }
}

fn bits(name: &str, first: i64, second: Option<&Value>) -> Evaluated {
    if name == "bitnot" {
        return Ok(Value::from(-1 - first));
    }
    let second = integer(second.unwrap_or(&Value::Null))?;
    let is_shift = matches!(name, "bitshl" | "bitshr" | "bitushr");
    if is_shift && !(0..64).contains(&second) {
        return failed();
    }
    let joined: String = format!("{first:064b}")
        .chars()
        .zip(format!("{second:064b}").chars())
        .map(|(a, b)| match (name, a == '1', b == '1') {
            ("bitand", true, true) | ("bitnand", true, false) => '1',
            ("bitor", a, b) if a || b => '1',
            ("bitxor", a, b) if a != b => '1',
            _ => '0',
        })
        .collect();
    let shifted = match name {
        // Modulo 2^64, by multiplying in 128 bits.
        "bitshl" => (i128::from(first) << second) as i64,
        "bitshr" => i128::from(first).div_euclid(1 << second) as i64,
        "bitushr" => (u128::from(first as u64) / (1 << second)) as i64,
        "bitand" | "bitor" | "bitxor" | "bitnand" => {
            u64::from_str_radix(&joined, 2).or_else(|_| failed())? as i64
        }
        _ => return failed(),
    };
    Ok(Value::from(shifted))
}

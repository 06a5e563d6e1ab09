//! CEL values over borrowed JSON: cheap to clone, nothing of the scope is copied.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use base64::Engine;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::time;
use crate::expr::{EvalError, Meter, Scope};

/// A value in an evaluation. `'a` is the expression and its scope.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    /// A string of the expression or of the scope.
    Str(&'a str),
    /// A string that was built.
    Text(Rc<str>),
    Bytes(Rc<[u8]>),
    /// A list that was built.
    List(Rc<Vec<Val<'a>>>),
    /// A map that was built.
    Map(Rc<BTreeMap<Key, Val<'a>>>),
    /// Any JSON of the scope; [`Val::plain`] leaves only lists and maps in this form.
    Json(&'a Value),
    /// The root `steps`: a map from ids to outputs.
    Steps,
    Timestamp(DateTime<Utc>),
    Duration(TimeDelta),
    Type(&'static str),
}

/// A key of a map that was built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Bool(bool),
    /// Every integer, so that `1` and `1u` are one key.
    Int(i128),
    Str(Rc<str>),
}

impl Key {
    pub(super) fn of(value: &Val<'_>) -> Option<Self> {
        match value.plain() {
            Val::Bool(b) => Some(Self::Bool(b)),
            Val::Str(text) => Some(Self::Str(text.into())),
            Val::Text(text) => Some(Self::Str(text)),
            number => number.as_integer().map(Self::Int),
        }
    }

    fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(i) => Val::integer(*i).unwrap_or(Val::Null),
            Self::Str(text) => Val::Text(Rc::clone(text)),
        }
    }

    fn to_name(&self) -> String {
        match self {
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Str(text) => text.to_string(),
        }
    }
}

impl<'a> Val<'a> {
    /// Scalars of JSON as values of CEL: integers that fit are `int`, those up to 2^64-1 `uint`,
    /// all other numbers `double`. Everything else as it is.
    pub(super) fn plain(&self) -> Self {
        match self {
            Self::Json(Value::Null) => Self::Null,
            Self::Json(Value::Bool(b)) => Self::Bool(*b),
            Self::Json(Value::String(text)) => Self::Str(text),
            Self::Json(Value::Number(n)) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(u)) => Self::UInt(u),
                (None, None) => Self::Double(n.as_str().parse().unwrap_or(f64::NAN)),
            },
            other => other.clone(),
        }
    }

    /// Its type as CEL names it.
    pub(super) fn type_name(&self) -> &'static str {
        match self.plain() {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::UInt(_) => "uint",
            Self::Double(_) => "double",
            Self::Str(_) | Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::Json(Value::Array(_)) => "list",
            Self::Map(_) | Self::Json(_) | Self::Steps => "map",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Type(_) => "type",
        }
    }

    /// An integer as the narrowest of `int` and `uint` that holds it.
    pub(super) fn integer(value: i128) -> Option<Self> {
        i64::try_from(value).map(Self::Int).or_else(|_| u64::try_from(value).map(Self::UInt)).ok()
    }

    /// An integer, also one written as a double without a fraction.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self.plain() {
            Self::Int(i) => Some(i.into()),
            Self::UInt(u) => Some(u.into()),
            // Above 2^53 a double no longer says which integer is meant.
            Self::Double(d) if d.fract() == 0.0 && d.abs() <= 9_007_199_254_740_992.0 => Some(d as i128),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Json(Value::String(text)) => Some(text),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Elements of a list or entries of a map; `None` for anything else.
    pub(super) fn len(&self, scope: &dyn Scope) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Map(entries) => Some(entries.len()),
            Self::Json(Value::Array(items)) => Some(items.len()),
            Self::Json(Value::Object(fields)) => Some(fields.len()),
            Self::Steps => Some(scope.step_ids().len()),
            _ => None,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Json(Value::Array(_)))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Json(Value::Object(_)) | Self::Steps)
    }

    /// The element of a list.
    pub(super) fn item(&self, index: usize) -> Option<Self> {
        match self {
            Self::List(items) => items.get(index).cloned(),
            Self::Json(Value::Array(items)) => items.get(index).map(Self::Json),
            _ => None,
        }
    }

    /// The entry of a map.
    pub(super) fn entry(&self, key: &Val<'_>, scope: &'a dyn Scope) -> Option<Self> {
        match self {
            Self::Map(entries) => entries.get(&Key::of(key)?).cloned(),
            Self::Json(Value::Object(fields)) => fields.get(key.as_str()?).map(Self::Json),
            Self::Steps => scope.step(key.as_str()?).map(Self::Json),
            _ => None,
        }
    }

    /// What a comprehension goes through: the elements of a list, the keys of a map.
    pub(super) fn iterate(&self, scope: &'a dyn Scope) -> Option<Box<dyn Iterator<Item = Self> + 'a>> {
        match self {
            Self::Json(Value::Array(items)) => Some(Box::new(items.iter().map(Self::Json))),
            Self::Json(Value::Object(fields)) => Some(Box::new(fields.keys().map(|name| Self::Str(name)))),
            Self::Steps => Some(Box::new(scope.step_ids().into_iter().map(Self::Str))),
            Self::List(items) => {
                let items = Rc::clone(items);
                Some(Box::new((0..items.len()).map(move |at| items[at].clone())))
            }
            Self::Map(entries) => {
                let keys: Vec<Self> = entries.keys().map(Key::to_val).collect();
                Some(Box::new(keys.into_iter()))
            }
            _ => None,
        }
    }

    /// Equality over all types: numbers by value, different types are unequal.
    pub(super) fn equals(
        &self,
        other: &Self,
        scope: &'a dyn Scope,
        meter: &mut Meter,
    ) -> Result<bool, EvalError> {
        meter.steps(1)?;
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            meter.scan(a.len().min(b.len()))?;
            return Ok(a == b);
        }
        if (self.is_list() && other.is_list()) || (self.is_map() && other.is_map()) {
            return self.equals_inside(other, scope, meter);
        }
        let (a, b) = (self.plain(), other.plain());
        Ok(match (&a, &b) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => {
                meter.scan(a.len().min(b.len()))?;
                a == b
            }
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            _ => compare_numbers(&a, &b) == Some(Ordering::Equal),
        })
    }

    fn equals_inside(
        &self,
        other: &Self,
        scope: &'a dyn Scope,
        meter: &mut Meter,
    ) -> Result<bool, EvalError> {
        let len = self.len(scope).unwrap_or(0);
        if Some(len) != other.len(scope) {
            return Ok(false);
        }
        if self.is_list() {
            for at in 0..len {
                let (Some(a), Some(b)) = (self.item(at), other.item(at)) else { return Ok(false) };
                if !a.equals(&b, scope, meter)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        for key in self.iterate(scope).into_iter().flatten() {
            match (self.entry(&key, scope), other.entry(&key, scope)) {
                (Some(a), Some(b)) if a.equals(&b, scope, meter)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Order of two numbers, strings, bools, bytes, timestamps or durations; `None` for others.
    pub(super) fn compare(&self, other: &Self, meter: &mut Meter) -> Result<Option<Ordering>, EvalError> {
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            meter.scan(a.len().min(b.len()))?;
            return Ok(Some(a.cmp(b)));
        }
        let (a, b) = (self.plain(), other.plain());
        Ok(match (&a, &b) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => {
                meter.scan(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => compare_numbers(&a, &b),
        })
    }

    /// As JSON: bytes in base64, timestamps in RFC 3339, durations as `1.5s`, types by name.
    /// NaN and the infinities have no JSON and are an error.
    pub(super) fn to_json(&self, scope: &'a dyn Scope, meter: &mut Meter) -> Result<Value, EvalError> {
        meter.steps(1)?;
        meter.bytes(size_of::<Value>())?;
        let text = |text: &str, meter: &mut Meter| {
            meter.text(text)?;
            Ok(Value::String(text.to_owned()))
        };
        match self {
            Self::Null => Ok(Value::Null),
            Self::Bool(b) => Ok(Value::Bool(*b)),
            Self::Int(i) => {
                meter.digits()?;
                Ok((*i).into())
            }
            Self::UInt(u) => {
                meter.digits()?;
                Ok((*u).into())
            }
            Self::Double(d) => serde_json::Number::from_f64(*d)
                .map(Value::Number)
                .ok_or_else(|| EvalError::failed(format!("the result {d} is no JSON number"))),
            Self::Str(string) => text(string, meter),
            Self::Text(string) => text(string, meter),
            Self::Bytes(bytes) => {
                meter.bytes(bytes.len() * 4 / 3)?;
                text(&base64::engine::general_purpose::STANDARD.encode(bytes), meter)
            }
            Self::List(items) => {
                meter.list(items.len(), size_of::<Value>())?;
                let mut list = Vec::with_capacity(items.len());
                for item in items.iter() {
                    list.push(item.to_json(scope, meter)?);
                }
                Ok(Value::Array(list))
            }
            Self::Map(entries) => {
                meter.map(entries.len())?;
                let mut fields = serde_json::Map::new();
                for (key, value) in entries.iter() {
                    let name = key.to_name();
                    meter.text(&name)?;
                    fields.insert(name, value.to_json(scope, meter)?);
                }
                Ok(Value::Object(fields))
            }
            Self::Json(value) => {
                meter.copy(value)?;
                Ok((*value).clone())
            }
            Self::Steps => {
                let mut fields = serde_json::Map::new();
                for id in scope.step_ids() {
                    let Some(output) = scope.step(id) else { continue };
                    meter.map(1)?;
                    meter.text(id)?;
                    meter.copy(output)?;
                    fields.insert(id.to_owned(), output.clone());
                }
                Ok(Value::Object(fields))
            }
            Self::Timestamp(at) => text(&time::format_timestamp(at), meter),
            Self::Duration(span) => text(&time::format_duration(*span), meter),
            Self::Type(name) => text(name, meter),
        }
    }
}

/// Exact order of numbers of any two types; `None` for NaN and for what is no number.
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let integer = |v: &Val<'_>| match v {
        Val::Int(i) => Some(i128::from(*i)),
        Val::UInt(u) => Some(i128::from(*u)),
        _ => None,
    };
    match (integer(a), integer(b), a, b) {
        (Some(a), Some(b), _, _) => Some(a.cmp(&b)),
        (None, None, Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Some(a), None, _, Val::Double(b)) => compare_mixed(a, *b),
        (None, Some(b), Val::Double(a), _) => compare_mixed(b, *a).map(Ordering::reverse),
        _ => None,
    }
}

fn compare_mixed(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates, and every integer here is far from the ends of i128.
    let whole = double.trunc() as i128;
    Some(integer.cmp(&whole).then_with(|| 0.0_f64.total_cmp(&(double.fract() + 0.0))))
}

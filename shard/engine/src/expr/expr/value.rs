//! Values while evaluating: JSON borrowed from the scope where it is untouched, counted references
//! where it was built. Nothing of the scope is ever copied except into the result.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Number, Value};

use super::super::EvalError;
use super::super::Meter;

/// Deepest nesting that an expression may build, and that comparing and dropping recurses into.
const BUILT_DEPTH_MAX: u8 = 64;
/// Deepest nesting of a result: what is stored must be readable by a JSON parser that stops at 128.
const RESULT_DEPTH_MAX: usize = 100;

/// The least float that is above all integers; as a negative number it is one.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// Text from the scope or the program, or built.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Built(Rc<str>),
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Built(text) => text,
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Text<'_> {}
impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}
impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// A built list, with the depth of what it holds.
#[derive(Debug)]
pub(super) struct List<'a> {
    items: Vec<V<'a>>,
    depth: u8,
}

/// A built map, with the depth of what it holds.
#[derive(Debug)]
pub(super) struct Dict<'a> {
    entries: BTreeMap<Text<'a>, V<'a>>,
    depth: u8,
}

/// A value; cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum V<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A number of parsed JSON text that no machine number holds exactly.
    Number(Rc<Number>),
    Str(Text<'a>),
    /// Untouched JSON of the scope.
    Json(&'a Value),
    /// A step's output, of which `.output` is the whole.
    Step(&'a Value),
    List(Rc<List<'a>>),
    Map(Rc<Dict<'a>>),
}

/// What a value is, whoever holds it.
#[derive(Clone, Copy)]
pub(super) enum View<'v, 'a> {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'v str),
    List(ListView<'v, 'a>),
    Map(MapView<'v, 'a>),
}

impl View<'_, '_> {
    /// The name of the type, as `type` gives it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "map",
        }
    }
}

/// A list's elements.
#[derive(Clone, Copy)]
pub(super) enum ListView<'v, 'a> {
    Json(&'a [Value]),
    Built(&'v [V<'a>]),
}

impl<'v, 'a> ListView<'v, 'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Built(items) => items.len(),
        }
    }

    pub(super) fn get(self, at: usize) -> Option<V<'a>> {
        match self {
            Self::Json(items) => items.get(at).map(V::Json),
            Self::Built(items) => items.get(at).cloned(),
        }
    }

    pub(super) fn iter(self) -> impl DoubleEndedIterator<Item = V<'a>> + use<'v, 'a> {
        (0..self.len()).filter_map(move |at| self.get(at))
    }
}

/// A map's entries.
#[derive(Clone, Copy)]
pub(super) enum MapView<'v, 'a> {
    Json(&'a Map<String, Value>),
    Built(&'v BTreeMap<Text<'a>, V<'a>>),
}

impl<'v, 'a> MapView<'v, 'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Json(entries) => entries.len(),
            Self::Built(entries) => entries.len(),
        }
    }

    pub(super) fn get(self, key: &str) -> Option<V<'a>> {
        match self {
            Self::Json(entries) => entries.get(key).map(V::Json),
            Self::Built(entries) => entries.get(key).cloned(),
        }
    }

    pub(super) fn iter(self) -> Box<dyn Iterator<Item = (Text<'a>, V<'a>)> + 'v>
    where
        'a: 'v,
    {
        match self {
            Self::Json(entries) => {
                Box::new(entries.iter().map(|(key, value)| (Text::Borrowed(key.as_str()), V::Json(value))))
            }
            Self::Built(entries) => Box::new(entries.iter().map(|(key, value)| (key.clone(), value.clone()))),
        }
    }
}

fn number_view<'v, 'a>(number: &Number) -> View<'v, 'a> {
    match number.as_i64() {
        Some(int) => View::Int(int),
        // Beyond what a float holds, only the sign is left.
        None => View::Float(number.as_f64().unwrap_or_else(|| {
            if number.to_string().starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }
        })),
    }
}

impl<'a> V<'a> {
    pub(super) fn view(&self) -> View<'_, 'a> {
        match self {
            Self::Nil => View::Nil,
            Self::Bool(bool) => View::Bool(*bool),
            Self::Int(int) => View::Int(*int),
            Self::Float(float) => View::Float(*float),
            Self::Number(number) => number_view(number),
            Self::Str(text) => View::Str(text.as_str()),
            Self::List(list) => View::List(ListView::Built(&list.items)),
            Self::Map(map) => View::Map(MapView::Built(&map.entries)),
            Self::Json(value) | Self::Step(value) => match value {
                Value::Null => View::Nil,
                Value::Bool(bool) => View::Bool(*bool),
                Value::Number(number) => number_view(number),
                Value::String(text) => View::Str(text),
                Value::Array(items) => View::List(ListView::Json(items)),
                Value::Object(entries) => View::Map(MapView::Json(entries)),
            },
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        matches!(self.view(), View::Nil)
    }

    pub(super) fn type_name(&self) -> &'static str {
        self.view().name()
    }

    fn depth(&self) -> u8 {
        match self {
            Self::List(list) => list.depth,
            Self::Map(map) => map.depth,
            Self::Nil
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Float(_)
            | Self::Number(_)
            | Self::Str(_)
            | Self::Json(_)
            | Self::Step(_) => 0,
        }
    }

    /// A built string.
    pub(super) fn text(text: String, meter: &mut Meter) -> Result<Self, EvalError> {
        meter.bytes(text.len())?;
        Ok(Self::Str(Text::Built(text.into())))
    }

    /// A built list.
    pub(super) fn list(items: Vec<Self>, meter: &mut Meter) -> Result<Self, EvalError> {
        meter.list(items.len(), size_of::<Self>())?;
        let depth = deeper(items.iter())?;
        Ok(Self::List(Rc::new(List { items, depth })))
    }

    /// A built map.
    pub(super) fn map(entries: BTreeMap<Text<'a>, Self>, meter: &mut Meter) -> Result<Self, EvalError> {
        meter.map(entries.len())?;
        let depth = deeper(entries.values())?;
        Ok(Self::Map(Rc::new(Dict { entries, depth })))
    }

    /// A value of parsed JSON text; what it costs has been paid.
    pub(super) fn adopt(value: Value, meter: &mut Meter) -> Result<Self, EvalError> {
        meter.elements(1)?;
        Ok(match value {
            Value::Null => Self::Nil,
            Value::Bool(bool) => Self::Bool(bool),
            Value::Number(number) => match number.as_i64() {
                Some(int) => Self::Int(int),
                None => Self::Number(Rc::new(number)),
            },
            Value::String(text) => Self::text(text, meter)?,
            Value::Array(items) => {
                let items: Result<Vec<_>, _> =
                    items.into_iter().map(|item| Self::adopt(item, meter)).collect();
                Self::list(items?, meter)?
            }
            Value::Object(entries) => {
                let entries: Result<BTreeMap<_, _>, EvalError> = entries
                    .into_iter()
                    .map(|(key, value)| Ok((Text::Built(key.into()), Self::adopt(value, meter)?)))
                    .collect();
                Self::map(entries?, meter)?
            }
        })
    }
}

fn deeper<'v, 'a: 'v>(children: impl Iterator<Item = &'v V<'a>>) -> Result<u8, EvalError> {
    let depth = 1 + children.map(V::depth).max().unwrap_or(0);
    if depth > BUILT_DEPTH_MAX {
        return Err(EvalError::failed(format!("the value nests deeper than {BUILT_DEPTH_MAX}")));
    }
    Ok(depth)
}

/// A float as JSON: without a fraction and exact, as an integer.
fn float_to_number(float: f64) -> Result<Number, EvalError> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if float.fract() == 0.0 && float.abs() <= EXACT_MAX {
        return Ok(Number::from(float as i64));
    }
    Number::from_f64(float).ok_or_else(|| EvalError::failed("the result is not a finite number"))
}

/// The value as JSON of its own; the only place where the scope is copied.
pub(super) fn to_json(value: &V<'_>, meter: &mut Meter) -> Result<Value, EvalError> {
    to_json_at(value, 0, meter)
}

fn to_json_at(value: &V<'_>, depth: usize, meter: &mut Meter) -> Result<Value, EvalError> {
    meter.elements(1)?;
    meter.bytes(size_of::<Value>())?;
    if depth > RESULT_DEPTH_MAX {
        return Err(EvalError::failed(format!("the result nests deeper than {RESULT_DEPTH_MAX}")));
    }
    if let V::Json(Value::Number(number)) | V::Step(Value::Number(number)) = value {
        meter.digits()?;
        return Ok(Value::Number(number.clone()));
    }
    if let V::Number(number) = value {
        meter.digits()?;
        return Ok(Value::Number(Number::clone(number)));
    }
    Ok(match value.view() {
        View::Nil => Value::Null,
        View::Bool(bool) => Value::Bool(bool),
        View::Int(int) => {
            meter.digits()?;
            Value::from(int)
        }
        View::Float(float) => {
            meter.digits()?;
            Value::Number(float_to_number(float)?)
        }
        View::Str(text) => {
            meter.bytes(text.len())?;
            Value::String(text.to_owned())
        }
        View::List(list) => {
            meter.list(list.len(), size_of::<Value>())?;
            let mut items = Vec::with_capacity(list.len());
            for item in list.iter() {
                items.push(to_json_at(&item, depth + 1, meter)?);
            }
            Value::Array(items)
        }
        View::Map(map) => {
            meter.map(map.len())?;
            let mut entries = Map::new();
            for (key, value) in map.iter() {
                meter.bytes(key.as_str().len())?;
                entries.insert(key.as_str().to_owned(), to_json_at(&value, depth + 1, meter)?);
            }
            Value::Object(entries)
        }
    })
}

/// The value as compact JSON text. `canonical` text is the same for equal values.
pub(super) fn write_json(value: &V<'_>, canonical: bool, meter: &mut Meter) -> Result<String, EvalError> {
    let mut json = to_json(value, meter)?;
    if canonical {
        canonicalize(&mut json);
    }
    let text = serde_json::to_string(&json).map_err(|error| EvalError::failed(error.to_string()))?;
    meter.bytes(text.len())?;
    Ok(text)
}

/// Rewrites every number into one spelling, an integer's for all that are equal to one; depth is
/// bounded by [`RESULT_DEPTH_MAX`].
fn canonicalize(json: &mut Value) {
    match json {
        Value::Number(number) => {
            if number.as_i64().is_none()
                && let Some(float) = number.as_f64()
            {
                if float.fract() == 0.0 && (-BEYOND..BEYOND).contains(&float) {
                    *number = Number::from(float as i64);
                } else if let Ok(short) = float_to_number(float) {
                    *number = short;
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(canonicalize),
        Value::Object(entries) => entries.values_mut().for_each(canonicalize),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Equality of values: numbers by value, lists and maps by what they hold.
pub(super) fn equal(a: &V<'_>, b: &V<'_>, meter: &mut Meter) -> Result<bool, EvalError> {
    meter.elements(1)?;
    Ok(match (a.view(), b.view()) {
        (View::Nil, View::Nil) => true,
        (View::Bool(a), View::Bool(b)) => a == b,
        (View::Int(a), View::Int(b)) => a == b,
        (View::Int(int), View::Float(float)) | (View::Float(float), View::Int(int)) => {
            int_against_float(int, float).is_eq()
        }
        (View::Float(a), View::Float(b)) => a == b,
        (View::Str(a), View::Str(b)) => {
            meter.scan(a.len().min(b.len()))?;
            a == b
        }
        (View::List(a), View::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(&a, &b, meter)? {
                    return Ok(false);
                }
            }
            true
        }
        (View::Map(a), View::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, left) in a.iter() {
                match b.get(key.as_str()) {
                    Some(right) if equal(&left, &right, meter)? => {}
                    Some(_) | None => return Ok(false),
                }
            }
            true
        }
        (
            View::Nil
            | View::Bool(_)
            | View::Int(_)
            | View::Float(_)
            | View::Str(_)
            | View::List(_)
            | View::Map(_),
            _,
        ) => false,
    })
}

/// The order of two numbers or two strings.
pub(super) fn order(a: &V<'_>, b: &V<'_>, meter: &mut Meter) -> Result<Ordering, EvalError> {
    if let (View::Str(a), View::Str(b)) = (a.view(), b.view()) {
        meter.scan(a.len().min(b.len()))?;
    }
    order_paid(a, b).ok_or_else(|| {
        EvalError::failed(format!("{} and {} have no order between them", a.type_name(), b.type_name()))
    })
}

/// The order of two numbers or two strings, paid for by the caller; total over each of the two.
pub(super) fn order_paid(a: &V<'_>, b: &V<'_>) -> Option<Ordering> {
    match (a.view(), b.view()) {
        (View::Int(a), View::Int(b)) => Some(a.cmp(&b)),
        (View::Int(a), View::Float(b)) => Some(int_against_float(a, b)),
        (View::Float(a), View::Int(b)) => Some(int_against_float(b, a).reverse()),
        // No value is NaN: JSON has none, and arithmetic refuses to make one.
        (View::Float(a), View::Float(b)) => a.partial_cmp(&b),
        (View::Str(a), View::Str(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Exact, unlike a comparison after rounding the integer, which is no order at all: sorting with
/// one may panic.
fn int_against_float(int: i64, float: f64) -> Ordering {
    if float >= BEYOND {
        return Ordering::Less;
    }
    if float < -BEYOND {
        return Ordering::Greater;
    }
    int.cmp(&(float.trunc() as i64)).then(0.0_f64.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal))
}

//! A second evaluator of Expr: slow, naive, over plain JSON, written from the specification
//! (`workflow.md` §4) and the language's own definition (expr-lang.org), not from the engine. It
//! walks the tree that was grown, so it knows nothing of lexing or parsing either.
//!
//! Numbers are JSON numbers: one without point and exponent that fits 64 bits is an integer, any
//! other a float.

mod functions;
mod numbers;
mod texts;

use opcode_engine::expr::Scope;
use serde_json::{Map, Value};

use crate::tree::Tree;
use numbers::{Number, arithmetic, number, of_number, order};

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The expression is at fault.
    Failed,
    /// It is too much work for an evaluator that counts nothing.
    TooMuch,
}

/// A value as the language writes it into text: compact JSON, keys in order, each number in its one
/// spelling.
pub fn json(value: &Value) -> String {
    texts::json(value)
}

type Evaluated = Result<Value, Refused>;

/// Most elements or characters of any value.
const SIZE_MAX: usize = 20_000;

fn failed<T>() -> Result<T, Refused> {
    Err(Refused::Failed)
}

/// The value of `tree` in `scope`.
pub fn evaluate(tree: &Tree, scope: &dyn Scope) -> Evaluated {
    let mut evaluator = Evaluator { scope, vars: Vec::new(), frames: Vec::new(), steps_left: 20_000 };
    evaluator.eval(tree, false)
}

/// What `#` means.
struct Frame {
    element: Value,
    position: usize,
    accumulator: Value,
}

struct Evaluator<'s> {
    scope: &'s dyn Scope,
    vars: Vec<(String, Value)>,
    frames: Vec<Frame>,
    steps_left: usize,
}

/// What a chain of accesses came to.
enum Reached {
    Value(Value),
    /// An optional access of nil: the rest of the chain is nil, too.
    Nothing,
}

impl Evaluator<'_> {
    /// The value; `forgiving` where it stands left of `??`.
    fn eval(&mut self, tree: &Tree, forgiving: bool) -> Evaluated {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Refused::TooMuch)?;
        let value = match tree {
            Tree::Nil => Value::Null,
            Tree::Bool(bool) => Value::Bool(*bool),
            Tree::Int(int) => Value::from(*int),
            Tree::Float(float) => of_number(Number::Float(*float))?,
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => items.iter().map(|item| self.eval(item, false)).collect::<Result<_, _>>()?,
            Tree::Map(entries) => {
                let entries =
                    entries.iter().map(|(name, value)| Ok((name.clone(), self.eval(value, false)?)));
                Value::Object(entries.collect::<Result<Map<_, _>, Refused>>()?)
            }
            Tree::Root(name) => self.root(name)?,
            Tree::Step(id) => match self.scope.step(id) {
                Some(output) => output.clone(),
                None if forgiving => Value::Null,
                None => return failed(),
            },
            Tree::Unknown if forgiving => Value::Null,
            Tree::Unknown => return failed(),
            Tree::Var(name) => match self.vars.iter().rev().find(|(other, _)| other == name) {
                Some((_, value)) => value.clone(),
                None => return failed(),
            },
            Tree::Element => self.frame()?.element.clone(),
            Tree::Position => Value::from(self.frame()?.position),
            Tree::Accumulator => self.frame()?.accumulator.clone(),
            Tree::Field { .. } | Tree::At { .. } | Tree::Slice { .. } => {
                match self.access(tree, forgiving)? {
                    Reached::Value(value) => value,
                    Reached::Nothing => Value::Null,
                }
            }
            Tree::Unary(operator, value) => {
                let value = self.eval(value, false)?;
                unary(operator, &value)?
            }
            Tree::Binary(operator, left, right) => self.binary(operator, left, right, forgiving)?,
            Tree::Chain(first, rest) => self.chain(first, rest)?,
            Tree::Choice(test, yes, no) => match self.eval(test, false)? {
                Value::Bool(true) => self.eval(yes, false)?,
                Value::Bool(false) => self.eval(no, false)?,
                _ => return failed(),
            },
            Tree::Let(name, value, body) => {
                let value = self.eval(value, false)?;
                self.vars.push((name.clone(), value));
                let body = self.eval(body, false);
                self.vars.pop();
                body?
            }
            Tree::Call(name, arguments) => self.call(name, arguments)?,
        };
        if size(&value) > SIZE_MAX { Err(Refused::TooMuch) } else { Ok(value) }
    }

    fn frame(&self) -> Result<&Frame, Refused> {
        self.frames.last().ok_or(Refused::Failed)
    }

    fn root(&self, name: &str) -> Evaluated {
        match name {
            "inputs" => Ok(self.scope.inputs().clone()),
            "data" => self.scope.data().cloned().ok_or(Refused::Failed),
            _ => failed(),
        }
    }

    /// A field, an element or a slice, and everything to the left of it.
    fn access(&mut self, tree: &Tree, forgiving: bool) -> Result<Reached, Refused> {
        let (base, optional) = match tree {
            Tree::Field { base, optional, .. } | Tree::At { base, optional, .. } => (base, *optional),
            Tree::Slice { base, .. } => (base, false),
            other => return self.eval(other, forgiving).map(Reached::Value),
        };
        // `steps.x.output` is the whole output, whatever fields it has.
        if let (Tree::Step(_), Some("output")) = (&**base, field_name(tree)) {
            return self.eval(base, forgiving).map(Reached::Value);
        }
        let Reached::Value(value) = self.access(base, forgiving)? else { return Ok(Reached::Nothing) };
        if optional && value.is_null() {
            return Ok(Reached::Nothing);
        }
        let reached = match tree {
            Tree::Field { name, .. } => field(&value, name, forgiving),
            Tree::At { index, .. } => {
                let index = self.eval(index, false)?;
                element(&value, &index, forgiving)
            }
            Tree::Slice { from, to, .. } => {
                let from = from.as_ref().map(|at| self.eval(at, false)).transpose()?;
                let to = to.as_ref().map(|at| self.eval(at, false)).transpose()?;
                slice(&value, from, to, forgiving)
            }
            _ => failed(),
        };
        reached.map(Reached::Value)
    }

    fn binary(&mut self, operator: &str, left: &Tree, right: &Tree, forgiving: bool) -> Evaluated {
        let left = self.eval(left, operator == "??")?;
        match (operator, &left) {
            ("??", Value::Null) => return self.eval(right, forgiving),
            ("??", _) => return Ok(left),
            ("and", Value::Bool(false)) => return Ok(Value::Bool(false)),
            ("or", Value::Bool(true)) => return Ok(Value::Bool(true)),
            ("and" | "or", Value::Bool(_)) => {
                let right = self.eval(right, false)?;
                return if right.is_boolean() { Ok(right) } else { failed() };
            }
            ("and" | "or", _) => return failed(),
            ("matches", Value::Null) => return Ok(Value::Bool(false)),
            _ => {}
        }
        let right = self.eval(right, false)?;
        Ok(match operator {
            "==" => Value::Bool(equal(&left, &right)),
            "!=" => Value::Bool(!equal(&left, &right)),
            "<" | "<=" | ">" | ">=" => Value::Bool(compare(operator, &left, &right)?),
            "in" => Value::Bool(is_in(&left, &right)?),
            "contains" | "startsWith" | "endsWith" | "matches" => texts::test(operator, &left, &right)?,
            ".." => range(&left, &right)?,
            "+" if left.is_string() && right.is_string() => {
                Value::String(format!("{}{}", left.as_str().unwrap_or(""), right.as_str().unwrap_or("")))
            }
            _ => of_number(arithmetic(operator, number(&left)?, number(&right)?)?)?,
        })
    }

    /// `a < b < c` is `a < b and b < c`.
    fn chain(&mut self, first: &Tree, rest: &[(&'static str, Tree)]) -> Evaluated {
        let mut left = self.eval(first, false)?;
        for (operator, right) in rest {
            let right = self.eval(right, false)?;
            if !compare(operator, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The value of a predicate for one element.
    fn each(&mut self, body: &Tree, element: Value, position: usize, accumulator: Value) -> Evaluated {
        self.frames.push(Frame { element, position, accumulator });
        let value = self.eval(body, false);
        self.frames.pop();
        value
    }
}

fn field_name(tree: &Tree) -> Option<&str> {
    match tree {
        Tree::Field { name, .. } => Some(name),
        _ => None,
    }
}

/// How large a value is: elements and characters.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(size).sum::<usize>() + 1,
    }
}

fn unary(operator: &str, value: &Value) -> Evaluated {
    match (operator, value) {
        ("not", Value::Bool(bool)) => Ok(Value::Bool(!bool)),
        ("not", _) => failed(),
        ("-", _) => match number(value)? {
            Number::Int(int) => {
                of_number(int.checked_neg().map_or(Number::Float(-(int as f64)), Number::Int))
            }
            Number::Float(float) => of_number(Number::Float(-float)),
        },
        _ => number(value).map(|_| value.clone()),
    }
}

fn field(value: &Value, name: &str, forgiving: bool) -> Evaluated {
    match value {
        Value::Object(fields) => Ok(fields.get(name).cloned().unwrap_or_default()),
        Value::Null if forgiving => Ok(Value::Null),
        _ => failed(),
    }
}

fn element(value: &Value, index: &Value, forgiving: bool) -> Evaluated {
    match (value, index) {
        (Value::Object(_), Value::String(name)) => return field(value, name, forgiving),
        // Names are texts, also of a map that was written `{1: 2}`.
        (Value::Object(_), Value::Number(name)) if name.is_i64() => {
            return field(value, &name.to_string(), forgiving);
        }
        (Value::Null, _) if forgiving => return Ok(Value::Null),
        _ => {}
    }
    let (Number::Int(index), items) = (number(index)?, items_of(value)?) else { return failed() };
    let from_start = if index < 0 { index.saturating_add(items.len() as i64) } else { index };
    match usize::try_from(from_start).ok().and_then(|at| items.get(at)) {
        Some(item) => Ok(item.clone()),
        None if forgiving => Ok(Value::Null),
        None => failed(),
    }
}

/// The elements of a list, or the characters of a string.
fn items_of(value: &Value) -> Result<Vec<Value>, Refused> {
    match value {
        Value::Array(items) => Ok(items.clone()),
        Value::String(text) => Ok(text.chars().map(|c| Value::String(c.to_string())).collect()),
        _ => failed(),
    }
}

fn slice(value: &Value, from: Option<Value>, to: Option<Value>, forgiving: bool) -> Evaluated {
    if value.is_null() && forgiving {
        return Ok(Value::Null);
    }
    let items = items_of(value)?;
    let len = items.len() as i64;
    let bound = |bound: Option<Value>, default| match bound.map(|bound| number(&bound)) {
        None => Ok(default),
        Some(Ok(Number::Int(at))) if at < 0 => Ok(at.saturating_add(len).max(0)),
        Some(Ok(Number::Int(at))) => Ok(at.min(len)),
        Some(_) => failed(),
    };
    let (from, to) = (bound(from, 0)?, bound(to, len)?);
    let wanted = (0..).zip(items).filter(|(at, _)| (from..to).contains(at)).map(|(_, item)| item);
    Ok(match value {
        Value::String(_) => Value::String(wanted.filter_map(|c| c.as_str().map(str::to_owned)).collect()),
        _ => wanted.collect(),
    })
}

/// Numbers by value, everything else by what it holds.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(_), Value::Number(_)) => order(left, right) == Some(std::cmp::Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| equal(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| equal(value, other)))
        }
        (left, right) => left == right,
    }
}

fn compare(operator: &str, left: &Value, right: &Value) -> Result<bool, Refused> {
    let Some(order) = order(left, right) else { return failed() };
    Ok(match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn is_in(value: &Value, container: &Value) -> Result<bool, Refused> {
    match (container, value) {
        (Value::Array(items), _) => Ok(items.iter().any(|item| equal(item, value))),
        (Value::Object(fields), Value::String(name)) => Ok(fields.contains_key(name)),
        (Value::Object(_) | Value::Null, _) => Ok(false),
        _ => failed(),
    }
}

fn range(from: &Value, to: &Value) -> Evaluated {
    let (Number::Int(from), Number::Int(to)) = (number(from)?, number(to)?) else { return failed() };
    if to.saturating_sub(from) > SIZE_MAX as i64 {
        return Err(Refused::TooMuch);
    }
    Ok((from..=to).map(Value::from).collect())
}

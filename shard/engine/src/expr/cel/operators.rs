//! CEL's operators. Integers and doubles mix, as JSON's numbers do; overflow is an error.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::Evaluator;
use super::functions::{Outcome, duration, shift};
use super::node::{Binary, Ty};
use super::value::Val;
use crate::expr::EvalError;

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::failed(message))
}

/// `-value`.
pub(super) fn negate<'a>(value: &Val<'a>) -> Outcome<'a> {
    match value.plain() {
        Val::Double(d) => Ok(Val::Double(-d)),
        Val::Duration(span) => Ok(Val::Duration(-span)),
        Val::Int(i) => integer(-i128::from(i), false),
        other => failed(format!("cannot negate {}", other.type_name())),
    }
}

/// `left operator right`.
pub(super) fn apply<'a>(
    evaluator: &mut Evaluator<'a>,
    operator: Binary,
    left: &Val<'a>,
    right: &Val<'a>,
) -> Outcome<'a> {
    evaluator.meter.steps(1)?;
    match operator {
        Binary::Equal => left.equals(right, evaluator.scope, &mut evaluator.meter).map(Val::Bool),
        Binary::NotEqual => {
            left.equals(right, evaluator.scope, &mut evaluator.meter).map(|equal| Val::Bool(!equal))
        }
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            compare(evaluator, operator, left, right)
        }
        Binary::In => contains(evaluator, left, right),
        Binary::Add => add(evaluator, left, right),
        Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => {
            arithmetic(operator, left, right)
        }
    }
}

fn compare<'a>(
    evaluator: &mut Evaluator<'a>,
    operator: Binary,
    left: &Val<'a>,
    right: &Val<'a>,
) -> Outcome<'a> {
    let order = left.compare(right, &mut evaluator.meter)?;
    // Two numbers without an order are NaN, which is below, above and equal to nothing.
    if order.is_none() && as_double(left).is_none_or(|_| as_double(right).is_none()) {
        return mismatch(operator, left, right);
    }
    Ok(Val::Bool(match operator {
        Binary::Less => order == Some(Ordering::Less),
        Binary::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Binary::Greater => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }))
}

fn contains<'a>(evaluator: &mut Evaluator<'a>, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
    if right.is_map() {
        return Ok(Val::Bool(right.entry(left, evaluator.scope).is_some()));
    }
    if !right.is_list() {
        return mismatch(Binary::In, left, right);
    }
    for at in 0.. {
        let Some(item) = right.item(at) else { break };
        if item.equals(left, evaluator.scope, &mut evaluator.meter)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

fn add<'a>(evaluator: &mut Evaluator<'a>, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        evaluator.meter.text(a)?;
        evaluator.meter.text(b)?;
        return Ok(Val::Text([a, b].concat().into()));
    }
    if left.is_list() && right.is_list() {
        let len = left.len(evaluator.scope).unwrap_or(0) + right.len(evaluator.scope).unwrap_or(0);
        evaluator.meter.steps(len as u64)?;
        evaluator.meter.list(len, 3 * size_of::<Val<'_>>())?;
        let items = [left, right].into_iter().flat_map(|list| (0..).map_while(|at| list.item(at)));
        return Ok(Val::List(Rc::new(items.collect())));
    }
    match (left.plain(), right.plain()) {
        (Val::Bytes(a), Val::Bytes(b)) => {
            evaluator.meter.bytes(a.len() + b.len())?;
            Ok(Val::Bytes([a.as_ref(), b.as_ref()].concat().into()))
        }
        (Val::Timestamp(at), Val::Duration(span)) | (Val::Duration(span), Val::Timestamp(at)) => {
            shift(at, span)
        }
        (Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(&b).map_or_else(|| failed("the duration is out of range"), duration)
        }
        _ => arithmetic(Binary::Add, left, right),
    }
}

fn arithmetic<'a>(operator: Binary, left: &Val<'a>, right: &Val<'a>) -> Outcome<'a> {
    let (a, b) = (left.plain(), right.plain());
    match (&a, &b) {
        (Val::Timestamp(at), Val::Duration(span)) if operator == Binary::Subtract => {
            return shift(*at, -*span);
        }
        (Val::Timestamp(a), Val::Timestamp(b)) if operator == Binary::Subtract => {
            return Ok(Val::Duration(*a - *b));
        }
        (Val::Duration(a), Val::Duration(b)) if operator == Binary::Subtract => {
            return a.checked_sub(b).map_or_else(|| failed("the duration is out of range"), duration);
        }
        _ => {}
    }
    let is_unsigned = matches!((&a, &b), (Val::UInt(_), Val::UInt(_)));
    if let (Some(x), Some(y)) = (as_wide(&a), as_wide(&b)) {
        let result = match operator {
            Binary::Divide | Binary::Modulo if y == 0 => return failed("division by zero"),
            Binary::Divide => x.checked_div(y),
            Binary::Modulo => x.checked_rem(y),
            Binary::Multiply => x.checked_mul(y),
            Binary::Subtract => x.checked_sub(y),
            _ => x.checked_add(y),
        };
        return result.map_or_else(|| failed("int overflow"), |result| integer(result, is_unsigned));
    }
    match (as_double(&a), as_double(&b)) {
        (Some(x), Some(y)) => Ok(Val::Double(match operator {
            Binary::Divide => x / y,
            Binary::Modulo => x % y,
            Binary::Multiply => x * y,
            Binary::Subtract => x - y,
            _ => x + y,
        })),
        _ => mismatch(operator, left, right),
    }
}

/// Two `uint` stay one, so that `1u - 2u` is an overflow; else the result is `int` if it fits.
fn integer<'a>(value: i128, is_unsigned: bool) -> Outcome<'a> {
    let fitted = if is_unsigned { u64::try_from(value).ok().map(Val::UInt) } else { Val::integer(value) };
    fitted.map_or_else(|| failed("int overflow"), Ok)
}

fn as_wide(value: &Val<'_>) -> Option<i128> {
    match value {
        Val::Int(i) => Some((*i).into()),
        Val::UInt(u) => Some((*u).into()),
        _ => None,
    }
}

fn as_double(value: &Val<'_>) -> Option<f64> {
    match value.plain() {
        Val::Int(i) => Some(i as f64),
        Val::UInt(u) => Some(u as f64),
        Val::Double(d) => Some(d),
        _ => None,
    }
}

fn mismatch<T>(operator: Binary, left: &Val<'_>, right: &Val<'_>) -> Result<T, EvalError> {
    failed(format!("there is no {} {} {}", left.type_name(), operator.symbol(), right.type_name()))
}

/// The type of `left operator right`, or `None` when no values of these types have one.
pub(super) fn result_type(operator: Binary, left: Ty, right: Ty) -> Option<Ty> {
    let any = left == Ty::Any || right == Ty::Any;
    match operator {
        Binary::Equal | Binary::NotEqual => Some(Ty::Bool),
        Binary::In => matches!(right, Ty::Any | Ty::List | Ty::Map).then_some(Ty::Bool),
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let has_order = |ty| !matches!(ty, Ty::Null | Ty::List | Ty::Map | Ty::Type);
            ((any || left == right) && has_order(left) && has_order(right)).then_some(Ty::Bool)
        }
        Binary::Multiply | Binary::Divide | Binary::Modulo => {
            let fits = |ty| matches!(ty, Ty::Any | Ty::Number);
            (fits(left) && fits(right)).then_some(Ty::Number)
        }
        Binary::Add | Binary::Subtract => match (left, right) {
            (Ty::Number, Ty::Number) => Some(Ty::Number),
            (Ty::Timestamp, Ty::Duration) => Some(Ty::Timestamp),
            (Ty::Duration, Ty::Duration) => Some(Ty::Duration),
            (Ty::Duration, Ty::Timestamp) => (operator == Binary::Add).then_some(Ty::Timestamp),
            (Ty::Timestamp, Ty::Timestamp) => (operator == Binary::Subtract).then_some(Ty::Duration),
            (Ty::String | Ty::List | Ty::Bytes, _) if operator == Binary::Subtract => None,
            (_, Ty::String | Ty::List | Ty::Bytes) if operator == Binary::Subtract => None,
            (Ty::String | Ty::List | Ty::Bytes, _) if left == right => Some(left),
            (Ty::Null | Ty::Bool | Ty::Map | Ty::Type, _) => None,
            (_, Ty::Null | Ty::Bool | Ty::Map | Ty::Type) => None,
            _ => any.then_some(Ty::Any),
        },
    }
}

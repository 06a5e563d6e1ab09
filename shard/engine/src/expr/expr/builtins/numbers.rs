//! Functions of numbers.

use std::cmp::Ordering;

use super::super::super::EvalError;
use super::super::super::Meter;
use super::super::ast::Op;
use super::super::eval::arithmetic;
use super::super::value::{self, V, View};
use super::{failed, integer};

fn rounded<'a>(value: &V<'a>, round: fn(f64) -> f64) -> Result<V<'a>, EvalError> {
    match value.view() {
        View::Int(int) => Ok(V::Int(int)),
        View::Float(float) => Ok(V::Float(round(float))),
        other => failed(format!("expected a number, got {}", other.name())),
    }
}

pub(super) fn abs<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    match args[0].view() {
        View::Int(int) => Ok(int.checked_abs().map_or(V::Float((int as f64).abs()), V::Int)),
        _ => rounded(&args[0], f64::abs),
    }
}

pub(super) fn ceil<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    rounded(&args[0], f64::ceil)
}

pub(super) fn floor<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    rounded(&args[0], f64::floor)
}

/// Half goes away from zero.
pub(super) fn round<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    rounded(&args[0], f64::round)
}

pub(super) fn int<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    match args[0].view() {
        View::Int(int) => Ok(V::Int(int)),
        // The cast truncates towards zero; what does not fit is refused before it.
        View::Float(float) if float.abs() < 9.2e18 => Ok(V::Int(float as i64)),
        View::Float(_) => failed("the number does not fit into an integer"),
        View::Str(text) => {
            meter.scan(text.len())?;
            text.parse().map(V::Int).or_else(|_| failed("the text is not an integer"))
        }
        other => failed(format!("{} is not a number", other.name())),
    }
}

pub(super) fn float<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    match args[0].view() {
        View::Int(int) => Ok(V::Float(int as f64)),
        View::Float(float) => Ok(V::Float(float)),
        View::Str(text) => {
            meter.scan(text.len())?;
            match text.parse::<f64>() {
                Ok(float) if float.is_finite() => Ok(V::Float(float)),
                Ok(_) | Err(_) => failed("the text is not a number"),
            }
        }
        other => failed(format!("{} is not a number", other.name())),
    }
}

/// The numbers among the arguments, which are numbers and arrays of them.
fn numbers<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<Vec<V<'a>>, EvalError> {
    let mut numbers = Vec::new();
    let mut pending: Vec<V<'a>> = args.iter().rev().cloned().collect();
    while let Some(next) = pending.pop() {
        meter.elements(1)?;
        match next.view() {
            View::Int(_) | View::Float(_) => {
                meter.bytes(std::mem::size_of::<V<'_>>())?;
                numbers.push(next);
            }
            View::List(list) => {
                meter.elements(list.len())?;
                meter.bytes(list.len() * std::mem::size_of::<V<'_>>())?;
                pending.extend(list.iter().rev());
            }
            other => return failed(format!("expected numbers, got {}", other.name())),
        }
    }
    Ok(numbers)
}

fn extreme<'a>(meter: &mut Meter, args: &[V<'a>], wanted: Ordering) -> Result<V<'a>, EvalError> {
    let mut best = V::Nil;
    for number in numbers(meter, args)? {
        if best.is_nil() || value::order(&number, &best, meter)? == wanted {
            best = number;
        }
    }
    Ok(best)
}

/// nil of no numbers.
pub(super) fn min<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    extreme(meter, args, Ordering::Less)
}

/// nil of no numbers.
pub(super) fn max<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    extreme(meter, args, Ordering::Greater)
}

/// Zero of no numbers.
pub(super) fn mean<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let numbers = numbers(meter, args)?;
    let sum = numbers.iter().try_fold(V::Int(0), |sum, number| arithmetic(Op::Add, &sum, number))?;
    if numbers.is_empty() {
        Ok(V::Float(0.0))
    } else {
        arithmetic(Op::Div, &sum, &super::size(numbers.len()))
    }
}

/// Zero of no numbers.
pub(super) fn median<'a>(meter: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    let mut numbers = numbers(meter, args)?;
    meter.elements(numbers.len() * (1 + numbers.len().checked_ilog2().unwrap_or(0) as usize))?;
    numbers.sort_by(|a, b| value::order_paid(a, b).unwrap_or(Ordering::Equal));
    let middle = numbers.len() / 2;
    match (numbers.get(middle), numbers.len() % 2) {
        (None, _) => Ok(V::Float(0.0)),
        (Some(upper), 0) => {
            let sum = arithmetic(Op::Add, &numbers[middle - 1], upper)?;
            arithmetic(Op::Div, &sum, &V::Int(2))
        }
        (Some(middle), _) => Ok(middle.clone()),
    }
}

fn bits<'a>(args: &[V<'a>], join: fn(i64, i64) -> i64) -> Result<V<'a>, EvalError> {
    Ok(V::Int(join(integer(&args[0])?, integer(&args[1])?)))
}

pub(super) fn bitand<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    bits(args, |a, b| a & b)
}

pub(super) fn bitor<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    bits(args, |a, b| a | b)
}

pub(super) fn bitxor<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    bits(args, |a, b| a ^ b)
}

/// Clears in the first argument the bits of the second.
pub(super) fn bitnand<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    bits(args, |a, b| a & !b)
}

pub(super) fn bitnot<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    Ok(V::Int(!integer(&args[0])?))
}

/// By how many bits to shift; 64 and more are refused.
fn shift<'a>(args: &[V<'a>], by: fn(i64, u32) -> i64) -> Result<V<'a>, EvalError> {
    match u32::try_from(integer(&args[1])?) {
        Ok(bits) if bits < 64 => Ok(V::Int(by(integer(&args[0])?, bits))),
        Ok(_) | Err(_) => failed("a shift is by 0 to 63 bits"),
    }
}

pub(super) fn bitshl<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    shift(args, |value, bits| value << bits)
}

pub(super) fn bitshr<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    shift(args, |value, bits| value >> bits)
}

pub(super) fn bitushr<'a>(_: &mut Meter, args: &[V<'a>]) -> Result<V<'a>, EvalError> {
    shift(args, |value, bits| ((value as u64) >> bits) as i64)
}

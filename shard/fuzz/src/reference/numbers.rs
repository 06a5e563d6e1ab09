//! Numbers of the reference: what they are, how they compare, what comes of joining two.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Refused, failed};

/// A number of the language.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }
}

/// The number that a value is.
pub(super) fn number(value: &Value) -> Result<Number, Refused> {
    let Value::Number(number) = value else { return failed() };
    let text = number.to_string();
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(int), _) => Ok(Number::Int(int)),
        (Err(_), Ok(float)) => Ok(Number::Float(float)),
        (Err(_), Err(_)) => failed(),
    }
}

/// An integer, also one written as a float.
pub(super) fn integer(value: &Value) -> Result<i64, Refused> {
    match number(value)? {
        Number::Int(int) => Ok(int),
        Number::Float(float) if float.fract() == 0.0 && float.abs() < 9.0e15 => Ok(float as i64),
        Number::Float(_) => failed(),
    }
}

/// The value that a number is; there is no infinity.
pub(super) fn of_number(number: Number) -> Result<Value, Refused> {
    match number {
        Number::Int(int) => Ok(Value::from(int)),
        Number::Float(float) => serde_json::Number::from_f64(float).map(Value::Number).ok_or(Refused::Failed),
    }
}

/// Integers stay integers while they fit, but for `/` and `**`.
pub(super) fn arithmetic(operator: &str, left: Number, right: Number) -> Result<Number, Refused> {
    if let (Number::Int(left), Number::Int(right)) = (left, right) {
        let (left, right) = (i128::from(left), i128::from(right));
        let exact = match operator {
            "+" => Some(left + right),
            "-" => Some(left - right),
            "*" => Some(left * right),
            "%" if right == 0 => return failed(),
            "%" => Some(left % right),
            _ => None,
        };
        if let Some(Ok(exact)) = exact.map(i64::try_from) {
            return Ok(Number::Int(exact));
        }
    }
    let (left, right) = (left.float(), right.float());
    let float = match operator {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        "/" if right == 0.0 => return failed(),
        "/" => left / right,
        "**" => left.powf(right),
        _ => return failed(),
    };
    if float.is_finite() { Ok(Number::Float(float)) } else { failed() }
}

/// The order of two numbers, exact, or of two strings.
pub(super) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    if let (Value::String(left), Value::String(right)) = (left, right) {
        return Some(left.cmp(right));
    }
    match (number(left).ok()?, number(right).ok()?) {
        (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
        (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
        (Number::Int(int), Number::Float(float)) => Some(int_and_float(int, float)),
        (Number::Float(float), Number::Int(int)) => Some(int_and_float(int, float).reverse()),
    }
}

/// Between the whole numbers around the float, in 128 bits, which hold them both.
fn int_and_float(int: i64, float: f64) -> Ordering {
    let (int, below) = (i128::from(int), float.floor() as i128);
    match int.cmp(&below) {
        Ordering::Equal if float.floor() < float => Ordering::Less,
        order => order,
    }
}

/// The one text of a number: without a fraction and exactly held, it is an integer's.
pub(super) fn text_of(value: &serde_json::Number) -> String {
    let text = value.to_string();
    match text.parse::<f64>() {
        Ok(float)
            if text.parse::<i64>().is_err()
                && float.fract() == 0.0
                && float.abs() <= 9_007_199_254_740_992.0 =>
        {
            (float as i64).to_string()
        }
        _ => text,
    }
}

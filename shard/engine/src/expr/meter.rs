//! What is left of a [`Budget`] while an expression is evaluated.

use serde_json::Value;

use super::{Budget, EvalError};

/// Counts down; every charge that does not fit is [`EvalError::OverBudget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    left: Budget,
}

impl Meter {
    /// A meter with all of `budget` left.
    pub fn new(budget: Budget) -> Self {
        Self { left: budget }
    }

    /// What is left.
    pub fn left(&self) -> Budget {
        self.left
    }

    /// Charges steps: nodes visited, elements touched.
    pub fn steps(&mut self, steps: u64) -> Result<(), EvalError> {
        self.left.steps = self.left.steps.checked_sub(steps).ok_or(EvalError::OverBudget)?;
        Ok(())
    }

    /// Charges a step for each of so many elements.
    pub fn elements(&mut self, count: usize) -> Result<(), EvalError> {
        self.steps(count as u64)
    }

    /// Charges reading so many bytes of text, at a step for every 64.
    pub fn scan(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.steps(1 + bytes as u64 / 64)
    }

    /// Charges bytes of a value built.
    pub fn bytes(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or(EvalError::OverBudget)?;
        Ok(())
    }

    /// Charges a deep copy of `value`, before it is made.
    pub fn copy(&mut self, value: &Value) -> Result<(), EvalError> {
        self.steps(1)?;
        self.bytes(size_of::<Value>())?;
        match value {
            Value::Null | Value::Bool(_) => Ok(()),
            // Digits are kept as text.
            Value::Number(_) => self.bytes(16),
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter().try_for_each(|item| self.copy(item)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, field)| {
                self.text(name)?;
                self.copy(field)
            }),
        }
    }

    /// Charges a copy of `text`.
    pub fn text(&mut self, text: &str) -> Result<(), EvalError> {
        self.scan(text.len())?;
        self.bytes(text.len())
    }
}

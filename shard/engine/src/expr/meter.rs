//! What is left of a [`Budget`] while an expression is evaluated.

use serde_json::Value;

use super::{Budget, EvalError};

/// What the allocator and a counted reference put around a value of its own.
const ALLOCATION_BYTES: usize = 64;
/// A B-tree's node has room for eleven entries, however few there are.
const NODE_BYTES: usize = 640;
/// An entry where nodes are half full, as they are when keys come in order.
const ENTRY_BYTES: usize = 112;
/// The digits of a number, which are kept as text.
const DIGITS_BYTES: usize = 24;
/// Growing by doubling holds the old room and the new at once.
const GROWTH: usize = 3;

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

    /// Whether a parser of JSON `text` stays within what is left. Takes nothing: what it makes is
    /// charged when it is kept, and gone when it is not.
    pub fn parses(&self, text: &str) -> Result<(), EvalError> {
        let count = |byte: u8| text.bytes().filter(|other| *other == byte).count();
        let maps = count(b'{').saturating_mul(NODE_BYTES);
        let entries = count(b':').saturating_mul(ENTRY_BYTES);
        if maps.saturating_add(entries) > self.left.bytes { Err(EvalError::OverBudget) } else { Ok(()) }
    }

    /// Charges bytes of a value built.
    pub fn bytes(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or(EvalError::OverBudget)?;
        Ok(())
    }

    /// Charges a list of known length with elements of so many bytes.
    pub fn list(&mut self, count: usize, element_bytes: usize) -> Result<(), EvalError> {
        self.bytes(count.saturating_mul(element_bytes).saturating_add(ALLOCATION_BYTES))
    }

    /// Charges so many bytes more of a list or text that grows as it is filled.
    pub fn push(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.bytes(bytes.saturating_mul(GROWTH))
    }

    /// Charges a map's nodes; its names and values are charged on their own.
    pub fn map(&mut self, count: usize) -> Result<(), EvalError> {
        match count {
            0 => self.bytes(ALLOCATION_BYTES),
            _ => self.bytes(count.saturating_mul(ENTRY_BYTES).saturating_add(NODE_BYTES)),
        }
    }

    /// Charges a number of a result.
    pub fn digits(&mut self) -> Result<(), EvalError> {
        self.bytes(DIGITS_BYTES)
    }

    /// Charges a deep copy of `value`, before it is made.
    pub fn copy(&mut self, value: &Value) -> Result<(), EvalError> {
        self.steps(1)?;
        self.bytes(size_of::<Value>())?;
        match value {
            Value::Null | Value::Bool(_) => Ok(()),
            Value::Number(_) => self.digits(),
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.list(items.len(), 0)?;
                items.iter().try_for_each(|item| self.copy(item))
            }
            Value::Object(fields) => {
                self.map(fields.len())?;
                fields.iter().try_for_each(|(name, field)| {
                    self.text(name)?;
                    self.copy(field)
                })
            }
        }
    }

    /// Charges a copy of `text`.
    pub fn text(&mut self, text: &str) -> Result<(), EvalError> {
        self.scan(text.len())?;
        self.bytes(text.len())
    }
}

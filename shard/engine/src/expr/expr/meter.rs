//! What an evaluation has left to spend.

use super::super::{Budget, EvalError};

/// Bytes of text that may be read for one step.
const SCAN_BYTES_PER_STEP: usize = 32;

/// A [`Budget`] being spent. Everything that loops or allocates asks here first.
#[derive(Debug)]
pub(super) struct Meter {
    steps: u64,
    bytes: usize,
}

impl Meter {
    pub(super) fn new(budget: Budget) -> Self {
        Self { steps: budget.steps, bytes: budget.bytes }
    }

    /// Pays for touching `count` elements.
    pub(super) fn steps(&mut self, count: usize) -> Result<(), EvalError> {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.steps = self.steps.checked_sub(count).ok_or(EvalError::OverBudget)?;
        Ok(())
    }

    /// Pays for building `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<(), EvalError> {
        self.bytes = self.bytes.checked_sub(count).ok_or(EvalError::OverBudget)?;
        Ok(())
    }

    /// Pays for reading `count` bytes of text.
    pub(super) fn scan(&mut self, count: usize) -> Result<(), EvalError> {
        self.steps(1 + count / SCAN_BYTES_PER_STEP)
    }
}

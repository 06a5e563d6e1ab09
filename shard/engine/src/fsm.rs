//! The two state machines, as tables: every move that exists, for runs and for steps.
//!
//! Beyond the specification's table a run has two moves, both written here and nowhere else:
//! `pending → cancelled` (a run that waits for its `start_at` can be called off) and `retry`, an
//! ended run that an operator starts again (`completed|failed|cancelled → active`). With that
//! retry, and only while the run has ended, its steps that have to run again become pending, and
//! composites that go on where they had come to become running.

use serde::{Deserialize, Serialize};

/// Where a run's lifecycle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum WorkflowStatus {
    Pending,
    Active,
    Suspended,
    Completed,
    Failed,
    Cancelled,
}

impl WorkflowStatus {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Active, Self::Suspended, Self::Completed, Self::Failed, Self::Cancelled];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether a run in this status may move to `to`. Staying is not a move.
    pub fn can_become(self, to: Self) -> bool {
        match (self, to) {
            (Self::Pending, Self::Active | Self::Cancelled)
            | (Self::Active, Self::Completed | Self::Failed | Self::Cancelled | Self::Suspended)
            | (Self::Suspended, Self::Active | Self::Cancelled | Self::Failed) => true,
            (Self::Pending, Self::Pending | Self::Suspended | Self::Completed | Self::Failed)
            | (Self::Active, Self::Pending | Self::Active)
            | (Self::Suspended, Self::Pending | Self::Suspended | Self::Completed)
            | (
                Self::Completed | Self::Failed | Self::Cancelled,
                Self::Pending
                | Self::Active
                | Self::Suspended
                | Self::Completed
                | Self::Failed
                | Self::Cancelled,
            ) => false,
        }
    }

    /// Whether an operator's `retry` may make an ended run active again.
    pub fn can_retry(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Pending | Self::Active | Self::Suspended => false,
        }
    }

    /// Completed, failed or cancelled.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum StepStatus {
    Pending,
    Scheduled,
    Running,
    Completed,
    Failed,
    Suspended,
    Retrying,
    Skipped,
}

impl StepStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Scheduled,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Suspended,
        Self::Retrying,
        Self::Skipped,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Retrying => "retrying",
            Self::Skipped => "skipped",
        }
    }

    /// Whether a step in this status may move to `to`. Staying is not a move.
    pub fn can_become(self, to: Self) -> bool {
        match (self, to) {
            (Self::Pending, Self::Scheduled | Self::Skipped)
            | (Self::Scheduled, Self::Running | Self::Skipped)
            | (
                Self::Running,
                Self::Completed | Self::Failed | Self::Suspended | Self::Retrying | Self::Skipped,
            )
            | (Self::Suspended, Self::Running | Self::Failed | Self::Skipped)
            | (Self::Retrying, Self::Running | Self::Failed) => true,
            (
                Self::Pending,
                Self::Pending
                | Self::Running
                | Self::Completed
                | Self::Failed
                | Self::Suspended
                | Self::Retrying,
            )
            | (
                Self::Scheduled,
                Self::Pending
                | Self::Scheduled
                | Self::Completed
                | Self::Failed
                | Self::Suspended
                | Self::Retrying,
            )
            | (Self::Running, Self::Pending | Self::Scheduled | Self::Running)
            | (
                Self::Suspended,
                Self::Pending | Self::Scheduled | Self::Completed | Self::Suspended | Self::Retrying,
            )
            | (
                Self::Retrying,
                Self::Pending
                | Self::Scheduled
                | Self::Completed
                | Self::Suspended
                | Self::Retrying
                | Self::Skipped,
            )
            | (
                Self::Completed | Self::Failed | Self::Skipped,
                Self::Pending
                | Self::Scheduled
                | Self::Running
                | Self::Completed
                | Self::Failed
                | Self::Suspended
                | Self::Retrying
                | Self::Skipped,
            ) => false,
        }
    }

    /// Whether one event may take a step from this status to `to`: by one move, or by two of
    /// which the first has no event of its own. `step_started` of a pending step passes through
    /// `scheduled`, `step_retrying` of a suspended one and `step_skipped` of a retrying one
    /// through `running`, a new attempt of an interrupted one through `retrying`.
    pub fn can_pass_to(self, to: Self) -> bool {
        self.can_become(to)
            || [Self::Scheduled, Self::Running, Self::Retrying]
                .into_iter()
                .any(|through| self.can_become(through) && through.can_become(to))
    }

    /// Completed, failed or skipped.
    pub fn is_settled(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Skipped => true,
            Self::Pending | Self::Scheduled | Self::Running | Self::Suspended | Self::Retrying => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{StepStatus, WorkflowStatus};

    /// The specification's lines, read as text, against every pair of the tables.
    fn moves(lines: &[&str]) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for line in lines {
            let chain: Vec<Vec<&str>> = line.split('→').map(|part| part.split('|').collect()).collect();
            for pair in chain.windows(2) {
                for from in &pair[0] {
                    for to in &pair[1] {
                        all.push(((*from).to_owned(), (*to).to_owned()));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_pair_of_run_statuses_is_as_specified() {
        let legal = moves(&[
            "pending→active→completed|failed|cancelled|suspended",
            "suspended→active|cancelled|failed",
            "pending→cancelled",
        ]);
        for from in WorkflowStatus::ALL {
            for to in WorkflowStatus::ALL {
                let pair = (from.as_str().to_owned(), to.as_str().to_owned());
                assert_eq!(from.can_become(to), legal.contains(&pair), "{pair:?}");
            }
            assert_eq!(from.can_retry(), from.is_terminal());
        }
    }

    #[test]
    fn every_pair_of_step_statuses_is_as_specified() {
        let legal = moves(&[
            "pending→scheduled→running→completed|failed|suspended|retrying|skipped",
            "suspended→running|failed|skipped",
            "retrying→running|failed",
            "pending|scheduled→skipped",
        ]);
        for from in StepStatus::ALL {
            for to in StepStatus::ALL {
                let pair = (from.as_str().to_owned(), to.as_str().to_owned());
                assert_eq!(from.can_become(to), legal.contains(&pair), "{pair:?}");
                if from.is_settled() {
                    assert!(!from.can_pass_to(to), "nothing leaves {pair:?}");
                }
            }
        }
        assert!(StepStatus::Pending.can_pass_to(StepStatus::Running));
        assert!(!StepStatus::Pending.can_pass_to(StepStatus::Completed));
    }
}

//! Making sure that an answer comes from who leads.
//!
//! A leader that was replaced behind its back answers from what it knows, and may lead again, in a
//! later term, by the time a majority is heard. So an answer counts only when this node has led in
//! one term from before it was asked for until the majority was heard.

use crate::error::{CallError, ShardError};
use crate::handle::ShardHandle;
use crate::planted;

/// A time as leader, in which an answer is made.
pub(super) struct Lead<'a> {
    handle: &'a ShardHandle,
    /// None when this node did not lead as it began.
    term: Option<u64>,
}

impl<'a> Lead<'a> {
    /// Taken before the answer is asked for.
    pub(super) fn now(handle: &'a ShardHandle) -> Self {
        Self { handle, term: handle.serving_term() }
    }

    /// Makes sure that this node leads the shard now, in that term; alone in its group it always does.
    pub(super) async fn confirm(&self) -> Result<(), CallError> {
        self.holds()?;
        if self.handle.group().members().voters.len() <= 1 || planted::is("stale-read") {
            return Ok(());
        }
        match self.handle.group().confirm().await {
            Ok(_) => self.holds(),
            Err(ShardError::NotLeader) => Err(self.lost()),
            Err(error) => Err(CallError::Unavailable { applied_unknown: false, message: error.to_string() }),
        }
    }

    /// Whether it is the same time still.
    pub(super) fn holds(&self) -> Result<(), CallError> {
        let (served, led) = (self.handle.serving_term(), self.handle.group().leading_term());
        match goes_on(self.term, served, led) {
            true => Ok(()),
            false => Err(self.lost()),
        }
    }

    fn lost(&self) -> CallError {
        CallError::NotLeader { shard: self.handle.id(), leader: self.handle.leader() }
    }
}

/// Whether a time that was begun as leader in one term goes on, where the shard is served and the
/// group is led in these: either may be ahead of the other.
fn goes_on(begun: Option<u64>, served: Option<u64>, led: Option<u64>) -> bool {
    begun.is_some() && served == begun && led == begun
}

#[cfg(test)]
mod tests {
    use super::goes_on;

    #[test]
    fn a_time_as_leader_ends_with_its_term() {
        assert!(goes_on(Some(1), Some(1), Some(1)));
        // Replaced behind its back, it leads again by now: what it said was of the first time.
        assert!(!goes_on(Some(1), Some(2), Some(2)));
        // The shard has not noted yet that its group was led by another, or the group is ahead of it.
        assert!(!goes_on(Some(1), Some(1), None) && !goes_on(Some(1), Some(1), Some(2)));
        assert!(!goes_on(Some(1), None, Some(1)) && !goes_on(Some(1), None, None));
        // What began while it did not lead never counts.
        assert!(!goes_on(None, Some(1), Some(1)) && !goes_on(None, None, None));
    }
}

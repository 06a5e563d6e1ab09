//! How far this member may lie behind the group: what its leader last told it, and when.

use std::time::Duration;

use openraft::raft::AppendEntriesResponse;
use tokio::time::Instant;

use super::Group;
use super::group::{Role, stopped};
use super::lag::Lag;
use super::state_machine::position;
use crate::batch::Position;
use crate::error::ShardError;

/// What a leader's messages have said of what is committed.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When a leader last said anything.
    alive: Option<Instant>,
    last: Option<(Instant, u64)>,
    commits: Lag,
}

impl Heard {
    /// Takes note of a message that came at `now` and said that `committed` is committed.
    pub(super) fn note(&mut self, now: Instant, committed: u64, answer: &AppendEntriesResponse<u64>) {
        match answer {
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {
                self.alive = Some(now);
                self.last = Some((now, committed));
                self.commits.note(now, committed);
            }
            // It does not know this log yet.
            AppendEntriesResponse::Conflict => self.alive = Some(now),
            // From one that leads no more.
            AppendEntriesResponse::HigherVote(_) => {}
        }
    }

    /// Takes note that a leader sends a copy of the tables, and nothing else meanwhile.
    pub(super) fn note_copy(&mut self, now: Instant) {
        self.alive = Some(now);
    }

    /// When a leader last said anything.
    pub(super) fn alive(&self) -> Option<Instant> {
        self.alive
    }

    /// How old something may be that reflects the log up to `index`: as old as the last message, or
    /// as the first that said of more. `None` before any.
    fn behind(&self, now: Instant, index: u64) -> Option<Duration> {
        let (at, committed) = self.last?;
        let missing = Duration::from_millis(self.commits.millis(now, index, committed));
        Some(now.saturating_duration_since(at).max(missing))
    }
}

impl Group {
    /// Waits until everything up to `at` has been handed to the tables.
    pub async fn reaches(&self, at: Position) -> Result<(), ShardError> {
        let mut metrics = self.raft.metrics();
        let reached = metrics.wait_for(|m| m.last_applied.map(position).unwrap_or_default() >= at).await;
        reached.map(drop).map_err(stopped)
    }

    /// How long ago, at most, something was the newest that reflects the log up to `index`; time on
    /// the wire is not counted. `None` while this member has heard no leader.
    pub fn behind(&self, index: u64) -> Option<Duration> {
        let now = Instant::now();
        match *self.role().borrow() {
            Role::Leader { .. } if self.members().voters.len() <= 1 => Some(Duration::ZERO),
            Role::Leader { .. } => self.quorum_age(now),
            Role::Follower { .. } => self.heard.lock().behind(now, index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_as_far_behind_as_it_was_told() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let ms = |heard: &Heard, now, index| heard.behind(at(now), index).map(|d| d.as_millis());
        let mut heard = Heard::default();
        assert_eq!(ms(&heard, 0, 0), None, "nobody has said anything");
        heard.note(at(0), 10, &AppendEntriesResponse::Success);
        assert_eq!(ms(&heard, 5, 10), Some(5), "as old as the last message");
        heard.note(at(100), 20, &AppendEntriesResponse::Success);
        heard.note(at(200), 30, &AppendEntriesResponse::Success);
        assert_eq!(ms(&heard, 210, 30), Some(10));
        assert_eq!(ms(&heard, 210, 20), Some(10), "what is missing came with the last message");
        assert_eq!(ms(&heard, 210, 10), Some(110), "since it was told of more");
        heard.note(at(900), 40, &AppendEntriesResponse::HigherVote(openraft::Vote::new(7, 2)));
        assert_eq!(ms(&heard, 900, 30), Some(700), "a deposed leader's words count nothing");
    }
}

//! What was committed after a place in the log, from the log itself: for those that follow a shard
//! from elsewhere and keep their own place in it.

use std::time::Duration;

use super::Group;
use super::group::stopped;
use super::state_machine::position;
use super::type_config::Content;
use crate::batch::{Batch, Committed};
use crate::error::ShardError;

/// Bytes of entries that are given at a time, at about.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

impl Group {
    /// Entries committed after the one at `after`, each in its place; waits up to `wait` while there
    /// is none. `None` when the log no longer holds the next one.
    pub async fn tail(
        &self,
        after: u64,
        wait: Duration,
    ) -> Result<Option<Vec<Batch<Committed>>>, ShardError> {
        let mut metrics = self.raft.metrics();
        let more = metrics.wait_for(|m| m.last_applied.is_some_and(|last| last.index > after));
        // Nothing more is an answer too.
        if let Ok(ended) = tokio::time::timeout(wait, more).await {
            ended.map_err(stopped)?;
        }
        let upto = self.committed().index;
        if upto <= after {
            return Ok(Some(Vec::new()));
        }
        let read = self.log.read(after + 1, upto + 1, TAIL_BYTES_MAX).await;
        let entries =
            read.map_err(|error| ShardError::Unknown(format!("the log cannot be read: {error}")))?;
        if entries.first().is_none_or(|first| first.log_id.index != after + 1) {
            return Ok(None);
        }
        let batch = |entry: super::type_config::Entry| {
            let records = match entry.payload {
                openraft::EntryPayload::Normal(proposal) => {
                    match proposal.content(entry.log_id.leader_id.term).map_err(ShardError::Damaged)? {
                        Content::Records(records) => records,
                        Content::Deposed | Content::Change(_) => Default::default(),
                    }
                }
                openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => Default::default(),
            };
            Ok(Batch::committed(records, position(entry.log_id)))
        };
        entries.into_iter().map(batch).collect::<Result<_, _>>().map(Some)
    }
}

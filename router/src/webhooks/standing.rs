//! How far each webhook was told of a shard, and how that went: one entry of the catalogue for each
//! shard, written by whoever leads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::ids::{ShardId, Timestamp};
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::webhook::STANDING_PREFIX;
use crate::error::ApiError;
use crate::state::RouterState;

/// How one webhook stands with one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Served {
    /// Everything up to this entry of the log was told, or is kept as a failure.
    pub(super) after: u64,
    /// Entries after it that there were when this was written.
    pub(super) behind: u64,
    /// Deliveries that were taken.
    pub(super) delivered: u64,
    /// Times that the log had let go of what was to be told next.
    pub(super) missed: u64,
    /// Failures that were let go of, since there were too many, or the run was deleted.
    pub(super) dropped: u64,
    pub(super) last_success_at: Option<Timestamp>,
    pub(super) last_error_at: Option<Timestamp>,
    pub(super) last_error: Option<String>,
}

/// How all webhooks stand with one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) served: BTreeMap<Arc<str>, Served>,
}

impl Standing {
    fn body(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a standing is JSON").into()
    }

    /// Whatever another leader has written is as true as what is known here: the further counts.
    fn merge(&mut self, other: &Self) {
        for (id, served) in &mut self.served {
            let Some(other) = other.served.get(id) else { continue };
            served.after = served.after.max(other.after);
            served.delivered = served.delivered.max(other.delivered);
            served.missed = served.missed.max(other.missed);
            served.dropped = served.dropped.max(other.dropped);
            served.last_success_at = served.last_success_at.max(other.last_success_at);
        }
    }
}

fn key(shard: ShardId) -> Arc<str> {
    format!("{STANDING_PREFIX}{}", shard.0).into()
}

/// The shard of an entry that is a standing.
pub(super) fn shard_of(key: &str) -> Option<ShardId> {
    key.strip_prefix(STANDING_PREFIX)?.parse().ok().map(ShardId)
}

/// Reads one that is kept; one that cannot be read says nothing, so that all is told again.
pub(super) fn parse(entry: &CatalogueEntry) -> Standing {
    let read = serde_json::from_str(entry.body.as_deref().unwrap_or_default());
    read.unwrap_or_else(|error| {
        tracing::error!(standing = &*entry.key, %error, "how far webhooks were told cannot be read");
        Standing::default()
    })
}

/// What is written of one shard, and its revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    revision: Option<u64>,
    pub(super) standing: Standing,
}

impl Written {
    pub(super) async fn read(state: &RouterState, shard: ShardId) -> Result<Self, ApiError> {
        let entry = state.system().entry(EntryKind::Webhook, key(shard)).await?.value;
        Ok(entry.map_or_else(Self::default, |entry| Self {
            revision: Some(entry.revision),
            standing: parse(&entry),
        }))
    }

    /// Writes how it stands now. When somebody else has written meanwhile, nothing is changed but what
    /// is known of it: the next time goes on from there.
    pub(super) async fn write(
        &mut self,
        state: &RouterState,
        shard: ShardId,
        mut standing: Standing,
    ) -> Result<(), ApiError> {
        standing.merge(&self.standing);
        if standing == self.standing {
            return Ok(());
        }
        let change = EntryChange {
            kind: EntryKind::Webhook,
            key: key(shard),
            after: self.revision,
            body: Some(standing.body()),
        };
        match state.system().change_entry(change).await?.value {
            Changed::Made(entry) | Changed::Already(Some(entry)) | Changed::Stale(Some(entry)) => {
                *self = Self { revision: Some(entry.revision), standing: parse(&entry) };
            }
            Changed::Already(None) | Changed::Stale(None) => *self = Self::default(),
        }
        Ok(())
    }
}

/// How a webhook stands with all shards, as it is shown.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Shown {
    delivered: u64,
    /// Entries of the logs that were not looked at, when that was last written.
    behind: u64,
    retrying: usize,
    dead: usize,
    dropped: u64,
    missed: u64,
    last_success_at: Option<String>,
    last_error_at: Option<String>,
    last_error: Option<String>,
}

impl Shown {
    pub(crate) fn of(id: &str, standings: &[Standing], failures: &[Failure]) -> Self {
        let mut shown = Self {
            retrying: failures.iter().filter(|failure| failure.next_at.is_some()).count(),
            dead: failures.iter().filter(|failure| failure.next_at.is_none()).count(),
            ..Self::default()
        };
        let all: Vec<&Served> = standings.iter().filter_map(|standing| standing.served.get(id)).collect();
        for served in &all {
            shown.delivered += served.delivered;
            shown.behind += served.behind;
            shown.dropped += served.dropped;
            shown.missed += served.missed;
        }
        let last_success = all.iter().filter_map(|served| served.last_success_at).max();
        shown.last_success_at = last_success.map(Timestamp::to_rfc3339);
        let last = all.iter().max_by_key(|served| served.last_error_at);
        if let Some(served) = last.filter(|served| served.last_error_at.is_some()) {
            shown.last_error_at = served.last_error_at.map(Timestamp::to_rfc3339);
            shown.last_error.clone_from(&served.last_error);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_leader_wrote_is_never_undone() {
        let of = |after, delivered| Served { after, delivered, ..Served::default() };
        let standing = |after, delivered| Standing { served: [("a".into(), of(after, delivered))].into() };
        let mut mine = standing(5, 9);
        mine.merge(&standing(7, 2));
        assert_eq!(mine, standing(7, 9));
        assert_eq!(shard_of(&key(ShardId(12))), Some(ShardId(12)));
        assert_eq!(shard_of("billing"), None);
    }
}

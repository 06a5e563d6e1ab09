//! Where the vault keeps sealed secrets: the catalogue of the system shard, reached as requests
//! reach it.
//!
//! Workers begin before the router does; until it is there, they are told to try again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opcode_shard::CallError;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use opcode_shard::vault::{Answer, SecretStore, StoreError, Stored};

use crate::forward::{Seen, ShardClient};
use crate::state::RouterState;

/// Longest wait for one secret: less than a worker waits for all that its step names, so that it is
/// told what was wrong.
const GET_MAX: Duration = Duration::from_secs(12);
/// Entries that are read at a time.
const PAGE_ENTRIES: usize = 1_000;

/// The sealed secrets of the cluster.
#[derive(Default)]
pub struct CatalogueSecrets {
    state: OnceLock<RouterState>,
}

impl CatalogueSecrets {
    /// Opens the way. A second call changes nothing.
    pub fn open(&self, state: RouterState) {
        let _ = self.state.set(state);
    }

    fn system(&self) -> Result<ShardClient, CallError> {
        self.state.get().map(RouterState::system).ok_or_else(|| unavailable("the node is still starting"))
    }

    fn change(&self, name: &str, after: Option<u64>, body: Option<Arc<str>>) -> Answer<()> {
        let change = EntryChange { kind: EntryKind::Secret, key: name.into(), after, body };
        let system = self.system();
        Box::pin(async move {
            let Seen { value, position, .. } = system?.change_entry(change).await?;
            match value {
                // Nonces are random: what is so already was made so by an earlier try of this change.
                Changed::Made(_) | Changed::Already(_) => Ok(((), position)),
                Changed::Stale(_) => Err(StoreError::Conflict),
            }
        })
    }
}

impl SecretStore for CatalogueSecrets {
    fn get(&self, name: &str) -> Answer<Option<Stored>> {
        let (system, name) = (self.system(), Arc::from(name));
        Box::pin(async move {
            let system = system?;
            let asked = tokio::time::timeout(GET_MAX, system.entry(EntryKind::Secret, name));
            let late = || unavailable("the system shard does not answer");
            let Seen { value, position, .. } = asked.await.unwrap_or_else(|_| Err(late()))?;
            Ok((value.and_then(stored), position))
        })
    }

    fn list(&self) -> Answer<Vec<(String, Stored)>> {
        let system = self.system();
        Box::pin(async move {
            let system = system?;
            let (mut found, mut after, mut first) = (Vec::new(), None, None);
            loop {
                let Seen { value: page, position, .. } =
                    system.entries(EntryKind::Secret, after, PAGE_ENTRIES).await?;
                // Later pages reflect at least what the first one does.
                let position = *first.get_or_insert(position);
                after = page.entries.last().map(|entry| entry.key.clone());
                found.extend(page.entries.into_iter().filter_map(|entry| {
                    let name = entry.key.to_string();
                    Some((name, stored(entry)?))
                }));
                if !page.has_more || after.is_none() {
                    return Ok((found, position));
                }
            }
        })
    }

    fn put(&self, name: &str, body: String, expected: Option<u64>) -> Answer<()> {
        self.change(name, expected, Some(body.into()))
    }

    fn remove(&self, name: &str, expected: u64) -> Answer<()> {
        self.change(name, Some(expected), None)
    }
}

fn stored(entry: CatalogueEntry) -> Option<Stored> {
    Some(Stored { revision: entry.revision, body: entry.body?.to_string() })
}

fn unavailable(why: &str) -> CallError {
    CallError::Unavailable { applied_unknown: false, message: why.to_owned() }
}

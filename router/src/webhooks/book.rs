//! All webhooks, their failures and standings, as every node knows them: read anew when something was
//! committed in the system shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::ShardId;
use opcode_shard::catalogue::{CatalogueEntry, EntryChange, EntryKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::{self, Failure};
use super::standing::{self, Standing};
use super::webhook::{self, Webhook, is_standing};
use crate::error::ApiError;
use crate::state::RouterState;

/// Longest wait for a change of the system shard.
const WAIT: Duration = Duration::from_secs(2);
/// Pause between two readings.
const PAUSE: Duration = Duration::from_millis(300);
/// Pause before the next one, when nobody answered.
const RETRY: Duration = Duration::from_secs(1);
/// Entries that are read at a time.
const PAGE_ENTRIES: usize = 1_000;

/// What a node knows, by the time that it began to read.
pub(super) struct Book {
    /// Whatever was changed and acknowledged before is in it.
    pub(super) began: Instant,
    pub(super) webhooks: BTreeMap<Arc<str>, (u64, Arc<Webhook>)>,
    /// By key.
    pub(super) failures: BTreeMap<Arc<str>, (u64, Failure)>,
    pub(super) standings: BTreeMap<ShardId, Standing>,
}

/// What others learn of it; none before the first reading.
pub(super) type Reader = watch::Receiver<Option<Arc<Book>>>;

/// Keeps a book for as long as somebody reads it.
pub(super) async fn keep(state: RouterState, book: watch::Sender<Option<Arc<Book>>>) {
    let mut seen = None;
    while !book.is_closed() {
        let pause = match look(&state, &mut seen).await {
            Ok(Some(read)) => {
                book.send_replace(Some(Arc::new(read)));
                PAUSE
            }
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(error = error.detail(), "webhooks cannot be read now");
                seen = None;
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Reads all when the system shard's log stands elsewhere than it was `seen` to.
async fn look(state: &RouterState, seen: &mut Option<u64>) -> Result<Option<Book>, ApiError> {
    let stands = state.system().tail(*seen, WAIT).await?.upto.index;
    if seen.replace(stands) == Some(stands) {
        return Ok(None);
    }
    let began = Instant::now();
    let (mut webhooks, mut standings) = (BTreeMap::new(), BTreeMap::new());
    for entry in all(state, EntryKind::Webhook, None).await? {
        if let Some(shard) = standing::shard_of(&entry.key) {
            standings.insert(shard, standing::parse(&entry));
        } else if let Ok(read) = webhook::parse(&entry.key, entry.body.as_deref().unwrap_or_default()) {
            webhooks.insert(entry.key.clone(), (entry.revision, Arc::new(read)));
        }
    }
    let mut failures = BTreeMap::new();
    // Without webhooks nobody asks for them.
    let entries =
        if webhooks.is_empty() { Vec::new() } else { all(state, EntryKind::WebhookFailure, None).await? };
    for entry in entries {
        if let Some(failure) = failure::parse(&entry.key, entry.body.as_deref().unwrap_or_default()) {
            failures.insert(entry.key.clone(), (entry.revision, failure));
        }
    }
    Ok(Some(Book { began, webhooks, failures, standings }))
}

/// Entries of a kind whose key begins with `prefix`, or all of them.
async fn all(
    state: &RouterState,
    kind: EntryKind,
    prefix: Option<&str>,
) -> Result<Vec<CatalogueEntry>, ApiError> {
    let (mut found, mut after) = (Vec::new(), prefix.map(Arc::from));
    loop {
        let page = state.system().entries(kind, after, PAGE_ENTRIES).await?.value;
        let read = page.entries.len();
        after = page.entries.last().map(|entry| entry.key.clone());
        let is_wanted = |entry: &CatalogueEntry| prefix.is_none_or(|prefix| entry.key.starts_with(prefix));
        let before = found.len();
        found.extend(page.entries.into_iter().take_while(is_wanted));
        if !page.has_more || after.is_none() || found.len() - before < read {
            return Ok(found);
        }
    }
}

/// A webhook's failures, or those of all, by key.
pub(crate) async fn all_failures(
    state: &RouterState,
    webhook: Option<&str>,
) -> Result<Vec<(Arc<str>, Failure)>, ApiError> {
    let prefix = webhook.map(failure::prefix);
    let entries = all(state, EntryKind::WebhookFailure, prefix.as_deref()).await?;
    let is_wanted =
        |entry: &CatalogueEntry| webhook.is_none_or(|webhook| failure::is_of(&entry.key, webhook));
    let read = entries.into_iter().filter(is_wanted).filter_map(|entry| {
        let failure = failure::parse(&entry.key, entry.body.as_deref().unwrap_or_default())?;
        Some((entry.key, failure))
    });
    Ok(read.collect())
}

/// How all webhooks stand with each shard.
pub(crate) async fn all_standings(state: &RouterState) -> Result<Vec<Standing>, ApiError> {
    let entries = all(state, EntryKind::Webhook, Some(webhook::STANDING_PREFIX)).await?;
    Ok(entries.iter().filter(|entry| is_standing(&entry.key)).map(standing::parse).collect())
}

/// Lets go of all failures of a webhook.
pub(crate) async fn delete_failures(state: &RouterState, webhook: &str) -> Result<(), ApiError> {
    let entries = all(state, EntryKind::WebhookFailure, Some(&failure::prefix(webhook))).await?;
    for entry in entries.into_iter().filter(|entry| failure::is_of(&entry.key, webhook)) {
        let change = EntryChange {
            kind: EntryKind::WebhookFailure,
            key: entry.key,
            after: Some(entry.revision),
            body: None,
        };
        // One that was changed meanwhile was changed by who serves the webhook, which is gone.
        state.system().change_entry(change).await?;
    }
    Ok(())
}

//! Stories about the log: groups over tables that remember, disks that lose what was not synced,
//! files that are cut, flipped and copied.

mod alone;
mod copies;
#[cfg(feature = "crash-points")]
mod crashes;
mod damage;
mod groups;
mod members;
mod removal;
mod suite;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opcode_engine::ids::{DefinitionHash, ShardId};
use parking_lot::Mutex;

use super::segment::SEGMENT_BYTES_MIN;
use super::{Applied, CommittedEntry, Group, GroupOptions, LogOptions, LogStore, Tables};
use crate::batch::{Batch, Committed, Gathered};
use crate::error::ShardError;
use crate::peer::NoPeers;
use crate::record::Record;

/// Tables in memory, applying at once, that outlive a group's restart.
#[derive(Default)]
pub(super) struct Remembering {
    entries: Mutex<Vec<CommittedEntry>>,
    applied: Mutex<Applied>,
    checkpointed: Mutex<Option<Applied>>,
}

impl Remembering {
    /// Says that all applied so far is on stable storage.
    fn checkpoint(&self) {
        *self.checkpointed.lock() = Some(self.applied.lock().clone());
    }

    /// The texts of all definitions handed over, in order.
    fn texts(&self) -> Vec<String> {
        let entries = self.entries.lock();
        entries.iter().flat_map(|entry| texts(entry.batch.records())).collect()
    }
}

impl Tables for Remembering {
    fn copy(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables are not copied".into()))))
    }
    fn check(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables take no copy".into()))))
    }
    fn install(
        &self,
        _: std::path::PathBuf,
    ) -> futures::future::BoxFuture<'static, Result<Applied, ShardError>> {
        Box::pin(std::future::ready(Err(ShardError::Refused("these tables take no copy".into()))))
    }
    fn applied(&self) -> Applied {
        self.applied.lock().clone()
    }

    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        let mut applied = self.applied.lock();
        for entry in &entries {
            applied.log_id = entry.log_id.clone();
            if let Some(membership) = &entry.membership {
                applied.membership = membership.clone();
            }
        }
        self.entries.lock().extend(entries);
    }

    fn backlog(&self) -> usize {
        0
    }

    fn checkpointed(&self) -> Option<Applied> {
        self.checkpointed.lock().clone()
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match record {
        Record::Definition { source, .. } => source.to_string(),
        Record::Event(_)
        | Record::Template(_)
        | Record::Delivered { .. }
        | Record::Entry(_)
        | Record::Purged { .. }
        | Record::History(_) => panic!("only definitions are proposed here"),
    };
    records.iter().map(text).collect()
}

fn batch(texts: &[&str]) -> Batch<Gathered> {
    let record = |text: &&str| Record::Definition { hash: DefinitionHash([1; 32]), source: (**text).into() };
    Batch::gathered(texts.iter().map(record).collect())
}

fn log_options(dir: &Path) -> LogOptions {
    LogOptions { dir: dir.to_owned(), segment_bytes: SEGMENT_BYTES_MIN }
}

fn group_options(dir: &Path, shard: u32) -> GroupOptions {
    GroupOptions {
        group: ShardId(shard),
        node_id: 1,
        founds: true,
        copies_dir: dir.join("copies"),
        propose_timeout_ms: 20_000,
    }
}

/// Starts a group of one and waits until it leads.
async fn start_alone(
    dir: &Path,
    shard: u32,
    store: &Arc<LogStore>,
    tables: &Shared,
) -> Result<Arc<Group>, ShardError> {
    let peers = Arc::new(NoPeers);
    let options = group_options(dir, shard);
    let group = Group::start(options, store.clone(), tables.clone(), peers).await?;
    group.leads(Duration::from_secs(60)).await?;
    Ok(group)
}

fn segment_files(dir: &Path, prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

/// Polls until `condition` holds.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never came: {what}");
        std::thread::yield_now();
    }
}

type Shared = Arc<Remembering>;

//! The membership group's tables: one small file that holds the shard map and how far the log has
//! been applied to it, replaced whole and durably with every entry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use opcode_router::shard_map::ShardMap;
use opcode_shard::batch::Position;
use opcode_shard::error::ShardError;
use opcode_shard::log::{Applied, CommittedEntry, Tables};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use std::sync::Arc;

use super::change::{Change, Outcome, State};

/// Version of the file, and of a change in the log.
const FORMAT: u8 = 1;
/// Outcomes of changes that are remembered for those who proposed them.
const OUTCOMES_MAX: usize = 1_024;

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    format: u8,
    log_id: Vec<u8>,
    membership: Vec<u8>,
    state: State,
}

impl Stored {
    fn applied(&self) -> Applied {
        Applied { log_id: self.log_id.clone(), membership: self.membership.clone() }
    }
}

/// The map, as the log says.
pub(crate) struct MapTables {
    path: PathBuf,
    cluster_id: String,
    stored: Mutex<Stored>,
    outcomes: Mutex<BTreeMap<Position, Outcome>>,
    map: watch::Sender<Option<Arc<ShardMap>>>,
}

/// A change as bytes of the log.
pub(crate) fn encode(change: &Change) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    serde_json::to_writer(&mut bytes, change).expect("a change is JSON");
    bytes
}

fn decode(bytes: &[u8]) -> Result<Change, String> {
    match bytes {
        [FORMAT, json @ ..] => serde_json::from_slice(json).map_err(|error| error.to_string()),
        [version, ..] => Err(format!("a change of version {version}, this build knows {FORMAT}")),
        [] => Err("an empty change".into()),
    }
}

fn io_failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

fn read(path: &Path, cluster_id: &str) -> Result<Option<Stored>, ShardError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_failed("reading", path)(error)),
    };
    let stored: Stored = serde_json::from_slice(&bytes)
        .map_err(|error| ShardError::Damaged(format!("{}: {error}", path.display())))?;
    if stored.format > FORMAT {
        return Err(ShardError::Refused(format!(
            "{} is of format {}, newer than this program's {FORMAT}",
            path.display(),
            stored.format
        )));
    }
    if let Some(map) = &stored.state.map
        && map.cluster_id != cluster_id
    {
        return Err(ShardError::Refused(format!(
            "{} is of cluster {}, not of {cluster_id}",
            path.display(),
            map.cluster_id
        )));
    }
    Ok(Some(stored))
}

impl MapTables {
    /// Opens the file, or begins without one.
    pub(crate) fn open(path: PathBuf, cluster_id: &str) -> Result<Self, ShardError> {
        let stored = read(&path, cluster_id)?.unwrap_or(Stored { format: FORMAT, ..Stored::default() });
        let (map, _) = watch::channel(stored.state.map.clone().map(Arc::new));
        Ok(Self {
            path,
            cluster_id: cluster_id.to_owned(),
            stored: Mutex::new(stored),
            outcomes: Mutex::default(),
            map,
        })
    }

    /// The map from now on; `None` before the log has brought the first.
    pub(crate) fn map(&self) -> watch::Receiver<Option<Arc<ShardMap>>> {
        self.map.subscribe()
    }

    /// Looks at the map as it is now.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(Option<&ShardMap>) -> T) -> T {
        look(self.map.borrow().as_deref())
    }

    /// What the change at `position` came to, once.
    pub(crate) fn outcome(&self, position: Position) -> Option<Outcome> {
        self.outcomes.lock().remove(&position)
    }

    fn take(&self, entry: CommittedEntry) -> Result<(), ShardError> {
        let mut stored = self.stored.lock();
        let mut next = stored.clone();
        next.log_id = entry.log_id;
        if let Some(membership) = entry.membership {
            next.membership = membership;
        }
        if let Some(change) = entry.change {
            let change = decode(&change).map_err(ShardError::Damaged)?;
            let outcome = next.state.apply(change);
            let mut outcomes = self.outcomes.lock();
            outcomes.insert(entry.batch.position(), outcome);
            if outcomes.len() > OUTCOMES_MAX {
                outcomes.pop_first();
            }
        }
        self.write(&next)?;
        let changed = next.state.map != stored.state.map;
        *stored = next;
        if changed {
            self.map.send_replace(stored.state.map.clone().map(Arc::new));
        }
        Ok(())
    }

    fn read_copy(&self, from: &Path) -> Result<Stored, ShardError> {
        read(from, &self.cluster_id)?.ok_or_else(|| ShardError::Damaged("the copy is gone".into()))
    }

    fn write(&self, stored: &Stored) -> Result<(), ShardError> {
        let bytes = serde_json::to_vec(stored).expect("the map is JSON");
        crate::shards::write_durably(&self.path, &bytes)
            .map_err(|error| ShardError::Stopped(format!("{error:#}")))
    }
}

impl Tables for MapTables {
    fn applied(&self) -> Applied {
        self.stored.lock().applied()
    }

    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        for entry in entries {
            if let Err(error) = self.take(entry) {
                // As with the log: after a failed write nobody knows what the disk holds.
                tracing::error!(%error, "the shard map cannot be written: stopping");
                eprintln!("opcode: the shard map cannot be written: {error}: stopping");
                std::process::abort();
            }
        }
    }

    fn backlog(&self) -> usize {
        0
    }

    fn copy(&self, to: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        let stored = self.stored.lock().clone();
        let bytes = serde_json::to_vec(&stored).expect("the map is JSON");
        let written = crate::shards::write_durably(&to, &bytes)
            .map_err(|error| ShardError::Stopped(format!("{error:#}")));
        Box::pin(std::future::ready(written.map(|()| stored.applied())))
    }

    fn check(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        let copy = self.read_copy(&from).map(|copy| copy.applied());
        Box::pin(std::future::ready(copy))
    }

    fn install(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        let installed = self.read_copy(&from).and_then(|copy| {
            self.write(&copy)?;
            self.map.send_replace(copy.state.map.clone().map(Arc::new));
            *self.stored.lock() = copy;
            Ok(self.applied())
        });
        Box::pin(std::future::ready(installed))
    }

    fn checkpointed(&self) -> Option<Applied> {
        Some(self.applied()).filter(|applied| !applied.log_id.is_empty())
    }
}

//! A replica that this node gives away: its files go, and so do its entries in the node's log, which
//! would pin segments for ever.
//!
//! Renaming the folder decides it. A crash before leaves the replica as it was; a crash after is
//! made up for by [`finish_removals`] before any shard starts. What stays is the group's vote and
//! how far it had come, in the log store: see `Group::answer` for why.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use opcode_engine::ids::ShardId;

use crate::crash;
use crate::error::ShardError;
use crate::log::LogStore;

/// What the folder of a replica that is gone is called, after its own name.
const REMOVED: &str = ".removed";

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

fn sync_parent(path: &Path) -> Result<(), ShardError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("syncing", parent))
}

fn removed_name(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(REMOVED);
    name.into()
}

fn remove_folder(folder: &Path) -> Result<(), ShardError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", folder)(error)),
        Ok(()) | Err(_) => sync_parent(folder),
    }
}

/// Removes what this node has of a shard: `folder` and the group's entries in `log`. The replica
/// has stopped. What is not there is fine; after an error, or a crash, it is to be called again,
/// or [`finish_removals`].
pub async fn remove(log: &LogStore, shard: ShardId, folder: &Path) -> Result<(), ShardError> {
    let removed = removed_name(folder);
    remove_folder(&removed)?;
    match std::fs::rename(folder, &removed) {
        Ok(()) => sync_parent(folder)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("renaming", folder)(error)),
    }
    crash::point("shard.removal.begun");
    log.remove_group(shard).await?;
    crash::point("shard.removal.unlogged");
    remove_folder(&removed)
}

/// Ends removals that a crash has cut short, in the folder that holds the shards' folders. Before
/// any shard starts.
pub async fn finish_removals(log: &LogStore, shards: &Path) -> Result<(), ShardError> {
    let entries = match std::fs::read_dir(shards) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("listing", shards)(error)),
    };
    for entry in entries {
        let name = entry.map_err(failed("listing", shards))?.file_name();
        let Some(shard) = name.to_str().and_then(|name| shard_of(name.strip_suffix(REMOVED)?)) else {
            continue;
        };
        tracing::info!(%shard, "removing what is left of a replica that was given away");
        log.remove_group(shard).await?;
        remove_folder(&shards.join(&name))?;
    }
    Ok(())
}

fn shard_of(name: &str) -> Option<ShardId> {
    let known = name.parse().map(ShardId).unwrap_or(ShardId::SYSTEM);
    (known.to_string() == name).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogOptions;

    fn open(dir: &Path) -> std::sync::Arc<LogStore> {
        LogStore::open(LogOptions { dir: dir.join("log"), segment_bytes: 1 << 20 }).unwrap()
    }

    #[test]
    fn folders_name_their_shards() {
        assert_eq!(shard_of("3"), Some(ShardId(3)));
        assert_eq!(shard_of("system"), Some(ShardId::SYSTEM));
        for strange in ["", "03", "-1", "x", "4294967296"] {
            assert_eq!(shard_of(strange), None, "{strange}");
        }
    }

    #[tokio::test]
    async fn what_a_crash_leaves_of_a_removal_goes_at_the_next_start_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let shards = dir.path().join("shards");
        for name in ["1", "2.removed", "system.removed", "strange.removed"] {
            std::fs::create_dir_all(shards.join(name).join("copies")).unwrap();
            std::fs::write(shards.join(name).join("tables.db"), b"x").unwrap();
        }
        let log = open(dir.path());
        finish_removals(&log, &shards).await.unwrap();
        finish_removals(&log, &dir.path().join("none")).await.unwrap();
        let left = |name: &str| shards.join(name).exists();
        assert!(left("1") && left("strange.removed") && !left("2.removed") && !left("system.removed"));
        remove(&log, ShardId(1), &shards.join("1")).await.unwrap();
        remove(&log, ShardId(1), &shards.join("1")).await.unwrap();
        assert!(!left("1") && !left("1.removed"));
    }
}

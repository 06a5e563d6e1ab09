//! Making the shards of a new cluster, of one node, from a backup: the tables of each, brought forward
//! as far as is wanted, and a log that begins behind them.
//!
//! Nothing is written before every byte of the backup has been compared with its checksum. The new
//! cluster has an id of its own, so that nodes of the old one cannot speak with it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use opcode_engine::ids::{ShardId, WorkflowId};
use serde::Serialize;

use super::manifest::{CopyFile, LogFile, Manifest};
use super::reading::{failed, read_whole};
use super::verify::{blocking, check_copy, checksums, entries};
use crate::batch::Position;
use crate::error::ShardError;
use crate::log::{Applied, LogOptions, LogStore};
use crate::peer::NodeId;
use crate::store::{Settled, StoreOptions, adopt, settle};

/// The cluster that is made.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct Target {
    pub cluster_id: String,
    pub node: NodeId,
    /// Where a shard's tables go; folders are made.
    pub tables: fn(&Path, ShardId) -> PathBuf,
    /// The node's folder, which is there and holds nothing of a node.
    pub data_dir: PathBuf,
    pub log: LogOptions,
    /// The shard of a run, of so many.
    pub owner: fn(&WorkflowId, u32) -> ShardId,
}

/// What was made.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Restored {
    /// By shard, the last entry of the old cluster's log that it has.
    pub positions: BTreeMap<String, u64>,
    #[serde(flatten)]
    pub settled: Settled,
}

/// Checks a backup before anything is written: that it has what is wanted, and every checksum.
/// `at` says up to which entry a shard is wanted; else it is all that there is.
pub async fn check(dir: &Path, manifest: &Manifest, at: &BTreeMap<ShardId, u64>) -> Result<(), ShardError> {
    for (shard, index) in at {
        let Some(copy) = manifest.copies.iter().find(|copy| copy.shard == *shard) else {
            return Err(ShardError::Refused(format!("the backup has no shard {shard}")));
        };
        let (first, last) = (copy.position.index, manifest.last(*shard).index);
        if !(first..=last).contains(index) {
            return Err(ShardError::Refused(format!(
                "the backup has shard {shard} at its entries {first} to {last}, not at {index}"
            )));
        }
    }
    let looked = blocking({
        let (dir, manifest) = (dir.to_owned(), manifest.clone());
        move || checksums(&dir, &manifest)
    });
    if let Some(problem) = looked.await?.problems.first() {
        return Err(ShardError::Damaged(format!("{problem}; nothing was written")));
    }
    for copy in &manifest.copies {
        check_copy(dir, &manifest.cluster_id, copy).await?;
    }
    Ok(())
}

/// Makes the shards. After an error what was written is of no use.
pub async fn restore(
    dir: &Path,
    manifest: &Manifest,
    at: &BTreeMap<ShardId, u64>,
    target: Target,
) -> Result<Restored, ShardError> {
    let work =
        Work { dir: dir.to_owned(), manifest: manifest.clone(), at: at.clone(), target: target.clone() };
    let (applied, settled) = blocking(move || work.make_tables()).await?;
    let log = LogStore::open(target.log)?;
    for (shard, (_, applied)) in &applied {
        log.begin_behind(*shard, target.node, applied).await?;
    }
    let positions = applied.iter().map(|(shard, (position, _))| (shard.to_string(), position.index));
    Ok(Restored { positions: positions.collect(), settled })
}

struct Work {
    dir: PathBuf,
    manifest: Manifest,
    at: BTreeMap<ShardId, u64>,
    target: Target,
}

/// How far each shard has come.
type Made = BTreeMap<ShardId, (Position, Applied)>;

impl Work {
    fn make_tables(&self) -> Result<(Made, Settled), ShardError> {
        let (mut made, mut files) = (Made::new(), BTreeMap::new());
        for copy in &self.manifest.copies {
            let path = (self.target.tables)(&self.target.data_dir, copy.shard);
            made.insert(copy.shard, self.make(copy, &path)?);
            files.insert(copy.shard, path);
        }
        let shards = self.manifest.shards;
        let settled = settle(&files, &|id| (self.target.owner)(id, shards))?;
        for path in files.values() {
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed("syncing", folder))?;
        }
        Ok((made, settled))
    }

    fn make(&self, copy: &CopyFile, path: &Path) -> Result<(Position, Applied), ShardError> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("making", folder))?;
        }
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut to = to.map_err(failed("making", path))?;
        read_whole(&self.dir.join(&copy.file), (copy.bytes, &copy.sha256), &mut to)?;
        to.sync_all().map_err(failed("syncing", path))?;
        let options = StoreOptions {
            path: path.to_owned(),
            shard: copy.shard,
            cluster_id: self.manifest.cluster_id.clone(),
        };
        let upto = self.at.get(&copy.shard).copied().unwrap_or(u64::MAX);
        let mut files = self.manifest.log_of(copy.shard).filter(|file| file.after.index < upto);
        let mut last = copy.position;
        let mut next = || match files.next() {
            None => Ok(None),
            Some(file) => entries_upto(&self.dir, file, upto)
                .inspect(|entries| {
                    last = entries.last().map_or(last, |entry| entry.batch.position());
                })
                .map(Some),
        };
        let applied = adopt(&options, &self.target.cluster_id, &mut next)?;
        Ok((last, applied))
    }
}

fn entries_upto(
    dir: &Path,
    file: &LogFile,
    upto: u64,
) -> Result<Vec<crate::log::CommittedEntry>, ShardError> {
    let mut entries = entries(dir, file)?;
    entries.retain(|entry| entry.batch.position().index <= upto);
    Ok(entries)
}

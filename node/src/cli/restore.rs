//! `opcode restore`: the data folder of a new cluster, of one node, from a backup.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use opcode_engine::ids::ShardId;
use opcode_router::placement::shard_of as owner_of;
use opcode_shard::backup::manifest::{Manifest, shard_of};
use opcode_shard::backup::restore::{Restored, Target, check, restore};
use opcode_shard::log::LogOptions;
use serde_json::{Value, json};

use super::Context;
use super::failure::Failure;
use super::output::facts;
use crate::shards::{DataDir, Identity, tables_path};

/// Flags of `opcode restore`.
#[derive(Args)]
#[command(long_about = "Make the data folder of a new cluster, of one node, from a backup.

The new cluster has an id of its own: no node of the old one can speak with it, so stop those, or keep \
clients from them. It has as many shards; other nodes join it as ever (`opcode serve --join`). Secrets \
need the keys that they were sealed with. Embedded replicas are to begin anew. What was under way goes \
on, and steps with side effects that ran after the backup run again, under the same idempotency keys. \
Every checksum is compared before anything is written.")]
#[command(after_help = "Examples:
  opcode restore /backups/monday --data-dir /var/lib/opcode
  opcode restore /backups/monday --data-dir data --shard-position 0:1200 --shard-position system:80
  opcode serve --data-dir /var/lib/opcode           start it

Where an entry of a shard's log is, answers say in their header Opcode-Token (SHARD:TERM:ENTRY), and
`opcode verify` says from which to which a backup goes.")]
pub(crate) struct Restore {
    /// The backup's folder
    dir: PathBuf,
    /// The new node's folder, which is not there yet, or empty
    #[arg(long, value_name = "DIR", env = "OPCODE_DATA_DIR")]
    data_dir: PathBuf,
    /// The folder of its log, if that is elsewhere; not there yet, or empty
    #[arg(long, value_name = "DIR", env = "OPCODE_LOG_DIR")]
    log_dir: Option<PathBuf>,
    /// Bring a shard only up to this entry of its log; repeat for more [default: all there is]
    #[arg(long, value_name = "SHARD:ENTRY", value_parser = position)]
    shard_position: Vec<(ShardId, u64)>,
}

/// A shard and an entry of its log.
fn position(text: &str) -> Result<(ShardId, u64), String> {
    let parts = text.split_once(':').and_then(|(shard, index)| Some((shard_of(shard)?, index.parse().ok()?)));
    parts.ok_or_else(|| "a shard's number, or `system`, a colon, and the number of an entry".to_owned())
}

pub(crate) async fn run(args: Restore, context: &Context) -> Result<(), Failure> {
    let told = make(args).await.map_err(|error| Failure::local(format!("{error:#}")))?;
    context.output.document(&told, |told| {
        facts(told, &["data_dir", "cluster_id", "shards", "of", "began_at", "taken_back", "owed_again"])
    });
    Ok(())
}

async fn make(args: Restore) -> Result<Value> {
    let Restore { dir, data_dir, log_dir, shard_position } = args;
    let mut at = BTreeMap::new();
    for (shard, index) in shard_position {
        if at.insert(shard, index).is_some() {
            bail!("shard {shard} is given two positions");
        }
    }
    let manifest = Manifest::read(&dir)?;
    let log_dir = log_dir.unwrap_or_else(|| data_dir.join("log"));
    let folders = [Folder::new(&data_dir)?, Folder::new(&log_dir)?];
    check(&dir, &manifest, &at).await?;
    let identity = Identity::founding(manifest.shards);
    let restored = fill(&dir, &manifest, &at, &identity, &data_dir, log_dir).await;
    match restored {
        Ok(restored) => Ok(told(&data_dir, &manifest, &identity, &restored)),
        Err(error) => {
            folders.iter().for_each(Folder::empty);
            Err(error.context("nothing was restored"))
        }
    }
}

async fn fill(
    dir: &Path,
    manifest: &Manifest,
    at: &BTreeMap<ShardId, u64>,
    identity: &Identity,
    data_dir: &Path,
    log_dir: PathBuf,
) -> Result<Restored> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.with_context(|| format!("{}: cannot be made", data_dir.display()))?;
    let _lock = DataDir::lock(data_dir)?;
    let target = Target {
        cluster_id: identity.cluster_id.clone(),
        node: identity.node_id,
        tables: tables_path,
        data_dir: data_dir.to_owned(),
        log: LogOptions { dir: log_dir, segment_bytes: crate::config::Config::default().log_segment_bytes },
        owner: owner_of,
    };
    let restored = restore(dir, manifest, at, target).await?;
    opcode_shard::crash::point("restore.identity.before");
    // From here on it is a node's folder; before, no node starts on it.
    identity.write(data_dir)?;
    Ok(restored)
}

fn told(data_dir: &Path, manifest: &Manifest, identity: &Identity, restored: &Restored) -> Value {
    json!({
        "data_dir": data_dir.display().to_string(),
        "cluster_id": identity.cluster_id,
        "node_id": identity.node_id.to_string(),
        "shards": manifest.shards,
        "of": manifest.cluster_id,
        "began_at": manifest.began_at,
        "positions": restored.positions,
        "taken_back": restored.settled.taken_back,
        "owed_again": restored.settled.owed_again,
    })
}

/// A folder that was empty, or not there.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        match std::fs::read_dir(&path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    bail!("{} is not empty: name another folder", path.display());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be used", path.display())),
        }
        Ok(Self { path })
    }

    /// Removes what was written to it.
    fn empty(&self) {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "what was restored in part is still there");
            }
        }
    }
}

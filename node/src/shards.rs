//! The node's data folder and the shards in it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use opcode_engine::ids::ShardId;
use opcode_shard::{Shard, ShardOptions, Shared};
use serde::{Deserialize, Serialize};

/// Format of the data folder; a newer one is refused.
const FORMAT: u32 = 1;
/// This node's number in every group of a cluster of one.
const NODE_ID: u64 = 1;

/// What a data folder says of itself, in `node.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) cluster_id: String,
    pub(crate) node_id: u64,
    pub(crate) shards: u32,
}

/// A data folder that this process alone has open.
pub(crate) struct DataDir {
    path: PathBuf,
    pub(crate) identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Opens the folder, or makes it with `shards` shards. Refuses one in use, of a newer format,
    /// or of another number of shards; nothing is changed then.
    pub(crate) fn open(path: &Path, shards: Option<u32>) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let lock = Self::lock(path)?;
        let file = path.join("node.json");
        let identity = match std::fs::read(&file) {
            Ok(bytes) => read_identity(&file, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let identity = Identity {
                    format: FORMAT,
                    cluster_id: uuid::Uuid::new_v4().to_string(),
                    node_id: NODE_ID,
                    shards: shards.unwrap_or_else(default_shards),
                };
                write_durably(&file, &serde_json::to_vec_pretty(&identity)?)?;
                identity
            }
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", file.display())),
        };
        if let Some(wanted) = shards
            && wanted != identity.shards
        {
            bail!(
                "{} has {} shards and cannot be opened with {wanted}: leave --shards out, or use another folder",
                path.display(),
                identity.shards
            );
        }
        Ok(Self { path: path.to_path_buf(), identity, _lock: lock })
    }

    /// Takes the folder's lock, so that no second process writes to it.
    pub(crate) fn lock(path: &Path) -> Result<File> {
        let file = path.join("LOCK");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("{}: cannot be opened", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by another process: stop that one, or use another --data-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{}: cannot be locked", file.display()))
            }
        }
    }

    /// The libSQL file of a shard.
    pub(crate) fn tables(&self, shard: ShardId) -> PathBuf {
        tables_path(&self.path, shard)
    }

    /// Every shard of the folder, the system shard last.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        (0..self.identity.shards).map(ShardId).chain([ShardId::SYSTEM]).collect()
    }
}

/// Where a shard's tables are.
pub(crate) fn tables_path(data_dir: &Path, shard: ShardId) -> PathBuf {
    data_dir.join("shards").join(shard.to_string()).join("tables.db")
}

fn default_shards() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(2 * cores).unwrap_or(4).clamp(4, 1024)
}

fn read_identity(file: &Path, bytes: &[u8]) -> Result<Identity> {
    let format = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|value| value.get("format").and_then(serde_json::Value::as_u64));
    match format {
        Some(format) if format > u64::from(FORMAT) => bail!(
            "{}: the data is of format {format}, newer than this program's {FORMAT}: use a newer program",
            file.display()
        ),
        _ => serde_json::from_slice(bytes).with_context(|| format!("{}: damaged", file.display())),
    }
}

/// Writes a small file so that it is there whole or not at all, whatever happens.
fn write_durably(file: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&temporary, file)?;
        let folder = file.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("{}: cannot be written", file.display()))
}

/// The shards that run in this process.
pub(crate) struct Shards {
    pub(crate) workflow: Vec<Shard>,
    pub(crate) system: Shard,
}

impl Shards {
    /// Starts all of them side by side.
    pub(crate) async fn start(data: &DataDir, shared: &Shared) -> Result<Self> {
        let started = data.shards().into_iter().map(|shard| {
            let options = ShardOptions {
                shard,
                node_id: data.identity.node_id,
                cluster_id: data.identity.cluster_id.clone(),
                tables_path: data.tables(shard),
                founds: true,
            };
            let shared = shared.clone();
            async move {
                if let Some(folder) = options.tables_path.parent() {
                    std::fs::create_dir_all(folder)
                        .with_context(|| format!("{}: cannot be made", folder.display()))?;
                }
                Shard::start(options, shared).await.with_context(|| format!("shard {shard}"))
            }
        });
        let mut shards = futures::future::try_join_all(started).await?;
        let system = shards.pop().context("the system shard is always among them")?;
        Ok(Self { workflow: shards, system })
    }

    /// Waits for the first shard that fails; says which and why.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let all = self.workflow.iter_mut().chain([&mut self.system]);
        let failures = all.map(|shard| {
            Box::pin(async move {
                let id = shard.handle().id();
                anyhow::Error::new(shard.failed().await).context(format!("shard {id}"))
            })
        });
        futures::future::select_all(failures).await.0
    }

    /// Stops all of them side by side.
    pub(crate) async fn stop(self) -> Result<()> {
        let all = self.workflow.into_iter().chain([self.system]).map(Shard::stop);
        for result in futures::future::join_all(all).await {
            result?;
        }
        Ok(())
    }

    /// Doors to the workflow shards, by id, and to the system shard.
    pub(crate) fn handles(&self) -> (Vec<opcode_shard::ShardHandle>, opcode_shard::ShardHandle) {
        (self.workflow.iter().map(Shard::handle).collect(), self.system.handle())
    }
}

/// What all shards share.
pub(crate) fn shared(
    config: &crate::config::Config,
    actions: Arc<opcode_shard::actions::Actions>,
) -> Result<Shared> {
    let dir = config.log_dir.clone().unwrap_or_else(|| config.data_dir.join("log"));
    let options = opcode_shard::log::LogOptions { dir, segment_bytes: config.log_segment_bytes };
    Ok(Shared {
        log: opcode_shard::log::LogStore::open(options)?,
        workers: opcode_shard::workers::Workers::new(actions, config.pool_size),
        definitions: Arc::default(),
        clock: Arc::default(),
        peers: Arc::new(opcode_shard::peer::NoPeers),
    })
}

//! The node's data folder and the shards in it.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{ShardEntry, ShardMap};
use opcode_shard::peer::{NodeId, Peers};
use opcode_shard::{Shard, ShardOptions, Shared};
use serde::{Deserialize, Serialize};

/// Format of the data folder; a newer one is refused.
const FORMAT: u32 = 2;
/// The number of the node that begins a cluster.
const FIRST_NODE: NodeId = 1;

/// What a data folder says of itself, in `node.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) cluster_id: String,
    pub(crate) node_id: NodeId,
    pub(crate) shards: u32,
    /// The node joined a cluster that was there; else it began one.
    #[serde(default)]
    pub(crate) joined: bool,
    /// What it was told of the others then: it asks them for the rest.
    #[serde(default)]
    pub(crate) map: Option<ShardMap>,
}

/// What a new folder begins with.
pub(crate) enum NewData {
    /// A cluster of its own, with so many shards; none named: as many as suit the machine.
    Cluster(Option<u32>),
    /// A part in a cluster that is there.
    Joined(Box<Joined>),
}

/// What a cluster tells a node that joins it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Joined {
    pub(crate) node_id: NodeId,
    pub(crate) map: ShardMap,
}

/// A data folder that this process alone has open.
pub(crate) struct DataDir {
    path: PathBuf,
    pub(crate) identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Whether the folder has been used: then it says which node of which cluster it is.
    pub(crate) fn is_used(path: &Path) -> bool {
        path.join("node.json").exists()
    }

    /// What names this folder's request to join a cluster: kept in it, so that a node that stops
    /// between being taken in and writing it down is the same node when it asks again.
    pub(crate) fn join_request(path: &Path) -> Result<String> {
        std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let _lock = Self::lock(path)?;
        let file = path.join("join-request");
        match std::fs::read_to_string(&file) {
            Ok(request) => Ok(request),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let request = uuid::Uuid::new_v4().to_string();
                write_durably(&file, request.as_bytes())?;
                Ok(request)
            }
            Err(error) => Err(error).with_context(|| format!("{}: cannot be read", file.display())),
        }
    }

    /// Opens the folder, or makes it. Refuses one in use, of a newer format, or of another number
    /// of shards than asked for; nothing is changed then.
    pub(crate) fn open(path: &Path, new: NewData) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        let lock = Self::lock(path)?;
        let file = path.join("node.json");
        let wanted = match &new {
            NewData::Cluster(shards) => *shards,
            NewData::Joined(_) => None,
        };
        let identity = match std::fs::read(&file) {
            Ok(bytes) => read_identity(&file, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let identity = Identity::new(new);
                identity.write(path)?;
                identity
            }
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", file.display())),
        };
        if let Some(wanted) = wanted
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
}

impl DataDir {
    /// The shards whose tables are here, with their files.
    pub(crate) fn tables(&self) -> Vec<(ShardId, PathBuf)> {
        let shards = (0..self.identity.shards).map(ShardId).chain([ShardId::SYSTEM]);
        let files = shards.map(|shard| (shard, tables_path(&self.path, shard)));
        files.filter(|(_, path)| path.exists()).collect()
    }
}

impl Identity {
    /// The first node of a new cluster of so many shards.
    pub(crate) fn founding(shards: u32) -> Self {
        Self::new(NewData::Cluster(Some(shards)))
    }

    /// Makes a folder that of this node: what stands in it is a node's from here on.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_durably(&dir.join("node.json"), &serde_json::to_vec_pretty(self)?)
    }

    fn new(new: NewData) -> Self {
        match new {
            NewData::Cluster(shards) => Self {
                format: FORMAT,
                cluster_id: uuid::Uuid::new_v4().to_string(),
                node_id: FIRST_NODE,
                shards: shards.unwrap_or_else(default_shards),
                joined: false,
                map: None,
            },
            NewData::Joined(joined) => Self {
                format: FORMAT,
                cluster_id: joined.map.cluster_id.clone(),
                node_id: joined.node_id,
                shards: u32::try_from(joined.map.shards.len()).unwrap_or(u32::MAX),
                joined: true,
                map: Some(joined.map),
            },
        }
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
pub(crate) fn write_durably(file: &Path, bytes: &[u8]) -> Result<()> {
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

/// Starts replicas in this process.
#[derive(Clone)]
pub(crate) struct Starter {
    pub(crate) data_dir: PathBuf,
    pub(crate) cluster_id: String,
    pub(crate) shared: Shared,
}

impl Starter {
    /// Starts this node's replica of a shard. The first node of a cluster begins its shards alone;
    /// every other replica waits to be taken in by the leader.
    pub(crate) async fn start(&self, entry: &ShardEntry, me: NodeId) -> Result<Shard> {
        let shard = entry.shard;
        let options = ShardOptions {
            shard,
            node_id: me,
            cluster_id: self.cluster_id.clone(),
            tables_path: tables_path(&self.data_dir, shard),
            generations_path: self.data_dir.join("generations").join(format!("{shard}.json")),
            founds: entry.epoch == 1 && entry.replicas == [me],
        };
        if let Some(folder) = options.tables_path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("{}: cannot be made", folder.display()))?;
        }
        Shard::start(options, self.shared.clone()).await.with_context(|| format!("shard {shard}"))
    }

    /// Removes what is left of a replica that this node gave away, if it was stopped before it
    /// could.
    pub(crate) async fn remove_leftover(&self, shard: ShardId) -> Result<()> {
        let tables = tables_path(&self.data_dir, shard);
        let folder = tables.parent().context("a shard's tables have a folder")?;
        if !folder.exists() {
            return Ok(());
        }
        tracing::info!(%shard, "removing what is left of a replica that was given away");
        opcode_shard::shard::remove(&self.shared.log, shard, folder)
            .await
            .with_context(|| format!("shard {shard}"))
    }
}

/// What all shards share.
pub(crate) fn shared(
    config: &crate::config::Config,
    workers: opcode_shard::workers::Workers,
    peers: Arc<dyn Peers>,
    definitions: Arc<opcode_shard::definitions::Definitions>,
    relay: Arc<dyn opcode_shard::relay::Relay>,
) -> Result<Shared> {
    let dir = config.log_dir.clone().unwrap_or_else(|| config.data_dir.join("log"));
    let options = opcode_shard::log::LogOptions { dir, segment_bytes: config.log_segment_bytes };
    Ok(Shared {
        log: opcode_shard::log::LogStore::open(options)?,
        workers,
        definitions,
        clock: Arc::default(),
        peers,
        relay,
    })
}

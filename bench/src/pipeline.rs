//! One shard's pipeline in this process: its group over a log of its own, and its tables behind.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use opcode_engine::ids::ShardId;
use opcode_shard::batch::{Batch, Position};
use opcode_shard::log::{Group, GroupOptions, LogOptions, LogStore, Tables};
use opcode_shard::peer::NoPeers;
use opcode_shard::record::Record;
use opcode_shard::store::{Store, StoreOptions};

/// Bytes of a segment of the log, as a node has them.
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Records that may wait for the tables, as many as a shard's loop lets wait.
const BACKLOG_RECORDS_MAX: usize = 400_000;
/// Longest wait for the group to lead, and for a commit.
const LEADS_MAX: Duration = Duration::from_secs(10);
/// Pause while the tables are behind.
const BEHIND_FOR: Duration = Duration::from_millis(5);

/// Log and tables of one shard.
pub(crate) struct Pipeline {
    group: Arc<Group>,
    store: Store,
    term: u64,
}

/// Opens the tables of the one shard, in this folder.
pub(crate) async fn open_tables(dir: &Path) -> Result<Store> {
    let path = dir.join("tables.db");
    Ok(Store::open(StoreOptions { path, shard: ShardId(0), cluster_id: "bench".into() }).await?)
}

impl Pipeline {
    /// Founds the shard in a fresh folder.
    pub(crate) async fn found(dir: &Path) -> Result<Self> {
        let log = LogStore::open(LogOptions { dir: dir.join("log"), segment_bytes: SEGMENT_BYTES })?;
        let store = open_tables(dir).await?;
        let options = GroupOptions {
            group: ShardId(0),
            node_id: 1,
            founds: true,
            copies_dir: dir.join("copies"),
            propose_timeout_ms: u64::try_from(LEADS_MAX.as_millis())?,
        };
        let group = Group::start(options, log, Arc::new(store.clone()), Arc::new(NoPeers)).await?;
        let term = group.leads(LEADS_MAX).await?;
        Ok(Self { group, store, term })
    }

    /// Commits a batch, which the tables are handed by then.
    pub(crate) async fn commit(&self, records: Vec<Record>) -> Result<Position> {
        while self.store.backlog() > BACKLOG_RECORDS_MAX {
            tokio::time::sleep(BEHIND_FOR).await;
        }
        Ok(self.group.propose(Batch::gathered(records), self.term).await?.position())
    }

    /// Waits until the tables have all up to `position`.
    pub(crate) async fn applied(&self, position: Position) -> Result<()> {
        Ok(self.store.reached(position).await?)
    }

    /// What the log may forget, it forgets.
    pub(crate) async fn purge(&self) -> Result<()> {
        Ok(self.group.purge().await?)
    }

    /// Stops both; the tables are checkpointed by then.
    pub(crate) async fn close(self) -> Result<()> {
        self.store.close().await?;
        self.group.shutdown().await;
        Ok(())
    }
}

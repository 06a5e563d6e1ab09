//! `slow-disk`: shards whose log is on a disk where each sync takes long, against a writer that
//! syncs each event on the same disk. In process, without HTTP. The tables are on the disk as it
//! is: they are synced when they are checkpointed, which nothing waits for.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use futures::StreamExt;
use futures::stream;
use opcode_engine::definition::Definition;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::actions::{ActionOptions, Actions};
use opcode_shard::disk::{Disk, Opening};
use opcode_shard::handle::{Shown, Submission};
use opcode_shard::log::{LogOptions, LogStore};
use opcode_shard::peer::NoPeers;
use opcode_shard::relay::NoRelay;
use opcode_shard::workers::Workers;
use opcode_shard::{Shard, ShardHandle, ShardOptions, Shared};
use serde_json::{Value, json};

use crate::decided;
use crate::figures::Figures;
use crate::folder::Folder;
use crate::pipeline::SEGMENT_BYTES;
use crate::slow_disk::SlowDisk;

/// Events of a run of ten steps.
const EVENTS_PER_RUN: usize = 22;
/// Bytes of an event of the writer that syncs each.
const EVENT_BYTES: usize = 120;
/// Longest wait for a run to end.
const END_MAX: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct SlowSyncs {
    /// Milliseconds that a sync takes
    #[arg(long, default_value_t = 5, value_name = "MS")]
    sync: u64,
    /// Shards over the one log
    #[arg(long, default_value_t = 16)]
    shards: u32,
    /// Runs of ten steps, all together
    #[arg(long, default_value_t = 50_000)]
    runs: usize,
    /// Runs open at a time in each shard
    #[arg(long, default_value_t = 500, value_name = "N")]
    open: usize,
    /// Events of the writer that syncs each
    #[arg(long, default_value_t = 400, value_name = "N")]
    single: u64,
}

impl SlowSyncs {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let disk = SlowDisk { sync: Duration::from_millis(self.sync) };
        let folder = Folder::fresh(dir)?;
        let single = tokio::task::block_in_place(|| self.sync_each(disk, folder.path()))?;
        let shards = self.start(disk, folder.path()).await?;
        let definition = decided::definition()?;
        let each = self.runs.div_ceil(shards.len());
        let begun = Instant::now();
        let work = shards.iter().map(|shard| self.complete(shard.handle(), &definition, each));
        futures::future::try_join_all(work).await?;
        let events = (each * shards.len() * EVENTS_PER_RUN) as f64 / begun.elapsed().as_secs_f64();
        for shard in shards {
            shard.stop().await?;
        }
        figures.put(format!("{} shards", self.shards), "events/s", events);
        figures.put("each event synced", "events/s", single);
        figures.put("ratio", "×", events / single);
        Ok(())
    }

    /// Events a second of a writer that writes and syncs one after the other.
    fn sync_each(&self, disk: SlowDisk, dir: &Path) -> Result<f64> {
        let file = disk.open(&dir.join("each"), Opening::Fresh)?;
        let event = [b'e'; EVENT_BYTES];
        let begun = Instant::now();
        for n in 0..self.single {
            file.write_all_at(&event, n * EVENT_BYTES as u64)?;
            file.sync_data()?;
        }
        Ok(self.single as f64 / begun.elapsed().as_secs_f64())
    }

    async fn start(&self, disk: SlowDisk, dir: &Path) -> Result<Vec<Shard>> {
        let options = LogOptions { dir: dir.join("log"), segment_bytes: SEGMENT_BYTES };
        let log = LogStore::open_on(Arc::new(disk), options, Box::new(give_up))?;
        let actions = ActionOptions {
            allow_shell: false,
            allow_private_network: false,
            fs_roots: Vec::new(),
            working_dir: dir.to_owned(),
            jq_worker: Vec::new(),
            jq_workers_max: 1,
            isolation: Default::default(),
        };
        let shared = Shared {
            log: Arc::new(log),
            workers: Workers::new(Actions::new(actions), 1),
            definitions: Arc::default(),
            clock: Arc::default(),
            peers: Arc::new(NoPeers),
            relay: Arc::new(NoRelay),
        };
        let mut shards = Vec::new();
        for shard in (0..self.shards.max(1)).map(ShardId) {
            let folder = dir.join(shard.to_string());
            std::fs::create_dir_all(&folder)?;
            let options = ShardOptions {
                shard,
                node_id: 1,
                cluster_id: "bench".into(),
                tables_path: folder.join("tables.db"),
                generations_path: folder.join("generations.json"),
                founds: true,
            };
            shards.push(Shard::start(options, shared.clone()).await?);
        }
        Ok(shards)
    }

    /// Submits runs to one shard, so many open at a time, until all have completed.
    async fn complete(&self, shard: ShardHandle, definition: &Arc<Definition>, runs: usize) -> Result<()> {
        let begin = |no: usize| {
            let shard = shard.clone();
            let submission = submission(decided::id(no as u64), definition);
            async move {
                let id = submission.id.clone();
                for result in shard.submit(vec![submission]).await? {
                    result.map_err(|rejected| anyhow::anyhow!("{}", rejected.message))?;
                }
                let status = shard.wait(&id, END_MAX, Shown::Outcome).await?.status;
                if status != WorkflowStatus::Completed {
                    bail!("run {id} of shard {} is {status:?}", shard.id());
                }
                Ok(())
            }
        };
        let mut under_way = stream::iter((1..=runs).map(begin)).buffer_unordered(self.open.max(1));
        while let Some(result) = under_way.next().await {
            result?;
        }
        Ok(())
    }
}

fn give_up(why: &str) {
    panic!("the log cannot be written: {why}");
}

fn submission(id: WorkflowId, definition: &Arc<Definition>) -> Submission {
    Submission {
        id,
        body_hash: None,
        request: None,
        definition: Arc::clone(definition),
        template: None,
        params: json!({}),
        agent_id: None,
        context: Value::Null,
        labels: std::collections::BTreeMap::new(),
        start_at: None,
        parent: None,
    }
}

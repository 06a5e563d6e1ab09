//! `opcode cluster force-recover`: a last resort for a cluster whose majority is gone for good.
//!
//! It works on the data folder of the one node that the cluster shall go on with, while that node
//! is stopped: with no majority there is nobody whom a request could ask. It tells what the folder
//! has, changes nothing unless the loss is accepted by a flag, and refuses while another node of
//! the cluster still answers, since that one would go on by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::ShardMap;
use opcode_shard::log::{Applied, Held, LogOptions, LogStore, applied_by};
use opcode_shard::store::{Store, StoreOptions};
use serde_json::{Value, json};

use super::Context;
use super::failure::Failure;
use super::output::{rows, shown};
use crate::membership::{self, change::Change};
use crate::shards::{DataDir, NewData, tables_path};

/// Longest wait for a node that should be gone to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Flags of `opcode cluster force-recover`.
#[derive(Args)]
#[command(
    long_about = "UNSAFE. Go on with this stopped node's data alone, after a majority is gone for good.

Whatever was acknowledged and is not in this folder is LOST, and steps may run again that have run. \
Every other node is given up: none may be started with its old data again; start each with an empty \
folder and --join. Of the nodes that are left, take the one whose entries go furthest: without \
--accept-loss they are listed, and nothing is changed. The recovery is recorded in the cluster."
)]
#[command(after_help = "Examples:
  opcode cluster force-recover --data-dir /var/lib/opcode
  opcode cluster force-recover --data-dir /var/lib/opcode --accept-loss")]
pub(crate) struct ForceRecover {
    /// Folder of the node to go on with; the node is stopped
    #[arg(long, value_name = "DIR", env = "OPCODE_DATA_DIR")]
    data_dir: PathBuf,
    /// Folder of its log, if that is elsewhere
    #[arg(long, value_name = "DIR", env = "OPCODE_LOG_DIR")]
    log_dir: Option<PathBuf>,
    /// Do it, and lose what this folder does not have
    #[arg(long)]
    accept_loss: bool,
}

/// A stopped node.
struct Stopped {
    data: DataDir,
    dir: PathBuf,
    log: std::sync::Arc<LogStore>,
    map: std::sync::Arc<ShardMap>,
    /// How far its part in the membership group has come.
    known: Applied,
}

pub(crate) async fn run(args: ForceRecover, context: &Context) -> Result<(), Failure> {
    let is_accepted = args.accept_loss;
    let told = recover(args).await.map_err(|error| Failure::local(format!("{error:#}")))?;
    context.output.document(&told, |told| {
        let shards = told["shards"].as_array().map_or(&[][..], Vec::as_slice);
        let lines: Vec<Vec<String>> = shards
            .iter()
            .map(|shard| ["shard", "entries", "term"].iter().map(|name| shown(&shard[*name])).collect())
            .collect();
        rows(&["SHARD", "ENTRIES", "TERM"], &lines)
    });
    match is_accepted {
        true => Ok(()),
        false => Err(Failure::local(
            "nothing was changed. This gives every other node up, and LOSES what was acknowledged and is \
             not listed here: only with --accept-loss",
        )),
    }
}

async fn recover(args: ForceRecover) -> Result<Value> {
    let node = Stopped::open(&args).await?;
    let groups: Vec<ShardId> = node.map.all_shards().map(|entry| entry.shard).collect();
    let mut held = Vec::new();
    for shard in &groups {
        held.push((*shard, node.log.held(*shard)?));
    }
    node.nobody_answers().await?;
    if args.accept_loss {
        node.recover(&held).await?;
    }
    let shards = held.iter().map(|(shard, Held { last, term })| {
        let entries = last.map_or(json!("none: begins anew, empty"), |last| json!(last.index + 1));
        json!({"shard": shard.to_string(), "entries": entries, "term": term})
    });
    let others = node.map.nodes.keys().filter(|other| **other != node.data.identity.node_id);
    Ok(json!({
        "node_id": node.data.identity.node_id.to_string(),
        "recovered": args.accept_loss,
        "lost_nodes": others.map(u64::to_string).collect::<Vec<_>>(),
        "shards": shards.collect::<Vec<_>>(),
    }))
}

impl Stopped {
    async fn open(args: &ForceRecover) -> Result<Self> {
        let dir = args.data_dir.clone();
        if !DataDir::is_used(&dir) {
            bail!("{}: no data of a node here", dir.display());
        }
        let data = DataDir::open(&dir, NewData::Cluster(None))?;
        let options = LogOptions {
            dir: args.log_dir.clone().unwrap_or_else(|| dir.join("log")),
            segment_bytes: crate::config::Config::default().log_segment_bytes,
        };
        let log = LogStore::open(options)?;
        opcode_shard::finish_removals(&log, &dir.join("shards")).await?;
        let (known, map) = membership::known_to(&dir, &data.identity.cluster_id)?;
        let map = map.context("this node was never told the cluster's map: take another")?;
        if !map.nodes.contains_key(&data.identity.node_id) {
            bail!("this node was removed from its cluster: take another");
        }
        Ok(Self { data, dir, log, map, known })
    }

    /// One that lives would go on by itself.
    async fn nobody_answers(&self) -> Result<()> {
        // One that is installed already will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build()?;
        for (node, entry) in &self.map.nodes {
            let url = format!("http://{}/healthz", entry.addr);
            if *node != self.data.identity.node_id && client.get(url).send().await.is_ok() {
                bail!("node {node} at {} still answers: stop every other node first", entry.addr);
            }
        }
        Ok(())
    }

    /// The shards come first: should this be cut off in between, the map still says that they are
    /// elsewhere too, and it can be done again.
    async fn recover(&self, held: &[(ShardId, Held)]) -> Result<()> {
        let node = self.data.identity.node_id;
        for (shard, _) in held {
            let applied = self.applied(*shard).await.with_context(|| format!("shard {shard}"))?;
            self.log.make_alone(*shard, node, &applied, None).await?;
        }
        let begun_anew = held.iter().filter(|(_, held)| held.last.is_none()).map(|(shard, _)| *shard);
        let change = Change::Recover { node, begun_anew: begun_anew.collect() };
        let change = membership::encode_change(&change);
        self.log.make_alone(ShardId::MEMBERSHIP, node, &self.known, Some(&change)).await?;
        Ok(())
    }

    async fn applied(&self, shard: ShardId) -> Result<Applied> {
        let path: PathBuf = tables_path(&self.dir, shard);
        if !Path::exists(&path) {
            return Ok(Applied::default());
        }
        let cluster_id = self.data.identity.cluster_id.clone();
        let store = Store::open(StoreOptions { path, shard, cluster_id }).await?;
        Ok(applied_by(store).await?)
    }
}

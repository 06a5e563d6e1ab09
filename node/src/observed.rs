//! What is the case with a node, for `/metrics`: looked at when somebody asks, so that it costs
//! nothing until then, and no series outlives what it is of.
//!
//! Runs by status alone are counted beforehand, out of the tables' index, and for a hundredth of the
//! time at most.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::ShardId;
use opcode_router::LocalShards;
use opcode_shard::ShardHandle;
use opcode_shard::batch::Position;
use opcode_shard::meters::Meter;
use opcode_shard::workers::Workers;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::otlp;

/// Time between two counts of runs, at least.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// What counting may take of the time: a part in so many.
const COUNT_SHARE: u32 = 100;

/// Every metric that is looked at.
const METERS: &[Meter] = &[
    Meter::gauge("opcode_build_info", "This build, by its version; always 1"),
    Meter::gauge(
        "opcode_workflows",
        "Runs of the shards that this node leads, by status, as of some seconds ago",
    ),
    Meter::gauge("opcode_shard_leader", "1 while this node leads the shard and takes its requests, else 0"),
    Meter::gauge("opcode_shard_term", "The term of a shard's group, as this node knows it"),
    Meter::gauge("opcode_shard_queue_messages", "Messages that wait in a shard's queue"),
    Meter::gauge("opcode_shard_behind_seconds", "How old, at most, what this replica knows of its shard is"),
    Meter::gauge("opcode_replica_lag_seconds", "How far a member of a shard is behind, by its leader"),
    Meter::gauge("opcode_workers", "Steps with side effects that may run at a time"),
    Meter::gauge("opcode_workers_busy", "Steps with side effects that run now"),
    Meter::gauge("opcode_circuit_breakers", "Circuit breakers of this node that are not closed, by state"),
    Meter::counter("opcode_spans_lost_total", "Spans that the OTLP collector did not get"),
    Meter::gauge("opcode_disk_free_bytes", "Bytes that are free on the disk of the data, or of the log"),
    Meter::gauge("opcode_disk_size_bytes", "Bytes that the disk of the data, or of the log, has"),
];

/// What a shard has of each status, when its log stood there.
type Counted = BTreeMap<ShardId, (Position, BTreeMap<String, u64>)>;

/// What `/metrics` answers: what was recorded, and what is the case.
pub(crate) fn metrics(
    recorded: PrometheusHandle,
    config: &Config,
    cluster: &Cluster,
) -> Arc<dyn Fn() -> String + Send + Sync> {
    let observed = Observed::start(config, cluster);
    Arc::new(move || format!("{}{}", recorded.render(), observed.render()))
}

/// A node, as it is looked at.
struct Observed {
    local: Arc<LocalShards>,
    workers: Workers,
    /// Folders by what they hold.
    folders: [(&'static str, PathBuf); 2],
    counted: Arc<Mutex<Counted>>,
}

impl Observed {
    /// Begins to count; it ends with the last who looks.
    fn start(config: &Config, cluster: &Cluster) -> Self {
        let log = config.log_dir.clone().unwrap_or_else(|| config.data_dir.clone());
        let (local, counted) = (cluster.agent.local.clone(), Arc::default());
        tokio::spawn(count(local.clone(), Arc::downgrade(&counted)));
        Self {
            local,
            workers: cluster.agent.starter.shared.workers.clone(),
            folders: [("data", config.data_dir.clone()), ("log", log)],
            counted,
        }
    }

    /// All of it in Prometheus' text format.
    fn render(&self) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            METERS.iter().for_each(Meter::describe);
            self.look_at_node();
            self.local.all().iter().for_each(|shard| look_at_shard(shard));
        });
        recorder.handle().render()
    }

    fn look_at_node(&self) {
        gauge!("opcode_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        counter!("opcode_spans_lost_total").absolute(otlp::lost());
        gauge!("opcode_workers").set(self.workers.size() as f64);
        gauge!("opcode_workers_busy").set(self.workers.busy() as f64);
        let (open, half_open) = self.workers.breakers();
        gauge!("opcode_circuit_breakers", "state" => "open").set(open as f64);
        gauge!("opcode_circuit_breakers", "state" => "half_open").set(half_open as f64);
        for (of, folder) in &self.folders {
            // One that is not there any more stops the node by itself.
            let Ok(disk) = nix::sys::statvfs::statvfs(folder) else { continue };
            let unit = disk.fragment_size() as f64;
            gauge!("opcode_disk_free_bytes", "of" => *of).set(disk.blocks_available() as f64 * unit);
            gauge!("opcode_disk_size_bytes", "of" => *of).set(disk.blocks() as f64 * unit);
        }
        let counted = self.counted.lock();
        for status in WorkflowStatus::ALL.map(WorkflowStatus::as_str) {
            let runs: u64 = counted.values().filter_map(|(_, counts)| counts.get(status)).sum();
            gauge!("opcode_workflows", "status" => status).set(runs as f64);
        }
    }
}

fn look_at_shard(handle: &ShardHandle) {
    let (shard, now) = (handle.id().to_string(), handle.gauges());
    gauge!("opcode_shard_leader", "shard" => shard.clone()).set(f64::from(u8::from(now.leads)));
    gauge!("opcode_shard_term", "shard" => shard.clone()).set(now.term as f64);
    gauge!("opcode_shard_queue_messages", "shard" => shard.clone()).set(now.queued as f64);
    // One that has heard of nobody knows nothing of how old it is.
    let behind = now.behind.map_or(f64::INFINITY, |behind| behind.as_secs_f64());
    gauge!("opcode_shard_behind_seconds", "shard" => shard.clone()).set(behind);
    for (node, lag) in now.lags {
        let labels = [("shard", shard.clone()), ("node", node.to_string())];
        gauge!("opcode_replica_lag_seconds", &labels).set(lag.as_secs_f64());
    }
}

/// Counts runs by status, for as long as somebody may ask.
async fn count(local: Arc<LocalShards>, counted: Weak<Mutex<Counted>>) {
    loop {
        let begun = Instant::now();
        let led = local.all().into_iter().filter(|shard| shard.id() != ShardId::SYSTEM && shard.serves());
        let mut next = Counted::new();
        for shard in led {
            let Some(counted) = counted.upgrade() else { return };
            let (id, position) = (shard.id(), shard.committed());
            let known = counted.lock().get(&id).filter(|(at, _)| *at == position).cloned();
            let counts = match known {
                Some(known) => Some(known),
                None => counts(&shard).await.map(|counts| (position, counts)),
            };
            next.extend(counts.map(|counts| (id, counts)));
        }
        let Some(counted) = counted.upgrade() else { return };
        *counted.lock() = next;
        drop(counted);
        tokio::time::sleep(COUNT_EVERY.max(begun.elapsed() * COUNT_SHARE)).await;
    }
}

/// How many runs a shard has of each status; none when it leads no more, or cannot say.
async fn counts(shard: &ShardHandle) -> Option<BTreeMap<String, u64>> {
    const QUERY: &str = "SELECT status, count(*) AS runs FROM workflows GROUP BY status";
    let rows = match shard.sql(QUERY, WorkflowStatus::ALL.len()).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::debug!(shard = %shard.id(), ?error, "runs could not be counted");
            return None;
        }
    };
    let count = |row: &serde_json::Value| Some((row["status"].as_str()?.to_owned(), row["runs"].as_u64()?));
    Some(rows.iter().filter_map(count).collect())
}

//! The nodes under load: started on fresh folders, or somebody's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Target;

/// Clock ticks a second in `/proc`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longest wait for the shards of a new cluster to be where they should be.
const WHOLE_MAX: Duration = Duration::from_secs(120);
/// Replicas of a shard when nothing else is asked for.
const REPLICATION_FACTOR: usize = 3;

/// Nodes to put under load.
pub(crate) struct Server {
    urls: Vec<String>,
    next: AtomicUsize,
    pub(crate) client: reqwest::Client,
    children: Vec<Child>,
    /// Made for this run alone.
    dir: Option<PathBuf>,
}

/// What the nodes' processes have used so far, all together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) peak_mb: f64,
    /// Memory held now, what processes share counted once.
    pub(crate) held_mb: f64,
    pub(crate) written_mb: f64,
}

impl Server {
    /// Starts nodes, or takes the one that `target` names.
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(120))
            .build()
            .context("an HTTP client can be made")?;
        let next = AtomicUsize::new(0);
        if let Some(url) = &target.server {
            let urls = vec![url.trim_end_matches('/').to_owned()];
            return Ok(Self { urls, next, client, children: Vec::new(), dir: None });
        }
        let beside = std::env::current_exe()?.with_file_name("opcode");
        let binary = target.binary.clone().unwrap_or(beside);
        if !binary.is_file() {
            bail!("{}: no such binary; build it with `cargo build --release -p opcode`", binary.display());
        }
        let parent = target.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = parent.join(format!("opcode-bench-{}", std::process::id()));
        let mut server =
            Self { urls: Vec::new(), next, client, children: Vec::new(), dir: Some(dir.clone()) };
        for number in 1..=target.nodes {
            let (child, url) = start(&binary, &dir.join(format!("n{number}")), target, server.urls.first())?;
            server.children.push(child);
            server.urls.push(url);
        }
        server.whole(target.nodes.min(target.replication_factor.unwrap_or(REPLICATION_FACTOR))).await?;
        Ok(server)
    }

    /// Waits until every shard has its replicas and stays where it is, and every node leads as many
    /// shards as the others, almost; with one replica each, the ring says who leads, and every node
    /// leads some.
    async fn whole(&self, replicas: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let cluster = self.get("/v1/cluster").await?;
            let shards = cluster["shards"].as_array().cloned().unwrap_or_default();
            let is_whole = |shard: &Value| {
                let all = shard["replicas"].as_array();
                let in_sync = |all: &Vec<Value>| all.iter().filter(|one| one["in_sync"] == true).count();
                shard["doing"].is_null() && all.is_some_and(|all| in_sync(all) >= replicas)
            };
            let leads = |node: &Value| shards.iter().filter(|s| s["primary"] == node["node_id"]).count();
            let members = cluster["members"].as_array().cloned().unwrap_or_default();
            let fewest = members.iter().map(leads).min().unwrap_or_default();
            let wanted = if replicas > 1 { shards.len() / self.urls.len() } else { 1 };
            if shards.iter().all(is_whole) && fewest >= wanted {
                return Ok(());
            }
            if begun.elapsed() > WHOLE_MAX {
                bail!("the cluster is not whole after {WHOLE_MAX:?}: {cluster}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The address of one node after the other.
    pub(crate) fn url(&self) -> &str {
        &self.urls[self.next.fetch_add(1, Ordering::Relaxed) % self.urls.len()]
    }

    /// What the nodes' processes have used; nothing is known of somebody's own node.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let all = self.children.iter().map(usage);
        all.reduce(|a, b| Usage {
            cpu_s: a.cpu_s + b.cpu_s,
            peak_mb: a.peak_mb + b.peak_mb,
            held_mb: a.held_mb + b.held_mb,
            written_mb: a.written_mb + b.written_mb,
        })
    }

    /// `GET` of JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let response = self.client.get(format!("{}{path}", self.url())).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }

    /// Whether any run has this status.
    pub(crate) async fn any_run(&self, status: &str) -> Result<bool> {
        let list = self.get(&format!("/v1/workflows?status={status}&limit=1")).await?;
        Ok(list["items"].as_array().is_some_and(|items| !items.is_empty()))
    }

    /// Whether any run has not ended.
    pub(crate) async fn open_runs(&self) -> Result<bool> {
        for status in ["active", "pending", "suspended"] {
            if self.any_run(status).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(dir) = self.dir.take() {
            // What cannot be removed is left to the system.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Starts a node that founds a cluster, or joins the one of `other`.
fn start(binary: &Path, data: &Path, target: &Target, other: Option<&String>) -> Result<(Child, String)> {
    let mut command = Command::new(binary);
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data-dir"]).arg(data);
    match other {
        Some(url) => {
            command.args(["--join", url.trim_start_matches("http://")]);
        }
        None => {
            let shards = target.shards.map(|shards| ["--shards".to_owned(), shards.to_string()]);
            let factor =
                target.replication_factor.map(|n| ["--replication-factor".to_owned(), n.to_string()]);
            command.args(shards.into_iter().chain(factor).flatten());
        }
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", binary.display()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let url = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("OPCODE is ready at ").map(str::to_owned))
        .context("the node ended before it was ready")?;
    Ok((child, url))
}

fn usage(child: &Child) -> Usage {
    // A process that has ended has used nothing that can be read.
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    let number = |text: &str, key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<f64>().ok())
            .unwrap_or_default()
    };
    Usage {
        cpu_s: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        peak_mb: number(&read("status"), "VmHWM:") / 1000.0,
        held_mb: number(&read("smaps_rollup"), "Pss:") / 1000.0,
        written_mb: number(&read("io"), "write_bytes:") / 1e6,
    }
}

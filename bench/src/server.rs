//! The nodes under load: started on fresh folders, or somebody's own. They can be killed and
//! started again where they were.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::api::Api;
use crate::folder::Folder;
use crate::machine;
use crate::process::Usage;

/// Longest wait for the shards of a new cluster to be where they should be.
const WHOLE_MAX: Duration = Duration::from_secs(120);
/// Replicas of a shard when nothing else is asked for.
const REPLICATION_FACTOR: usize = 3;

/// Which nodes to put under load.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// A node that runs already; without it one is started on a fresh folder
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The binary to start [default: `opcode` beside this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Nodes to start; a cluster of them when there are several
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) nodes: usize,
    /// Shards [default: as the binary wants it]
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<u32>,
    /// Replicas of each shard, with nodes enough [default: as the binary wants it]
    #[arg(long, value_name = "N")]
    pub(crate) replication_factor: Option<usize>,
    /// Steps with side effects that a node runs at a time [default: as the binary wants it]
    #[arg(long, value_name = "N")]
    pub(crate) pool_size: Option<usize>,
}

impl Target {
    /// The binary that nodes are started from, unless they are somebody's own.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        if self.server.is_some() {
            return None;
        }
        let beside = || std::env::current_exe().ok().map(|path| path.with_file_name("opcode"));
        self.binary.clone().or_else(beside)
    }
}

/// Nodes to put under load.
pub(crate) struct Server {
    api: Api,
    /// None when they are somebody's own.
    nodes: Vec<Node>,
    folder: Folder,
}

struct Node {
    command: Command,
    url: String,
    data: PathBuf,
    child: Child,
}

impl Server {
    /// Starts nodes with these flags besides, or takes the one that `target` names.
    pub(crate) async fn open(target: &Target, parent: Option<&Path>, flags: &[String]) -> Result<Self> {
        let folder = Folder::fresh(parent)?;
        if let Some(url) = &target.server {
            let api = Api::new(vec![url.trim_end_matches('/').to_owned()])?;
            return Ok(Self { api, nodes: Vec::new(), folder });
        }
        let binary = target.binary().unwrap_or_default();
        if !binary.is_file() {
            bail!("{}: no such binary; build it with `cargo build --release -p opcode`", binary.display());
        }
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=target.nodes {
            let data = folder.path().join(format!("n{number}"));
            let first = nodes.first().map(|node| node.url.as_str());
            nodes.push(Node::start(&binary, data, target, flags, first)?);
        }
        let api = Api::new(nodes.iter().map(|node| node.url.clone()).collect())?;
        let server = Self { api, nodes, folder };
        server.whole(target.nodes.min(target.replication_factor.unwrap_or(REPLICATION_FACTOR))).await?;
        Ok(server)
    }

    /// Calls to the nodes.
    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    /// The folder of all nodes' data, on whose device they write.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A node's data folder, from 0.
    pub(crate) fn data(&self, node: usize) -> Result<&Path> {
        self.nodes.get(node).map(|node| node.data.as_path()).context("this needs nodes of its own")
    }

    /// What the nodes' processes have used; nothing is known of somebody's own node.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.nodes.iter().map(|node| Usage::of(node.child.id())).reduce(Usage::plus)
    }

    /// Syncs that the device of their data has completed.
    pub(crate) fn flushes(&self) -> Option<u64> {
        if self.nodes.is_empty() { None } else { machine::flushes(self.folder()) }
    }

    /// Kills a node with whatever it has in its hands.
    pub(crate) fn kill(&self, node: usize) -> Result<()> {
        let node = self.nodes.get(node).context("only a node of this command's own can be killed")?;
        let pid = Pid::from_raw(i32::try_from(node.child.id())?);
        Ok(kill(pid, Signal::SIGKILL)?)
    }

    /// Starts a node again that was killed, and tells how long it took until it was ready.
    pub(crate) fn start_again(&mut self, node: usize) -> Result<Duration> {
        let node = self.nodes.get_mut(node).context("only a node of this command's own can be started")?;
        node.child.wait()?;
        let begun = Instant::now();
        let (child, _) = spawn(&mut node.command)?;
        node.child = child;
        Ok(begun.elapsed())
    }

    /// Waits until every shard has its replicas and stays where it is, and every node leads as many
    /// shards as the others, almost; with one replica each, the ring says who leads, and every node
    /// leads some.
    async fn whole(&self, replicas: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let cluster = self.api.get("/v1/cluster").await?;
            let shards = cluster["shards"].as_array().cloned().unwrap_or_default();
            let is_whole = |shard: &Value| {
                let all = shard["replicas"].as_array();
                let in_sync = |all: &Vec<Value>| all.iter().filter(|one| one["in_sync"] == true).count();
                shard["doing"].is_null() && all.is_some_and(|all| in_sync(all) >= replicas)
            };
            let leads = |node: &Value| shards.iter().filter(|s| s["primary"] == node["node_id"]).count();
            let members = cluster["members"].as_array().cloned().unwrap_or_default();
            let fewest = members.iter().map(leads).min().unwrap_or_default();
            let wanted = if replicas > 1 { shards.len() / self.nodes.len() } else { 1 };
            if shards.iter().all(is_whole) && fewest >= wanted {
                return Ok(());
            }
            if begun.elapsed() > WHOLE_MAX {
                bail!("the cluster is not whole after {WHOLE_MAX:?}: {cluster}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended already.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}

impl Node {
    /// Starts a node that founds a cluster, or joins the one of `first`.
    fn start(
        binary: &Path,
        data: PathBuf,
        target: &Target,
        flags: &[String],
        first: Option<&str>,
    ) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--log-level", "warn", "--data-dir"]).arg(&data).args(flags);
        if let Some(size) = target.pool_size {
            command.arg("--pool-size").arg(size.to_string());
        }
        let mut founding = Command::new(binary);
        founding.args(command.get_args()).args(["--listen", "127.0.0.1:0"]);
        match first {
            Some(url) => {
                founding.args(["--join", url.trim_start_matches("http://")]);
            }
            None => {
                let shards = target.shards.map(|shards| ["--shards".to_owned(), shards.to_string()]);
                let factor =
                    target.replication_factor.map(|n| ["--replication-factor".to_owned(), n.to_string()]);
                founding.args(shards.into_iter().chain(factor).flatten());
            }
        }
        let (child, url) = spawn(&mut founding)?;
        // Where it was, so that nobody has to be told.
        command.args(["--listen", url.trim_start_matches("http://")]);
        Ok(Self { command, url, data, child })
    }
}

/// Starts a node and waits until it says that it is ready, and where.
fn spawn(command: &mut Command) -> Result<(Child, String)> {
    let binary = command.get_program().to_owned();
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

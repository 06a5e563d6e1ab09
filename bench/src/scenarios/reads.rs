//! `reads`: the status of runs, `strong`, `session` and `eventual`, from the leader of their shard
//! and from replicas, on one node and on three.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use futures::future::try_join_all;
use serde_json::json;

use crate::api::{Api, Taken};
use crate::figures::Figures;
use crate::latencies::Latencies;
use crate::load;
use crate::process::Usage;
use crate::server::{Server, Target};
use crate::work::Work;

const CONSISTENCIES: [&str; 3] = ["strong", "session", "eventual"];

#[derive(Args, Clone, Debug)]
pub(crate) struct Reads {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Clusters of how many nodes
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_name = "N,…")]
    clusters: Vec<usize>,
    /// Runs of ten steps that are there to be read
    #[arg(long, default_value_t = 2_000)]
    runs: usize,
    /// Reads under way at a time
    #[arg(long, default_value_t = 32, value_name = "N")]
    open: usize,
    /// Seconds of each kind of read
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// A run and who may be asked for it.
struct Subject {
    id: String,
    /// Of the answer that showed it whole.
    token: String,
    leader: String,
    replica: Option<String>,
}

impl Reads {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        for nodes in &self.clusters {
            let target = Target { nodes: *nodes, ..self.target.clone() };
            let server = Server::open(&target, dir, &[]).await?;
            let definition = Work::Chain10.definition();
            let runs =
                load::submit_all(server.api(), self.runs, |_| json!({"definition": definition})).await?;
            server.api().all_completed(runs.len() as u64).await?;
            let subjects = subjects(server.api(), runs).await?;
            for consistency in CONSISTENCIES {
                figures.series(format!("nodes {nodes}, {consistency}, from the leader"));
                self.measure(&server, &subjects, consistency, |s| Some(&s.leader), figures).await?;
                if *nodes > 1 {
                    figures.series(format!("nodes {nodes}, {consistency}, from a replica"));
                    self.measure(&server, &subjects, consistency, |s| s.replica.as_ref(), figures).await?;
                }
            }
        }
        Ok(())
    }

    async fn measure(
        &self,
        server: &Server,
        subjects: &[Subject],
        consistency: &str,
        asked: impl Fn(&Subject) -> Option<&String>,
        figures: &mut Figures,
    ) -> Result<()> {
        let (begun, usage) = (Instant::now(), server.usage());
        let until = begun + Duration::from_secs(self.seconds.max(1));
        let readers = (0..self.open.max(1)).map(|reader| {
            // Each begins somewhere else and reads all in turn.
            let start = reader * subjects.len() / self.open.max(1);
            let mut turn = subjects.iter().cycle().skip(start);
            let asked = &asked;
            async move {
                let mut latencies = Latencies::new();
                while Instant::now() < until {
                    let subject = turn.next().context("there are no runs to read")?;
                    let url = asked(subject).context("no replica of a shard is known")?;
                    let token = (consistency == "session").then_some(subject.token.as_str());
                    let sent = Instant::now();
                    let run = format!("{}?consistency={consistency}", subject.id);
                    server.api().read(url, &run, token).await?;
                    latencies.record(sent.elapsed());
                }
                anyhow::Ok(latencies)
            }
        });
        let mut all = Latencies::new();
        try_join_all(readers).await?.iter().for_each(|latencies| all.add(latencies));
        let (seconds, reads) = (begun.elapsed().as_secs_f64(), all.count() as f64);
        figures.put("reads", "/s", reads / seconds);
        figures.latencies("read", &all);
        if let (Some(Usage { cpu_s: before, .. }), Some(Usage { cpu_s: after, .. })) = (usage, server.usage())
        {
            figures.put("server CPU per read", "µs", (after - before) * 1e6 / reads);
        }
        Ok(())
    }
}

/// Finds out who leads each run's shard and who else holds it.
async fn subjects(api: &Api, runs: Vec<Taken>) -> Result<Vec<Subject>> {
    let cluster = api.get("/v1/cluster").await?;
    let mut urls: HashMap<String, String> = HashMap::new();
    for member in cluster["members"].as_array().context("a cluster has members")? {
        let (id, addr) = (member["node_id"].as_str(), member["addr"].as_str());
        let (id, addr) = (id.context("a member has an id")?, addr.context("a member has an address")?);
        urls.insert(id.to_owned(), format!("http://{addr}"));
    }
    let mut holders: HashMap<u64, (String, Option<String>)> = HashMap::new();
    for shard in cluster["shards"].as_array().context("a cluster has shards")? {
        let primary = shard["primary"].as_str().context("a shard has a leader")?;
        let replicas = shard["replicas"].as_array().context("a shard has replicas")?;
        let other = replicas.iter().filter_map(|r| r["node_id"].as_str()).find(|node| *node != primary);
        let url = |node: &str| urls.get(node).cloned().context("a replica is a member");
        let number = shard["shard"].as_u64().context("a shard has a number")?;
        holders.insert(number, (url(primary)?, other.map(url).transpose()?));
    }
    let known = runs.into_iter().map(|run| {
        let holder = holders.get(&u64::from(run.shard)).cloned();
        async move {
            let (leader, replica) = holder.context("a run is in a shard of the cluster")?;
            let token = api.read(&leader, &run.workflow_id, None).await?.context("an answer has a token")?;
            anyhow::Ok(Subject { id: run.workflow_id, token, leader, replica })
        }
    });
    try_join_all(known).await
}

//! Runs that start two others each, on whichever shard those fall, and wait for the one and not for
//! the other: each is started once, and its end told once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{PAGE, Setting, Workload, events, pace};
use crate::checkers::{REQUESTS_AT_A_TIME, ended};
use crate::client::{Ask, Client};
use crate::cluster::Cluster;
use crate::history::Outcome;
use crate::sink::Sink;

/// Clients, and how often each submits.
const CLIENTS: usize = 2;
const PACE: Duration = Duration::from_millis(400);
/// The children's template.
const TEMPLATE: &str = "jepsen-child";
/// Steps of a parent that start a child, and whether they wait for its end.
const STARTS: [(&str, bool); 2] = [("waits", true), ("leaves", false)];
/// Steps of a child, each of which posts.
const POSTS: usize = 2;
/// Tries to define the template, and the time between two.
const DEFINE_TRIES_MAX: usize = 20;

/// Parents, with what is known of each.
#[derive(Clone, Default)]
pub(crate) struct Families(Arc<Mutex<BTreeMap<String, Outcome>>>);

fn template(sink: &str) -> Value {
    let post = |n: usize| {
        let before: Vec<String> = n.checked_sub(1).map(|n| format!("s{n}")).into_iter().collect();
        json!({"id": format!("s{n}"), "action": "http.post", "depends_on": before,
            "params": {"url": sink, "body": {"run": "${{workflow.run_id}}", "step": format!("s{n}")}},
            "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}})
    };
    json!({"name": TEMPLATE, "definition": {"steps": (0..POSTS).map(post).collect::<Vec<_>>(),
        "output": {"of": "${{inputs.of}}"}}})
}

fn submission(id: &str) -> Value {
    let start = |(step, waits): (&str, bool)| {
        json!({"id": step, "action": "workflow.run",
            "params": {"template_name": TEMPLATE, "params": {"of": step}, "wait": waits}})
    };
    json!({"id": id, "definition": {"steps": STARTS.map(start)}})
}

impl Families {
    /// Defines the children's template and has clients submit parents.
    pub(crate) async fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        let (client, template) = (setting.client()?, template(&setting.sink));
        let mut pace = pace(PACE);
        let mut tries = 0;
        while client.ask(tries, Ask::post("define", "/v1/templates", &template)).await.success().is_none() {
            tries += 1;
            ensure!(tries < DEFINE_TRIES_MAX, "the template of children cannot be defined");
            pace.tick().await;
        }
        (0..CLIENTS)
            .map(|number| {
                let (client, rng) = (setting.client()?, setting.rng(Workload::Families, number));
                Ok(tokio::spawn(self.clone().work(number, client, rng, setting.clone())))
            })
            .collect()
    }

    async fn work(self, number: usize, client: Client, mut rng: StdRng, setting: Setting) {
        let mut pace = pace(PACE);
        let mut count = 0;
        while !setting.is_over() {
            pace.tick().await;
            count += 1;
            let id = format!("parent-{number}-{count}");
            let (place, body) = (rng.random_range(0..usize::MAX / 2), submission(&id));
            let outcome = client.ask(place, Ask::post("submit", "/v1/workflows", &body)).await.outcome;
            self.0.lock().insert(id, outcome);
        }
    }

    /// Looks at every parent and child there is.
    pub(crate) async fn check(&self, cluster: &Cluster, sink: &Sink, healed: Instant) -> Result<String> {
        let all = self.0.lock().clone();
        let parents: Vec<Option<&String>> = futures::stream::iter(&all)
            .map(|(id, outcome)| async move {
                let Some(run) = ended(cluster, id, *outcome, healed).await? else { return Ok(None) };
                check_parent(cluster, id, &run).await.with_context(|| id.clone())?;
                anyhow::Ok(Some(id))
            })
            .buffer_unordered(REQUESTS_AT_A_TIME)
            .try_collect()
            .await?;
        let parents: BTreeSet<&String> = parents.into_iter().flatten().collect();
        ensure!(!parents.is_empty(), "no parent was ever acknowledged");
        let children = children(cluster).await?;
        let families: Vec<(String, String)> = futures::stream::iter(&children)
            .map(|id| async move { check_child(cluster, id, healed, sink).await.with_context(|| id.clone()) })
            .buffer_unordered(REQUESTS_AT_A_TIME)
            .try_collect()
            .await?;
        let mut of: BTreeMap<(String, String), usize> = BTreeMap::new();
        families.into_iter().for_each(|family| *of.entry(family).or_default() += 1);
        for parent in &parents {
            for (step, _) in STARTS {
                let count = of.remove(&((*parent).clone(), step.to_owned())).unwrap_or(0);
                ensure!(count == 1, "{step} of {parent} started {count} children");
            }
        }
        ensure!(of.is_empty(), "children of no parent that is there: {of:?}");
        Ok(format!(
            "{} parents with {} children, each started once and told of once",
            parents.len(),
            children.len()
        ))
    }
}

async fn check_parent(cluster: &Cluster, id: &str, run: &Value) -> Result<()> {
    ensure!(run["status"] == "completed", "it ended otherwise: {run}");
    ensure!(run["output"]["waits"] == json!({"of": "waits"}), "its child's output is not its own: {run}");
    let events = events(cluster, id).await?;
    for (step, _) in STARTS {
        let of_step = |e: &&Value| e["type"] == "step_completed" && e["step_id"] == step;
        let completed = events.iter().filter(of_step).count();
        ensure!(completed == 1, "{step} was told {completed} times that its child has ended or begun");
    }
    Ok(())
}

/// The parent that a child names, and the step of it.
async fn check_child(cluster: &Cluster, id: &str, healed: Instant, sink: &Sink) -> Result<(String, String)> {
    let run =
        ended(cluster, id, Outcome::Acknowledged, healed).await?.context("it is listed and not there")?;
    ensure!(run["status"] == "completed", "it ended otherwise: {run}");
    let calls = sink.calls_of(id).await;
    let events = events(cluster, id).await?;
    let starts = events.iter().filter(|event| event["type"] == "workflow_started").count();
    ensure!(starts == 1, "it was started {starts} times");
    for n in 0..POSTS {
        let step = format!("s{n}");
        let of_step = |e: &&Value| e["type"] == "step_completed" && e["step_id"] == step.as_str();
        let completed = events.iter().filter(of_step).count();
        ensure!(completed == 1, "{step} was recorded {completed} times");
        ensure!(calls.iter().any(|call| call.step == step), "{step} never posted");
    }
    let parent = |key: &str| run["parent"][key].as_str().map(str::to_owned).context("it names no parent");
    Ok((parent("workflow_id")?, parent("step_id")?))
}

/// Ids of all children, from the lists.
async fn children(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/workflows?template={TEMPLATE}&limit={PAGE}{cursor}");
        let (status, page) = cluster.get_healed(&path).await?;
        ensure!(status == 200 && page.get("unreachable_shards").is_none(), "{status}: {page}");
        for item in page["items"].as_array().into_iter().flatten() {
            let id = item["workflow_id"].as_str().unwrap_or_default();
            ensure!(ids.insert(id.to_owned()), "{id} is listed twice");
        }
        let Some(next) = page["next_cursor"].as_str() else { return Ok(ids) };
        cursor = format!("&cursor={next}");
    }
}

//! Clusters of real nodes: started together, loaded from all sides, and asked whether all is well.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};

pub(crate) const SHARDS: usize = 4;

/// Clients of a load.
const WORKERS: usize = 6;

/// A port that nobody listens on now, for a node that is to come back to it: below those that the
/// system gives to connections, so that none of them takes it.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How the nodes of a cluster are started, again and again.
pub(crate) struct Builders(pub(crate) Vec<NodeBuilder>);

impl Builders {
    pub(crate) fn new(dir: &Path) -> Self {
        Self::of(dir, 3)
    }

    pub(crate) fn of(dir: &Path, count: usize) -> Self {
        let builder = |n: usize| {
            let peer = format!("127.0.0.1:{}", free_port());
            NodeBuilder::new(&dir.join(format!("n{n}"))).arg("--peer-listen").arg(peer)
        };
        Self((1..=count).map(builder).collect())
    }

    /// The first founds, the others join; returns once every shard is on three of them.
    pub(crate) async fn start(&mut self) -> Vec<Node> {
        let first = self.found();
        let others: Vec<Node> = self.0[1..].iter().map(NodeBuilder::start).collect();
        let nodes: Vec<Node> = std::iter::once(first).chain(others).collect();
        wait_for(&nodes[1], "every shard is on three nodes, in sync", |cluster| {
            cluster["members"].as_array().is_some_and(|members| members.len() == nodes.len())
                && all_shards(cluster).iter().all(|shard| in_sync(shard).len() >= 3)
        })
        .await;
        nodes
    }

    /// The first founds a cluster, which the others are to join.
    pub(crate) fn found(&mut self) -> Node {
        self.0[0] = self.0[0].clone().arg("--shards").arg(SHARDS.to_string());
        let first = self.0[0].start();
        let join = first.url.trim_start_matches("http://").to_owned();
        for builder in &mut self.0[1..] {
            *builder = builder.clone().arg("--join").arg(join.clone());
        }
        first
    }
}

pub(crate) fn all_shards(cluster: &Value) -> Vec<Value> {
    let mut shards = cluster["shards"].as_array().cloned().unwrap_or_default();
    shards.push(cluster["system_shard"].clone());
    shards
}

/// The nodes whose replicas vote and have all of the log, or almost.
pub(crate) fn in_sync(shard: &Value) -> Vec<String> {
    let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
    let names = replicas.iter().filter(|replica| replica["in_sync"] == true && replica["role"] == "voter");
    names.map(|replica| replica["node_id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until what `node` says of the cluster holds, all shards answering.
pub(crate) async fn wait_for(node: &Node, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, cluster) = node.get("/v1/cluster").await;
        let is_whole = status == 200
            && cluster.get("unreachable_shards").is_none()
            && cluster["shards"].as_array().is_some_and(|shards| shards.len() == SHARDS)
            && !cluster["system_shard"].is_null();
        if is_whole && condition(&cluster) {
            return cluster;
        }
        assert!(Instant::now() < deadline, "{what}: not in time: {cluster}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Submissions through all nodes, each tried again elsewhere until it is acknowledged.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// How many runs of each worker have been acknowledged.
    counts: Arc<[AtomicUsize]>,
    workers: Vec<tokio::task::JoinHandle<Acknowledged>>,
}

#[derive(Default)]
pub(crate) struct Acknowledged {
    pub(crate) ids: Vec<String>,
    /// The longest time between two acknowledgements of one worker.
    pub(crate) longest: Duration,
}

impl Load {
    pub(crate) fn start(name: &str, urls: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Arc<[AtomicUsize]> = (0..WORKERS).map(|_| AtomicUsize::new(0)).collect();
        let worker = |n: usize| {
            let (urls, stop, counts, name) = (urls.to_vec(), stop.clone(), counts.clone(), name.to_owned());
            tokio::spawn(async move { submit(&format!("{name}-{n}"), n, &urls, &stop, &counts[n]).await })
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self { stop, counts, workers }
    }

    /// Waits until each worker has had `more` runs acknowledged from now on, which go to any shard.
    pub(crate) async fn goes_on(&self, more: usize) {
        let now = || self.counts.iter().map(|count| count.load(Ordering::Acquire));
        let wanted: Vec<usize> = now().map(|count| count + more).collect();
        let deadline = Instant::now() + PATIENCE;
        while now().zip(&wanted).any(|(count, wanted)| count < *wanted) {
            let counts: Vec<usize> = now().collect();
            assert!(Instant::now() < deadline, "the load does not go on: {counts:?}, wanted {wanted:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn end(self) -> Acknowledged {
        self.stop.store(true, Ordering::Release);
        let mut all = Acknowledged::default();
        for worker in self.workers {
            let one = worker.await.unwrap();
            all.longest = all.longest.max(one.longest);
            all.ids.extend(one.ids);
        }
        all
    }
}

async fn submit(
    name: &str,
    first: usize,
    urls: &[String],
    stop: &AtomicBool,
    count: &AtomicUsize,
) -> Acknowledged {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let steps: Vec<Value> = (0..4)
        .map(|n| {
            let before: Vec<String> = (n > 0).then(|| format!("s{}", n - 1)).into_iter().collect();
            json!({"id": format!("s{n}"), "action": "expr.eval", "params": {"expression": "1 + 1"}, "depends_on": before})
        })
        .collect();
    let mut acknowledged = Acknowledged::default();
    let mut last = Instant::now();
    for n in 0.. {
        let id = format!("{name}-{n}");
        let body = json!({"id": id, "definition": {"steps": steps}});
        for attempt in 0.. {
            if stop.load(Ordering::Acquire) {
                return acknowledged;
            }
            assert!(last.elapsed() < PATIENCE, "nothing is acknowledged any more");
            let url = &urls[(first + n + attempt) % urls.len()];
            let sent = client.post(format!("{url}/v1/workflows")).json(&body).send().await;
            match sent {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    assert!(matches!(status, 429 | 503), "{status}: {}", answer.text().await.unwrap());
                }
                // A node that is gone refuses or breaks the connection: the next one is asked.
                Err(_) => {}
            }
        }
        acknowledged.longest = acknowledged.longest.max(last.elapsed());
        last = Instant::now();
        acknowledged.ids.push(id);
        count.fetch_add(1, Ordering::Release);
    }
    unreachable!("it goes on until it is told to stop")
}

/// Every run is there, completed, each step with one outcome.
pub(crate) async fn all_complete(nodes: &[&Node], ids: &[String]) {
    for some in ids.chunks(64) {
        let runs = some.iter().enumerate().map(|(n, id)| nodes[n % nodes.len()].end(id));
        for run in futures::future::join_all(runs).await {
            assert_eq!(run["status"], "completed", "{run}");
        }
    }
    for (n, id) in ids.iter().enumerate().step_by(20) {
        let events = nodes[(n + 1) % nodes.len()].events(id).await;
        let ended = events.iter().filter(|event| event["type"] == "step_completed");
        let steps: Vec<&str> = ended.map(|event| event["step_id"].as_str().unwrap()).collect();
        assert_eq!(steps.iter().collect::<BTreeSet<_>>().len(), steps.len(), "an outcome twice: {steps:?}");
        assert_eq!(steps.len(), 4);
    }
}

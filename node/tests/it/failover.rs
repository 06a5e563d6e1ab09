//! Three real nodes: they find each other, any of them takes any request, and one may die.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};

const SHARDS: usize = 4;

/// A port that nobody listens on now, for a node that is to come back to it: below those that the
/// system gives to connections, so that none of them takes it.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How the nodes of a cluster are started, again and again.
struct Builders(Vec<NodeBuilder>);

impl Builders {
    fn new(dir: &Path) -> Self {
        let builder = |n: usize| {
            let peer = format!("127.0.0.1:{}", free_port());
            NodeBuilder::new(&dir.join(format!("n{n}"))).arg("--peer-listen").arg(peer)
        };
        Self((1..=3).map(builder).collect())
    }

    /// The first founds, the others join; returns once every shard is on all of them.
    async fn start(&mut self) -> Vec<Node> {
        self.0[0] = self.0[0].clone().arg("--shards").arg(SHARDS.to_string());
        let first = self.0[0].start();
        let join = first.url.trim_start_matches("http://").to_owned();
        for builder in &mut self.0[1..] {
            *builder = builder.clone().arg("--join").arg(join.clone());
        }
        let others: Vec<Node> = self.0[1..].iter().map(NodeBuilder::start).collect();
        let nodes: Vec<Node> = std::iter::once(first).chain(others).collect();
        wait_for(&nodes[1], "every shard is on three nodes, in sync", |cluster| {
            all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
        })
        .await;
        nodes
    }
}

fn all_shards(cluster: &Value) -> Vec<Value> {
    let mut shards = cluster["shards"].as_array().cloned().unwrap_or_default();
    shards.push(cluster["system_shard"].clone());
    shards
}

fn in_sync(shard: &Value) -> Vec<String> {
    let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
    let names = replicas.iter().filter(|replica| replica["in_sync"] == true);
    names.map(|replica| replica["node_id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until what `node` says of the cluster holds, all shards answering.
async fn wait_for(node: &Node, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
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
struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<Acknowledged>>,
}

#[derive(Default)]
struct Acknowledged {
    ids: Vec<String>,
    /// The longest time between two acknowledgements of one worker.
    longest: Duration,
}

impl Load {
    fn start(name: &str, urls: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |n: usize| {
            let (urls, stop, name) = (urls.to_vec(), stop.clone(), name.to_owned());
            tokio::spawn(async move { submit(&format!("{name}-{n}"), n, &urls, &stop).await })
        };
        Self { stop: stop.clone(), workers: (0..6).map(worker).collect() }
    }

    async fn end(self) -> Acknowledged {
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

async fn submit(name: &str, first: usize, urls: &[String], stop: &AtomicBool) -> Acknowledged {
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
    }
    unreachable!("it goes on until it is told to stop")
}

/// Every run is there, completed, each step with one outcome.
async fn all_complete(nodes: &[&Node], ids: &[String]) {
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

fn leads_most(cluster: &Value) -> usize {
    let leads = |node: usize| {
        let node = node.to_string();
        all_shards(cluster).iter().filter(|shard| shard["primary"] == node.as_str()).count()
    };
    (1..=3).max_by_key(|node| leads(*node)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_busiest_leader_dies_under_load_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let spread = wait_for(&nodes[0], "every node leads a shard", |cluster| {
        all_shards(cluster).iter().map(|s| s["primary"].to_string()).collect::<BTreeSet<_>>().len() == 3
    })
    .await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("kill", &urls);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let victim = leads_most(&spread) - 1;
    nodes.remove(victim).kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let acknowledged = load.end().await;
    eprintln!("{} runs acknowledged, the longest pause {:?}", acknowledged.ids.len(), acknowledged.longest);
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;

    let back = builders.0[victim].start();
    wait_for(&back, "the node has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    all_complete(&[&back], &acknowledged.ids[..acknowledged.ids.len().min(50)]).await;
    nodes.push(back);
    for node in nodes {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_is_gone_is_said_and_all_come_back_with_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("all", &urls);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let acknowledged = load.end().await;
    assert!(acknowledged.ids.len() > 20, "{} runs", acknowledged.ids.len());
    nodes.remove(2).kill();
    nodes.remove(1).kill();
    // Alone of three, a node acknowledges nothing.
    let body = json!({"id": "nobody", "definition": {"steps": [{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]}});
    let (status, answer) = nodes[0].post("/v1/workflows", &body).await;
    assert_eq!(status, 503, "{answer}");
    assert!(answer["applied"].is_string(), "{answer}");
    nodes.remove(0).kill();

    let nodes: Vec<Node> = builders.0.iter().map(NodeBuilder::start).collect();
    wait_for(&nodes[0], "every shard is led again", |cluster| {
        all_shards(cluster).iter().all(|shard| shard["primary"].is_string())
    })
    .await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_gives_everything_away_under_load_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let urls: Vec<String> = nodes[1..].iter().map(|node| node.url.clone()).collect();
    let load = Load::start("drain", &urls);
    let remove = || nodes[1].request(reqwest::Method::DELETE, "/v1/cluster/nodes/1").send();
    assert_eq!(remove().await.unwrap().status().as_u16(), 409, "a node that holds shards stays");
    let (status, answer) = nodes[1].post("/v1/cluster/nodes/1/drain", &json!({})).await;
    assert_eq!(status, 202, "{answer}");
    wait_for(&nodes[1], "node 1 holds nothing", |cluster| {
        all_shards(cluster).iter().all(|shard| {
            shard["replicas"].as_array().is_some_and(|r| r.iter().all(|replica| replica["node_id"] != "1"))
        })
    })
    .await;
    // The map may not say yet that it holds nothing.
    let deadline = Instant::now() + PATIENCE;
    while remove().await.unwrap().status().as_u16() != 200 {
        assert!(Instant::now() < deadline, "a node that holds nothing leaves");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let acknowledged = load.end().await;
    assert!(acknowledged.ids.len() > 20, "{} runs", acknowledged.ids.len());
    assert!(nodes.remove(0).stop().success());
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
}

//! Three real nodes: they find each other, any of them takes any request, and one may die.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE};
use crate::many::{Builders, Load, all_complete, all_shards, in_sync, wait_for};
use crate::observability::metrics;

pub(crate) fn leads_most(cluster: &Value) -> usize {
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
    load.goes_on(10).await;
    let victim = leads_most(&spread) - 1;
    nodes.remove(victim).kill();
    // Each worker's runs go to all shards, so every shard takes them again.
    load.goes_on(40).await;
    let acknowledged = load.end().await;
    eprintln!("{} runs acknowledged, the longest pause {:?}", acknowledged.ids.len(), acknowledged.longest);
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
    let told = metrics(&nodes[0]).await;
    let told_of = |name: &str| told.lines().find(|line| line.starts_with(name) && !line.ends_with(" 0"));
    assert!(told_of("opcode_leader_changes_total{").is_some(), "no metric tells of the failover");
    assert!(told.contains("opcode_replica_lag_seconds{"), "no metric tells how far followers are");

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
    load.goes_on(10).await;
    let acknowledged = load.end().await;
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
async fn a_node_that_has_lost_its_majority_stops_in_order_with_writes_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("stop", &urls);
    load.goes_on(10).await;
    nodes.remove(2).kill();
    nodes.remove(1).kill();
    // What it leads has writes under way now that nobody will ever commit.
    assert!(nodes.remove(0).stop().success(), "it waited for a majority that is gone");
    let acknowledged = load.end().await;
    let nodes: Vec<Node> = builders.0.iter().map(NodeBuilder::start).collect();
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_gives_everything_away_under_load_and_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let urls: Vec<String> = nodes[1..].iter().map(|node| node.url.clone()).collect();
    let load = Load::start("drain", &urls);
    let remove_by =
        |asked: usize| nodes[asked].request(reqwest::Method::DELETE, "/v1/cluster/nodes/1").send();
    let remove = || remove_by(1);
    for asked in [0, 1] {
        let answered = remove_by(asked).await.unwrap().status().as_u16();
        assert_eq!(answered, 409, "a node that holds shards stays, whoever is asked: node {}", asked + 1);
    }
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
    assert!(nodes.remove(0).stop().success());
    all_complete(&nodes.iter().collect::<Vec<_>>(), &acknowledged.ids).await;
}

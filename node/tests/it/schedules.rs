//! Schedules on real nodes: each slot has one run, whatever dies in between.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE, assert_tables_equal_fold};
use crate::many::{Builders, all_shards, in_sync, wait_for};

/// Kills of one node.
const KILLS: usize = 3;

/// Makes a schedule that fires each second.
async fn make(node: &Node, id: &str) {
    let template = json!({"name": "tick", "definition": {"steps": [
        {"id": "a", "action": "workflow.log", "params": {"message": "${{context.slot}}"}}]}});
    assert_eq!(node.post("/v1/templates", &template).await.0, 201);
    let schedule =
        json!({"id": id, "template": "tick", "interval": "1s", "missed": "all", "overlap": "parallel"});
    let (status, answer) = node.post("/v1/schedules", &schedule).await;
    assert_eq!(status, 201, "{answer}");
}

/// The slots that have a run, by the runs' ids.
async fn slots(node: &Node, id: &str) -> Option<Vec<DateTime<Utc>>> {
    let mut slots = Vec::new();
    let mut path = format!("/v1/workflows?label=schedule:{id}&limit=1000");
    loop {
        let (status, page) = node.get(&path).await;
        // Some shard has no leader for a moment.
        if status != 200 || page.get("unreachable_shards").is_some() {
            return None;
        }
        for run in page["items"].as_array().expect("items") {
            let run = run["workflow_id"].as_str().expect("an id");
            let time = run.strip_prefix(&format!("{id}:")).expect("a slot's run");
            slots.push(DateTime::parse_from_rfc3339(time).expect("RFC 3339").to_utc());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/workflows?label=schedule:{id}&limit=1000&cursor={cursor}");
    }
    slots.sort_unstable();
    Some(slots)
}

/// Waits until so many more slots than `before` have a run.
async fn goes_on(node: &Node, id: &str, before: usize, more: usize) -> Vec<DateTime<Utc>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = slots(node, id).await.unwrap_or_default();
        if seen.len() >= before + more {
            return seen;
        }
        assert!(Instant::now() < deadline, "no more slots after {before}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every second from the first slot to the last has one run, which has one start and has completed.
async fn assert_each_once(node: &Node, id: &str, slots: &[DateTime<Utc>]) {
    let distinct: BTreeSet<_> = slots.iter().collect();
    assert_eq!(distinct.len(), slots.len(), "a slot with two runs: {slots:?}");
    for pair in slots.windows(2) {
        assert_eq!(pair[1] - pair[0], chrono::Duration::seconds(1), "slots without a run in {slots:?}");
    }
    for slot in slots {
        let run = format!("{id}:{}", slot.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        assert_eq!(node.end(&run).await["status"], "completed", "{run}");
        let events = node.events(&run).await;
        let starts = events.iter().filter(|event| event["type"] == "workflow_started").count();
        assert_eq!(starts, 1, "{run}: {events:?}");
    }
}

async fn pause(node: &Node, id: &str) -> Value {
    let request = node.request(reqwest::Method::PATCH, &format!("/v1/schedules/{id}"));
    let answer = request.json(&json!({"paused": true})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_slot_has_one_run_when_the_node_is_killed_again_and_again() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let mut node = builder.start();
    make(&node, "s").await;
    let mut count = 0;
    for _ in 0..KILLS {
        count = goes_on(&node, "s", count, 2).await.len();
        node.kill();
        node = builder.start();
    }
    goes_on(&node, "s", count, 2).await;
    let paused = pause(&node, "s").await;
    assert_eq!((&paused["paused"], &paused["next_slot"]), (&json!(true), &Value::Null), "{paused}");
    let all = slots(&node, "s").await.expect("every shard answers");
    assert_each_once(&node, "s", &all).await;
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_slot_has_one_run_when_the_leader_of_the_system_shard_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    make(&nodes[0], "s").await;
    let before = goes_on(&nodes[0], "s", 0, 3).await.len();
    let (_, cluster) = nodes[0].get("/v1/cluster").await;
    let leader = cluster["system_shard"]["primary"].as_str().expect("it is led").to_owned();
    let victim = leader.parse::<usize>().unwrap() - 1;
    nodes.remove(victim).kill();
    goes_on(&nodes[0], "s", before, 6).await;
    let back = builders.0[victim].start();
    wait_for(&back, "the node has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    // Any node takes the request.
    pause(&back, "s").await;
    let all = goes_on(&back, "s", before, 6).await;
    assert_each_once(&back, "s", &all).await;
    nodes.push(back);
    for node in nodes {
        assert!(node.stop().success());
    }
}

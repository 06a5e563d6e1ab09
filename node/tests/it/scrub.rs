//! Damage in tables that nobody reads: found when a node reads all it stores, and mended, or told.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, PATIENCE, assert_tables_equal_fold, opcode};
use crate::many::{Builders, all_shards, in_sync, wait_for};

/// The folder of the second node, whose tables are damaged.
const DAMAGED: &str = "n2";

/// Writes past the node, which does not run.
async fn execute(data_dir: &Path, shard: u64, sql: &str) {
    let path = data_dir.join(format!("shards/{shard}/tables.db"));
    let database = libsql::Builder::new_local(path).build().await.unwrap();
    let changed = database.connect().unwrap().execute(sql, ()).await.unwrap();
    assert!(changed > 0, "{sql}");
}

/// `opcode cluster scrub` of one node, as an operator has it: whether it is well, what was found in each
/// of its shards, and what was said of it.
fn scrub(server: &Node, node: &str) -> (bool, Vec<Value>, String) {
    let output = opcode()
        .args(["cluster", "scrub", "--node", node, "-o", "json", "--server", &server.url])
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let Some(shards) = found["items"].as_array() else { panic!("no answer: {said}") };
    (output.status.success(), shards.clone(), said)
}

fn sum(shards: &[Value], name: &str) -> u64 {
    shards.iter().map(|shard| shard[name].as_u64().expect("a number")).sum()
}

/// Waits until the node's own tables have a run's end.
async fn has_in_tables(node: &Node, id: &str) {
    let begun = Instant::now();
    loop {
        let (status, run) = node.get(&format!("/v1/workflows/{id}?consistency=eventual")).await;
        if status == 200 && run["status"] == "completed" {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}: {run}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a node is back: with all that the others have, and where they know it to be.
async fn is_back(node: &Node) {
    let addr = node.url.trim_start_matches("http://");
    wait_for(node, "the node has caught up", |cluster| {
        let members = cluster["members"].as_array().map_or(&[][..], Vec::as_slice);
        members.iter().any(|member| member["addr"] == addr)
            && all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_mended_and_a_replica_with_damaged_events_stops_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    let definition = json!({"steps": [{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]});
    let body = json!({"id": "run", "labels": {"team": "tea"}, "definition": definition});
    let (status, run) = nodes[0].post("/v1/workflows?wait=10s", &body).await;
    assert_eq!((status, &run["status"]), (201, &json!("completed")), "{run}");
    let shard = run["shard"].as_u64().unwrap();
    let data_dir = dir.path().join(DAMAGED);
    let name = {
        let (_, cluster) = nodes[0].get("/v1/cluster").await;
        let addr = nodes[1].url.trim_start_matches("http://").to_owned();
        let members = cluster["members"].as_array().unwrap().clone();
        let own = members.iter().find(|member| member["addr"] == addr.as_str()).unwrap();
        own["node_id"].as_str().unwrap().to_owned()
    };

    has_in_tables(&nodes[1], "run").await;
    assert!(nodes.remove(1).stop().success());
    execute(&data_dir, shard, "UPDATE step_rows SET status = 'failed'").await;
    execute(&data_dir, shard, "UPDATE labels SET value = 'sea'").await;
    nodes.insert(1, builders.0[1].start());
    is_back(&nodes[1]).await;
    let (is_well, found, said) = scrub(&nodes[0], &name);
    assert!(is_well, "{said}");
    assert_eq!((found.len(), sum(&found, "mended"), sum(&found, "damage_count")), (5, 2, 0), "{found:?}");
    assert!(nodes.remove(1).stop().success());
    assert_tables_equal_fold(&data_dir);

    execute(&data_dir, shard, "UPDATE event_rows SET timestamp = timestamp + 1 WHERE sequence = 1").await;
    let mut damaged = builders.0[1].start();
    is_back(&damaged).await;
    let (is_well, found, said) = scrub(&nodes[0], &name);
    assert!(!is_well && said.contains("damage that cannot be mended"), "{said}");
    assert_eq!(sum(&found, "damage_count"), 1, "{found:?}");
    let begun = Instant::now();
    while damaged.ended().is_none() {
        assert!(begun.elapsed() < PATIENCE, "a node with damage that it cannot mend runs on: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!damaged.ended().unwrap().success());
    // The others have it all, and go on.
    wait_for(&nodes[0], "every shard is led by one of them", |cluster| {
        let is_led = |shard: &Value| shard["primary"].as_str().is_some_and(|leader| leader != name);
        all_shards(cluster).iter().all(is_led)
    })
    .await;
    for node in &nodes {
        let (status, run) = node.get("/v1/workflows/run").await;
        assert_eq!((status, &run["status"]), (200, &json!("completed")), "{run}");
    }
    let id = nodes[0].submit(&json!({"definition": definition})).await;
    assert_eq!(nodes[0].end(&id).await["status"], "completed");
}

//! What operators do to runs outlives what happens to nodes, and any node takes it.

use std::time::Duration;

use opcode_engine::INTERRUPTIONS_MAX;
use serde_json::{Value, json};

use crate::cli::run;
use crate::cluster::{Node, NodeBuilder, PATIENCE, assert_tables_equal_fold};
use crate::failover::leads_most;
use crate::many::{Builders, all_shards, in_sync, wait_for};

/// Runs over all shards.
const RUNS: usize = 24;

/// Waits so long, and then goes on.
fn waits(duration: &str) -> Value {
    json!({"steps": [
        {"id": "pause", "type": "wait", "config": {"duration": duration}},
        {"id": "after", "action": "workflow.log", "depends_on": ["pause"], "params": {"message": "m"}},
    ]})
}

/// Fails unless its param is what this version wants.
fn wants(x: u32) -> Value {
    json!({"name": "wants", "definition": {"steps": [
        {"id": "first", "action": "crypto.uuid"},
        {"id": "check", "action": "assert.equals", "depends_on": ["first"],
         "params": {"actual": "${{inputs.x}}", "expected": x}},
    ]}})
}

async fn post(node: &Node, path: &str, body: Value, status: u16) -> Value {
    let (answered, answer) = node.post(path, &body).await;
    assert_eq!(answered, status, "{path}: {answer}");
    answer
}

async fn delete(node: &Node, id: &str) -> u16 {
    let path = format!("/v1/workflows/{id}");
    node.request(reqwest::Method::DELETE, &path).send().await.expect("the node answers").status().as_u16()
}

/// Whether the step after the wait has begun.
fn has_gone_on(run: &Value) -> bool {
    run["steps"]["after"].get("started_at").is_some_and(|at| !at.is_null())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_to_runs_outlives_kills_of_the_node() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    let node = builder.start();
    node.submit(&json!({"id": "held", "definition": waits("300ms")})).await;
    post(&node, "/v1/workflows/held/suspend", json!({"reason": "r"}), 202).await;
    post(&node, "/v1/templates", wants(1), 201).await;
    node.submit(&json!({"id": "again", "template": "wants", "params": {"x": 2}})).await;
    let failed = node.end("again").await;
    post(&node, "/v1/templates", wants(2), 201).await;
    post(&node, "/v1/workflows/again/retry", json!({"from_step": "check", "version": "v2"}), 202).await;
    node.submit(&json!({"id": "gone", "template": "wants", "params": {"x": 2}})).await;
    node.end("gone").await;
    assert_eq!(delete(&node, "gone").await, 202);
    node.kill();

    let node = builder.start();
    assert_eq!(node.get("/v1/workflows/gone").await.0, 404);
    assert_eq!(delete(&node, "gone").await, 404);
    let again = node.end("again").await;
    assert_eq!((&again["status"], &again["version"]), (&json!("completed"), &json!("v2")), "{again}");
    assert_eq!(again["steps"]["first"]["output"], failed["steps"]["first"]["output"], "it was done once");
    let held = node.settle("held").await;
    assert_eq!(held["status"], "suspended", "{held}");
    assert!(!has_gone_on(&held), "{held}");
    post(&node, "/v1/workflows/held/resume", json!({}), 202).await;
    node.kill();

    let node = builder.start();
    assert_eq!(node.end("held").await["status"], "completed");
    // Numbers of runs that are gone are not given again.
    node.submit(&json!({"id": "gone", "template": "wants", "params": {"x": 2}})).await;
    assert_eq!(node.end("gone").await["status"], "completed");
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_steered_by_any_node_while_the_busiest_leader_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let mut nodes = builders.start().await;
    for n in 0..RUNS {
        let body = json!({"id": format!("w-{n}"), "definition": waits("8s"), "labels": {"team": "red"}});
        nodes[n % 3].submit(&body).await;
    }
    let bulk = async |node: &Node, action: &str, wanted: usize| {
        let body = json!({"action": action, "filter": {"labels": {"team": "red"}}});
        // A shard may have no leader for a moment: then it is named, and the same again does the rest.
        let (mut applied, deadline) = (0, std::time::Instant::now() + PATIENCE);
        loop {
            let (status, answer) = node.post("/v1/workflows/bulk", &body).await;
            assert!(status == 200 || status == 503, "{answer}");
            applied += answer["applied"].as_u64().unwrap_or(0) + answer["unknown"].as_u64().unwrap_or(0);
            if status == 200 && answer.get("unreachable_shards").is_none() {
                assert_eq!(usize::try_from(applied), Ok(wanted), "{action}: {answer}");
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{action}: {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    bulk(&nodes[0], "suspend", RUNS).await;
    let (_, cluster) = nodes[0].get("/v1/cluster").await;
    let victim = leads_most(&cluster) - 1;
    nodes.remove(victim).kill();
    for n in 0..RUNS {
        let run = nodes[n % 2].settle(&format!("w-{n}")).await;
        assert!(run["status"] == "suspended" && !has_gone_on(&run), "{run}");
    }
    bulk(&nodes[1], "resume", RUNS).await;
    for n in 0..RUNS {
        assert_eq!(nodes[n % 2].end(&format!("w-{n}")).await["status"], "completed");
    }
    bulk(&nodes[0], "delete", RUNS).await;
    let back = builders.0[victim].start();
    wait_for(&back, "the node has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    nodes.push(back);
    for node in &nodes {
        for n in 0..RUNS {
            assert_eq!(node.get(&format!("/v1/workflows/w-{n}")).await.0, 404);
        }
        assert_eq!(node.get("/v1/workflows").await.1["items"], json!([]));
    }
    nodes.into_iter().for_each(|node| assert!(node.stop().success()));
    for n in 0..3 {
        assert_tables_equal_fold(&dir.path().join(format!("n{}", n + 1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_steers_many_and_runs_again() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let asked = |args: &[&str]| run(&node.url, args, "");
    let json_of = |args: &[&str]| -> Value {
        let output = asked(&[args, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    for version in [1, 2] {
        post(&node, "/v1/templates", wants(version), 201).await;
    }
    for n in 0..5 {
        let body = json!({"id": format!("w-{n}"), "template": "wants", "version": "v1", "params": {"x": 2},
            "labels": {"n": n.to_string()}, "context": {"intent": "to see"}});
        node.submit(&body).await;
        assert_eq!(node.end(&format!("w-{n}")).await["status"], "failed");
    }
    let cases: &[(&[&str], i32)] = &[
        (&["wf", "bulk", "retry"], 2),
        (&["wf", "bulk", "explode", "--all"], 2),
        (&["wf", "bulk", "retry", "--status", "dead"], 1),
        (&["wf", "rerun", "w-0", "--new-id", "r-0", "--version", "v2"], 0),
        (&["wf", "rerun", "w-0", "--new-id", "r-1", "--wait"], 3),
        (&["wf", "rerun", "w-0", "--new-id", "r-2", "--version", "v9"], 4),
        (&["wf", "delete", "w-4"], 0),
        (&["wf", "delete", "w-4"], 4),
    ];
    for (args, code) in cases {
        let output = asked(args);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {output:?}");
    }
    let newer = node.end("r-0").await;
    assert_eq!((&newer["status"], &newer["version"]), (&json!("completed"), &json!("v2")));
    assert_eq!((&newer["labels"], &newer["context"]["intent"]), (&json!({"n": "0"}), &json!("to see")));
    assert_eq!((&node.end("r-1").await["template"], &newer["template"]), (&json!("wants"), &json!("wants")));
    let dry = json_of(&["wf", "bulk", "retry", "--template", "wants", "--dry-run"]);
    assert_eq!(dry, json!({"matched": 5, "applied": 0, "refused": 0}));
    let done = json_of(&["wf", "bulk", "retry", "--template", "wants", "--label", "n=1"]);
    assert_eq!(done, json!({"matched": 1, "applied": 1, "refused": 0}));
    node.end("w-1").await;
    let done = json_of(&["wf", "bulk", "delete", "--all"]);
    assert_eq!(done, json!({"matched": 6, "applied": 6, "refused": 0}));
    assert_eq!(node.get("/v1/workflows").await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_its_node_never_survives_is_left_to_an_operator() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let builder = NodeBuilder::new(&data);
    // Takes calls and answers none.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let mut node = builder.start();
    let step = json!({"id": "poison", "action": "http.post", "params": {"url": url, "timeout": "1h"}});
    node.submit(&json!({"id": "p", "definition": {"steps": [step]}})).await;
    for _ in 0..INTERRUPTIONS_MAX {
        assert_eq!(node.get("/v1/workflows/p").await.1["status"], "active");
        node.kill();
        node = builder.start();
    }
    let run = node.settle("p").await;
    assert_eq!(run["status"], "suspended", "{run}");
    let (_, why) = node.get("/v1/workflows/p/why").await;
    let detail = why["waiting_for"][0]["detail"].as_str().expect("a detail");
    assert!(detail.contains("dead letter"), "{why}");
    let events = node.events("p").await;
    let letters: Vec<&Value> = events.iter().filter(|event| event["data"]["dead_letter"] == true).collect();
    assert_eq!(letters.len(), 1, "{events:?}");
    post(&node, "/v1/workflows/p/resume", json!({"reason": "it is well now"}), 202).await;
    assert_eq!(node.get("/v1/workflows/p").await.1["status"], "active");
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

//! Agents on the real binary: known on every node and after a start, and shown by the command line.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, PATIENCE, assert_tables_equal_fold, opcode};
use crate::many::Builders;

async fn agent(node: &Node, id: &str) -> Option<Value> {
    let (_, list) = node.get("/v1/agents").await;
    list["items"].as_array()?.iter().find(|agent| agent["agent_id"] == id).cloned()
}

/// What `node` knows of an agent, once it does.
async fn known(node: &Node, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(agent) = agent(node, id).await {
            return agent;
        }
        assert!(Instant::now() < deadline, "nobody knows {id}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_known_on_every_node_and_after_a_start() {
    let home = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(home.path());
    let nodes = builders.start().await;
    let (node, other) = (&nodes[0], &nodes[2]);
    let asks = json!({"id": "r", "agent_id": "starter", "definition": {"steps": [{"id": "ask",
        "type": "reasoning", "config": {"prompt_context": "?", "options": [{"id": "yes"}],
        "target_agent": "boss"}}]}});
    node.submit(&asks).await;
    assert!(agent(node, "starter").await.is_some(), "at once, where it was in contact");
    let there = known(other, "starter").await;
    let decides = |by: &str| json!({"type": "decision", "payload": {"choice": "yes"}, "step_id": "ask", "agent_id": by});
    node.settle("r").await;
    let (status, refused) = other.post("/v1/workflows/r/signals", &decides("starter")).await;
    assert_eq!((status, &refused["code"]), (403, &json!("PERMISSION_DENIED")));
    let (status, answer) = other.post("/v1/workflows/r/signals", &decides("boss")).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(node.end("r").await["steps"]["ask"]["output"]["resolved_by"], "boss");
    known(node, "boss").await;
    nodes.into_iter().for_each(Node::kill);
    let starting = builders.0.into_iter().map(|builder| std::thread::spawn(move || builder.start()));
    let starting: Vec<_> = starting.collect();
    let nodes: Vec<Node> = starting.into_iter().map(|node| node.join().unwrap()).collect();
    let (node, other) = (&nodes[0], &nodes[2]);
    assert_eq!(known(node, "starter").await["first_seen"], there["first_seen"]);
    known(other, "boss").await;
    let listed =
        opcode().args(["--server", &other.url, "agent", "list"]).stderr(Stdio::inherit()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert!(
        words.contains(&"starter") && words.contains(&"boss") && listed.contains("LAST SEEN"),
        "{listed}"
    );
    assert!(nodes.into_iter().all(|node| node.stop().success()));
    assert_tables_equal_fold(&home.path().join("n1"));
}

//! `workflow.run` over the shards of a node: each child once, wherever its id belongs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_router::placement::shard_of;
use serde_json::{Value, json};

use crate::node::{Node, SHARDS};

/// Longest wait for anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

fn shard(id: &str) -> ShardId {
    shard_of(&WorkflowId::parse(id).expect("a valid id"), SHARDS)
}

async fn define(node: &Node, name: &str, steps: Value) {
    let file = json!({"name": name, "definition": {"steps": steps},
        "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}});
    assert_eq!(node.post("/v1/templates", &file).await.status, 201);
}

/// The definition of a parent whose step `c` runs a child.
fn parent_of(params: Value) -> Value {
    json!({"steps": [{"id": "c", "action": "workflow.run", "params": params}]})
}

async fn run_as(node: &Node, id: &str, definition: &Value) -> Value {
    let body = json!({"id": id, "definition": definition, "params": {"n": 7}, "agent_id": "a1"});
    let answer = node.post("/v1/workflows?wait=20s", &body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    node.get(&format!("/v1/workflows/{id}")).await.json()
}

/// Waits until a run is there and what it shows holds.
async fn until(node: &Node, id: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = node.get(&format!("/v1/workflows/{id}")).await;
        let run = answer.json();
        if answer.status == 200 && condition(&run) {
            return run;
        }
        assert!(Instant::now() < deadline, "{id}: not in time: {run}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ids_of(node: &Node, template: &str) -> BTreeSet<String> {
    let page = node.get(&format!("/v1/workflows?template={template}&limit=1000")).await.json();
    assert_eq!(page["next_cursor"], Value::Null);
    let items = page["items"].as_array().expect("items");
    let ids: BTreeSet<String> =
        items.iter().map(|run| run["workflow_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), items.len(), "an id twice: {page}");
    ids
}

#[tokio::test]
async fn a_parent_takes_the_output_of_its_child_on_any_shard() {
    let node = Node::start().await;
    let twice = json!([{"id": "twice", "action": "expr.eval", "params": {
        "expression": "data.n * 2", "data": "${{inputs}}"}}]);
    define(&node, "twice", twice).await;
    let definition = parent_of(json!({"template_name": "twice", "params": {"n": "${{inputs.n}}"},
        "labels": {"of": "c"}, "context": {"x": 1}}));
    let mut ways = BTreeSet::new();
    let mut children = BTreeSet::new();
    for n in 0..24 {
        let id = format!("p-{n}");
        let run = run_as(&node, &id, &definition).await;
        assert_eq!(run["output"]["c"]["twice"]["result"], 14, "{run}");
        let child = run["steps"]["c"]["child"].as_str().expect("a child").to_owned();
        ways.insert((shard(&id), shard(&child)));
        let child = node.get(&format!("/v1/workflows/{child}")).await.json();
        assert_eq!(child["parent"], json!({"workflow_id": id, "step_id": "c", "attempt": 1}));
        assert_eq!((&child["template"], &child["version"]), (&json!("twice"), &json!("v1")));
        assert_eq!((&child["agent_id"], &child["labels"]), (&json!("a1"), &json!({"of": "c"})));
        children.insert(child["workflow_id"].as_str().expect("an id").to_owned());
    }
    assert!(ways.iter().any(|(from, to)| from == to) && ways.iter().any(|(from, to)| from != to), "{ways:?}");
    assert_eq!(ids_of(&node, "twice").await, children);
}

#[tokio::test]
async fn a_child_that_is_not_waited_for_outlives_the_step_and_a_cancellation() {
    let node = Node::start().await;
    define(&node, "slow", json!([{"id": "w", "type": "wait", "config": {"signal": "go"}}])).await;
    let mut definition = parent_of(json!({"template": "slow", "wait": false}));
    let hold = json!({"id": "hold", "type": "wait", "config": {"signal": "never"}, "depends_on": ["c"]});
    definition["steps"].as_array_mut().expect("steps").push(hold);
    let run = run_as(&node, "p", &definition).await;
    assert_eq!(run["steps"]["c"]["output"], json!({"workflow_id": "p:c:1"}), "{run}");
    assert_eq!(node.post("/v1/workflows/p/cancel", &json!({})).await.status, 202);
    until(&node, "p", |run| run["status"] == "cancelled").await;
    let go = json!({"type": "data", "step_id": "go", "payload": 1});
    assert_eq!(node.post("/v1/workflows/p:c:1/signals", &go).await.status, 202);
    until(&node, "p:c:1", |run| run["status"] == "completed").await;
}

#[tokio::test]
async fn a_cancellation_goes_down_to_the_last_descendant() {
    let node = Node::start().await;
    define(&node, "leaf", json!([{"id": "w", "type": "wait", "config": {"signal": "never"}}])).await;
    let middle = json!([{"id": "m", "action": "workflow.run", "params": {"template": "leaf"}}]);
    define(&node, "middle", middle).await;
    let body = json!({"id": "top", "definition": parent_of(json!({"template": "middle"}))});
    assert_eq!(node.post("/v1/workflows", &body).await.status, 201);
    until(&node, "top:c:1:m:1", |run| run["status"] == "suspended").await;
    let why = node.get("/v1/workflows/top/why").await.json();
    assert_eq!(
        (&why["waiting_for"][0]["kind"], &why["waiting_for"][0]["step_id"]),
        (&json!("child"), &json!("c"))
    );
    assert!(why["waiting_for"][0]["detail"].as_str().is_some_and(|text| text.contains("top:c:1")), "{why}");
    assert_eq!(node.post("/v1/workflows/top/cancel", &json!({"reason": "enough"})).await.status, 202);
    for id in ["top", "top:c:1", "top:c:1:m:1"] {
        until(&node, id, |run| run["status"] == "cancelled").await;
    }
}

#[tokio::test]
async fn a_child_that_fails_fails_its_step_with_the_same_code() {
    let node = Node::start().await;
    let fails = json!([{"id": "f", "action": "assert.equals", "params": {"actual": 1, "expected": 2}}]);
    define(&node, "fails", fails).await;
    let run = run_as(&node, "p", &parent_of(json!({"template": "fails"}))).await;
    assert_eq!(
        (&run["status"], &run["error"]["code"]),
        (&json!("failed"), &json!("ASSERTION_FAILED")),
        "{run}"
    );
    assert_eq!(run["error"]["details"]["workflow_id"], "p:c:1");

    let none = run_as(&node, "q", &parent_of(json!({"template": "no-such"}))).await;
    assert_eq!(none["error"]["code"], "NOT_FOUND", "{none}");
    let wrong = parent_of(json!({"template": "fails", "params": {"n": "seven"}}));
    let wrong = run_as(&node, "r", &wrong).await;
    assert_eq!(wrong["error"]["code"], "VALIDATION_ERROR", "{wrong}");
    let taken = json!({"id": "s:c:1", "definition": {"steps": [
        {"id": "w", "type": "wait", "config": {"signal": "never"}}]}});
    assert_eq!(node.post("/v1/workflows", &taken).await.status, 201);
    let taken = run_as(&node, "s", &parent_of(json!({"template": "fails"}))).await;
    assert_eq!(taken["error"]["code"], "CONFLICT", "{taken}");
    assert_eq!(ids_of(&node, "fails").await, BTreeSet::from(["p:c:1".to_owned()]));
}

#[tokio::test]
async fn children_nest_as_deep_as_they_may_and_no_deeper() {
    let node = Node::start().await;
    define(&node, "deep", json!([{"id": "d", "action": "workflow.run", "params": {"template": "deep"}}]))
        .await;
    let body = json!({"id": "top", "template": "deep"});
    let answer = node.post("/v1/workflows?wait=20s", &body).await.json();
    assert_eq!((&answer["status"], &answer["error"]["code"]), (&json!("failed"), &json!("NON_RETRYABLE")));
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("at most 32 deep"), "{message}");
    assert_eq!(ids_of(&node, "deep").await.len(), 33);
}

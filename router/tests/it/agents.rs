//! Agents: registered by the first call that is taken, and listed with when they were last there.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use opcode_engine::ids::Timestamp;
use serde_json::{Value, json};

use crate::mcp::{message, rpc, told};
use crate::node::{Node, request};

/// Longest wait for something that is to happen.
const PATIENCE: Duration = Duration::from_secs(30);

async fn listed(node: &Node) -> Vec<Value> {
    let answer = node.get("/v1/agents").await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert!(answer.header("opcode-token").starts_with("system:"), "{:?}", answer.headers);
    answer.json()["items"].as_array().expect("items").clone()
}

async fn ids(node: &Node) -> Vec<String> {
    let listed = listed(node).await;
    listed.iter().map(|agent| agent["agent_id"].as_str().expect("an id").to_owned()).collect()
}

fn time(agent: &Value, name: &str) -> i64 {
    Timestamp::parse_rfc3339(agent[name].as_str().expect("a time")).expect("RFC 3339").0
}

/// A run that asks whom it may ask.
fn asks(id: &str, agent_id: &str) -> Value {
    json!({"id": id, "agent_id": agent_id, "definition": {"steps": [{"id": "ask", "type": "reasoning",
        "config": {"prompt_context": "?", "options": [{"id": "yes"}], "target_agent": "boss"}}]}})
}

fn decides(agent_id: &str) -> Value {
    json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}, "agent_id": agent_id})
}

#[tokio::test]
async fn whoever_a_call_is_made_for_is_there_from_then_on() {
    let node = Node::start().await;
    assert!(ids(&node).await.is_empty());
    assert_eq!(node.post("/v1/workflows?wait=10s", &asks("r", "starter")).await.status, 201);
    assert_eq!(ids(&node).await, ["starter"]);
    let signals = "/v1/workflows/r/signals";
    // A decision is its target's: another is refused, and was in no contact that counts.
    let refused = node.post(signals, &decides("other")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("PERMISSION_DENIED")));
    assert_eq!(node.get("/v1/workflows/r").await.json()["status"], "suspended");
    assert_eq!(node.post(signals, &decides("boss")).await.status, 202);
    let run = node.get("/v1/workflows/r?wait=10s").await.json();
    assert_eq!(run["steps"]["ask"]["output"]["resolved_by"], "boss", "{run}");
    let batch = json!({"workflows": [asks("s", "in-batch"), {"agent_id": "refused"}]});
    assert_eq!(node.post("/v1/workflows/batch", &batch).await.status, 200);
    let cancel = json!({"filter": {}, "action": "cancel", "agent_id": "sweeper"});
    assert_eq!(node.post("/v1/workflows/bulk", &cancel).await.status, 200);
    let gone = node.post("/v1/workflows/none/cancel", &json!({"agent_id": "too-late"})).await;
    assert_eq!(gone.status, 404);
    assert_eq!(ids(&node).await, ["boss", "in-batch", "starter", "sweeper"]);
}

#[tokio::test]
async fn a_header_names_the_agent_of_any_call() {
    let node = Node::start().await;
    let get = |path: &'static str, agent: &'static str| {
        let mut request = request(Method::GET, path, Body::empty());
        request.headers_mut().insert("opcode-agent", agent.parse().expect("a header"));
        request.headers_mut().insert("user-agent", "watcher/2".parse().expect("a header"));
        node.send(request)
    };
    assert_eq!(get("/v1/decisions", "caf%C3%A9%20bot").await.status, 200);
    assert_eq!(get("/v1/workflows/none", "lost").await.status, 404);
    for wrong in ["", "%0a", "%ff", "%4"] {
        let refused = get("/v1/decisions", wrong).await;
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("VALIDATION_ERROR")), "{wrong}");
    }
    assert_eq!(get("/healthz", "nobody").await.status, 200);
    let listed = listed(&node).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["agent_id"], &listed[0]["client"]), (&json!("café bot"), &json!("watcher/2")));
}

#[tokio::test]
async fn last_seen_moves_with_each_contact_and_costs_no_write() {
    let node = Node::start().await;
    let contact =
        || async { assert_eq!(node.post("/v1/workflows", &asks("r", "bot")).await.status / 100, 2) };
    let position = || async { node.get("/v1/agents").await.header("opcode-token").to_owned() };
    let before = position().await;
    contact().await;
    // It is written by itself: who asks another node finds it there.
    let deadline = Instant::now() + PATIENCE;
    while position().await == before {
        assert!(Instant::now() < deadline, "it is never written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let written = position().await;
    let first = listed(&node).await.remove(0);
    assert_eq!(first["first_seen"], first["last_seen"]);
    for _ in 0..20 {
        contact().await;
    }
    let last = listed(&node).await.remove(0);
    assert_eq!(last["first_seen"], first["first_seen"]);
    assert!(time(&last, "last_seen") > time(&first, "last_seen"), "{last}");
    assert_eq!(position().await, written, "a contact was written");
}

#[tokio::test]
async fn agents_are_listed_by_pages() {
    let node = Node::start().await;
    for n in 0..7 {
        assert_eq!(node.post("/v1/workflows", &asks(&format!("r{n}"), &format!("a{n}"))).await.status, 201);
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = node.get(&format!("/v1/agents?limit=3{cursor}")).await.json();
        let items = page["items"].as_array().expect("items");
        found.extend(items.iter().map(|agent| agent["agent_id"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert_eq!(items.len(), 3);
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, (0..7).map(|n| format!("a{n}")).collect::<Vec<_>>());
    assert_eq!(node.get("/v1/agents?limit=0").await.status, 400);
    assert_eq!(node.get("/v1/agents?cursor=x").await.status, 400);
}

#[tokio::test]
async fn a_token_of_an_agent_speaks_for_no_other_through_mcp() {
    let node = Node::start().await;
    let made =
        node.post("/v1/tokens", &json!({"scopes": ["read", "run", "define"], "agent_id": "bot"})).await;
    let bearer = format!("Bearer {}", made.json()["token"].as_str().expect("a token"));
    let ask = async |call: &Value| {
        let params = json!({"protocolVersion": "2026-07-28", "name": "opcode.define", "arguments": call,
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {}}});
        let mut request = message(rpc(1, "tools/call", &params));
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "opcode.define"),
        ] {
            request.headers_mut().insert(name, value.parse().expect("a header"));
        }
        told(&node.send(request).await.body)["result"].clone()
    };
    let definition = asks("r", "")["definition"].clone();
    let defines = |by: &str| json!({"name": "asks", "definition": definition.clone(), "agent_id": by});
    let refused = ask(&defines("boss")).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused["content"][0]["text"].as_str().expect("text").contains("PERMISSION_DENIED"), "{refused}");
    assert_eq!(ids(&node).await, ["bot"], "whoever's token it is has called, and nobody else");
    let taken = ask(&defines("bot")).await;
    assert_eq!(taken["isError"], false, "{taken}");
    assert_eq!(ids(&node).await, ["bot"]);
}

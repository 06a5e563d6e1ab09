//! Events as lists and live.

use axum::body::{Body, BodyDataStream};
use axum::http::Method;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::node::{Node, request};

/// A stream read frame by frame.
struct Frames {
    body: BodyDataStream,
    rest: String,
}

impl Frames {
    async fn open(node: &Node, path: &str, last_event_id: Option<u64>) -> Self {
        let mut request = request(Method::GET, path, Body::empty());
        request.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
        if let Some(id) = last_event_id {
            request.headers_mut().insert("last-event-id", id.into());
        }
        let response = node.open(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), rest: String::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((frame, rest)) = self.rest.split_once("\n\n") {
                let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
                self.rest = rest.to_owned();
                if let Some(data) = data {
                    return Some(serde_json::from_str(&data).expect("an event is JSON"));
                }
            }
            let chunk = self.body.next().await?.expect("a chunk");
            self.rest.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
        }
    }

    async fn rest(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn ask() -> Value {
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": {
        "prompt_context": "Go on?", "options": [{"id": "yes"}, {"id": "no"}]}}]})
}

async fn started(node: &Node) {
    let answer = node.post("/v1/workflows?wait=10s", &json!({"id": "s", "definition": ask()})).await;
    assert_eq!(answer.json()["status"], "suspended", "{:?}", answer.body);
}

async fn decide(node: &Node) {
    let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    assert_eq!(node.post("/v1/workflows/s/signals", &signal).await.status, 202);
}

#[tokio::test]
async fn events_are_listed_in_pages_without_gaps() {
    let node = Node::start().await;
    started(&node).await;
    let mut sequences = Vec::new();
    let mut after = "0".to_owned();
    loop {
        let page = node.get(&format!("/v1/workflows/s/events?limit=2&after={after}")).await.json();
        sequences.extend(page["items"].as_array().expect("items").iter().map(|e| e["sequence"].as_u64()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        after = next.to_owned();
    }
    assert!(sequences.len() >= 3);
    assert!(sequences.iter().zip(1..).all(|(got, wanted)| *got == Some(wanted)), "{sequences:?}");
}

#[tokio::test]
async fn a_stream_follows_a_run_to_its_end() {
    let node = Node::start().await;
    started(&node).await;
    let mut frames = Frames::open(&node, "/v1/workflows/s/events", None).await;
    let mut seen = Vec::new();
    loop {
        let event = frames.next().await.expect("the run goes on");
        let is_suspended = event["type"] == "workflow_suspended";
        seen.push(event);
        if is_suspended {
            break;
        }
    }
    decide(&node).await;
    let resumed = seen.len() as u64;
    seen.extend(frames.rest().await);
    assert_eq!(seen.last().map(|e| e["type"].clone()), Some(json!("workflow_completed")));
    let is_gapless = seen.iter().zip(1u64..).all(|(event, wanted)| event["sequence"] == wanted);
    assert!(is_gapless, "{seen:?}");

    let again = Frames::open(&node, "/v1/workflows/s/events", Some(resumed)).await.rest().await;
    assert_eq!(again, seen[usize::try_from(resumed).expect("small")..]);
    let mut over = request(Method::GET, "/v1/workflows/s/events", Body::empty());
    over.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
    over.headers_mut().insert("last-event-id", seen.len().into());
    assert_eq!(node.send(over).await.status, 204);
}

#[tokio::test]
async fn large_events_make_short_pages() {
    let node = Node::start().await;
    let steps: Vec<_> = (0..8)
        .map(|n| json!({"id": format!("s{n}"), "action": "workflow.log", "params": {"message": "${{inputs.x}}"}}))
        .collect();
    let body = json!({"id": "big", "definition": {"steps": steps, "output": 1}, "params": {"x": "x".repeat(900_000)}});
    let answer = node.post("/v1/workflows?wait=20s", &body).await;
    let document = answer.json();
    assert_eq!(document["status"], "completed", "{}", document["error"]);
    let (mut seen, mut pages, mut after) = (0u64, 0, "0".to_owned());
    loop {
        let answer = node.get(&format!("/v1/workflows/big/events?limit=1000&after={after}")).await;
        assert!(answer.body.len() < 6_000_000, "{} bytes", answer.body.len());
        let page = answer.json();
        for event in page["items"].as_array().expect("items") {
            seen += 1;
            assert_eq!(event["sequence"], seen);
        }
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        after = next.to_owned();
    }
    assert!(seen > 8 && pages > 1, "{seen} events in {pages} pages");
}

#[tokio::test]
async fn a_silent_stream_says_that_it_lives() {
    let node = Node::start().await;
    started(&node).await;
    let mut frames = Frames::open(&node, "/v1/events", None).await;
    for _ in 0..3 {
        let chunk = frames.body.next().await.expect("the stream goes on").expect("a chunk");
        let text = std::str::from_utf8(&chunk).expect("utf-8");
        assert!(text.starts_with(": alive\nid: ") && text.ends_with("\n\n"), "{text:?}");
    }
}

#[tokio::test]
async fn the_firehose_names_each_run() {
    let node = Node::start().await;
    started(&node).await;
    let mut frames = Frames::open(&node, "/v1/events", None).await;
    decide(&node).await;
    loop {
        let event = frames.next().await.expect("the firehose does not end");
        assert_eq!(event["workflow_id"], "s", "{event}");
        if event["type"] == "workflow_completed" {
            break;
        }
    }
}

#[tokio::test]
async fn streams_end_when_the_node_stops() {
    let node = Node::start().await;
    started(&node).await;
    let follow = Frames::open(&node, "/v1/workflows/s/events", None).await;
    let firehose = Frames::open(&node, "/v1/events", None).await;
    node.stop.send_replace(true);
    follow.rest().await;
    firehose.rest().await;
}

//! What is told without being asked for: event streams, the firehose, and notices to agents.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{At, GET, asks, node, says};
use crate::mcp::{message, rpc, told};
use crate::node::Node;

const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of events.
struct Frames {
    body: BodyDataStream,
    rest: String,
}

impl Frames {
    async fn open(node: &Node, mut request: Request<Body>) -> Self {
        request.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
        let response = node.open(request).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), rest: String::new() }
    }

    /// The next one.
    async fn next(&mut self) -> Value {
        let next = async {
            loop {
                while let Some((frame, rest)) = self.rest.split_once("\n\n") {
                    let data = frame.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
                    let data = data.filter(|data| !data.is_empty()).map(str::to_owned);
                    self.rest = rest.to_owned();
                    if let Some(data) = data {
                        return serde_json::from_str(&data).expect("an event is JSON");
                    }
                }
                let chunk = self.body.next().await.expect("the stream goes on").expect("a chunk");
                self.rest.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("an event comes in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_firehose_is_that_of_a_namespace() {
    let node = node().await;
    let places = [At::default_of(&node), At::of(&node, "team-a"), At::of(&node, "team-b")];
    let mut streams = Vec::new();
    for at in places {
        streams.push(Frames::open(&node, at.request(GET, "/v1/events", None)).await);
    }
    for (at, id) in places.into_iter().zip(["of-default", "of-a", "of-b"]) {
        let body = json!({"id": id, "definition": says("x")});
        assert_eq!(at.post("/v1/workflows?wait=10s", body).await.status, 201);
    }
    for (stream, id) in streams.iter_mut().zip(["of-default", "of-a", "of-b"]) {
        loop {
            let event = stream.next().await;
            assert_eq!(event["workflow_id"], id, "{event}");
            assert!(!event.to_string().contains("team-"), "{event}");
            if event["type"] == "workflow_completed" {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runs_stream_shows_what_its_list_shows() {
    let node = node().await;
    let team = At::of(&node, "team-a");
    assert_eq!(team.post("/v1/templates", json!({"name": "t", "definition": asks()})).await.status, 201);
    let body = json!({"id": "s", "template": "t"});
    assert_eq!(team.post("/v1/workflows?wait=10s", body).await.status, 201);
    let listed = team.get("/v1/workflows/s/events").await.json()["items"].clone();
    let mut stream = Frames::open(&node, team.request(GET, "/v1/workflows/s/events", None)).await;
    for event in listed.as_array().expect("items") {
        assert_eq!(&stream.next().await, event);
    }
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    assert_eq!(team.post("/v1/workflows/s/signals", decision).await.status, 202);
    let live = loop {
        let event = stream.next().await;
        if event["type"] == "decision_resolved" {
            break event;
        }
    };
    assert_eq!(live["data"]["decision_id"], "s:ask:1", "{live}");
}

/// A request of MCP in a namespace, and in a session once there is one.
fn asked(at: At<'_>, session: &str, text: String) -> Request<Body> {
    let mut request = message(text);
    let headers = request.headers_mut();
    if let Some(namespace) = at.namespace {
        headers.insert("opcode-namespace", namespace.parse().expect("a header"));
    }
    if !session.is_empty() {
        headers.insert("mcp-session-id", session.parse().expect("a header"));
    }
    request
}

/// A session of an agent in a namespace.
async fn connected(at: At<'_>) -> String {
    let initialize = json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}});
    let answer = at.node.send(asked(at, "", rpc(0, "initialize", &initialize))).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let session = answer.header("mcp-session-id").to_owned();
    let begun = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    assert_eq!(at.node.send(asked(at, &session, begun)).await.status, 202);
    session
}

async fn tool(at: At<'_>, session: &str, name: &str, arguments: Value) -> Value {
    let call = json!({"name": name, "arguments": arguments});
    let answer = at.node.send(asked(at, session, rpc(1, "tools/call", &call))).await;
    told(&answer.body)["result"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_mcp_is_in_a_namespace_and_told_what_is_said_there() {
    let node = node().await;
    let places = [At::default_of(&node), At::of(&node, "team-a")];
    let notifies =
        json!({"steps": [{"id": "tell", "action": "workflow.notify", "params": {"message": "hi"}}]});
    let (mut sessions, mut streams) = (Vec::new(), Vec::new());
    for at in places {
        let session = connected(at).await;
        let mut stream = at.request(GET, "/mcp", None);
        stream.headers_mut().insert("mcp-session-id", session.parse().expect("a header"));
        streams.push(Frames::open(&node, stream).await);
        let define = json!({"name": "n", "definition": notifies, "agent_id": "bot"});
        let defined = tool(at, &session, "opcode.define", define).await;
        assert_eq!(defined["isError"], false, "{defined}");
        sessions.push(session);
    }
    for ((at, session), id) in places.iter().zip(&sessions).zip(["of-default", "of-a"]) {
        let run = json!({"template_name": "n", "agent_id": "bot", "id": id});
        let ran = tool(*at, session, "opcode.run", run).await;
        assert_eq!(ran["structuredContent"]["status"], "completed", "{ran}");
    }
    for ((at, session), id) in places.iter().zip(&sessions).zip(["of-default", "of-a"]) {
        let found = tool(*at, session, "opcode.query", json!({"resource": "workflows"})).await;
        let found = found["structuredContent"]["workflows"].clone();
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        assert_eq!((&found[0]["workflow_id"], &found[0]["template"]), (&json!(id), &json!("n")));
        let other = if id == "of-a" { "of-default" } else { "of-a" };
        for (name, arguments) in [
            ("opcode.status", json!({"workflow_id": other})),
            ("opcode.diagram", json!({"workflow_id": other, "format": "ascii"})),
            ("opcode.signal", json!({"workflow_id": other, "signal_type": "cancel"})),
        ] {
            let refused = tool(*at, session, name, arguments).await;
            assert_eq!(refused["isError"], true, "{refused}");
            assert!(refused.to_string().contains("NOT_FOUND"), "{refused}");
        }
    }
    // Each is told of the run of its own namespace first, though both are of an agent of one name.
    for (stream, id) in streams.iter_mut().zip(["of-default", "of-a"]) {
        let notice = loop {
            let told = stream.next().await;
            if told["method"] == "notifications/message" {
                break told["params"]["data"].clone();
            }
        };
        assert_eq!((&notice["workflow_id"], &notice["message"]), (&json!(id), &json!("hi")), "{notice}");
    }
}

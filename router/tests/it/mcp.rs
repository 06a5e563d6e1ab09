//! MCP at `/mcp` and over a pair of pipes: the same tools, the same answers as the HTTP contract, and
//! refusals of what is no MCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{Method, Request};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opcode_router::mcp::{Answer, Call, Contract, Unreachable, serve_stdio};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf};

use crate::node::{MCP_SESSIONS_MAX, Node, request};

pub(crate) fn message(text: impl Into<Body>) -> Request<Body> {
    let mut request = request(Method::POST, "/mcp", text.into());
    let headers = request.headers_mut();
    headers.insert("content-type", "application/json".parse().expect("a header"));
    headers.insert("accept", "application/json, text/event-stream".parse().expect("a header"));
    request
}

pub(crate) fn rpc(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

fn initialize() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}})
}

/// The message in an answer that is an event stream, or JSON.
pub(crate) fn told(body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).expect("utf-8");
    let mut data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    let data = data.rfind(|data| !data.is_empty()).unwrap_or(text);
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A client with a session.
struct Agent<'n> {
    node: &'n Node,
    session: String,
    next_id: AtomicU64,
}

impl<'n> Agent<'n> {
    async fn connect(node: &'n Node) -> Self {
        let answer = node.send(message(rpc(0, "initialize", &initialize()))).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert_eq!(told(&answer.body)["result"]["serverInfo"]["name"], "opcode");
        let session = answer.header("mcp-session-id").to_owned();
        let agent = Self { node, session, next_id: AtomicU64::new(1) };
        let begun = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(agent.send(begun.to_string()).await.0, 202);
        agent
    }

    fn in_session(&self, mut request: Request<Body>) -> Request<Body> {
        request.headers_mut().insert("mcp-session-id", self.session.parse().expect("a header"));
        request
    }

    async fn send(&self, text: String) -> (u16, Bytes) {
        let answer = self.node.send(self.in_session(message(text))).await;
        (answer.status, answer.body)
    }

    /// A request's whole answer.
    async fn ask(&self, method: &str, params: &Value) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (status, body) = self.send(rpc(id, method, params)).await;
        assert_eq!(status, 200, "{body:?}");
        let answer = told(&body);
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments})).await;
        let result = answer["result"].clone();
        assert!(result["content"][0]["text"].is_string(), "{answer}");
        result
    }

    /// What a tool answers that does its work.
    async fn get(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        result["structuredContent"].clone()
    }

    /// The problem document of a tool that does not.
    async fn refused(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        serde_json::from_str(result["content"][0]["text"].as_str().expect("text")).expect("a document")
    }
}

fn asks() -> Value {
    json!({"steps": [{"id": "ask", "type": "reasoning", "config": {"prompt_context": "Go on?",
        "options": [{"id": "yes"}, {"id": "no"}], "target_agent": "boss"}}]})
}

async fn defined(agent: &Agent<'_>, name: &str, definition: Value) {
    let arguments = json!({"name": name, "definition": definition, "agent_id": "bot"});
    assert_eq!(agent.get("opcode.define", arguments).await["version"], "v1");
}

async fn asked(agent: &Agent<'_>) -> Value {
    defined(agent, "asks", asks()).await;
    agent.get("opcode.run", json!({"template_name": "asks", "agent_id": "bot", "id": "a"})).await
}

/// The agents that are listed, each with what it spoke with.
async fn agents(node: &Node) -> Value {
    let listed = node.get("/v1/agents").await.json();
    listed["items"].as_array().expect("items").iter().map(|a| json!([a["agent_id"], a["client"]])).collect()
}

#[tokio::test]
async fn an_agent_is_registered_by_the_first_tool_that_it_calls() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let run = json!({"template_name": "none", "agent_id": "lost"});
    assert_eq!(agent.refused("opcode.run", run).await["code"], "NOT_FOUND");
    assert_eq!(agents(&node).await, json!([]));
    defined(&agent, "asks", asks()).await;
    assert_eq!(agents(&node).await, json!([["bot", "test/1"]]));
}

#[tokio::test]
async fn six_tools_are_described() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let answer = agent.ask("tools/list", &json!({})).await;
    let tools = answer["result"]["tools"].as_array().expect("tools");
    let names: Vec<_> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    let expect =
        ["opcode.run", "opcode.status", "opcode.signal", "opcode.define", "opcode.query", "opcode.diagram"];
    assert_eq!(names, expect);
    for tool in tools {
        assert_eq!(tool["inputSchema"]["type"], "object", "{tool}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{tool}");
        assert!(tool["annotations"]["readOnlyHint"].is_boolean(), "{tool}");
    }
}

#[tokio::test]
async fn a_workflow_is_defined_run_decided_and_drawn() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let run = asked(&agent).await;
    assert_eq!((&run["workflow_id"], &run["status"]), (&json!("a"), &json!("suspended")), "{run}");
    assert_eq!(run["pending_decisions"][0]["target_agent"], "boss");
    let decision = json!({"workflow_id": "a", "signal_type": "decision", "step_id": "ask",
        "payload": {"choice": "yes"}, "agent_id": "boss", "reasoning": "why not"});
    let decided = agent.get("opcode.signal", decision.clone()).await;
    assert_eq!((&decided["ok"], &decided["resumed"]), (&json!(true), &json!(true)), "{decided}");
    assert_eq!(decided["status"], "completed", "{decided}");
    let again = agent.refused("opcode.signal", decision).await;
    assert_eq!((&again["code"], &again["status"]), (&json!("INVALID_TRANSITION"), &json!(409)), "{again}");

    let status = agent.get("opcode.status", json!({"workflow_id": "a"})).await;
    assert_eq!(status["output"]["ask"]["choice"], "yes");
    let of_http = node.get("/v1/workflows/a").await.json();
    for (name, value) in of_http.as_object().expect("an object") {
        assert_eq!(&status[name], value, "{name}");
    }
    assert_eq!(status["events"][0]["type"], "workflow_started");
    let drawn = agent.get("opcode.diagram", json!({"workflow_id": "a", "format": "ascii"})).await;
    let text = node.get("/v1/workflows/a/diagram").await;
    assert_eq!(drawn["diagram"].as_str().map(str::as_bytes), Some(&*text.body));
    let bare = json!({"workflow_id": "a", "format": "mermaid", "include_status": "false"});
    let bare = agent.get("opcode.diagram", bare).await;
    let template = agent.get("opcode.diagram", json!({"template_name": "asks", "format": "mermaid"})).await;
    assert_eq!(bare, template, "a run without its status is its template");
    let picture = agent.get("opcode.diagram", json!({"template_name": "asks", "format": "image"})).await;
    assert!(picture["diagram"].as_str().is_some_and(|svg| svg.contains("<svg")), "{picture}");
}

#[tokio::test]
async fn a_run_with_an_id_is_started_once() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let first = asked(&agent).await;
    let same = json!({"template_name": "asks", "agent_id": "bot", "id": "a", "wait": "0s"});
    assert_eq!(agent.get("opcode.run", same).await["created_at"], first["created_at"]);
    let other = json!({"template_name": "asks", "agent_id": "bot", "id": "a", "params": {"x": 1}});
    let refused = agent.refused("opcode.run", other).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&json!("VALIDATION_ERROR"), &json!(422)),
        "{refused}"
    );
}

#[tokio::test]
async fn queries_filter() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    asked(&agent).await;
    let query = async |resource: &str, filter: Value| {
        let found = agent.get("opcode.query", json!({"resource": resource, "filter": filter})).await;
        assert!(found["next_cursor"].is_null() || found["next_cursor"].is_string(), "{found}");
        found[resource].as_array().map_or(usize::MAX, Vec::len)
    };
    assert_eq!(query("workflows", json!({})).await, 1);
    assert_eq!(query("workflows", json!({"status": ["suspended", "failed"], "agent_id": "bot"})).await, 1);
    assert_eq!(query("workflows", json!({"status": "completed", "limit": 5})).await, 0);
    assert_eq!(query("workflows", json!({"labels": {"a": "b"}})).await, 0);
    assert_eq!(query("decisions", json!({"agent_id": "boss"})).await, 1);
    assert_eq!(query("templates", json!({})).await, 1);
    assert_eq!(query("templates", json!({"name": "asks", "version": "v1"})).await, 1);
    assert_eq!(query("templates", json!({"name": "none"})).await, 0);
    let all = node.get("/v1/workflows/a/events").await.json()["items"].as_array().map_or(0, Vec::len);
    assert_eq!(query("events", json!({"workflow_id": "a"})).await, all);
    let one = json!({"workflow_id": "a", "step_id": "ask", "event_type": "decision_requested"});
    assert_eq!(query("events", one).await, 1);
    assert_eq!(query("events", json!({"workflow_id": "a", "since": "2999-01-01T00:00:00Z"})).await, 0);
    // Page by page, each event once.
    let mut seen = Vec::new();
    let mut filter = json!({"workflow_id": "a", "limit": 2});
    loop {
        let page = agent.get("opcode.query", json!({"resource": "events", "filter": filter})).await;
        seen.extend(page["events"].as_array().expect("events").iter().map(|e| e["sequence"].as_u64()));
        if page["next_cursor"].is_null() {
            break;
        }
        filter["after"] = page["next_cursor"].clone();
    }
    assert!(seen.iter().copied().eq((1..=all as u64).map(Some)), "{seen:?}");
}

#[tokio::test]
async fn what_is_wrong_is_told_as_over_http() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    asked(&agent).await;
    let cases = [
        ("opcode.run", json!({"template_nme": "x", "agent_id": "bot"}), "VALIDATION_ERROR", "template_name"),
        ("opcode.run", json!({"template_name": "none", "agent_id": "bot"}), "NOT_FOUND", "none"),
        ("opcode.run", json!({"template_name": 7, "agent_id": "bot"}), "VALIDATION_ERROR", "/template_name"),
        ("opcode.run", json!({"template_name": "asks"}), "VALIDATION_ERROR", "/agent_id"),
        (
            "opcode.run",
            json!({"template_name": "asks", "agent_id": "bot", "params": []}),
            "VALIDATION_ERROR",
            "/params",
        ),
        (
            "opcode.run",
            json!({"template_name": "asks", "agent_id": "b", "wait": "long"}),
            "VALIDATION_ERROR",
            "wait",
        ),
        ("opcode.status", json!({"workflow_id": "none"}), "NOT_FOUND", "none"),
        ("opcode.status", json!({"workflow_id": "../templates"}), "VALIDATION_ERROR", "/workflow_id"),
        ("opcode.status", json!({"workflow_id": ["a"]}), "VALIDATION_ERROR", "an array"),
        (
            "opcode.signal",
            json!({"workflow_id": "a", "signal_type": "decisions"}),
            "VALIDATION_ERROR",
            "/signal_type",
        ),
        (
            "opcode.signal",
            json!({"workflow_id": "a", "signal_type": "decision", "step_id": "ask",
                "payload": {"choice": "yes"}, "agent_id": "intern"}),
            "PERMISSION_DENIED",
            "boss",
        ),
        (
            "opcode.define",
            json!({"name": "t", "agent_id": "bot", "definition": {"steps": [{"id": "a", "action": "http.gett"}]}}),
            "VALIDATION_ERROR",
            "/definition/steps/0/action",
        ),
        ("opcode.query", json!({"resource": "workflow"}), "VALIDATION_ERROR", "did you mean `workflows`"),
        ("opcode.query", json!({"resource": "events"}), "VALIDATION_ERROR", "/filter/workflow_id"),
        (
            "opcode.query",
            json!({"resource": "workflows", "filter": {"limit": 0}}),
            "VALIDATION_ERROR",
            "/filter/limit",
        ),
        ("opcode.query", json!({"resource": "workflows", "filter": []}), "VALIDATION_ERROR", "/filter"),
        (
            "opcode.query",
            json!({"resource": "workflows", "filter": {"sttus": "failed"}}),
            "VALIDATION_ERROR",
            "did you mean `status`",
        ),
        ("opcode.diagram", json!({"format": "ascii"}), "VALIDATION_ERROR", "template_name"),
        ("opcode.diagram", json!({"workflow_id": "a", "format": "png"}), "VALIDATION_ERROR", "/format"),
        ("opcode.diagram", json!({"template_name": "none", "format": "ascii"}), "NOT_FOUND", "none"),
    ];
    for (tool, arguments, code, word) in cases {
        let refused = agent.refused(tool, arguments.clone()).await;
        assert_eq!(refused["code"], code, "{tool} {arguments}: {refused}");
        assert!(refused.to_string().contains(word), "{tool} {arguments}: {refused}");
        assert!(refused["trace_id"].is_string() && refused["detail"].is_string(), "{refused}");
    }
    let left = node.get("/v1/workflows").await.json();
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1), "{left}");
}

#[tokio::test]
async fn a_template_file_is_a_definition_too() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let file = json!({"name": "other", "description": "d", "definition": asks()});
    defined(&agent, "asks", file).await;
    assert_eq!(node.get("/v1/templates/asks").await.json()["description"], "d");
    let wrong = json!({"name": "t", "agent_id": "bot", "definition": {"definition": {"steps": []}}});
    let refused = agent.refused("opcode.define", wrong).await;
    assert!(
        refused["errors"][0]["pointer"].as_str().is_some_and(|p| p.starts_with("/definition/definition"))
    );
}

#[tokio::test]
async fn numbers_keep_every_digit() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    defined(&agent, "asks", asks()).await;
    let big = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"opcode.run","arguments":
        {"template_name":"asks","agent_id":"bot","params":{"n":123456789012345678901234567890.10}}}}"#;
    let (status, body) = agent.send(big.to_owned()).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(status == 200 && text.contains("123456789012345678901234567890.10"), "{text}");
}

#[tokio::test]
async fn faults_of_the_protocol_are_errors_of_the_protocol() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let cases = [
        ("tools/call", json!({"name": "opcode.rnu", "arguments": {}}), -32_602, "did you mean `opcode.run`"),
        ("tools/call", json!({"name": "opcode.run", "arguments": "x"}), -32_602, "arguments"),
        ("tools/call", json!({"arguments": {}}), -32_602, "name"),
        ("tools/drop", json!({}), -32_601, "tools/drop"),
    ];
    for (method, params, code, word) in cases {
        let answer = agent.ask(method, &params).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(word)), "{answer}");
    }
    assert_eq!(agent.ask("ping", &json!({})).await["result"], json!({}), "the session lives");
}

#[tokio::test]
async fn what_is_no_message_is_refused_at_the_door() {
    let node = Node::start().await;
    let agent = Agent::connect(&node).await;
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let cases = [
        (String::new(), -32_700),
        ("{".to_owned(), -32_700),
        ("7".to_owned(), -32_600),
        (format!("[{}]", rpc(1, "ping", &json!({}))), -32_600),
        (r#"{"jsonrpc":"2.0","id":1}"#.to_owned(), -32_600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}"#.to_owned(), -32_600),
        (format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{deep}}}"#), -32_600),
    ];
    for (text, code) in cases {
        let (status, body) = agent.send(text.clone()).await;
        let shown: String = text.chars().take(80).collect();
        assert_eq!((status, &told(&body)["error"]["code"]), (400, &json!(code)), "{shown}: {body:?}");
    }
    let mut refusals = Vec::new();
    let with = |name: &'static str, value: &str| {
        let mut request = agent.in_session(message(rpc(1, "ping", &json!({}))));
        request.headers_mut().insert(name, value.parse().expect("a header"));
        request
    };
    refusals.push((with("content-type", "text/plain"), 415));
    refusals.push((with("accept", "application/json"), 406));
    refusals.push((with("host", "evil.example"), 403));
    refusals.push((with("origin", "http://evil.example"), 403));
    refusals.push((with("origin", "null"), 403));
    refusals.push((with("sec-fetch-site", "cross-site"), 403));
    refusals.push((with("mcp-session-id", "0"), 404));
    refusals.push((message(rpc(1, "tools/list", &json!({}))), 400));
    refusals.push((message(" ".repeat(4 * 1024 * 1024 + 1)), 413));
    refusals.push((request(Method::PUT, "/mcp", Body::empty()), 405));
    let mut page = agent.in_session(request(Method::GET, "/mcp", Body::empty()));
    page.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
    page.headers_mut().insert("origin", "http://evil.example".parse().expect("a header"));
    refusals.push((page, 403));
    for (place, (request, status)) in refusals.into_iter().enumerate() {
        let answer = node.send(request).await;
        assert_eq!(answer.status, status, "{place}: {:?}", answer.body);
        assert_eq!(answer.header("content-type"), "application/problem+json", "{place}: {:?}", answer.body);
    }
    assert_eq!(agent.ask("ping", &json!({})).await["result"], json!({}), "the session lives");
}

#[tokio::test]
async fn sessions_are_bounded_and_end() {
    let node = Node::start().await;
    let mut agents = Vec::new();
    for _ in 0..MCP_SESSIONS_MAX {
        agents.push(Agent::connect(&node).await);
    }
    let refused = node.send(message(rpc(0, "initialize", &initialize()))).await;
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("OVERLOADED")));
    assert_eq!(refused.json()["applied"], "no");
    let last = agents.pop().expect("an agent");
    let ended = node.send(last.in_session(request(Method::DELETE, "/mcp", Body::empty()))).await;
    assert_eq!(ended.status, 204, "{:?}", ended.body);
    assert_eq!(last.send(rpc(1, "ping", &json!({}))).await.0, 404, "it has ended");
    Agent::connect(&node).await;
    // What needs no session is answered all the same.
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}});
    let call = json!({"name": "opcode.query", "arguments": {"resource": "workflows"}, "_meta": meta});
    let mut alone = message(rpc(5, "tools/call", &call));
    for (name, value) in
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "opcode.query")]
    {
        alone.headers_mut().insert(name, value.parse().expect("a header"));
    }
    let answer = node.send(alone).await;
    assert_eq!(
        told(&answer.body)["result"]["structuredContent"]["workflows"],
        json!([]),
        "{:?}",
        answer.body
    );
}

/// The messages of a session's stream.
struct Stream {
    body: BodyDataStream,
    rest: String,
}

impl Stream {
    async fn open(agent: &Agent<'_>) -> Self {
        let mut request = agent.in_session(request(Method::GET, "/mcp", Body::empty()));
        request.headers_mut().insert("accept", "text/event-stream".parse().expect("a header"));
        let response = agent.node.open(request).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), rest: String::new() }
    }

    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            while let Some((frame, rest)) = self.rest.split_once("\n\n") {
                let data = frame.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
                let data: String = data.collect();
                self.rest = rest.to_owned();
                if !data.is_empty() {
                    return Some(serde_json::from_str(&data).expect("a message is JSON"));
                }
            }
            let chunk = self.body.next().await?.expect("a chunk");
            self.rest.push_str(std::str::from_utf8(&chunk).expect("utf-8"));
        }
    }
}

fn notifies(agent: &str) -> Value {
    let say = json!({"message": format!("for {agent}"), "data": {"n": 1}});
    json!({"steps": [{"id": "tell", "action": "workflow.notify", "params": say},
        {"id": "forge", "action": "workflow.emit", "depends_on": ["tell"],
            "params": {"event": "workflow.notify", "data": {"message": "forged"}}}]})
}

#[tokio::test]
async fn an_agent_is_told_what_its_runs_notify_it_of() {
    let node = Node::start().await;
    let (bot, other) = (Agent::connect(&node).await, Agent::connect(&node).await);
    let mut stream = Stream::open(&bot).await;
    defined(&bot, "bot", notifies("bot")).await;
    defined(&other, "other", notifies("other")).await;
    // Of another agent, and of a session that speaks for one more.
    let run = |name: &str, id: &str| json!({"template_name": name, "agent_id": name, "id": id});
    assert_eq!(other.get("opcode.run", run("other", "o")).await["status"], "completed");
    let ended = bot.get("opcode.run", run("bot", "b")).await;
    assert_eq!(ended["steps"]["tell"]["output"]["notified"], true, "{ended}");
    let told = stream.next().await.expect("a message");
    assert_eq!(told["method"], "notifications/message", "{told}");
    let said = &told["params"]["data"];
    assert_eq!((&said["message"], &said["workflow_id"]), (&json!("for bot"), &json!("b")), "{said}");
    assert_eq!((&said["step_id"], &said["data"]), (&json!("tell"), &json!({"n": 1})), "{said}");
    // What was forged never comes: the next message is of the next run.
    bot.get("opcode.run", run("bot", "c")).await;
    assert_eq!(stream.next().await.expect("a message")["params"]["data"]["workflow_id"], "c");
    // It is an event of the run, whoever listened.
    let filter = json!({"workflow_id": "o", "event_type": "custom"});
    let events = bot.get("opcode.query", json!({"resource": "events", "filter": filter})).await;
    assert_eq!(events["events"][0]["agent_id"], "other", "{events}");
    node.stop.send_replace(true);
    while stream.next().await.is_some() {}
}

/// The node as a client of HTTP meets it.
struct Http(Arc<Node>);

impl Contract for Http {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unreachable>> {
        async move {
            let mut request =
                request(call.method, &call.path, call.body.map_or_else(Body::empty, Body::from));
            request.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
            request.headers_mut().extend(call.caller);
            let answer = self.0.send(request).await;
            Ok(Answer { status: answer.status, body: answer.body })
        }
        .boxed()
    }

    fn events(&self) -> BoxFuture<'_, Option<BoxStream<'static, Bytes>>> {
        async move {
            let response = self.0.open(request(Method::GET, "/v1/events?type=custom", Body::empty())).await;
            let chunks = response.into_body().into_data_stream();
            Some(chunks.map(|chunk| chunk.expect("a chunk")).boxed())
        }
        .boxed()
    }
}

/// The client's ends of the pipes.
struct Pipes {
    write: WriteHalf<DuplexStream>,
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
}

impl Pipes {
    async fn line(&mut self, text: &str) {
        self.write.write_all(format!("{text}\n").as_bytes()).await.expect("the server reads");
    }

    async fn next(&mut self) -> Value {
        let line = self.lines.next_line().await.expect("the server writes").expect("it goes on");
        serde_json::from_str(&line).expect("a message")
    }
}

#[tokio::test]
async fn stdio_offers_the_same() {
    let node = Arc::new(Node::start().await);
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(theirs);
    let serving = tokio::spawn(serve_stdio(Arc::new(Http(Arc::clone(&node))), "1", read, write));
    let (read, write) = tokio::io::split(ours);
    let mut pipes = Pipes { write, lines: BufReader::new(read).lines() };
    pipes.line("no message").await;
    assert_eq!(pipes.next().await["error"]["code"], -32_700);
    pipes.line(&rpc(1, "initialize", &initialize())).await;
    assert_eq!(pipes.next().await["result"]["serverInfo"]["name"], "opcode");
    pipes.line(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    pipes.line(&"x".repeat(4 * 1024 * 1024 + 1)).await;
    assert_eq!(pipes.next().await["error"]["code"], -32_600);
    let define = json!({"name": "bot", "definition": notifies("bot"), "agent_id": "bot"});
    pipes.line(&rpc(2, "tools/call", &json!({"name": "opcode.define", "arguments": define}))).await;
    assert_eq!(pipes.next().await["result"]["structuredContent"]["version"], "v1");
    assert_eq!(agents(&node).await, json!([["bot", "test/1"]]));
    let run = json!({"template_name": "bot", "agent_id": "bot", "id": "s"});
    pipes.line(&rpc(3, "tools/call", &json!({"name": "opcode.run", "arguments": run}))).await;
    let mut answers = [pipes.next().await, pipes.next().await];
    answers.sort_by_key(|answer| answer["id"].is_null());
    assert_eq!(answers[0]["result"]["structuredContent"]["status"], "completed", "{answers:?}");
    assert_eq!(answers[1]["params"]["data"]["message"], "for bot", "{answers:?}");
    // What was asked last is answered, though nothing more comes.
    let last = json!({"name": "opcode.status", "arguments": {"workflow_id": "s", "wait": "10s"}});
    pipes.line(&rpc(4, "tools/call", &last)).await;
    pipes.write.shutdown().await.expect("the pipe can be closed");
    assert_eq!(pipes.next().await["id"], 4);
    assert!(pipes.lines.next_line().await.expect("the server ends").is_none());
    serving.await.expect("no panic").expect("it ends with its client");
}

//! MCP: messages that are none, tools that are asked for what cannot be, and sessions without end.

use serde_json::{Value, json};

use super::{Attack, Body};
use crate::cluster::NodeBuilder;

/// Sessions that a node takes.
const SESSIONS_MAX: usize = 1024;
/// What a client of the transport accepts.
const BOTH: &str = "application/json, text/event-stream";

fn message(name: &'static str, text: impl Into<String>) -> Attack {
    Attack::new(name, "POST", "/mcp", Body::Text(text.into())).header("accept", BOTH)
}

/// A call of a tool that needs no session, by the later revision of the protocol.
fn tool(name: &'static str, tool: &str, arguments: &Value) -> Attack {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    message(name, call.to_string())
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .gives(200, "VALIDATION_ERROR")
}

fn ping() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string()
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18",
        "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
}

/// Messages that are refused at the door.
pub(super) fn messages() -> Vec<Attack> {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    vec![
        message("an empty message", "").gives(400, "-32700"),
        message("half a message", "{\"jsonrpc\":").gives(400, "-32700"),
        message("a message that is a number", "7").gives(400, "-32600"),
        message("a batch of messages", format!("[{}]", ping())).gives(400, "batch"),
        message("a message of another JSON-RPC", "{\"id\":1,\"method\":\"ping\"}").gives(400, "-32600"),
        message("a method that is a list", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":[]}")
            .gives(400, "-32600"),
        message("a method twice", r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}"#)
            .gives(400, "more than once"),
        message(
            "a message nested without end",
            format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{deep}}}"),
        )
        .gives(400, "-32600"),
        message("a message as a form", ping())
            .header("content-type", "application/x-www-form-urlencoded")
            .gives(415, "VALIDATION_ERROR"),
        Attack::new("a message for JSON alone", "POST", "/mcp", Body::Text(ping()))
            .header("accept", "application/json")
            .gives(406, "VALIDATION_ERROR"),
        message("a request without a session", ping()).gives(400, "Session"),
        message("a request of somebody's session", ping())
            .header("mcp-session-id", "00000000-0000-4000-8000-000000000000")
            .gives(404, "NOT_FOUND"),
        message("a session id that is none", ping())
            .header("mcp-session-id", "../../etc/passwd")
            .gives(404, "NOT_FOUND"),
        message("a protocol of nobody", ping())
            .header("mcp-protocol-version", "1999-01-01")
            .gives(400, "VALIDATION_ERROR"),
        message("another host's message", ping())
            .header("host", "evil.example")
            .gives(403, "PERMISSION_DENIED"),
        message("another page's message", ping())
            .header("origin", "http://evil.example")
            .gives(403, "PERMISSION_DENIED"),
        message("a page's message of no origin", ping())
            .header("origin", "null")
            .gives(403, "PERMISSION_DENIED"),
        Attack::get("another page that listens", "/mcp")
            .header("accept", "text/event-stream")
            .header("origin", "http://evil.example")
            .gives(403, "PERMISSION_DENIED"),
        Attack::get("a stream without a session", "/mcp")
            .header("accept", "text/event-stream")
            .gives(400, "Session"),
        Attack::new("another method", "PATCH", "/mcp", Body::None).gives(405, "VALIDATION_ERROR"),
    ]
}

/// Tools that are asked for what cannot be.
pub(super) fn tools() -> Vec<Attack> {
    let good = json!({"steps": [{"id": "a", "action": "crypto.uuid"}]});
    vec![
        tool("a tool that there is not", "opcode.drop", &json!({})).gives(200, "-32602"),
        tool("arguments that are text", "opcode.run", &json!("x")).gives(200, "-32602"),
        tool("a tool without its arguments", "opcode.run", &json!({})),
        tool("an argument that there is not", "opcode.status", &json!({"workflow": "bystander"}))
            .gives(200, "workflow_id"),
        tool("an argument of another type", "opcode.status", &json!({"workflow_id": {"a": 1}})),
        tool("a run's id that climbs", "opcode.status", &json!({"workflow_id": "../../v1/sql"})),
        tool(
            "a run's id with a query",
            "opcode.diagram",
            &json!({"workflow_id": "bystander?format=svg", "format": "ascii"}),
        ),
        tool(
            "a template's name that climbs",
            "opcode.diagram",
            &json!({"template_name": "../x", "format": "ascii"}),
        )
        .gives(200, "NOT_FOUND"),
        tool(
            "a cursor of a megabyte",
            "opcode.query",
            &json!({"resource": "workflows", "filter": {"cursor": "a".repeat(1_000_000)}}),
        ),
        tool(
            "a status of a megabyte",
            "opcode.query",
            &json!({"resource": "workflows", "filter": {"status": "a".repeat(1_000_000)}}),
        ),
        tool(
            "a wait without end",
            "opcode.status",
            &json!({"workflow_id": "bystander", "wait": "99999999999999h"}),
        ),
        tool(
            "a decision by another agent, through MCP",
            "opcode.signal",
            &json!({"workflow_id": "bystander", "signal_type": "decision", "step_id": "ask",
                "payload": {"choice": "yes"}, "agent_id": "intern"}),
        )
        .gives(200, "PERMISSION_DENIED"),
        tool(
            "a template of a cycle, through MCP",
            "opcode.define",
            &json!({"name": "t", "agent_id": "a", "definition": {"steps": [
                {"id": "a", "action": "crypto.uuid", "depends_on": ["a"]}]}}),
        ),
        tool(
            "a template with a path for a name, through MCP",
            "opcode.define",
            &json!({"name": "../t", "agent_id": "a", "definition": good}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_without_end_are_refused_and_keep_nobody_else_waiting() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let begin = || async {
        let request = node.request(reqwest::Method::POST, "/mcp").json(&initialize()).header("accept", BOTH);
        let response = request.send().await.expect("the node answers");
        let status = response.status().as_u16();
        response.bytes().await.expect("the answer ends");
        status
    };
    let (mut open, mut refused) = (0, 0);
    for _ in 0..SESSIONS_MAX / 16 + 4 {
        for status in futures::future::join_all((0..16).map(|_| begin())).await {
            match status {
                200 => open += 1,
                429 => refused += 1,
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!((open, refused), (SESSIONS_MAX, 64));
    let id = node.submit(&json!({"definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}})).await;
    assert_eq!(node.end(&id).await["status"], "completed");
    let alone = tool("", "opcode.status", &json!({"workflow_id": id})).gives(200, "completed");
    alone.make(&node).await.expect("what needs no session is answered");
    assert!(node.stop().success(), "it does not wait for sessions");
}

//! Agents through MCP on the real binary: every published example, and the SDKs from PyPI and npm, over
//! streamable HTTP and over stdio.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold, opcode};
use crate::examples::{Case, cases, choose, example, status_of, workspace};
use crate::service::Service;

/// Set where the SDK from PyPI must be there: its Python.
const PYTHON: &str = "OPCODE_TEST_MCP_PYTHON";
/// Set where the SDK from npm must be there: the folder with its `node_modules`.
const NODE: &str = "OPCODE_TEST_MCP_NODE";

/// A client of `/mcp`, as small as can be.
struct Agent<'n> {
    node: &'n Node,
    session: String,
    token: String,
}

impl<'n> Agent<'n> {
    async fn connect(node: &'n Node, token: &str) -> Self {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let response = post(node, token, &body).send().await.expect("the node answers");
        let session = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
        let agent = Self { node, session, token: token.to_owned() };
        let begun = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = agent.in_session(&begun).send().await.expect("the node answers");
        assert_eq!(response.status(), 202);
        agent
    }

    fn in_session(&self, body: &Value) -> reqwest::RequestBuilder {
        post(self.node, &self.token, body).header("mcp-session-id", &self.session)
    }

    /// What a tool answers.
    async fn get(&self, tool: &str, arguments: Value) -> Value {
        let params = json!({"name": tool, "arguments": arguments});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let response = self.in_session(&body).send().await.expect("the node answers");
        let text = response.text().await.expect("a stream");
        let mut data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let data = data.rfind(|data| !data.is_empty()).expect("a message");
        let answer: Value = serde_json::from_str(data).expect("a message is JSON");
        assert_eq!(answer["result"]["isError"], false, "{tool}: {answer}");
        answer["result"]["structuredContent"].clone()
    }
}

fn post(node: &Node, token: &str, body: &Value) -> reqwest::RequestBuilder {
    let request = node.request(reqwest::Method::POST, "/mcp").json(body).bearer_auth(token);
    request.header("accept", "application/json, text/event-stream")
}

/// Defines an example, runs it, and answers its decisions until it ends.
async fn run(node: &Node, (name, params, choice, wanted): Case, number: usize) {
    // Each by an agent of its own: requests of one session have ids of their own, and these have not.
    let agent = Agent::connect(node, "").await;
    let template = format!("{name}-{number}");
    let definition = json!({"name": template, "definition": example(name), "agent_id": "tester"});
    agent.get("opcode.define", definition).await;
    let arguments = json!({"template_name": template, "params": params, "agent_id": "tester"});
    let mut run = agent.get("opcode.run", arguments).await;
    let id = run["workflow_id"].as_str().expect("an id").to_owned();
    let mut answered = HashSet::new();
    while !matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
        let pending = run["pending_decisions"].as_array().cloned().unwrap_or_default();
        let Some(decision) = pending.first() else {
            run = agent.get("opcode.status", json!({"workflow_id": id, "wait": "10s"})).await;
            continue;
        };
        let decision_id = decision["decision_id"].to_string();
        assert!(answered.insert(decision_id), "{name}: a decision was asked twice");
        let by = decision["target_agent"].as_str().unwrap_or("tester");
        let signal = json!({"workflow_id": id, "signal_type": "decision", "step_id": decision["step_id"],
            "agent_id": by, "payload": {"choice": choose(decision, choice)}, "reasoning": "as the test says"});
        run = agent.get("opcode.signal", signal).await;
    }
    let run = agent.get("opcode.status", json!({"workflow_id": id, "include_events": false})).await;
    assert_eq!(run["status"], "completed", "{name}: {run:#}");
    for (step, status) in wanted {
        assert_eq!(status_of(&run, step), status, "{name}: step {step}: {run:#}");
    }
    let drawn = agent.get("opcode.diagram", json!({"workflow_id": id, "format": "ascii"})).await;
    assert!(drawn["diagram"].as_str().is_some_and(|text| text.contains("[completed]")), "{name}: {drawn}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_to_its_end_through_mcp() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().canonicalize().unwrap();
    workspace(&dir);
    let service = Service::start().await;
    let node = NodeBuilder::new(&dir.join("data"))
        .working_dir(&dir)
        .arg("--allow-shell")
        .arg("--fs-root")
        .arg(dir.display().to_string())
        .start();
    let runs = cases(&service, &dir).into_iter().enumerate();
    futures::future::join_all(runs.map(|(number, case)| run(&node, case, number))).await;
    assert!(node.stop().success());
    assert_tables_equal_fold(&dir.join("data"));
}

/// How an SDK's program is started; none where the SDK is not there, which is fine unless the
/// environment says that it must be.
fn python() -> Option<Vec<String>> {
    let named = std::env::var(PYTHON).ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let is_there = Command::new(&python)
        .args(["-c", "import mcp.client; mcp.client.Client"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(is_there || named.is_none(), "{PYTHON}={python} has no module `mcp` that is new enough");
    is_there.then(|| vec![python, client("mcp_agent.py").display().to_string()])
}

/// The same for npm. Modules are looked for from where the program stands, so it is copied to them.
fn node_js(dir: &Path) -> Option<Vec<String>> {
    let folder = std::env::var(NODE).ok()?;
    let modules = Path::new(&folder).join("node_modules");
    assert!(modules.join("@modelcontextprotocol/sdk").is_dir(), "{NODE}={folder} does not have the SDK");
    std::os::unix::fs::symlink(modules, dir.join("node_modules")).unwrap();
    let program = dir.join("mcp_agent.mjs");
    std::fs::copy(client("mcp_agent.mjs"), &program).unwrap();
    Some(vec!["node".to_owned(), program.display().to_string()])
}

fn client(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Past what the test harness keeps to itself, so that nobody takes it for done.
fn not_tested(what: &str) {
    let told = format!("NOT TESTED: the MCP SDK from {what} is not there\n");
    std::io::stderr().write_all(told.as_bytes()).unwrap();
}

/// Runs an SDK's program and checks what it was told.
fn work(program: &[String], args: &[&str]) {
    let output = Command::new(&program[0])
        .args(&program[1..])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("the program starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {complaints}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(told["tools"].as_array().map(Vec::len), Some(6), "{args:?}: {told}");
    assert_eq!((&told["version"], &told["run"]), (&json!("v1"), &json!("suspended")), "{args:?}: {told}");
    assert!(told["params"]["n"].is_u64(), "{args:?}: {told}");
    assert_eq!(told["refused"], "PERMISSION_DENIED", "{args:?}: {told}");
    assert_eq!((&told["decided"], &told["choice"]), (&json!("completed"), &json!("yes")), "{args:?}: {told}");
    assert!(told["diagram"].as_str().is_some_and(|text| text.contains("ask (reasoning)")), "{told}");
    // The later revision of MCP has no sessions, and so nobody to be told anything.
    let is_told = args[0] != "auto";
    assert!(!is_told || told["notices"] == json!(["begun"]), "{args:?}: {told}");
}

fn start() -> (tempfile::TempDir, Node) {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    (home, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_from_pypi_works_over_both_transports() {
    let Some(program) = python() else { return not_tested("PyPI") };
    let (_home, node) = start();
    let (url, binary) = (format!("{}/mcp", node.url), env!("CARGO_BIN_EXE_opcode"));
    for mode in ["legacy", "auto"] {
        work(&program, &[mode, &format!("http-{mode}"), &url]);
        work(&program, &[mode, &format!("stdio-{mode}"), binary, "--server", &node.url, "mcp"]);
    }
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_from_npm_works_over_both_transports() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = node_js(dir.path()) else { return not_tested("npm") };
    let (_home, node) = start();
    work(&program, &["http", &format!("{}/mcp", node.url)]);
    work(&program, &["stdio", env!("CARGO_BIN_EXE_opcode"), "--server", &node.url, "mcp"]);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_for_the_tools_too() {
    let home = tempfile::tempdir().unwrap();
    let (file, token) = (home.path().join("tokens"), "0123456789abcdef0123456789abcdef");
    std::fs::write(&file, token).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.display().to_string();
    let node = NodeBuilder::new(&home.path().join("data")).arg("--token-file").arg(&file).start();
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for wrong in ["", "fedcba9876543210fedcba9876543210"] {
        let response = post(&node, wrong, &ping).send().await.expect("the node answers");
        assert_eq!(response.status(), 401);
    }
    let agent = Agent::connect(&node, token).await;
    assert_eq!(agent.get("opcode.query", json!({"resource": "workflows"})).await["workflows"], json!([]));
    assert!(node.stop().success());
}

/// What needs no SDK: a client that writes lines, with a node that is there and with none.
#[tokio::test(flavor = "multi_thread")]
async fn stdio_answers_line_by_line_and_ends_with_its_client() {
    let (_home, node) = start();
    let talk = |server: &str| {
        let mut child = opcode()
            .args(["mcp", "--server", server])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut write = child.stdin.take().expect("stdin is piped");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut ask = |line: &str| -> Value {
            writeln!(write, "{line}").expect("it reads");
            serde_json::from_str(&lines.next().expect("an answer").expect("UTF-8")).expect("JSON")
        };
        assert_eq!(ask("{")["error"]["code"], -32_700);
        let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":
            "2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        assert_eq!(ask(&initialize.replace('\n', ""))["result"]["protocolVersion"], "2025-06-18");
        let query = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"opcode.query",
            "arguments":{"resource":"workflows"}}}"#;
        let answer = ask(&query.replace('\n', ""))["result"].clone();
        drop(write);
        assert!(child.wait().expect("a child can be waited for").success());
        answer
    };
    let answer = talk(&node.url);
    assert_eq!(answer["structuredContent"]["workflows"], json!([]), "{answer}");
    let answer = talk("http://127.0.0.1:1");
    assert_eq!(answer["isError"], true, "{answer}");
    let problem: Value = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&problem["code"], &problem["applied"]), (&json!("UNAVAILABLE"), &json!("no")), "{problem}");
    assert!(node.stop().success());
}

//! Plugins on the real binary: a published MCP server, one that does as it is told, and one that no
//! node should fear.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, PATIENCE, opcode};
use crate::many::Builders;

/// Set where the published server must be there: the folder with its `node_modules`.
const SERVER: &str = "OPCODE_TEST_MCP_SERVER";
const CANARY: &str = "plugin-canary-5be1";
/// How often something outside is looked at that has to become so.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name).display().to_string()
}

/// The plugin that does as it is told.
fn told(name: &str) -> Value {
    json!({"name": name, "command": "python3", "args": [program("mcp_plugin.py")]})
}

fn allowed(data: &Path) -> NodeBuilder {
    NodeBuilder::new(data).arg("--allow-plugins")
}

/// Registers a plugin, and waits until it is ready on every node.
async fn register(node: &Node, plugin: &Value) -> Value {
    let (status, answer) = node.post("/v1/plugins", plugin).await;
    assert_eq!(status, 201, "{answer}");
    until(node, &plugin["name"], "ready").await
}

/// Waits until a plugin is so on every node.
async fn until(node: &Node, name: &Value, wanted: &str) -> Value {
    let path = format!("/v1/plugins/{}", name.as_str().expect("a name"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, plugin) = node.get(&path).await;
        assert_eq!(status, 200, "{plugin}");
        let nodes = plugin["nodes"].as_array().expect("nodes");
        if nodes.iter().all(|node| node["status"] == wanted) {
            return plugin;
        }
        assert!(Instant::now() < deadline, "never {wanted}: {plugin:#}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Runs one step of this action to its end.
async fn run(node: &Node, step: Value) -> Value {
    let body = json!({"definition": {"steps": [step]}});
    let (status, run) = node.post("/v1/workflows?wait=60s", &body).await;
    assert_eq!(status, 201, "{run}");
    let (_, run) = node.get(&format!("/v1/workflows/{}", run["workflow_id"].as_str().expect("an id"))).await;
    run
}

/// A step that calls a tool.
fn tool(action: &str, params: Value) -> Value {
    json!({"id": "a", "action": action, "params": params})
}

fn output(run: &Value) -> &Value {
    assert_eq!(run["status"], "completed", "{run:#}");
    &run["output"]["a"]
}

fn error(run: &Value) -> (&str, &str) {
    assert_eq!(run["status"], "failed", "{run:#}");
    let error = &run["steps"]["a"]["error"];
    (error["code"].as_str().expect("a code"), error["message"].as_str().expect("a message"))
}

/// Gone, or dead and waiting for a parent to notice.
pub(crate) fn is_gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

pub(crate) async fn until_gone(pid: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !is_gone(pid) {
        assert!(Instant::now() < deadline, "process {pid} does not end");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_a_plugin_are_actions() {
    let home = tempfile::tempdir().unwrap();
    let node = allowed(&home.path().join("data")).start();
    let plugin = register(&node, &told("py")).await;
    assert_eq!(plugin["tools"][0], json!({"action": "py.add", "about": "Adds two numbers."}));
    let sum = run(&node, tool("py.add", json!({"a": 2, "b": "${{ 20 + 20 }}"}))).await;
    assert_eq!(*output(&sum), json!({"sum": 42}), "structured content is the output");
    let said = run(&node, tool("py.echo", json!({"text": "just so"}))).await;
    assert_eq!(*output(&said), "just so");
    let told = run(&node, tool("py.told", json!({"n": 12_345_678_901_234_567_890_u64}))).await;
    let key = format!("{}/a", told["workflow_id"].as_str().unwrap());
    assert_eq!(*output(&told), json!({"arguments": {"n": 12_345_678_901_234_567_890_u64}, "key": key}));
    let failed = run(&node, tool("py.fails", json!({}))).await;
    assert_eq!(error(&failed), ("EXECUTION_ERROR", "py.fails: no luck today"));
    let (_, actions) = node.get("/v1/actions").await;
    let adds = actions["items"].as_array().unwrap().iter().find(|action| action["name"] == "py.add").unwrap();
    assert_eq!(adds["params"][0], json!({"name": "a", "required": true, "types": ["number"], "about": ""}));

    // Names that nobody brings.
    let definition = json!({"steps": [tool("pi.add", json!({}))]});
    let (status, refused) = node.post("/v1/validate", &definition).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/steps/0/action")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("did you mean"), "{refused}");
    let unknown = run(&node, tool("py.subtract", json!({}))).await;
    let (code, message) = error(&unknown);
    assert!(code == "ACTION_UNAVAILABLE" && message.contains("it has echo, add"), "{message}");
    let (status, refused) = node.post("/v1/plugins", &told_again("py", "other")).await;
    assert_eq!((status, &refused["code"]), (409, &json!("CONFLICT")), "{refused}");
    let (status, _) = node.post("/v1/plugins", &self::told("py")).await;
    assert_eq!(status, 200, "the same again is the same");
    let (status, refused) = node.post("/v1/plugins", &told_again("px", "py")).await;
    assert_eq!((status, &refused["code"]), (409, &json!("CONFLICT")), "{refused}");
    assert!(node.stop().success());
}

fn told_again(name: &str, namespace: &str) -> Value {
    let mut plugin = told(name);
    plugin["namespace"] = namespace.into();
    plugin
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_plugin_is_gone_is_told_so_and_goes_on_when_it_is_back() {
    let home = tempfile::tempdir().unwrap();
    let node = allowed(&home.path().join("data")).start();
    let pid = register(&node, &told("py")).await["nodes"][0]["pid"].to_string();
    let definition = json!({"steps": [
        {"id": "wait", "type": "wait", "config": {"signal": "go"}},
        {"id": "a", "action": "py.echo", "params": {"text": "back"}, "depends_on": ["wait"],
         "retry": {"max": 50, "backoff": "constant", "delay": "200ms"}}]});
    node.submit(&json!({"id": "waits", "definition": definition})).await;
    let removed = node.request(reqwest::Method::DELETE, "/v1/plugins/py").send().await.unwrap();
    assert_eq!(removed.status(), 200);
    until_gone(&pid).await;
    let unknown = node.request(reqwest::Method::DELETE, "/v1/plugins/py").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    let (status, refused) = node.post("/v1/validate", &definition).await;
    assert_eq!(status, 422, "{refused}");
    let (status, _) =
        node.post("/v1/workflows/waits/signals", &json!({"type": "data", "step_id": "wait"})).await;
    assert_eq!(status, 202);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = node.events("waits").await;
        if let Some(tried) = events.iter().find(|event| event["type"] == "step_retrying") {
            assert!(tried.to_string().contains("ACTION_UNAVAILABLE"), "{tried}");
            break;
        }
        assert!(Instant::now() < deadline, "{events:?}");
    }
    register(&node, &told("py")).await;
    assert_eq!(node.end("waits").await["status"], "completed");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_does_wrong_is_its_own_end_and_it_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let node = allowed(&home.path().join("data")).start();
    register(&node, &told("py")).await;
    let mut hang = tool("py.hang", json!({}));
    hang["timeout"] = json!("300ms");
    assert_eq!(error(&run(&node, hang).await).0, "TIMEOUT_ERROR");
    assert_eq!(error(&run(&node, tool("py.large", json!({}))).await).0, "NON_RETRYABLE");
    let (code, message) = {
        let run = run(&node, tool("py.garbage", json!({}))).await;
        let (code, message) = error(&run);
        (code.to_owned(), message.to_owned())
    };
    assert_eq!(code, "EXECUTION_ERROR", "{message}");
    let mut restarts = 0;
    for ends in ["py.flood", "py.storm", "py.die"] {
        let failed = run(&node, tool(ends, json!({}))).await;
        assert_eq!(error(&failed).0, "EXECUTION_ERROR", "{ends}: {failed:#}");
        restarts += 1;
        let deadline = Instant::now() + PATIENCE;
        let plugin = loop {
            let plugin = until(&node, &json!("py"), "ready").await;
            if plugin["nodes"][0]["restarts"].as_u64() >= Some(restarts) {
                break plugin;
            }
            assert!(Instant::now() < deadline, "it is not started again: {plugin:#}");
        };
        let why = plugin["nodes"][0]["last_error"].as_str().unwrap().to_owned();
        let wanted = if ends == "py.die" { "it dies, as told" } else { "writes more than it may" };
        assert!(why.contains(wanted), "{ends}: {why}");
        assert_eq!(*output(&run(&node, tool("py.echo", json!({"text": "x"}))).await), "x");
    }
    assert_eq!(node.get("/healthz").await.0, 200);
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_plugin_is_told_of_and_called_in_vain() {
    let home = tempfile::tempdir().unwrap();
    let node = allowed(&home.path().join("data")).start();
    let plugin = |name: &str, command: &str, args: Value| json!({"name": name, "command": command, "args": args, "restart": "never"});
    let server = program("mcp_plugin.py");
    let dies = plugin("dies", "python3", json!([server, "dies"]));
    let missing = plugin("missing", "/no/such/program", json!([]));
    let ends = plugin("ends", "true", json!([]));
    for (plugin, why) in [(dies, "no such database"), (missing, "cannot be started"), (ends, "exit code 0")] {
        assert_eq!(node.post("/v1/plugins", &plugin).await.0, 201);
        let seen = until(&node, &plugin["name"], "failed").await;
        let told = seen["nodes"][0]["last_error"].as_str().unwrap().to_owned();
        assert!(told.contains(why), "{told}");
        let action = format!("{}.x", plugin["name"].as_str().unwrap());
        let failed = run(&node, tool(&action, json!({}))).await;
        let (code, message) = error(&failed);
        assert!(code == "ACTION_UNAVAILABLE" && message.contains(why), "{message}");
    }
    // Those that say nothing, or nothing of sense, keep a step for as long as it waits.
    for mode in ["silent", "garbage"] {
        assert_eq!(node.post("/v1/plugins", &plugin(mode, "python3", json!([server, mode]))).await.0, 201);
        let mut step = tool(&format!("{mode}.x"), json!({}));
        step["timeout"] = json!("500ms");
        assert_eq!(error(&run(&node, step).await).0, "TIMEOUT_ERROR");
    }
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_has_its_secrets_in_its_environment_and_tells_nobody() {
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("key");
    std::fs::write(&key, format!("{}\n", "a7".repeat(32))).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let log = home.path().join("log");
    let data = home.path().join("data");
    let node = allowed(&data).arg("--secrets-key-file").arg(key.display().to_string()).traced(&log).start();
    let set = node.request(reqwest::Method::PUT, "/v1/secrets/K").json(&json!({"value": CANARY}));
    assert_eq!(set.send().await.unwrap().status(), 201);
    let mut plugin = told("py");
    plugin["env"] = json!({"TOKEN": "${{secrets.K}}", "PLAIN": "plain-canary-77"});
    let shown = register(&node, &plugin).await;
    assert_eq!(shown["env"], json!({"PLAIN": "(not shown)", "TOKEN": "${{secrets.K}}"}));
    let told = run(&node, tool("py.env", json!({}))).await;
    let env = output(&told).as_object().unwrap().clone();
    assert_eq!((&env["TOKEN"], &env["PLAIN"]), (&json!("[secret K]"), &json!("plain-canary-77")));
    // The node has at least one that says how large its segments are.
    let is_ours = |name: &String| name.starts_with("OPCODE") || name.starts_with("CARGO");
    assert!(!env.keys().any(is_ours), "the node's environment: {env:?}");
    let _ended = run(&node, tool("py.die", json!({}))).await;
    let (_, listed) = node.get("/v1/plugins").await;
    assert!(!listed.to_string().contains("canary"), "{listed}");
    let secret = json!({"definition": {"steps": [tool("py.echo", json!({"text": "${{secrets.K}}"}))]}});
    let (status, refused) = node.post("/v1/workflows", &secret).await;
    assert!(status == 422 && refused.to_string().contains("takes no secret"), "{refused}");
    assert!(node.stop().success());
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(!logged.contains(CANARY), "the node logged a secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_no_plugins_unless_it_is_told_to() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = NodeBuilder::new(&data).start();
    let (status, refused) = node.post("/v1/plugins", &told("py")).await;
    assert_eq!((status, &refused["code"]), (403, &json!("PERMISSION_DENIED")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("--allow-plugins"), "{refused}");
    assert_eq!(node.get("/v1/plugins").await.1["items"], json!([]));
    assert!(node.stop().success());
    // What was registered while it was allowed is there, and does not run.
    let node = allowed(&data).start();
    register(&node, &told("py")).await;
    assert!(node.stop().success());
    let node = NodeBuilder::new(&data).start();
    let plugin = until(&node, &json!("py"), "failed").await;
    assert!(plugin["nodes"][0]["last_error"].as_str().unwrap().contains("--allow-plugins"), "{plugin}");
    assert_eq!(error(&run(&node, tool("py.echo", json!({"text": "x"}))).await).0, "ACTION_UNAVAILABLE");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_end_with_their_node_however_it_ends() {
    let home = tempfile::tempdir().unwrap();
    let builder = allowed(&home.path().join("data"));
    let node = builder.start();
    let pid = register(&node, &told("py")).await["nodes"][0]["pid"].to_string();
    assert!(!is_gone(&pid));
    node.kill();
    until_gone(&pid).await;
    let node = builder.start();
    let pid = until(&node, &json!("py"), "ready").await["nodes"][0]["pid"].to_string();
    assert!(node.stop().success());
    until_gone(&pid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_runs_on_every_node_and_survives_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    builders.0 = builders.0.into_iter().map(|builder| builder.arg("--allow-plugins")).collect();
    let mut nodes = builders.start().await;
    let plugin = register(&nodes[0], &told("py")).await;
    assert_eq!(plugin["nodes"].as_array().unwrap().len(), 3, "{plugin:#}");
    for (number, node) in nodes.iter().enumerate() {
        let sum = run(node, tool("py.add", json!({"a": number, "b": 1}))).await;
        assert_eq!(*output(&sum), json!({"sum": number + 1}));
    }
    nodes.remove(0).kill();
    let (_, plugin) = nodes[0].get("/v1/plugins/py").await;
    let states: Vec<&Value> =
        plugin["nodes"].as_array().unwrap().iter().map(|node| &node["status"]).collect();
    assert!(
        states.len() == 3 && states.iter().filter(|state| ***state == "ready").count() >= 2,
        "{plugin:#}"
    );
    let mut step = tool("py.echo", json!({"text": "still here"}));
    step["retry"] = json!({"max": 5, "backoff": "constant", "delay": "200ms"});
    for node in &nodes {
        assert_eq!(*output(&run(node, step.clone()).await), "still here");
    }
    for node in nodes {
        assert!(node.stop().success());
    }
}

/// Where the published server is; none where it is not, which is fine unless the environment says that
/// it must be.
fn published() -> Option<PathBuf> {
    let folder = std::env::var(SERVER).ok()?;
    let server = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    let server = Path::new(&folder).join(server);
    assert!(server.is_file(), "{SERVER}={folder} does not have the server");
    Some(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_server_from_npm_is_a_plugin() {
    let Some(server) = published() else {
        // Past what the test harness keeps to itself, so that nobody takes it for done.
        let told = format!("NOT TESTED: the MCP server from npm is not there ({SERVER})\n");
        return std::io::stderr().write_all(told.as_bytes()).unwrap();
    };
    let home = tempfile::tempdir().unwrap();
    let node = allowed(&home.path().join("data")).start();
    let server = server.display().to_string();
    let add = ["plugin", "add", "everything", "--env", "GIVEN=5", "--", "node", &server, "stdio"];
    let added = opcode().args(["--server", &node.url]).args(add).output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    until(&node, &json!("everything"), "ready").await;
    let sum = run(&node, tool("everything.get-sum", json!({"a": 2, "b": 3}))).await;
    assert_eq!(*output(&sum), "The sum of 2 and 3 is 5.");
    let weather = json!({"location": "Chicago"});
    let weather = run(&node, tool("everything.get-structured-content", weather)).await;
    assert!(output(&weather)["temperature"].is_number(), "{weather}");
    let image = run(&node, tool("everything.get-tiny-image", json!({}))).await;
    assert!(output(&image)["content"].to_string().contains("image/png"));
    let env = run(&node, tool("everything.get-env", json!({}))).await;
    assert_eq!(output(&env)["GIVEN"], "5");
    assert!(output(&env).as_object().unwrap().keys().all(|name| !name.starts_with("OPCODE")), "{env}");
    let wrong = run(&node, tool("everything.get-sum", json!({"a": "two"}))).await;
    assert!(matches!(error(&wrong).0, "EXECUTION_ERROR" | "VALIDATION_ERROR"), "{wrong}");
    let shown = |args: &[&str]| {
        let shown = opcode().args(["--server", &node.url, "plugin"]).args(args).output().unwrap();
        assert!(shown.status.success(), "{args:?}: {}", String::from_utf8_lossy(&shown.stderr));
        String::from_utf8(shown.stdout).unwrap()
    };
    let listed = shown(&["list"]);
    assert!(listed.contains("everything") && listed.contains("ready"), "{listed}");
    let one = shown(&["get", "everything"]);
    assert!(one.contains("everything.get-sum") && one.contains("node 1 ready"), "{one}");
    assert!(shown(&["rm", "everything"]).contains("true"));
    assert!(node.stop().success());
}

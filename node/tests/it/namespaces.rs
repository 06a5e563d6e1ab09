//! Namespaces on the real binary: known on every node, kept over a crash, and used by the command line.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::run;
use crate::cluster::{Node, NodeBuilder, PATIENCE, assert_tables_equal_fold};
use crate::many::Builders;
use crate::receiver::{Behaviour, Receiver, SECRET};

/// A request in a namespace: the status and the body.
async fn ask(node: &Node, namespace: &str, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
    let mut request = node.request(method, path).header("opcode-namespace", namespace);
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.expect("the node answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("the body comes");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn get(node: &Node, namespace: &str, path: &str) -> (u16, Value) {
    ask(node, namespace, Method::GET, path, None).await
}

async fn post(node: &Node, namespace: &str, path: &str, body: Value) -> (u16, Value) {
    ask(node, namespace, Method::POST, path, Some(&body)).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|run| run["workflow_id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_there_on_every_node_and_after_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(home.path());
    let nodes = builders.start().await;
    let (status, made) = ask(&nodes[0], "default", Method::PUT, "/v1/namespaces/team", None).await;
    assert_eq!((status, &made["name"]), (201, &json!("team")), "{made}");
    let child = json!({"name": "child", "definition": {"steps": [
        {"id": "a", "action": "expr.eval", "params": {"expression": "20 + 1"}}]}});
    assert_eq!(post(&nodes[1], "team", "/v1/templates", child).await.0, 201, "at once, on another node");
    let parent =
        json!({"steps": [{"id": "c", "action": "workflow.run", "params": {"template_name": "child"}}]});
    for n in 0..12 {
        let body = json!({"id": format!("p-{n}"), "definition": parent});
        let (status, started) = post(&nodes[n % 3], "team", "/v1/workflows?wait=30s", body.clone()).await;
        assert_eq!((status, &started["status"]), (201, &json!("completed")), "{started}");
        // The same id in `default` is another run, which has no such template.
        let (status, started) = post(&nodes[n % 3], "default", "/v1/workflows?wait=30s", body).await;
        assert_eq!((status, &started["error"]["code"]), (201, &json!("NOT_FOUND")), "{started}");
    }
    let asks = json!({"id": "asks", "definition": {"steps": [{"id": "ask", "type": "reasoning",
        "config": {"prompt_context": "?", "options": [{"id": "yes"}]}}]}});
    let (_, started) = post(&nodes[2], "team", "/v1/workflows?wait=30s", asks).await;
    assert_eq!(started["status"], "suspended", "{started}");
    nodes.into_iter().for_each(Node::kill);
    let starting = builders.0.into_iter().map(|builder| std::thread::spawn(move || builder.start()));
    let starting: Vec<_> = starting.collect();
    let nodes: Vec<Node> = starting.into_iter().map(|node| node.join().unwrap()).collect();
    let deadline = Instant::now() + PATIENCE;
    let list = loop {
        let (status, list) = get(&nodes[1], "team", "/v1/workflows?limit=100").await;
        if status == 200 && list.get("unreachable_shards").is_none() {
            break list;
        }
        assert!(Instant::now() < deadline, "not in time: {list}");
    };
    assert_eq!(ids(&list).len(), 25, "twelve parents, their children, and one that asks: {list}");
    let (_, of_default) = get(&nodes[0], "default", "/v1/workflows?limit=100").await;
    assert_eq!(ids(&of_default).len(), 12, "{of_default}");
    let decision = json!({"type": "decision", "step_id": "ask", "payload": {"choice": "yes"}});
    assert_eq!(post(&nodes[0], "default", "/v1/workflows/asks/signals", decision.clone()).await.0, 404);
    assert_eq!(post(&nodes[0], "team", "/v1/workflows/asks/signals", decision).await.0, 202);
    let (_, ended) = get(&nodes[2], "team", "/v1/workflows/asks?wait=30s").await;
    assert_eq!(ended["status"], "completed", "{ended}");
    let (_, run) = get(&nodes[2], "team", "/v1/workflows/p-0:c:1").await;
    assert_eq!((&run["template"], &run["parent"]["workflow_id"]), (&json!("child"), &json!("p-0")));
    assert!(nodes.into_iter().all(|node| node.stop().success()));
    for n in 1..=3 {
        assert_tables_equal_fold(&home.path().join(format!("n{n}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_of_a_namespace() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let definition = r#"{"steps": [{"id": "a", "action": "crypto.uuid"}]}"#;
    let told = |args: &[&str], code: i32| {
        let output = run(&node.url, args, definition);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        let bytes = if code == 0 { output.stdout } else { output.stderr };
        String::from_utf8(bytes).unwrap()
    };
    let submit = ["run", "-", "--wait", "--id", "w", "--namespace", "team-a"];
    assert!(told(&submit, 4).contains("opcode namespace create team-a"));
    assert!(told(&["namespace", "create", "team-a"], 0).contains("team-a"));
    told(&["namespace", "create", "../a"], 1);
    told(&["wf", "list", "--namespace", "../a"], 2);
    told(&submit, 0);
    assert_eq!(told(&["--namespace", "team-a", "wf", "list", "-q"], 0), "w\n");
    assert_eq!(told(&["wf", "list", "-q"], 0), "");
    told(&["wf", "get", "w"], 4);
    assert_eq!(told(&["namespace", "list", "-q"], 0), "default\nteam-a\n");
    assert!(told(&["namespace", "delete", "team-a"], 8).contains("workflows"));

    let made = told(&["token", "create", "--scope", "admin", "--namespace", "team-a", "-o", "json"], 0);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["namespace"], "team-a");
    let token = made["token"].as_str().unwrap();
    assert_eq!(told(&["wf", "list", "-q", "--token", token], 0), "w\n", "the token says where");
    told(&["wf", "list", "--token", token, "--namespace", "default"], 5);
    told(&["cluster", "status", "--token", token], 5);
    told(&["sql", "SELECT 1", "--token", token], 5);
    told(&["wf", "delete", "w", "--token", token], 0);
    assert!(told(&["namespace", "delete", "team-a"], 8).contains("tokens"));
    told(&["token", "rm", made["token_id"].as_str().unwrap()], 0);
    told(&["namespace", "delete", "team-a"], 0);
    assert_eq!(told(&["namespace", "list", "-q"], 0), "default\n");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_told_and_runs_are_kept_by_namespace() {
    let home = tempfile::tempdir().unwrap();
    let (data, key) = (home.path().join("data"), home.path().join("key"));
    std::fs::write(&key, "c5".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let builder = NodeBuilder::new(&data).arg("--secrets-key-file").arg(key.display().to_string());
    let node = builder.arg("--retention-every-s").arg("1").start();
    assert_eq!(ask(&node, "default", Method::PUT, "/v1/namespaces/team", None).await.0, 201);
    let receivers = [Receiver::start(Behaviour::Take).await, Receiver::start(Behaviour::Take).await];
    let places = ["default", "team"];
    for (namespace, receiver) in places.into_iter().zip(&receivers) {
        let body = json!({"id": "ends", "url": receiver.url, "secret": SECRET, "events": ["workflow.completed"],
            "filter": {"template": "t"}});
        assert_eq!(post(&node, namespace, "/v1/webhooks", body).await.0, 201);
        let file = json!({"name": "t", "definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}});
        assert_eq!(post(&node, namespace, "/v1/templates", file).await.0, 201);
        let body = json!({"id": format!("of-{namespace}"), "template": "t"});
        assert_eq!(post(&node, namespace, "/v1/workflows?wait=30s", body).await.1["status"], "completed");
    }
    for (namespace, receiver) in places.into_iter().zip(&receivers) {
        let told = receiver.until("the end of a run", |seen| !seen.is_empty()).await;
        let data = &told[0].body["data"];
        let expected = format!("of-{namespace}");
        assert_eq!((&data["workflow_id"], &data["template"]), (&json!(expected), &json!("t")), "{told:?}");
        assert!(told.iter().all(|one| one.run() == expected && !one.body.to_string().contains("team/")));
    }
    // What is kept no longer in one namespace stays in the other.
    let rule = json!({"archive_after": "1s"});
    let set = ask(&node, "team", Method::PUT, "/v1/retention/templates/t", Some(&rule)).await;
    assert_eq!(set.0, 200, "{}", set.1);
    let deadline = Instant::now() + PATIENCE;
    while get(&node, "team", "/v1/workflows/of-team").await.0 != 404 {
        assert!(Instant::now() < deadline, "it stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(get(&node, "default", "/v1/workflows/of-default").await.0, 200);
    let folder = data.join("archive/team/template-t");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let packed = std::fs::read(file).unwrap();
    let mut lines = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut lines).unwrap();
    assert!(lines.contains("\"of-team\"") && !lines.contains("team/"), "{lines}");
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

//! Secrets over HTTP, and runs that use them: a node in process, its sealed values in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Method;
use opcode_shard::vault::{Keys, MemoryStore, Vault};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::node::{Answer, Node, request};

/// A value with what has to be escaped in JSON and in URLs, and what stands in each form of it.
const CANARY: &str = "kAnary-7f\"3&x-Zq81";
const FORMS: [&str; 7] = [
    "kanary-7f",
    "x-zq81",
    "a0FuYXJ5LTdm",
    "tBbmFyeS03Z",
    "rQW5hcnktN2",
    "6b416e6172792d3766",
    "kAnary%2D7f",
];

fn vault() -> Arc<Vault> {
    let mut keys = Keys::default();
    keys.add_key_file(&"ab".repeat(32)).expect("a key");
    Vault::new(keys, Arc::new(MemoryStore::default()))
}

async fn node() -> Node {
    Node::with_vault(vault(), |options| {
        options.allow_shell = true;
        options.allow_private_network = true;
    })
    .await
}

async fn put(node: &Node, key: &str, body: &Value) -> Answer {
    let mut request = request(Method::PUT, &format!("/v1/secrets/{key}"), Body::from(body.to_string()));
    request.headers_mut().insert("content-type", "application/json".parse().expect("a header"));
    node.send(request).await
}

async fn delete(node: &Node, key: &str) -> Answer {
    node.send(request(Method::DELETE, &format!("/v1/secrets/{key}"), Body::empty())).await
}

#[tokio::test]
async fn secrets_are_set_listed_and_removed_and_never_shown() {
    let node = node().await;
    let first = put(&node, "API_KEY", &json!({ "value": CANARY })).await;
    assert_eq!((first.status, &first.json()["key"]), (201, &json!("API_KEY")), "{:?}", first.body);
    assert!(first.header("opcode-token").starts_with("system:"), "{:?}", first.headers);
    assert_eq!(put(&node, "API_KEY", &json!({"value": "another value"})).await.status, 200);
    for key in ["rotate", "b", "a.c-d"] {
        assert_eq!(put(&node, key, &json!({"value": "another value"})).await.status, 201);
    }
    let list = node.get("/v1/secrets?limit=3").await.json();
    let keys: Vec<_> = list["items"].as_array().expect("items").iter().map(|s| s["key"].clone()).collect();
    assert_eq!(keys, ["API_KEY", "a.c-d", "b"]);
    assert!(!list.to_string().contains("another"), "{list}");
    let cursor = list["next_cursor"].as_str().expect("there is more").to_owned();
    let rest = node.get(&format!("/v1/secrets?cursor={cursor}")).await.json();
    assert_eq!((&rest["items"][0]["key"], &rest["next_cursor"]), (&json!("rotate"), &json!(null)));
    let rotated = node.post("/v1/secrets/rotate", &json!({})).await.json();
    assert_eq!(rotated, json!({"resealed": 0, "unchanged": 4, "failed": []}));
    assert_eq!(delete(&node, "rotate").await.json(), json!({"key": "rotate", "removed": true}));
    assert_eq!(delete(&node, "rotate").await.status, 404);
    assert_eq!(node.get("/v1/secrets/API_KEY").await.status, 405);
}

#[tokio::test]
async fn what_is_refused_is_not_repeated() {
    let node = node().await;
    for (key, body, status, pointer) in [
        ("a%20b", json!({ "value": CANARY }), 422, "/key"),
        ("k", json!({"value": "short"}), 422, "/value"),
        ("k", json!({"value": [CANARY]}), 422, "/value"),
        ("k", json!({}), 422, "/value"),
        ("k", json!({"value": CANARY, "vaule": CANARY}), 422, "/vaule"),
        ("k", json!(CANARY), 422, ""),
    ] {
        let answer = put(&node, key, &body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["pointer"]),
            (status, &json!(pointer)),
            "{text}"
        );
        assert!(!text.contains("kAnary") && !text.contains("short\""), "{text}");
    }
    assert_eq!(node.get("/v1/secrets").await.json()["items"], json!([]));
}

#[tokio::test]
async fn without_a_key_the_rest_works() {
    let node = Node::start().await;
    let answer = put(&node, "k", &json!({ "value": CANARY })).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("VAULT_ERROR")));
    assert_eq!(answer.json()["applied"], "no");
    assert!(answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("secrets_key_file")));
    let steps = json!([
        {"id": "a", "action": "crypto.hmac", "params": {"data": "d", "key": "${{secrets.K}}"},
         "on_error": {"strategy": "ignore"}},
        {"id": "b", "action": "crypto.hash", "params": {"data": "abc"}, "depends_on": ["a"]}]);
    let run = node.post("/v1/workflows?wait=20s", &json!({"id": "r", "definition": {"steps": steps}})).await;
    assert_eq!(run.json()["status"], "completed", "{:?}", run.body);
    let events = node.get("/v1/workflows/r/events").await.json().to_string();
    assert!(events.contains("VAULT_ERROR") && events.contains("secrets_key_file"), "{events}");
}

#[tokio::test]
async fn an_attempt_takes_what_is_there_then() {
    let node = node().await;
    let step = json!({"id": "a", "action": "crypto.hmac", "params": {"data": "d", "key": "${{secrets.LATE}}"},
        "retry": {"max": 200, "backoff": "constant", "delay": "20ms"}});
    let body = json!({"id": "r", "definition": {"steps": [step]}});
    assert_eq!(node.post("/v1/workflows", &body).await.status, 201);
    let mut has_failed = false;
    for _ in 0..1_000 {
        let events = node.get("/v1/workflows/r/events").await.json().to_string();
        has_failed = events.contains("no secret `LATE`");
        if has_failed {
            break;
        }
    }
    assert!(has_failed, "it fails while there is none");
    put(&node, "LATE", &json!({"value": "a late value"})).await;
    let run = node.get("/v1/workflows/r?wait=20s").await.json();
    assert_eq!(run["status"], "completed", "{run}");
    let hmac = node
        .post(
            "/v1/workflows?wait=20s",
            &json!({"definition": {"steps": [
        {"id": "a", "action": "crypto.hmac", "params": {"data": "d", "key": "a late value"}}]}}),
        )
        .await
        .json();
    assert_eq!(run["output"]["a"]["hmac"], hmac["output"]["a"]["hmac"]);
}

/// Answers every request with all of it.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = vec![0; 64 * 1024];
                let mut length = 0;
                // A request of these tests ends with its body's last brace, or has no body.
                while !seen[..length].ends_with(b"}") && !seen[..length].ends_with(b"\r\n\r\n") {
                    length += stream.read(&mut seen[length..]).await.expect("a request");
                }
                let text = String::from_utf8_lossy(&seen[..length]).into_owned();
                let body = json!({ "echo": text }).to_string();
                let status = if text.contains("/fails") { "500 Oh" } else { "200 OK" };
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close");
                let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("it is still there");
            });
        }
    });
    port
}

fn steps(port: u16) -> Value {
    let url = format!("http://127.0.0.1:{port}");
    let ignored = json!({"strategy": "ignore"});
    let bearer = json!({"type": "bearer", "token": "${{secrets.CANARY}}"});
    let basic = json!({"type": "basic", "username": "u", "password": "${{secrets.CANARY}}"});
    json!([
        {"id": "header", "action": "http.get", "params": {"url": url, "headers": {"X": "<${{secrets.CANARY}}>"}, "auth": bearer}},
        {"id": "query", "action": "http.get", "params": {"url": format!("{url}/?a=b&k=${{{{secrets.CANARY}}}}"), "auth": basic}},
        {"id": "body", "action": "http.post", "params": {"url": url, "body": {"deep": [{"k": "${{ secrets.CANARY }}"}]}}},
        {"id": "fails", "action": "http.post", "on_error": ignored,
         "params": {"url": format!("{url}/fails"), "body": {"k": "${{secrets.CANARY}}"}, "fail_on_error_status": true}},
        {"id": "nowhere", "action": "http.get", "on_error": ignored,
         "params": {"url": "http://${{secrets.CANARY}}.invalid/${{secrets.CANARY}}"}},
        {"id": "shell", "action": "shell.exec",
         "params": {"command": "echo \"$K\"; printf %s \"$K\" | base64 >&2", "shell": true, "env": {"K": "${{secrets.CANARY}}"}}},
        {"id": "hmac", "action": "crypto.hmac", "params": {"data": "d", "key": "${{secrets.CANARY}}"}},
        {"id": "assert", "action": "assert.equals", "on_error": ignored,
         "params": {"expected": "${{secrets.CANARY}}", "actual": "${{inputs.given}}"}},
        {"id": "reads", "action": "expr.eval", "depends_on": ["header", "body", "shell"],
         "params": {"expression": "data", "data": ["${{steps.header.body}}", "${{steps.body.body.echo}}", "${{steps.shell.stdout}}"]}}])
}

/// Everything in a folder, whole.
fn files(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).expect("a file"));
        }
    }
}

fn assert_no_canary(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    for form in FORMS {
        if let Some(at) = text.find(&form.to_ascii_lowercase()) {
            let near: String =
                text[..at].chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{place} holds {form} after {near:?}");
        }
    }
}

/// The value goes into requests, a command, an HMAC and failures, and is then looked for in every
/// file and every answer.
#[tokio::test]
async fn a_value_is_nowhere_but_in_the_action() {
    let node = node().await;
    let port = echo().await;
    assert_eq!(put(&node, "CANARY", &json!({ "value": CANARY })).await.status, 201);
    let body =
        json!({"id": "r", "definition": {"steps": steps(port)}, "params": {"given": "something else"}});
    let run = node.post("/v1/workflows?wait=30s", &body).await;
    assert_eq!(run.json()["status"], "completed", "{}", String::from_utf8_lossy(&run.body));
    let shown = node.get("/v1/workflows/r").await;
    let text = shown.json().to_string();
    // It was there to be masked, and the outputs can be used.
    assert!(text.matches("[secret CANARY]").count() > 10, "{text}");
    assert_eq!(shown.json()["steps"]["hmac"]["output"]["hmac"].as_str().map(str::len), Some(64));
    assert_eq!(shown.json()["steps"]["shell"]["output"]["stdout"], "[secret CANARY]\n");
    let mut places = BTreeMap::from([("the submission".to_owned(), run.body.to_vec())]);
    for path in [
        "/v1/workflows/r",
        "/v1/workflows/r/events?limit=1000",
        "/v1/workflows/r/definition",
        "/v1/workflows/r/why",
        "/v1/workflows/r/diagram?format=ascii",
        "/v1/workflows/r/diagram?format=svg",
        "/v1/workflows/r/diagram?format=mermaid",
        "/v1/workflows",
        "/v1/secrets",
        "/v1/cluster",
        "/v1/decisions",
    ] {
        let answer = node.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        places.insert(path.to_owned(), answer.body.to_vec());
    }
    files(node.home.path(), &mut places);
    let has_run = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).contains("[secret CANARY]");
    assert!(
        places.iter().any(|(place, bytes)| place.contains("/log/") && has_run(bytes)),
        "the log is looked at"
    );
    for (place, bytes) in &places {
        assert_no_canary(place, bytes);
    }
}

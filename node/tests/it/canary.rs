//! A secret goes into everything that a step can do with one, and is then looked for in everything
//! that a node writes down or tells: files, logs at their most talkative, metrics, answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, assert_tables_equal_fold, opcode};

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
const PASSPHRASE: &str = "passphrase-canary-93d1";

/// Answers every request with all of it, and some with a failure.
async fn echo(request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let headers: BTreeMap<String, String> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let said =
        json!({"uri": parts.uri.to_string(), "headers": headers, "body": String::from_utf8_lossy(&body)});
    let status = match parts.uri.path() {
        "/fails" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    };
    (status, axum::Json(said)).into_response()
}

async fn echoing() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(echo);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

fn steps(url: &str) -> Value {
    let ignored = json!({"strategy": "ignore"});
    let bearer = json!({"type": "bearer", "token": "${{secrets.CANARY}}"});
    let basic = json!({"type": "basic", "username": "u", "password": "${{secrets.CANARY}}"});
    json!([
        {"id": "header", "action": "http.get",
         "params": {"url": url, "headers": {"X": "<${{secrets.CANARY}}>"}, "auth": bearer}},
        {"id": "query", "action": "http.get",
         "params": {"url": format!("{url}/?a=b&k=${{{{secrets.CANARY}}}}"), "auth": basic}},
        {"id": "body", "action": "http.post",
         "params": {"url": url, "body": {"deep": [{"k": "${{ secrets.CANARY }}"}]}}},
        {"id": "costly", "action": "http.post",
         "params": {"url": url, "body": {"k": "${{secrets.CANARY}}", "n": "${{ jq: 1 + 1 }}"}}},
        {"id": "form", "action": "http.post",
         "params": {"url": url, "body": {"k": "${{secrets.CANARY}}"}, "body_encoding": "form"}},
        {"id": "fails", "action": "http.post", "on_error": ignored, "retry": {"max": 2},
         "params": {"url": format!("{url}/fails"), "body": {"k": "${{secrets.CANARY}}"}, "fail_on_error_status": true}},
        {"id": "refused", "action": "http.get", "on_error": ignored,
         "params": {"url": "http://u:${{secrets.CANARY}}@127.0.0.1:1/${{secrets.CANARY}}?${{secrets.CANARY}}"}},
        {"id": "malformed", "action": "http.get", "on_error": ignored,
         "params": {"url": "http://${{secrets.CANARY}}.invalid/"}},
        {"id": "shell", "action": "shell.exec", "params": {"shell": true, "env": {"K": "${{secrets.CANARY}}"},
         "command": "echo \"$K\"; printf %s \"$K\" | base64 >&2"}},
        {"id": "exits", "action": "shell.exec", "on_error": ignored,
         "params": {"command": "/bin/echo", "args": ["${{secrets.CANARY}}"], "cwd": "/no/such", "fail_on_nonzero_exit": true}},
        {"id": "hmac", "action": "crypto.hmac", "params": {"data": "d", "key": "${{secrets.CANARY}}"}},
        {"id": "assert", "action": "assert.equals", "on_error": ignored,
         "params": {"expected": "${{secrets.CANARY}}", "actual": "something else"}},
        {"id": "file", "action": "fs.read", "on_error": ignored, "params": {"path": "${{secrets.CANARY}}"}},
        {"id": "reads", "action": "workflow.log", "depends_on": ["header", "body", "shell", "query"],
         "params": {"message": "${{steps.shell.stdout}} ${{steps.header.body}} ${{steps.body.body.body}}"}}])
}

/// Everything in a folder, whole.
fn files(folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
}

fn assert_no_canary(place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    for form in FORMS.into_iter().chain([PASSPHRASE]) {
        if let Some(at) = text.find(&form.to_ascii_lowercase()) {
            let start = text.floor_char_boundary(at.saturating_sub(200));
            panic!("{place} holds {form} after {:?}", &text[start..at]);
        }
    }
}

/// Every answer about the run, and of what shows all runs.
async fn answers(node: &Node) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in [
        "/v1/workflows/r",
        "/v1/workflows/r/events?limit=1000",
        "/v1/workflows/r/definition",
        "/v1/workflows/r/why",
        "/v1/workflows/r/diagram?format=ascii",
        "/v1/workflows/r/diagram?format=svg",
        "/v1/workflows/r/diagram?format=mermaid",
        "/v1/workflows",
        "/v1/workflows?consistency=eventual",
        "/v1/secrets",
        "/v1/cluster",
        "/v1/decisions",
        "/metrics",
        "/openapi.json",
    ] {
        let answer = node.request(reqwest::Method::GET, path).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}");
        found.insert(path.to_owned(), answer.bytes().await.unwrap().to_vec());
    }
    let (_, rows) = node.post("/v1/sql", &json!({"query": "SELECT * FROM events"})).await;
    found.insert("/v1/sql".to_owned(), rows.to_string().into_bytes());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_nowhere_but_in_the_action() {
    let home = tempfile::tempdir().unwrap();
    let (data, log) = (home.path().join("data"), home.path().join("stderr"));
    let passphrases = home.path().join("passphrases");
    std::fs::write(&passphrases, PASSPHRASE).unwrap();
    std::fs::set_permissions(&passphrases, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let node = NodeBuilder::new(&data)
        .arg("--allow-shell")
        .arg(format!("--secrets-passphrase-file={}", passphrases.display()))
        .arg(format!("--fs-root={}", home.path().display()))
        .traced(&log)
        .start();
    let mut set = opcode()
        .args(["--server", &node.url, "secret", "set", "CANARY"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    set.stdin.take().unwrap().write_all(CANARY.as_bytes()).unwrap();
    let set = set.wait_with_output().unwrap();
    assert!(set.status.success());
    let body = json!({"id": "r", "definition": {"steps": steps(&echoing().await)}});
    node.submit(&body).await;
    let run = node.end("r").await;
    assert_eq!(run["status"], "completed", "{run}");
    // It was there to be masked, and what can be shown of it is.
    assert!(run.to_string().matches("[secret CANARY]").count() > 10, "{run}");
    assert_eq!(run["steps"]["hmac"]["output"]["hmac"].as_str().map(str::len), Some(64));
    let mut places = answers(&node).await;
    assert!(node.stop().success());
    places.insert("the command's output".to_owned(), set.stdout);
    places.insert("the log".to_owned(), std::fs::read(&log).unwrap());
    files(&data, &mut places);
    let holds = |place: &str, text: &str| String::from_utf8_lossy(&places[place]).contains(text);
    assert!(holds("the log", "\"TRACE\"") && holds("/metrics", "opcode_"), "they are looked at");
    let tells = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).contains("[secret CANARY]");
    assert!(places.iter().any(|(place, bytes)| place.contains("/log/") && tells(bytes)));
    assert!(places.iter().any(|(place, bytes)| place.contains("tables.db") && tells(bytes)));
    for (place, bytes) in &places {
        assert_no_canary(place, bytes);
    }
    assert_tables_equal_fold(&data);
}

//! Runs that are accepted and reach for what they must not have: each ends with a refusal.

use serde_json::{Value, json};

use crate::cluster::{NodeBuilder, opcode};

/// Runs of one step, and the code it fails with.
fn reaching(secret: &str) -> Vec<(&'static str, Value, &'static str)> {
    let http = |url: &str| json!({"id": "a", "action": "http.get", "params": {"url": url}});
    let fs = |action: &str, path: &str| {
        let mut params = json!({"path": path});
        if action == "fs.write" {
            params["content"] = json!("x");
        }
        json!({"id": "a", "action": action, "params": params})
    };
    let mut all = vec![
        ("the metadata service", http("http://169.254.169.254/latest/meta-data/"), "PERMISSION_DENIED"),
        ("loopback", http("http://127.0.0.1:1/"), "PERMISSION_DENIED"),
        ("loopback by name", http("http://localhost:1/"), "PERMISSION_DENIED"),
        ("loopback in one number", http("http://2130706433:1/"), "PERMISSION_DENIED"),
        ("loopback in octal", http("http://0177.0.0.1:1/"), "PERMISSION_DENIED"),
        ("loopback in hex", http("http://0x7f.1:1/"), "PERMISSION_DENIED"),
        ("loopback of IPv6", http("http://[::1]:1/"), "PERMISSION_DENIED"),
        ("loopback of IPv4 in IPv6", http("http://[::ffff:127.0.0.1]:1/"), "PERMISSION_DENIED"),
        ("this network", http("http://0.0.0.0:1/"), "PERMISSION_DENIED"),
        ("a private network", http("http://10.0.0.1:1/"), "PERMISSION_DENIED"),
        ("a unique local address", http("http://[fd00::1]:1/"), "PERMISSION_DENIED"),
        ("a link-local address", http("http://[fe80::1]:1/"), "PERMISSION_DENIED"),
        ("a user that looks like a host", http("http://example.com@127.0.0.1:1/"), "PERMISSION_DENIED"),
        ("a file by URL", http("file:///etc/passwd"), "VALIDATION_ERROR"),
        ("another scheme", http("gopher://127.0.0.1:1/"), "VALIDATION_ERROR"),
        (
            "a command",
            json!({"id": "a", "action": "shell.exec", "params": {"command": "id"}}),
            "PERMISSION_DENIED",
        ),
        ("a file outside", fs("fs.read", secret), "PATH_DENIED"),
        ("a file above", fs("fs.read", "../secret"), "PATH_DENIED"),
        ("a file by a link", fs("fs.read", "link"), "PATH_DENIED"),
        ("a file in a linked folder", fs("fs.write", "folder/new"), "PATH_DENIED"),
    ];
    let bad = json!({"id": "a", "action": "http.get", "params": {"url": "http://example.com/", "headers": {"x": "a\r\nhost: evil"}}});
    all.push(("a header with a line end", bad, "VALIDATION_ERROR"));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_reaches_too_far_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (root, secret) = (home.path().join("root"), home.path().join("secret"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::create_dir_all(home.path().join("outside")).unwrap();
    std::fs::write(&secret, "canary-7f3a").unwrap();
    std::os::unix::fs::symlink(&secret, root.join("link")).unwrap();
    std::os::unix::fs::symlink(home.path().join("outside"), root.join("folder")).unwrap();
    let node = NodeBuilder::strict(&home.path().join("data"))
        .arg("--fs-root")
        .arg(root.display().to_string())
        .start();
    let mut wrong = Vec::new();
    for (name, step, code) in reaching(&secret.display().to_string()) {
        let (status, answer) =
            node.post("/v1/workflows?wait=20s", &json!({"definition": {"steps": [step]}})).await;
        let text = answer.to_string();
        let is_refused = match status {
            201 => {
                answer["status"] == "failed"
                    && answer["error"]["code"].as_str().is_some_and(|c| c == code || text.contains(code))
            }
            _ => status == 422 && code == "VALIDATION_ERROR",
        };
        if !is_refused || text.contains("canary-7f3a") {
            wrong.push(format!("{name}: {status}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!home.path().join("outside/new").exists());
    assert!(node.stop().success());
}

/// Values that look like code stay values, wherever they are written.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_becomes_code() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let values = [
        "'; DROP TABLE workflows; --",
        "\"}, \"injected\": {\"a\": \"",
        "${{ inputs.other }}",
        "$(id)",
        "<script>alert(1)</script>",
        "\u{202e}txt.exe",
        "../../etc/passwd",
        "%s%n%x",
        "\r\nset-cookie: a=b",
    ];
    for (n, value) in values.iter().enumerate() {
        let definition = json!({"steps": [
            {"id": "a", "action": "expr.eval", "params": {"expression": "data.v", "data": {"v": "${{ inputs.v }}"}}}]});
        let id = format!("value-{n}");
        let labels = json!({"v": value});
        let body = json!({"id": id, "definition": definition, "params": {"v": value, "other": "no"}, "labels": labels});
        node.submit(&body).await;
        let run = node.end(&id).await;
        assert_eq!(run["output"]["a"]["result"], *value, "{run}");
        let url = reqwest::Url::parse_with_params(&node.url, [("label", format!("v:{value}"))]).unwrap();
        let path = format!("/v1/workflows?{}", url.query().unwrap());
        let listed = node.request(reqwest::Method::GET, &path);
        let listed: Value = listed.send().await.unwrap().json().await.unwrap();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{value}: {listed}");
    }
    let (_, rows) = node.post("/v1/sql", &json!({"query": "SELECT count(*) AS n FROM workflows"})).await;
    let count: i64 = rows["items"].as_array().unwrap().iter().map(|row| row["n"].as_i64().unwrap()).sum();
    assert_eq!(count, i64::try_from(values.len()).unwrap());
    // Nor on the command line.
    let shown =
        opcode().args(["--server", &node.url, "wf", "get", "value-5", "-o", "table"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(!shown.contains('\u{202e}'), "a terminal would turn what follows around: {shown:?}");
}

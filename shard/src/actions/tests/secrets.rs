//! What comes back from an action never holds the secrets that went into it.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::server::{Server, answer, redirect};
use super::*;
use crate::vault::mask::Mask;

/// With what has to be escaped in URLs and in JSON.
const CANARY: &str = "kAnary/7f\"3 é&x";

/// Runs an action that was given the canary; all that came of it, as text.
async fn told(actions: &Actions, action: &str, params: Value) -> Result<Value, Fault> {
    let mut call = call(action, params);
    call.mask = Some(Arc::new(Mask::of([("K", CANARY)].into_iter())));
    assert!(!format!("{call:?}").contains("kAnary"));
    let outcome = actions.run(call).await;
    let mut text = format!("{outcome:?}");
    match &outcome.result {
        Ok(output) => write!(text, "{output}").unwrap(),
        Err(fault) => write!(text, "{fault} {}", fault.details).unwrap(),
    }
    let known = ["kanary", "a0FuYXJ5", "tBbmFye", "rQW5hcn", "6b416e617279"];
    let is_there = |known: &&str| text.to_ascii_lowercase().contains(&known.to_ascii_lowercase());
    assert!(!known.iter().any(is_there), "{action}: {text}");
    assert!(text.contains("[secret K]"), "{action}: nothing was there to be masked: {text}");
    outcome.result
}

#[tokio::test]
async fn a_server_that_tells_all_it_was_sent_tells_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let server = Server::start(|request| {
        let status = if request.contains("/fails") { "500 Oh" } else { "200 OK" };
        let basic = request.split("Basic ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        let shown = String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap();
        let echo = json!({"request": request, "basic": shown, "hex": hex::encode(shown.as_bytes())});
        answer(status, "content-type: application/json\r\n", &echo.to_string())
    })
    .await;
    let query = "kAnary%2F7f%223%20%C3%A9%26x";
    let params = |path: &str| {
        json!({
            "url": server.url(&format!("{path}?k={query}")),
            "headers": {"Cookie": format!("k={query}")},
            "auth": {"type": "basic", "username": "someone", "password": CANARY},
            "body": {"k": CANARY, "all": [CANARY]}, "fail_on_error_status": true,
        })
    };
    let result = told(&actions, "http.post", params("/")).await;
    assert_eq!(result.unwrap()["status_code"], 200);
    let basic = STANDARD.encode(format!("someone:{CANARY}"));
    assert!(server.last().contains(query) && server.last().contains(&basic), "the server was sent all");
    let mut form = params("/fails");
    let result = told(&actions, "http.post", form.clone()).await;
    assert_eq!(result.unwrap_err().code, Code::ExecutionError);
    form["body_encoding"] = json!("form");
    form["body"] = json!({ "k": CANARY });
    told(&actions, "http.post", form).await.unwrap_err();
}

#[tokio::test]
async fn a_header_with_a_secret_does_not_follow_to_another_origin() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let other = Server::start(|_| answer("200 OK", "", "{}")).await;
    let to = other.url("/there");
    let first = Server::start(move |_| redirect(307, &to)).await;
    let headers = json!({"X-Key": "Key kAnary-77", "X-Other": "kept"});
    let mut call = call("http.get", json!({"url": first.url("/"), "headers": headers}));
    call.mask = Some(Arc::new(Mask::of([("K", "kAnary-77")].into_iter())));
    actions.run(call).await.result.unwrap();
    assert!(first.last().contains("Key kAnary-77"), "{}", first.last());
    assert!(other.last().contains("x-other: kept"), "{}", other.last());
    assert!(!other.last().contains("kAnary"), "{}", other.last());
}

#[tokio::test]
async fn what_fails_does_not_say_with_what() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let env = json!({ "KEY": CANARY });
    let shell =
        |script: &str| json!({"command": script, "shell": true, "env": env, "fail_on_nonzero_exit": true});
    told(&actions, "shell.exec", shell("echo \"$KEY\"; printf '%s' \"$KEY\" | base64 >&2")).await.unwrap();
    let failed = told(&actions, "shell.exec", shell("echo \"no $KEY\" >&2; exit 3")).await;
    assert_eq!(failed.unwrap_err().code, Code::ExecutionError);
    told(&actions, "assert.equals", json!({"expected": CANARY, "actual": {"k": [CANARY]}}))
        .await
        .unwrap_err();
    // Masked before it is cut: the cut would go through the value.
    let message = format!("{}{CANARY}", "x".repeat(super::super::PREVIEW_BYTES - 8));
    let cut = json!({"expected": 1, "actual": CANARY, "message": message});
    told(&actions, "assert.equals", cut).await.unwrap_err();
    told(&actions, "fs.read", json!({"path": format!("{CANARY}.txt")})).await.unwrap_err();
}

#[tokio::test]
async fn a_host_that_is_a_secret_is_not_named() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let mask = Arc::new(Mask::of([("HOST", "hostCanary77")].into_iter()));
    for _ in 0..6 {
        let mut call = call("http.get", json!({"url": "http://hostCanary77.invalid/"}));
        call.mask = Some(mask.clone());
        // The breaker that opens has the host in its name.
        let outcome = format!("{:?}", actions.run(call).await);
        assert!(outcome.contains("[secret HOST].invalid"), "{outcome}");
        assert!(!outcome.to_ascii_lowercase().contains("hostcanary77"), "{outcome}");
    }
}

#[tokio::test]
async fn what_is_made_of_a_secret_to_be_shown_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let actions = Actions::new(options(dir.path()));
    let mut call = call("crypto.hmac", json!({"key": CANARY, "data": "abc"}));
    call.mask = Some(Arc::new(Mask::of([("K", CANARY)].into_iter())));
    let plain = run(&actions, "crypto.hmac", json!({"key": CANARY, "data": "abc"})).await.unwrap();
    assert_eq!(actions.run(call).await.result.unwrap(), plain);
}

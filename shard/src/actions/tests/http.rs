//! `http.*` against a server on the loopback.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::http::Http;
use super::super::http_guard::{Guard, Lookup};
use super::server::{Server, answer, redirect};
use super::*;

fn open() -> Arc<Actions> {
    Actions::new(options(Path::new("/")))
}

fn guarded() -> Arc<Actions> {
    Actions::new(ActionOptions { allow_private_network: false, ..options(Path::new("/")) })
}

#[tokio::test]
async fn a_json_answer_is_parsed_and_keeps_its_digits() {
    let body = r#"{"id": 12345678901234567890123, "price": 1.10}"#;
    let server = Server::start(|_| {
        answer("200 OK", "content-type: application/vnd.x+json\r\nx-a: 1\r\nx-a: 2\r\n", body)
    })
    .await;
    let headers = json!({"X-Quantity": 7, "X-Urgent": true, "x-none": null, "Content-Length": "99"});
    let output =
        run(&open(), "http.get", json!({"url": server.url("/a?b=c"), "headers": headers})).await.unwrap();
    assert_eq!(output["status_code"], 200);
    assert_eq!(output["status"], "200 OK");
    assert_eq!(output["content_type"], "application/vnd.x+json");
    assert_eq!(output["headers"]["X-A"], "1, 2");
    assert_eq!(output["headers"]["Content-Type"], "application/vnd.x+json");
    assert_eq!(output["body"].to_string(), r#"{"id":12345678901234567890123,"price":1.10}"#);
    assert!(output["duration_ms"].is_u64());
    let request = server.last().to_ascii_lowercase();
    assert!(request.starts_with("get /a?b=c http/1.1"), "{request}");
    for line in ["x-quantity: 7", "x-urgent: true", "idempotency-key: run-1/step"] {
        assert!(request.contains(line), "{line} in {request}");
    }
    assert!(!request.contains("content-length"), "{request}");
}

#[tokio::test]
async fn bodies_are_encoded_as_asked() {
    let server = Server::start(|_| answer("204 No Content", "", "")).await;
    let actions = open();
    let table = [
        (json!({"body": {"b": 1.50, "a": "x"}}), "content-type: application/json", r#"{"a":"x","b":1.50}"#),
        (json!({"body": "x"}), "content-type: application/json", r#""x""#),
        (
            json!({"body": {"a": "x y&z", "b": [1, 2]}, "body_encoding": "form"}),
            "content-type: application/x-www-form-urlencoded",
            "a=x+y%26z&b=1&b=2",
        ),
        (json!({"body": "hi", "body_encoding": "text"}), "content-type: text/plain; charset=utf-8", "hi"),
        (
            json!({"body": "<x/>", "body_encoding": "raw", "headers": {"content-type": "text/xml"}}),
            "content-type: text/xml",
            "<x/>",
        ),
    ];
    for (mut params, header, body) in table {
        // A number as it was written, with its last zero.
        params = serde_json::from_str(&params.to_string().replace("1.5}", "1.50}").replace("1.5,", "1.50,"))
            .unwrap();
        params["url"] = json!(server.url("/"));
        let output = run(&actions, "http.post", params).await.unwrap();
        assert_eq!(output["body"], Value::Null);
        let request = server.last();
        assert!(request.starts_with("POST / "), "{request}");
        assert!(request.contains(header), "{header} in {request}");
        assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{body} in {request}");
    }
}

#[tokio::test]
async fn auth_becomes_headers() {
    let server = Server::start(|_| answer("200 OK", "", "ok")).await;
    let actions = open();
    let table = [
        (json!({"type": "bearer", "token": "t"}), "authorization: Bearer t"),
        (json!({"type": "basic", "username": "u", "password": "p"}), "authorization: Basic dTpw"),
        (json!({"type": "api_key", "header_name": "X-Key", "header_value": "k"}), "x-key: k"),
    ];
    for (auth, header) in table {
        run(&actions, "http.request", json!({"url": server.url("/"), "auth": auth})).await.unwrap();
        assert!(server.last().contains(header), "{header} in {}", server.last());
    }
    for auth in [json!({"type": "magic"}), json!({"type": "bearer"}), json!("x")] {
        let params = json!({"url": server.url("/"), "auth": auth});
        assert_eq!(code(&actions, "http.get", params).await, Code::ValidationError);
    }
}

#[tokio::test]
async fn an_error_status_fails_only_when_asked() {
    let server = Server::start(|request| {
        let status = request.split(['/', ' ']).nth(2).unwrap();
        answer(&format!("{status} X"), "content-type: text/plain\r\n", "no")
    })
    .await;
    let actions = open();
    for (status, expected) in
        [(404, Code::NonRetryable), (429, Code::ExecutionError), (503, Code::ExecutionError)]
    {
        let url = server.url(&format!("/{status}"));
        let output = run(&actions, "http.get", json!({"url": url})).await.unwrap();
        assert_eq!((&output["status_code"], &output["body"]), (&json!(status), &json!("no")));
        let fault =
            run(&actions, "http.get", json!({"url": url, "fail_on_error_status": true})).await.unwrap_err();
        assert_eq!((fault.code, &fault.details["status_code"]), (expected, &json!(status)));
    }
}

#[tokio::test]
async fn redirects_keep_credentials_at_home() {
    let far = Server::start(|_| answer("200 OK", "", "far")).await;
    let far_url = far.url("/far");
    let near = Server::start(move |request| match request.split(' ').nth(1).unwrap() {
        "/near" => redirect(302, "/here"),
        "/far" => redirect(302, &far_url),
        "/again" => redirect(307, "/here"),
        _ => answer("200 OK", "", "near"),
    })
    .await;
    let actions = open();
    let send = async |path: &str| {
        let auth = json!({"type": "api_key", "header_name": "X-Key", "header_value": "k"});
        let headers = json!({"Authorization": "secret", "Cookie": "secret", "X-Other": "kept"});
        let params = json!({"url": near.url(path), "auth": auth, "headers": headers, "body": {"a": 1}});
        run(&actions, "http.post", params).await.unwrap()["body"].clone()
    };
    assert_eq!(send("/near").await, "near");
    let request = near.last();
    assert!(request.starts_with("GET /here") && request.contains("x-key: k"), "{request}");
    assert!(request.contains("authorization: secret") && !request.contains("content-type"), "{request}");
    assert_eq!(send("/again").await, "near");
    let request = near.last();
    assert!(request.starts_with("POST /here") && request.ends_with(r#"{"a":1}"#), "{request}");
    assert_eq!(send("/far").await, "far");
    let request = far.last();
    assert!(request.contains("x-other: kept"), "{request}");
    assert!(!request.contains("secret") && !request.contains("x-key"), "{request}");
}

#[tokio::test]
async fn redirects_are_bounded_and_rechecked() {
    let server = Server::start(|request| match request.split(' ').nth(1).unwrap() {
        "/loop" => redirect(302, "/loop"),
        "/metadata" => redirect(302, "http://169.254.169.254/latest/meta-data/"),
        "/hidden" => redirect(302, "http://[::ffff:a9fe:a9fe]/"),
        "/file" => redirect(302, "file:///etc/passwd"),
        _ => redirect(302, "http://%%%/"),
    })
    .await;
    let actions = open();
    let at = |path: &str| json!({"url": server.url(path), "max_redirects": 3});
    assert_eq!(code(&actions, "http.get", at("/loop")).await, Code::ExecutionError);
    assert_eq!(server.count(), 4);
    for path in ["/metadata", "/hidden", "/file"] {
        assert_eq!(code(&actions, "http.get", at(path)).await, Code::PermissionDenied, "{path}");
    }
    assert_eq!(code(&actions, "http.get", at("/broken")).await, Code::ExecutionError);
    let stay = json!({"url": server.url("/metadata"), "follow_redirects": false});
    assert_eq!(run(&actions, "http.get", stay).await.unwrap()["status_code"], 302);
}

#[tokio::test]
async fn private_addresses_are_refused_before_a_connection_is_made() {
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    let actions = guarded();
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let params = json!({"url": format!("http://{host}:{}/", server.port)});
        let fault = run(&actions, "http.get", params).await.unwrap_err();
        assert_eq!(fault.code, Code::PermissionDenied, "{host}: {fault}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    let refused = json!({"url": "http://169.254.169.254/"});
    assert_eq!(code(&open(), "http.get", refused).await, Code::PermissionDenied);
    for url in ["ftp://x/", "file:///etc/passwd", "no url", ""] {
        assert_eq!(code(&actions, "http.get", json!({"url": url})).await, Code::ValidationError, "{url}");
    }
}

/// A name that has a public address the first time and the loopback from then on.
struct Rebinding(AtomicUsize);

impl Lookup for Rebinding {
    fn lookup(&self, _: &str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
        let is_first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if is_first { Ipv4Addr::new(1, 1, 1, 1) } else { Ipv4Addr::LOCALHOST };
        Box::pin(async move { Ok(vec![IpAddr::V4(address)]) })
    }
}

#[tokio::test]
async fn a_name_that_changes_its_answer_gains_nothing() {
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    let lookup = Arc::new(Rebinding(AtomicUsize::new(0)));
    let first = Guard::new(false, lookup.clone()).addresses("rebind.example").await.unwrap();
    assert_eq!(first, ["1.1.1.1:0".parse().unwrap()]);
    let http = Http::with_lookup(false, lookup.clone());
    let params = json!({"url": format!("http://rebind.example:{}/", server.port)});
    let failure = http.run(&call("http.get", params)).await.unwrap_err();
    assert_eq!(failure.fault.code, Code::PermissionDenied, "{}", failure.fault);
    assert_eq!(lookup.0.load(Ordering::SeqCst), 2, "what is connected to is resolved once");
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_long_answer_is_cut_off_whatever_it_announces() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let server = Server::start(move |request| {
        if request.starts_with("GET /announced") {
            return b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nx".to_vec();
        }
        let mut reply = head.as_bytes().to_vec();
        for _ in 0..11 {
            reply.extend_from_slice(b"100000\r\n");
            reply.resize(reply.len() + 0x10_0000, b'x');
            reply.extend_from_slice(b"\r\n");
        }
        reply.extend_from_slice(b"0\r\n\r\n");
        reply
    })
    .await;
    for path in ["/announced", "/streamed"] {
        let fault = run(&open(), "http.get", json!({"url": server.url(path)})).await.unwrap_err();
        assert_eq!(fault.code, Code::NonRetryable, "{path}");
        assert!(fault.message.contains("over 10485760 bytes"), "{fault}");
    }
}

#[tokio::test]
async fn faults_of_the_network_name_the_host_and_no_secret() {
    let server =
        Server::start(
            |request| if request.contains("/slow") { Vec::new() } else { b"nonsense\r\n\r\n".to_vec() },
        )
        .await;
    let port = server.port;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let table = [
        (
            json!({"url": format!("http://u:hunter2@127.0.0.1:{port}/slow/hunter2?k=hunter2"), "timeout": "50ms"}),
            Code::TimeoutError,
        ),
        (
            json!({"url": format!("http://u:hunter2@127.0.0.1:{closed}/hunter2?k=hunter2")}),
            Code::ExecutionError,
        ),
        (json!({"url": format!("http://127.0.0.1:{port}/hunter2")}), Code::ExecutionError),
        (json!({"url": "http://127.0.0.1/", "headers": {"x": "hunter2\n"}}), Code::ValidationError),
        (json!({"url": "http://127.0.0.1/", "headers": {"hunter2 ": "x"}}), Code::ValidationError),
    ];
    for (params, expected) in table {
        let fault = run(&open(), "http.get", params.clone()).await.unwrap_err();
        assert_eq!(fault.code, expected, "{params}: {fault}");
        assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_host_that_keeps_failing_is_left_alone() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let actions = open();
    let params = json!({"url": format!("http://127.0.0.1:{port}/")});
    for i in 1..=5 {
        let outcome = actions.run(call("http.get", params.clone())).await;
        assert_eq!(outcome.result.unwrap_err().code, Code::ExecutionError);
        let action = format!("http.get 127.0.0.1:{port}");
        let expected = if i == 5 { vec![Emission::Breaker { action, state: "open" }] } else { vec![] };
        assert_eq!(outcome.emissions, expected, "call {i}");
    }
    let fault = run(&actions, "http.get", params).await.unwrap_err();
    assert_eq!(fault.code, Code::CircuitOpen);
    assert!(fault.details["retry_after_ms"].as_u64().unwrap() > 0);
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    run(&actions, "http.get", json!({"url": server.url("/")})).await.unwrap();
}

#[tokio::test]
async fn connections_are_used_again_and_other_bodies_are_kept_whole() {
    let server = Server::start(|request| {
        if request.contains("/bytes") {
            return [answer("200 OK", "", "..")[..].strip_suffix(b"..").unwrap(), &[0xff, 0xfe]].concat();
        }
        answer("200 OK", "content-type: application/json\r\n", "{broken")
    })
    .await;
    let actions = open();
    let broken = run(&actions, "http.get", json!({"url": server.url("/")})).await.unwrap();
    assert_eq!(broken["body"], "{broken");
    let bytes = run(&actions, "http.get", json!({"url": server.url("/bytes")})).await.unwrap();
    assert_eq!((&bytes["body"], &bytes["body_encoding"]), (&json!("//4="), &json!("base64")));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

//! The protocol itself: requests that are no HTTP, that never end, and far too many of them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Node, NodeBuilder, PATIENCE};

/// Idle connections that are held at a time.
const IDLE: usize = 10_000;

fn address(node: &Node) -> String {
    node.url.trim_start_matches("http://").to_owned()
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(address(node)).expect("the node takes connections");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads what comes until the connection ends; nothing more is sent.
fn answer(node: &Node, bytes: &[u8]) -> String {
    let mut stream = connect(node);
    // It may answer, and hang up, before it has read all.
    let _ = stream.write_all(bytes);
    // One that is whole is answered; half a connection would end it before.
    if !bytes.windows(17).any(|part| part == b"connection: close") {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Bytes, and the start of the answer; nothing is an answer too: the connection is closed.
fn broken() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let request =
        |rest: &str| format!("POST /v1/workflows HTTP/1.1\r\nhost: localhost\r\n{rest}").into_bytes();
    vec![
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01".to_vec(), "HTTP/1.1 400"),
        ("HTTP of another age", b"GET / HTTP/9.9\r\n\r\n".to_vec(), "HTTP/1.1 "),
        ("no host", b"GET /v1/workflows HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), "HTTP/1.1 4"),
        ("two lengths", request("content-length: 2\r\ncontent-length: 3\r\n\r\n{}x"), "HTTP/1.1 400"),
        ("a length below nothing", request("content-length: -1\r\n\r\n{}"), "HTTP/1.1 400"),
        (
            "a length beyond numbers",
            request("content-length: 99999999999999999999999\r\n\r\n{}"),
            "HTTP/1.1 400",
        ),
        (
            "a length and chunks",
            request(
                "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            ),
            "HTTP/1.1 4",
        ),
        (
            "a chunk that is no number",
            request("transfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\n"),
            "HTTP/1.1 4",
        ),
        ("a header without a name", request(": x\r\n\r\n"), "HTTP/1.1 400"),
        ("a header folded", request("x: a\r\n b\r\n\r\n"), "HTTP/1.1 4"),
        ("a null in a header", b"GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n".to_vec(), "HTTP/1.1 4"),
        ("a header without an end", request(&format!("x: {}\r\n\r\n", "a".repeat(1_000_000))), "HTTP/1.1 4"),
        ("ten thousand headers", request(&("x: y\r\n".repeat(10_000) + "\r\n")), "HTTP/1.1 4"),
        (
            "a path without an end",
            format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(200_000)).into_bytes(),
            "HTTP/1.1 4",
        ),
        (
            "a body that is cut off",
            request("content-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\":"),
            "",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_are_refused_and_smuggle_nothing() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let mut wrong = Vec::new();
    for (name, bytes, start) in broken() {
        let text = tokio::task::block_in_place(|| answer(&node, &bytes));
        let answers = text.lines().filter(|line| line.starts_with("HTTP/1.1 ")).count();
        if !text.starts_with(start) || answers > 1 || text.starts_with("HTTP/1.1 2") {
            wrong.push(format!("{name}: {text:.300}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(node.get("/v1/workflows").await.1["items"], json!([]));
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_keep_nobody_else_waiting() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let (_, most) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::Resource::NOFILE.set(most, most).unwrap();
    let held = IDLE.min(usize::try_from(most / 2).unwrap_or(usize::MAX));
    // Half are silent, half have begun a request that never ends.
    let connections: Vec<TcpStream> = tokio::task::block_in_place(|| {
        let begin = |n: usize| {
            let mut stream = connect(&node);
            if n.is_multiple_of(2) {
                let _ = stream
                    .write_all(b"POST /v1/workflows HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n");
            }
            stream
        };
        (0..held).map(begin).collect()
    });
    let begun = Instant::now();
    let id = node.submit(&json!({"definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}})).await;
    assert_eq!(node.end(&id).await["status"], "completed");
    eprintln!("a run beside {} idle connections took {:?}", connections.len(), begun.elapsed());
    drop(connections);
    assert!(node.stop().success(), "it does not wait for those that say nothing");
}

/// Ten times what the queue holds, at once: what is refused is refused clearly, what is accepted ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_overload_is_refused_and_nothing_accepted_is_lost() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).arg("--shards").arg("1").start();
    let steps = json!([{"id": "a", "action": "expr.eval", "params": {"expression": "1 + 1"}}]);
    let batch = |b: usize| {
        let workflows: Vec<_> =
            (0..5_000).map(|n| json!({"id": format!("b{b}-{n}"), "definition": {"steps": steps}})).collect();
        json!({"workflows": workflows})
    };
    let sent = (0..24).map(|b| {
        let body = batch(b);
        let node = &node;
        async move { node.post("/v1/workflows/batch", &body).await }
    });
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for (b, (status, answer)) in futures::future::join_all(sent).await.into_iter().enumerate() {
        match status {
            200 => {
                for (n, item) in answer["results"].as_array().unwrap().iter().enumerate() {
                    match item["status"].as_u64() {
                        Some(429 | 503) => refused += 1,
                        _ => accepted.push(format!("b{b}-{n}")),
                    }
                }
            }
            429 | 503 => {
                assert_eq!(answer["applied"], "no", "{answer}");
                refused += 5_000;
            }
            other => panic!("{other}: {answer}"),
        }
    }
    eprintln!("{} accepted, {refused} refused", accepted.len());
    assert!(!accepted.is_empty());
    let deadline = Instant::now() + PATIENCE * 3;
    loop {
        let query = json!({"query": "SELECT count(*) AS n FROM workflows WHERE status = 'completed'"});
        let (_, rows) = node.post("/v1/sql", &query).await;
        let done: u64 = rows["items"].as_array().unwrap().iter().filter_map(|row| row["n"].as_u64()).sum();
        if done >= accepted.len() as u64 {
            break;
        }
        assert!(Instant::now() < deadline, "{done} of {} have ended", accepted.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for id in accepted.iter().step_by(997) {
        assert_eq!(node.get(&format!("/v1/workflows/{id}")).await.1["status"], "completed", "{id}");
    }
    let id = node.submit(&json!({"definition": {"steps": steps}})).await;
    assert_eq!(node.end(&id).await["status"], "completed", "it takes work again");
    assert!(node.stop().success());
}

//! The audit log of real nodes: what is in it and what never is, on every node and after a crash, and
//! who may make how many calls.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli;
use crate::cluster::{Node, NodeBuilder};
use crate::many::Builders;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A file with a token that may do everything, which is called `ops`.
fn token_file(home: &Path) -> PathBuf {
    let file = home.join("tokens");
    std::fs::write(&file, format!("ops {TOKEN}\n")).expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    file
}

fn with_tokens(home: &Path) -> NodeBuilder {
    NodeBuilder::new(&home.join("data")).arg("--token-file").arg(token_file(home).display().to_string())
}

async fn ask(node: &Node, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = node.request(method, path).bearer_auth(token).json(&body).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// Entries that a query finds, the newest first.
async fn entries(node: &Node, query: &str) -> Vec<Value> {
    let (status, page) = ask(node, TOKEN, Method::GET, &format!("/v1/audit?{query}"), Value::Null).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("a list").clone()
}

fn waiting(id: &str) -> Value {
    json!({"id": id, "definition": {"steps": [{"id": "w", "type": "wait", "config": {"duration": "1h"}}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_something_is_taken_down_and_never_what_was_in_it() {
    let home = tempfile::tempdir().unwrap();
    let node = with_tokens(home.path()).start();
    let (status, made) = ask(
        &node,
        TOKEN,
        Method::POST,
        "/v1/tokens",
        json!({"scopes": ["run"], "name": "ci", "agent_id": "bot"}),
    )
    .await;
    assert_eq!(status, 201, "{made}");
    let (token, id) = (made["token"].as_str().unwrap(), made["token_id"].as_str().unwrap());
    let mut body = waiting("w1");
    body["params"] = json!({"password": "canary-in-a-body"});
    assert_eq!(ask(&node, token, Method::POST, "/v1/workflows?wait=0s", body).await.0, 201);
    let items = json!({"workflows": [waiting("b1"), waiting("b2"), waiting("b3")]});
    assert_eq!(ask(&node, token, Method::POST, "/v1/workflows/batch", items).await.0, 200);
    assert_eq!(ask(&node, token, Method::POST, "/v1/workflows/w1/cancel", json!({})).await.0, 202);
    assert_eq!(ask(&node, token, Method::POST, "/v1/templates", json!({})).await.0, 403);
    let odd = "/v1/workflows/a%0A%22%7D%0Ab/cancel?token=canary-in-a-query";
    assert_eq!(ask(&node, token, Method::POST, odd, json!({})).await.0, 400);
    assert_eq!(ask(&node, "canary-as-a-token", Method::GET, "/v1/workflows", Value::Null).await.0, 401);
    assert_eq!(ask(&node, TOKEN, Method::DELETE, &format!("/v1/tokens/{token}"), json!({})).await.0, 404);
    assert_eq!(ask(&node, TOKEN, Method::POST, "/v1/validate", json!({"steps": []})).await.0, 422);
    assert_eq!(ask(&node, TOKEN, Method::GET, "/v1/workflows", Value::Null).await.0, 200);

    let all = entries(&node, "").await;
    let told: Vec<_> =
        all.iter().map(|entry| (entry["status"].clone(), entry["path"].as_str().unwrap())).collect();
    let deleted = format!("/v1/tokens/opc_{id}_…");
    let wanted = [
        (404, deleted.as_str()),
        (401, "/v1/workflows"),
        (400, "/v1/workflows/a%0A%22%7D%0Ab/cancel"),
        (403, "/v1/templates"),
        (202, "/v1/workflows/w1/cancel"),
        (200, "/v1/workflows/batch"),
        (201, "/v1/workflows"),
        (201, "/v1/tokens"),
    ];
    assert_eq!(told, wanted.map(|(status, path)| (json!(status), path)));
    let run = &all[6];
    assert_eq!(
        (&run["token_id"], &run["token_name"], &run["agent_id"]),
        (&json!(id), &json!("ci"), &json!("bot"))
    );
    assert_eq!(
        (&run["workflow_id"], &run["method"], &run["node_id"]),
        (&json!("w1"), &json!("POST"), &json!("1"))
    );
    assert!(run["remote_addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{run}");
    assert_eq!((all[5]["items"].clone(), all[7]["token_name"].clone()), (json!(3), json!("ops")));
    assert!(all.windows(2).all(|pair| pair[0]["at"].as_str() >= pair[1]["at"].as_str()), "newest first");
    let text = std::fs::read_dir(home.path().join("data/audit")).unwrap();
    let text: String = text.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let secret = token.rsplit_once('_').unwrap().1;
    for canary in ["canary", TOKEN, secret, "password"] {
        assert!(!text.contains(canary), "{canary} is in the files");
    }
    for (query, count) in [
        ("token=ci", 5),
        (&format!("token={id}&method=post&status=2xx") as &str, 3),
        ("agent_id=bot&path=/v1/workflows/w1", 1),
        ("status=4xx", 4),
        ("status=403", 1),
        ("until=2020-01-01T00:00:00Z", 0),
        ("since=2020-01-01T00:00:00Z", 8),
    ] {
        assert_eq!(entries(&node, query).await.len(), count, "{query}");
    }
}

/// All pages of a list, one entry at a time.
async fn one_by_one(node: &Node) -> Vec<(String, u64)> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = node.get(&format!("/v1/audit?limit=1{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        for entry in page["items"].as_array().unwrap() {
            found.push((entry["node_id"].as_str().unwrap().to_owned(), entry["seq"].as_u64().unwrap()));
        }
        let Some(next) = page["next_cursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
        assert!(found.len() < 1_000, "it never ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_shows_the_calls_of_all_and_names_those_that_it_cannot_reach() {
    let home = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(home.path());
    let nodes = builders.start().await;
    for (n, node) in nodes.iter().enumerate() {
        for run in 0..4 {
            node.submit(&waiting(&format!("run-{n}-{run}"))).await;
        }
        let (status, made) = node.post("/v1/tokens", &json!({"scopes": ["read"]})).await;
        assert_eq!(status, 201, "{made}");
    }
    let of_all = one_by_one(&nodes[0]).await;
    for node in &nodes[1..] {
        assert_eq!(one_by_one(node).await, of_all, "every node shows the same");
    }
    let set: BTreeSet<_> = of_all.iter().collect();
    assert_eq!(set.len(), of_all.len(), "none twice");
    for node in ["1", "2", "3"] {
        let mut seqs: Vec<u64> = of_all.iter().filter(|(of, _)| of == node).map(|(_, seq)| *seq).collect();
        seqs.sort_unstable();
        assert!(seqs.len() >= 5 && seqs.iter().copied().eq(1..=seqs.len() as u64), "node {node}: {seqs:?}");
    }
    // A crash takes nothing of what administers, and what is left of a batch is no line.
    let mut nodes = nodes;
    let third = nodes.remove(2);
    let (status, last) = third.post("/v1/tokens", &json!({"scopes": ["read"], "name": "last"})).await;
    assert_eq!(status, 201, "{last}");
    third.kill();
    let (status, page) = nodes[0].get("/v1/audit?limit=1000").await;
    assert_eq!((status, &page["unreachable_nodes"][0]["node_id"]), (200, &json!("3")), "{page}");
    let (status, refused) = nodes[0].get("/v1/audit?cursor=MSAxNzAwMDAwMDAwMDAwIG9yZGVyLTE").await;
    assert_eq!(
        (status, &refused["errors"][0]["pointer"]),
        (400, &json!("/cursor")),
        "another list's: {refused}"
    );
    let third = builders.0[2].start();
    let (_, page) = third.get("/v1/audit?path=/v1/tokens&method=POST&limit=1000").await;
    let of_third = page["items"].as_array().unwrap().iter().filter(|entry| entry["node_id"] == "3").count();
    assert_eq!(of_third, 2, "{page}");
    let listed = cli::run(&third.url, &["audit", "list", "--path", "/v1/tokens", "--all", "-o", "jsonl"], "");
    assert!(listed.status.success(), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stdout).lines().count() >= 4, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_fill_neither_the_log_nor_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let node = with_tokens(home.path()).start();
    ask(&node, TOKEN, Method::POST, "/v1/tokens", json!({"scopes": ["read"]})).await;
    let mut limited = 0;
    for n in 0..600_u32 {
        let path = format!("/v1/workflows/{}", "x".repeat(4_000));
        let guess = format!("opc_{n:016x}_{}", "A".repeat(43));
        // Whatever it says of where it comes from.
        let request = node.request(Method::GET, &path).bearer_auth(guess);
        let answer =
            request.header("x-forwarded-for", format!("203.0.113.{}", n % 250)).send().await.unwrap();
        limited += u32::from(answer.status() == 429);
        assert!(matches!(answer.status().as_u16(), 401 | 429), "{}", answer.status());
    }
    assert!(limited > 100, "{limited} of them were told that they are too many");
    let refused = entries(&node, "status=4xx&limit=1000").await;
    assert!((100..400).contains(&refused.len()), "{} of them are taken down", refused.len());
    assert!(refused.iter().all(|entry| entry["path"].as_str().unwrap().len() < 600), "paths are cut");
    let all = entries(&node, "limit=1000").await;
    let skipped: u64 = all.iter().filter_map(|entry| entry["not_recorded"]["refused"].as_u64()).sum();
    assert_eq!(skipped + refused.len() as u64, 600, "each is an entry or counted");
    assert!(all.iter().any(|entry| entry["path"] == "/v1/tokens"), "what others have done is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tokens_an_address_has_the_quota() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).arg("--rate-limit").arg("5").start();
    let mut limited = 0;
    for n in 0..40 {
        let request =
            node.request(Method::GET, "/v1/workflows").header("x-forwarded-for", format!("10.0.0.{n}"));
        let answer = request.send().await.unwrap();
        assert!(answer.headers().contains_key("ratelimit-policy"), "it is told each time");
        limited += u32::from(answer.status() == 429);
    }
    assert!(limited > 20, "{limited}");
    assert_eq!(node.get("/healthz").await.0, 200, "whoever looks whether it is there is never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_mcp_is_taken_down_once_as_the_call_that_it_makes() {
    let home = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&home.path().join("data")).start();
    let definition = json!({"steps": [{"id": "a", "action": "workflow.log", "params": {"message": "m"}}]});
    let arguments = json!({"name": "t", "definition": definition, "agent_id": "bot"});
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"name": "opcode.define", "arguments": arguments, "_meta": meta});
    let answer = node
        .request(Method::POST, "/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "opcode.define")
        // Where the call comes from is not for the caller to say.
        .header("opcode-remote-addr", "203.0.113.9:1")
        .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
        .send()
        .await
        .unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    let (_, page) = node.get("/v1/audit").await;
    let items = page["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{status}: {text}: {page}");
    assert_eq!(
        (&items[0]["path"], &items[0]["agent_id"]),
        (&json!("/v1/templates"), &json!("bot")),
        "{page}"
    );
    assert!(items[0]["remote_addr"].as_str().is_some_and(|addr| addr.starts_with("127.0.0.1:")), "{page}");
}

/// Asks for nothing, as many agents, until the node is gone: those who had an answer.
async fn administer(node: &Node, round: usize, worker: usize) -> Vec<String> {
    let mut answered = Vec::new();
    for n in 0.. {
        let agent = format!("agent-{round}-{worker}-{n}");
        let body = json!({"action": "cancel", "filter": {}, "dry_run": true, "agent_id": agent});
        let Ok((status, answer)) = node.try_post("/v1/workflows/bulk", &body).await else { break };
        assert_eq!(status, 200, "{answer}");
        answered.push(agent);
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_takes_nothing_of_what_administers() {
    let home = tempfile::tempdir().unwrap();
    // Small segments, so that crashes meet their beginnings too.
    let config = home.path().join("opcode.toml");
    std::fs::write(&config, "audit_segment_bytes = 4096\naudit_bytes_max = 1000000000\n").unwrap();
    let builder =
        NodeBuilder::new(&home.path().join("data")).arg("--config").arg(config.display().to_string());
    let mut answered = BTreeSet::new();
    for round in 0..4 {
        let node = builder.start();
        let pid = nix::unistd::Pid::from_raw(node.pid().try_into().unwrap());
        let after = std::time::Duration::from_millis(rand::random_range(100..600));
        let kill = async {
            tokio::time::sleep(after).await;
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        };
        let workers = futures::future::join_all((0..4).map(|worker| administer(&node, round, worker)));
        let (workers, ()) = tokio::join!(workers, kill);
        answered.extend(workers.into_iter().flatten());
    }
    assert!(answered.len() > 20, "{} calls were answered", answered.len());
    let node = builder.start();
    let (mut found, mut seqs, mut cursor) = (BTreeSet::new(), Vec::new(), String::new());
    loop {
        let (status, page) = node.get(&format!("/v1/audit?limit=1000{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        for entry in page["items"].as_array().unwrap() {
            found.extend(entry["agent_id"].as_str().map(str::to_owned));
            seqs.push(entry["seq"].as_u64().unwrap());
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let missing: Vec<_> = answered.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(seqs.windows(2).all(|pair| pair[0] == pair[1] + 1), "numbers have gaps: {seqs:?}");
    let segments = std::fs::read_dir(home.path().join("data/audit")).unwrap().count();
    assert!(segments > 3, "{segments} segments");
}

//! Who may talk to a node: other nodes by certificates, clients by tokens, and whoever has neither
//! is told what to do. Each node of these has a loopback address of its own, as hosts have.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Node, NodeBuilder, PATIENCE, opcode};
use crate::many::{SHARDS, all_shards, free_port, in_sync, wait_for};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Runs the binary to its end, which is to come by itself.
async fn run(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::from(opcode());
    let ended = command.args(args).kill_on_drop(true).output();
    tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{args:?} goes on")).unwrap()
}

/// What the binary says before it gives up.
async fn refusal(args: &[&str]) -> String {
    let output = run(args).await;
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8(output.stderr).unwrap()
}

/// A CA with certificates for the hosts 127.0.0.1 to 127.0.0.4.
async fn make_certs(home: &Path, name: &str) -> PathBuf {
    let out = home.join(name);
    let mut args = vec!["cluster", "certs", "--out", out.to_str().unwrap()];
    args.extend(
        ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"].iter().flat_map(|host| ["--node", host]),
    );
    let made = run(&args).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = std::fs::metadata(out.join("127.0.0.1/node.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    out
}

/// Node `n`, on a host of its own.
fn builder(home: &Path, n: usize) -> NodeBuilder {
    let peer = format!("127.0.0.{n}:{}", free_port());
    NodeBuilder::new(&home.join(format!("n{n}"))).arg("--peer-listen").arg(peer)
}

fn secured(home: &Path, n: usize, certs: &Path) -> NodeBuilder {
    let folder = certs.join(format!("127.0.0.{n}"));
    builder(home, n).arg("--peer-tls-dir").arg(folder.to_str().unwrap())
}

/// What a node says that wants to join and may not.
async fn refused_to_join(home: &Path, seed: &Node, peer_tls_dir: Option<&Path>) -> String {
    let data = home.join("stranger");
    let mut args = vec!["serve", "--data-dir", data.to_str().unwrap(), "--join", &seed.url];
    args.extend(["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.4:0"]);
    if let Some(folder) = peer_tls_dir {
        args.extend(["--peer-tls-dir", folder.to_str().unwrap()]);
    }
    let refused = refusal(&args).await;
    assert!(!data.join("node.json").exists(), "it has become a node nevertheless");
    let (_, cluster) = seed.get("/v1/cluster").await;
    assert_eq!(cluster["members"].as_array().map(Vec::len), Some(1), "{cluster}");
    refused
}

fn peer_address(cluster: &Value, node: &str) -> String {
    let members = cluster["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["node_id"] == node).unwrap();
    member["peer_addr"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_with_certificates_are_a_cluster() {
    let home = tempfile::tempdir().unwrap();
    let certs = make_certs(home.path(), "certs").await;
    let first = secured(home.path(), 1, &certs).arg("--shards").arg(SHARDS.to_string()).start();
    let join = |n| secured(home.path(), n, &certs).arg("--join").arg(first.url.clone()).start();
    let others = [join(2), join(3)];
    let cluster = wait_for(&others[0], "every shard is on three nodes, in sync", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    let definition = json!({"steps": [
        {"id": "one", "action": "expr.eval", "params": {"expression": "20 + 1"}},
        {"id": "two", "action": "workflow.log", "params": {"message": "done"}, "depends_on": ["one"]},
    ]});
    // More than there are shards, so that some are led elsewhere.
    for n in 0..3 * SHARDS {
        let id = others[0].submit(&json!({"id": format!("run-{n}"), "definition": definition})).await;
        assert_eq!(others[1].end(&id).await["status"], "completed");
    }

    // In the clear nothing is said at that port, not even to one that knows all names.
    let mut plain = tokio::net::TcpStream::connect(peer_address(&cluster, "1")).await.unwrap();
    let hello = json!({
        "magic": "opcode-peer", "protocol": 2, "cluster_id": cluster["cluster_id"],
        "node_id": 9, "incarnation": 1, "to": 1, "refused": null,
    })
    .to_string();
    plain.write_all(&u32::try_from(hello.len()).unwrap().to_le_bytes()).await.unwrap();
    plain.write_all(hello.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // Reset or closed: it is cut off either way.
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said)).await.expect("it is cut off");
    assert!(!String::from_utf8_lossy(&said).contains("opcode"), "{said:?}");
    for node in others.into_iter().chain([first]) {
        assert!(node.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_foreign_certificate_or_none_does_not_join() {
    let home = tempfile::tempdir().unwrap();
    let certs = make_certs(home.path(), "certs").await;
    let foreign = make_certs(home.path(), "foreign").await;
    let seed = secured(home.path(), 1, &certs).start();
    let told = refused_to_join(home.path(), &seed, Some(&foreign.join("127.0.0.4"))).await;
    assert!(told.contains("not by this cluster's CA"), "{told}");
    // It believes in the right CA, and shows a certificate of another.
    let mixed = foreign.join("127.0.0.4");
    std::fs::copy(certs.join("ca.pem"), mixed.join("ca.pem")).unwrap();
    let told = refused_to_join(home.path(), &seed, Some(&mixed)).await;
    assert!(told.contains("others would refuse it"), "{told}");
    // One for another host.
    let told = refused_to_join(home.path(), &seed, Some(&certs.join("127.0.0.2"))).await;
    assert!(told.contains("127.0.0.4"), "{told}");
    let told = refused_to_join(home.path(), &seed, None).await;
    assert!(told.contains("it speaks TLS, and this node has no certificates"), "{told}");
    assert!(seed.stop().success());

    let open = builder(home.path(), 2).start();
    let told = refused_to_join(home.path(), &open, Some(&certs.join("127.0.0.4"))).await;
    assert!(told.contains("does not speak TLS"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_a_node_asks_for_certificates_and_tokens() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let serve = ["serve", "--data-dir", data.to_str().unwrap()];
    let with = |args: &[&'static str]| [&serve[..], args].concat();
    for (args, wanted) in [
        (with(&["--listen", "0.0.0.0:0", "--advertise", "10.0.0.1"]), "--token-file"),
        (
            with(&["--listen", "127.0.0.1:0", "--peer-listen", "0.0.0.0:0", "--peer-advertise", "10.0.0.1"]),
            "opcode cluster certs",
        ),
        (with(&["--listen", "127.0.0.1:0", "--peer-listen", "0.0.0.0:0"]), "--peer-advertise"),
    ] {
        let told = refusal(&args).await;
        assert!(told.contains(wanted), "wanted {wanted}, got {told}");
        assert!(!data.exists(), "nothing was begun");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_tokens_every_call_shows_one() {
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    let file = tokens.to_str().unwrap();
    std::fs::write(&tokens, format!("ops {TOKEN}\n")).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
    let data = home.path().join("n0");
    let serve =
        ["serve", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--token-file", file];
    assert!(refusal(&serve).await.contains("chmod 600"));
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();

    let seed = builder(home.path(), 1).arg("--token-file").arg(file).start();
    let status = async |path: &str, token: Option<&str>| {
        let request = seed.request(reqwest::Method::GET, path);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(path, None).await, 200, "{path} is for anybody");
    }
    for path in ["/v1/cluster", "/v1/workflows", "/metrics", "/v1/nothing"] {
        assert_eq!(status(path, None).await, 401, "{path}");
        assert_eq!(status(path, Some(&TOKEN.replace('0', "1"))).await, 401, "{path}");
        assert_ne!(status(path, Some(TOKEN)).await, 401, "{path}");
    }
    let (code, problem) = seed.get("/v1/cluster").await;
    assert_eq!((code, &problem["code"]), (401, &json!("UNAUTHENTICATED")), "{problem}");

    let asked = run(&["--server", &seed.url, "--token-file", file, "cluster", "status", "-o", "json"]).await;
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let stranger = home.path().join("n3");
    let join =
        ["serve", "--data-dir", stranger.to_str().unwrap(), "--listen", "127.0.0.1:0", "--join", &seed.url];
    assert!(refusal(&join).await.contains("401"));
    // One that shows it is taken in.
    let joined = builder(home.path(), 2).arg("--token-file").arg(file).arg("--join").arg(&seed.url).start();
    let answer = joined.request(reqwest::Method::GET, "/v1/cluster").bearer_auth(TOKEN).send().await.unwrap();
    let cluster: Value = answer.json().await.unwrap();
    assert_eq!(cluster["members"].as_array().map(Vec::len), Some(2), "{cluster}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_scopes_counts_on_every_node_until_it_is_deleted() {
    let home = tempfile::tempdir().unwrap();
    let tokens = home.path().join("tokens");
    let file = tokens.to_str().unwrap();
    std::fs::write(&tokens, format!("ops {TOKEN}\n")).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let seed = builder(home.path(), 1).arg("--token-file").arg(file).start();
    let other = builder(home.path(), 2).arg("--token-file").arg(file).arg("--join").arg(&seed.url).start();
    let make = ["token", "create", "--scope", "read", "--agent", "eve", "-o", "json"];
    let made = run(&[&["--server", &seed.url, "--token-file", file], &make[..]].concat()).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let (id, token) = (made["token_id"].as_str().unwrap(), made["token"].as_str().unwrap());

    let ask = async |node: &Node, method: reqwest::Method, path: &str| {
        let answer = node.request(method, path).bearer_auth(token).json(&json!({})).send().await.unwrap();
        answer.status().as_u16()
    };
    for node in [&seed, &other] {
        assert_eq!(ask(node, reqwest::Method::GET, "/v1/workflows").await, 200);
        assert_eq!(ask(node, reqwest::Method::POST, "/v1/workflows").await, 403);
        assert_eq!(ask(node, reqwest::Method::GET, "/v1/tokens").await, 403);
    }
    let gone = run(&["--server", &seed.url, "--token-file", file, "token", "rm", id]).await;
    assert!(gone.status.success(), "{}", String::from_utf8_lossy(&gone.stderr));
    assert_eq!(ask(&seed, reqwest::Method::GET, "/v1/workflows").await, 401);
    let deleted = Instant::now();
    while ask(&other, reqwest::Method::GET, "/v1/workflows").await != 401 {
        assert!(deleted.elapsed() < Duration::from_secs(10), "the other node still takes it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

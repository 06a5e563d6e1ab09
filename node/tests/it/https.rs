//! HTTPS for clients: handshakes by the command line and by clients of others, a certificate that is
//! changed while connections are open, and those who speak no TLS or take their time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli;
use crate::cluster::{Node, NodeBuilder, PATIENCE, opcode};
use crate::embedded::{copies, runs_in};
use crate::many::free_port;

/// Longest time that a node gives a handshake, and some more.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);

/// Certificates for 127.0.0.1 by a CA of their own: the CA's file, the certificate's, the key's.
fn certs(home: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    let out = home.join(name);
    let made = opcode().args(["cluster", "certs", "--node", "127.0.0.1", "--out"]).arg(&out).output();
    let made = made.expect("the binary starts");
    assert!(made.status.success(), "{made:?}");
    (out.join("ca.pem"), out.join("127.0.0.1/node.pem"), out.join("127.0.0.1/node.key"))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn secured(home: &Path, name: &str, cert: &Path, key: &Path) -> NodeBuilder {
    let builder = NodeBuilder::new(&home.join(name)).arg("--peer-listen");
    let builder = builder.arg(format!("127.0.0.1:{}", free_port()));
    builder.arg("--tls-cert").arg(shown(cert)).arg("--tls-key").arg(shown(key))
}

/// A client that takes certificates by a CA alone.
fn client(ca: &Path) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem(&std::fs::read(ca).expect("a CA")).expect("a CA in PEM");
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).tls_certs_only([ca]).build();
    client.expect("a client can be made")
}

async fn is_served(client: &reqwest::Client, node: &Node) -> bool {
    client.get(format!("{}/healthz", node.url)).send().await.is_ok_and(|answer| answer.status() == 200)
}

fn port(node: &Node) -> u16 {
    node.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port(node))).expect("the node takes connections");
    stream.set_read_timeout(Some(HANDSHAKE_MAX)).expect("a timeout");
    stream
}

fn refusal(args: &[&str]) -> String {
    let output: Output = opcode().args(args).output().expect("the binary starts");
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_kinds_speak_tls_with_a_node() {
    let home = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certs(home.path(), "certs");
    let (other_ca, ..) = certs(home.path(), "others");
    let node = secured(home.path(), "data", &cert, &key).start();
    assert!(node.url.starts_with("https://127.0.0.1:"), "{}", node.url);

    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tls_client.py");
    let asked =
        Command::new("python3").arg(python).arg("127.0.0.1").arg(port(&node).to_string()).arg(&ca).output();
    match asked {
        Ok(asked) => assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr)),
        Err(error) => writeln!(std::io::stderr(), "NOT TESTED: python3 over HTTPS: {error}").unwrap(),
    }
    let steps = r#"{"steps": [{"id": "a", "action": "expr.eval", "params": {"expression": "6 * 7"}}]}"#;
    let run = ["run", "-", "--wait", "--id", "over-tls", "--ca-file", &shown(&ca)];
    let ran = cli::run(&node.url, &run, steps);
    assert!(ran.status.success(), "{ran:?}");
    // The public listener's certificate is by no CA that the system knows, nor by another's.
    for args in [vec!["wf", "list"], vec!["wf", "list", "--ca-file", &shown(&other_ca)]] {
        let refused = cli::run(&node.url, &args, "");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(7), "{refused:?}");
        assert!(told.contains("certificate"), "{told}");
    }
    let answer = client(&ca).get(format!("{}/v1/workflows", node.url)).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    // In the clear it says what to do.
    let plain = node.url.replace("https://", "http://");
    let refused = cli::run(&plain, &["wf", "list"], "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("https://"), "{refused:?}");
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_changed_without_a_connection_lost() {
    let home = tempfile::tempdir().unwrap();
    let (old_ca, cert, key) = certs(home.path(), "old");
    let (new_ca, new_cert, new_key) = certs(home.path(), "new");
    let node = secured(home.path(), "data", &cert, &key).start();
    let (old, new) = (client(&old_ca), client(&new_ca));
    assert!(is_served(&old, &node).await && !is_served(&new, &node).await);
    // A wait that is under way while the certificate changes.
    let waiting = json!({"id": "w", "definition": {"steps": [{"id": "s", "type": "wait", "config": {"duration": "3s"}}]}});
    let begun = old.post(format!("{}/v1/workflows", node.url)).json(&waiting).send().await.unwrap();
    assert_eq!(begun.status(), 201);
    let url = format!("{}/v1/workflows/w?wait=30s", node.url);
    let under_way = tokio::spawn(old.get(url).send());
    let hang_up = || {
        let pid = nix::unistd::Pid::from_raw(node.pid().try_into().expect("a process id fits"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("a child can be signalled");
    };
    // Half of a change is none.
    std::fs::copy(&new_cert, &cert).unwrap();
    hang_up();
    std::fs::copy(&new_key, &key).unwrap();
    hang_up();
    let deadline = Instant::now() + PATIENCE;
    while !is_served(&client(&new_ca), &node).await {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let run: Value = under_way.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(run["status"], "completed", "{run}");
    assert!(is_served(&old, &node).await, "its connection goes on");
    assert!(!is_served(&client(&old_ca), &node).await, "a new one meets the new certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_his_time_with_a_handshake_keeps_nobody_waiting() {
    let home = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certs(home.path(), "certs");
    let node = secured(home.path(), "data", &cert, &key).start();
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect(&node)).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        // Nothing, the start of a record, or the start of one that is long.
        let beginning: &[u8] = [&b""[..], b"\x16\x03", b"\x16\x03\x01\x40\x00\x01"][n % 3];
        stream.write_all(beginning).unwrap();
    }
    let begun = Instant::now();
    assert!(is_served(&client(&ca), &node).await);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Each is cut off in time.
    for mut stream in slow {
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(
            !ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "{ended:?}"
        );
    }
    assert!(begun.elapsed() < HANDSHAKE_MAX, "{:?}", begun.elapsed());
    for noise in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"POST"] {
        let mut stream = connect(&node);
        stream.write_all(noise).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 400") && told.contains("ask for https://"), "{told}");
    }
    for noise in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\xff\xff\xff\xff"] {
        let mut stream = connect(&node);
        stream.write_all(noise).unwrap();
        // An alert, or nothing: it is cut off either way.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(is_served(&client(&ca), &node).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_do_keep_a_node_from_starting() {
    let home = tempfile::tempdir().unwrap();
    let (_, cert, key) = certs(home.path(), "one");
    let (_, _, other_key) = certs(home.path(), "two");
    let open_key = home.path().join("open.key");
    std::fs::copy(&key, &open_key).unwrap();
    std::fs::set_permissions(&open_key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let no_key = home.path().join("no.key");
    std::fs::copy(&cert, &no_key).unwrap();
    std::fs::set_permissions(&no_key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (cert, key, missing) = (shown(&cert), shown(&key), shown(&home.path().join("none.pem")));
    let data = shown(&home.path().join("data"));
    for (cert, key, wanted) in [
        (&cert, &shown(&other_key), "not the key of the certificate"),
        (&missing, &key, "none.pem: cannot be read"),
        (&cert, &missing, "none.pem: cannot be read"),
        (&key, &key, "no certificate in it"),
        (&cert, &shown(&no_key), "no private key in PEM"),
        (&cert, &shown(&open_key), "chmod 600"),
    ] {
        let serve =
            ["serve", "--data-dir", &data, "--listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key];
        let told = refusal(&serve);
        assert!(told.contains(wanted), "wanted {wanted}, got {told}");
    }
    let told = refusal(&["serve", "--data-dir", &data, "--listen", "127.0.0.1:0", "--tls-cert", &cert]);
    assert!(told.contains("tls_key"), "{told}");
    assert!(!Path::new(&data).exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_keep_replicas_over_https() {
    let home = tempfile::tempdir().unwrap();
    let (ca, cert, key) = certs(home.path(), "certs");
    let builder = |name: &str| secured(home.path(), name, &cert, &key).arg("--ca-file").arg(shown(&ca));
    let first = builder("n1").arg("--shards").arg("4").arg("--replication-factor").arg("1").start();
    let seed = first.url.trim_start_matches("https://").to_owned();
    let second = builder("n2").arg("--join").arg(&seed).arg("--replicas").arg("all").start();
    let http = client(&ca);
    let submitted =
        json!({"definition": {"steps": [{"id": "w", "type": "wait", "config": {"duration": "1h"}}]}});
    for n in 0..20 {
        let mut body = submitted.clone();
        body["id"] = format!("run-{n}").into();
        let answer = http.post(format!("{}/v1/workflows", second.url)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }
    // What the second keeps of shards of the first is fetched, and read.
    let list = format!("{}/v1/workflows?limit=100&consistency=eventual", second.url);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut kept = 0;
        for copy in copies(&home.path().join("n2")) {
            kept += runs_in(&copy).await.unwrap_or(0);
        }
        let page: Value = http.get(&list).send().await.unwrap().json().await.unwrap();
        let listed = page["items"].as_array().map_or(0, Vec::len);
        if kept > 0 && listed == 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{kept} runs in replicas, {listed} listed: {page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Who does not know the CA does not join, and is told why.
    let stranger = shown(&home.path().join("n3"));
    let join = ["serve", "--data-dir", &stranger, "--listen", "127.0.0.1:0", "--join", &first.url];
    let mut child = opcode().args(join).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut told = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("certificate") {
        let read = std::io::BufRead::read_line(&mut told, &mut line).unwrap();
        assert!(read > 0, "it ended without saying so: {line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

//! Backups of real clusters: taken while they work and while a node dies, damaged in every way, and
//! restored to a node that goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::cluster::{Node, NodeBuilder, opcode};
use crate::failover::leads_most;
use crate::many::{Builders, Load, SHARDS, all_complete, all_shards, in_sync, wait_for};

/// Where no node is, for what needs none.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Runs `opcode ARGS…` against a server.
pub(crate) fn command(server: &str, args: &[&str]) -> Output {
    opcode().args(args).env("OPCODE_SERVER", server).output().expect("the binary starts")
}

/// The same, which must go well; its answer in JSON.
pub(crate) fn told(server: &str, args: &[&str]) -> Value {
    let output = command(server, &[args, &["-o", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The same, which must be refused; what it says.
pub(crate) fn refused(args: &[&str]) -> String {
    let output = command(NOWHERE, args);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(!output.status.success(), "{args:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A run that waits for a signal.
fn waits(id: &str) -> Value {
    json!({"id": id, "definition": {"steps": [{"id": "w", "type": "wait", "config": {"signal": "go"}},
        {"id": "a", "action": "expr.eval", "params": {"expression": "6 * 7"}, "depends_on": ["w"]}],
        "output": {"of": "${{steps.a.output.result}}"}}})
}

async fn go(node: &Node, id: &str) {
    let signal = json!({"type": "data", "step_id": "go", "payload": 1});
    let (status, answer) = node.post(&format!("/v1/workflows/{id}/signals"), &signal).await;
    assert!(matches!(status, 200 | 202), "{status}: {answer}");
}

/// What a cluster keeps beside runs.
async fn catalogue(node: &Node) -> BTreeMap<&'static str, Value> {
    let mut lists = BTreeMap::new();
    for kind in ["templates", "schedules", "secrets", "tokens"] {
        let (status, list) = node.get(&format!("/v1/{kind}")).await;
        assert_eq!(status, 200, "{list}");
        assert!(!list["items"].as_array().expect("a list").is_empty(), "{kind}");
        lists.insert(kind, list["items"].clone());
    }
    lists
}

async fn fill_catalogue(node: &Node) {
    let hash = json!({"id": "a", "action": "crypto.hash", "params": {"data": "${{secrets.K}}"}});
    let later = "2099-01-01T00:00:00Z";
    for (path, body) in [
        ("templates", json!({"name": "t", "definition": {"steps": [hash]}})),
        ("schedules", json!({"id": "s", "template": "t", "at": later})),
        ("tokens", json!({"name": "ci", "scopes": ["read"]})),
    ] {
        let (status, answer) = node.post(&format!("/v1/{path}"), &body).await;
        assert_eq!(status, 201, "{path}: {answer}");
    }
    let secret = node.request(reqwest::Method::PUT, "/v1/secrets/K").json(&json!({"value": "sesame"}));
    assert!(secret.send().await.expect("the node answers").status().is_success());
}

fn key_file(home: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let file = home.join("key");
    std::fs::write(&file, format!("{}\n", "c5".repeat(32))).expect("a key can be written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    file
}

/// Documents and events of runs.
async fn seen(node: &Node, ids: &[String]) -> Vec<(Value, Vec<Value>)> {
    let mut seen = Vec::new();
    for id in ids {
        seen.push((node.get(&format!("/v1/workflows/{id}")).await.1, node.events(id).await));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_backup_began_is_there_when_it_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let key = key_file(dir.path()).display().to_string();
    let mut builders = Builders::new(dir.path());
    for builder in &mut builders.0 {
        *builder = builder.clone().arg("--secrets-key-file").arg(&key);
    }
    let mut nodes = builders.start().await;
    fill_catalogue(&nodes[0]).await;
    nodes[0].submit(&waits("open")).await;
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let before = Load::start("before", &urls);
    before.goes_on(20).await;
    let before = before.end().await.ids;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &before).await;
    let during = Load::start("during", &urls);
    during.goes_on(5).await;
    // The node that leads most dies while it is copied from; the one that is asked does not.
    let cluster = wait_for(&nodes[0], "shards are led", |_| true).await;
    let victim = match leads_most(&cluster) - 1 {
        0 => 1,
        other => other,
    };
    let backup = dir.path().join("backup");
    let (url, to) = (nodes[0].url.clone(), backup.clone());
    let taking = tokio::task::spawn_blocking(move || told(&url, &["backup", text(&to)]));
    nodes.remove(victim).kill();
    let taken = taking.await.unwrap();
    assert_eq!(taken["shards"].as_array().unwrap().len(), SHARDS + 1, "{taken}");
    during.goes_on(5).await;
    drop(during.end().await);
    let (wanted, kept) = (seen(&nodes[0], &before).await, catalogue(&nodes[0]).await);
    nodes.into_iter().for_each(Node::kill);

    let verified = told(NOWHERE, &["verify", text(&backup)]);
    assert!(verified["runs"].as_u64().unwrap() > before.len() as u64, "{verified}");
    let data = dir.path().join("restored");
    let restored = told(NOWHERE, &["restore", text(&backup), "--data-dir", text(&data)]);
    assert_ne!(restored["cluster_id"], taken["cluster_id"], "{restored}");
    let mut builder = NodeBuilder::new(&data).arg("--secrets-key-file").arg(&key);
    builder = builder.arg("--peer-listen").arg(format!("127.0.0.1:{}", crate::many::free_port()));
    let node = builder.start();
    assert_eq!(seen(&node, &before).await, wanted, "runs that had ended");
    assert_eq!(catalogue(&node).await, kept);
    go(&node, "open").await;
    assert_eq!(node.end("open").await["output"]["of"], 42);
    let hashed = node.submit(&json!({"template": "t"})).await;
    assert_eq!(node.end(&hashed).await["status"], "completed");
    another_joins(dir.path(), &node, &key, &before).await;
}

/// The restored node is a cluster as any other: who joins it gets everything.
async fn another_joins(dir: &Path, node: &Node, key: &str, ids: &[String]) {
    let join = node.url.trim_start_matches("http://");
    let peer = format!("127.0.0.1:{}", crate::many::free_port());
    let builder = NodeBuilder::new(&dir.join("joined")).arg("--join").arg(join);
    let second = builder.arg("--secrets-key-file").arg(key).arg("--peer-listen").arg(peer).start();
    wait_for(&second, "every shard is on both", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 2)
    })
    .await;
    let path = format!("/v1/workflows/{}?consistency=eventual", ids[0]);
    assert_eq!(second.get(&path).await.1["status"], "completed");
    all_complete(&[&second], ids).await;
}

/// A small backup, of a node of two shards with some runs, and what is in it.
async fn small(dir: &Path) -> PathBuf {
    let node = NodeBuilder::new(&dir.join("data")).arg("--shards").arg("2").start();
    let backup = dir.join("backup");
    for n in 0..8 {
        node.submit(&waits(&format!("r{n}"))).await;
    }
    told(&node.url, &["backup", text(&backup)]);
    for n in 8..16 {
        node.submit(&waits(&format!("r{n}"))).await;
    }
    let extended = told(&node.url, &["backup", text(&backup), "--extend"]);
    let has_more = |shard: &&Value| shard["to"].as_u64() > shard["from"].as_u64();
    assert!(
        extended["shards"].as_array().expect("shards").iter().any(|shard| has_more(&shard)),
        "{extended}"
    );
    assert!(node.stop().success());
    backup
}

/// Verify and restore refuse it, and restore leaves nothing.
fn is_refused(backup: &Path, what: &str) {
    let data = backup.with_file_name("never");
    let said = refused(&["verify", text(backup), "--quick"]);
    assert!(!said.contains("panicked"), "{what}: {said}");
    let said = refused(&["restore", text(backup), "--data-dir", text(&data)]);
    assert!(!said.contains("panicked"), "{what}: {said}");
    assert!(!data.exists(), "{what}: something was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_anywhere_in_a_backup_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let backup = small(dir.path()).await;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 4, "{files:?}");
    for path in &files {
        let (bytes, name) = (std::fs::read(path).unwrap(), path.display());
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut other = bytes.clone();
            other[place] ^= 1;
            std::fs::write(path, &other).unwrap();
            is_refused(&backup, &format!("byte {place} of {name} is another"));
        }
        std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        is_refused(&backup, &format!("{name} is cut"));
        std::fs::write(path, [&bytes[..], b"\n"].concat()).unwrap();
        is_refused(&backup, &format!("{name} is longer"));
        std::fs::remove_file(path).unwrap();
        is_refused(&backup, &format!("{name} is gone"));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, &bytes).unwrap();
        std::os::unix::fs::symlink(&elsewhere, path).unwrap();
        is_refused(&backup, &format!("{name} is a symlink"));
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, &bytes).unwrap();
    }
    std::fs::write(backup.join("foreign"), "").unwrap();
    is_refused(&backup, "there is a file that is no part of it");
    std::fs::remove_file(backup.join("foreign")).unwrap();
    assert!(refused(&["restore", text(&backup), "--data-dir", text(&backup)]).contains("not empty"));
    assert!(refused(&["backup", text(&backup), "--server", NOWHERE]).contains("cannot reach"));
    let data = dir.path().join("data");
    assert!(refused(&["restore", text(&backup), "--data-dir", text(&data)]).contains("not empty"));
    told(NOWHERE, &["verify", text(&backup)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_brought_to_any_entry_that_the_backup_has() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--shards").arg("1").start();
    let backup = dir.path().join("backup");
    node.submit(&waits("first")).await;
    let from = told(&node.url, &["backup", text(&backup)])["shards"][1]["to"].as_u64().unwrap();
    let mut ends = BTreeMap::new();
    for id in ["second", "third"] {
        node.submit(&waits(id)).await;
        node.settle_at(id, "w").await;
        let to = told(&node.url, &["backup", text(&backup), "--extend"])["shards"][1]["to"].as_u64().unwrap();
        ends.insert(id, to);
    }
    assert!(from < ends["second"] && ends["second"] < ends["third"]);
    drop(node);
    let cases = [(from, 404, 404), (ends["second"], 200, 404), (ends["third"], 200, 200)];
    for (index, second, third) in cases {
        let data = dir.path().join(format!("at-{index}"));
        let at = format!("0:{index}");
        told(NOWHERE, &["restore", text(&backup), "--data-dir", text(&data), "--shard-position", &at]);
        let node = NodeBuilder::new(&data).start();
        for (id, status) in [("first", 200), ("second", second), ("third", third)] {
            assert_eq!(node.get(&format!("/v1/workflows/{id}")).await.0, status, "{id} at {index}");
        }
        go(&node, "first").await;
        assert_eq!(node.end("first").await["output"]["of"], 42);
        assert!(node.stop().success());
        crate::cluster::assert_tables_equal_fold(&data);
    }
    let data = dir.path().join("never");
    for wrong in [
        format!("0:{}", from - 1),
        format!("0:{}", ends["third"] + 1),
        "1:5".into(),
        "x:5".into(),
        "0".into(),
    ] {
        refused(&["restore", text(&backup), "--data-dir", text(&data), "--shard-position", &wrong]);
        assert!(!data.exists(), "{wrong}");
    }
}

/// A run whose child waits for a signal.
fn parent(id: &str) -> Value {
    let params = json!({"template_name": "child"});
    json!({"id": id, "definition": {"steps": [{"id": "c", "action": "workflow.run", "params": params}],
        "output": {"of": "${{steps.c.output.of}}"}}})
}

/// The shard of a run.
fn shard(id: &str) -> u32 {
    let id = opcode_engine::ids::WorkflowId::parse(id).expect("an id");
    opcode_router::placement::shard_of(&id, 2).0
}

/// The last entries of the two shards that a backup has, after it was added to.
fn entries(node: &Node, backup: &Path) -> [u64; 2] {
    let told = told(&node.url, &["backup", text(backup), "--extend"]);
    let entry = |shard: &str| {
        let shards = told["shards"].as_array().expect("shards");
        shards.iter().find(|one| one["shard"] == shard).expect("it is there")["to"]
            .as_u64()
            .expect("a number")
    };
    ["0", "1"].map(entry)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parents_and_children_in_copies_of_different_moments_find_each_other_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--shards").arg("2").start();
    let backup = dir.path().join("backup");
    let template = json!({"name": "child", "definition": waits("")["definition"]});
    assert_eq!(node.post("/v1/templates", &template).await.0, 201);
    told(&node.url, &["backup", text(&backup)]);
    let id = (0..).map(|n| format!("p{n}")).find(|id| shard(id) != shard(&format!("{id}:c:1"))).unwrap();
    let child = format!("{id}:c:1");
    let (parents, children) = (shard(&id) as usize, shard(&child) as usize);
    let begin = entries(&node, &backup);
    node.submit(&parent(&id)).await;
    node.settle_at(&child, "w").await;
    node.settle_at(&id, "c").await;
    let middle = entries(&node, &backup);
    go(&node, &child).await;
    assert_eq!(node.end(&id).await["output"]["of"], 42);
    let end = entries(&node, &backup);
    drop(node);
    // Where each shard stands, and what there is to settle.
    let cases = [
        ("the parent waits for a child that is not there", middle[parents], begin[children], (1, 0)),
        ("the parent waits for a child that has ended", middle[parents], end[children], (0, 1)),
        ("both wait", middle[parents], middle[children], (0, 0)),
        ("there is no parent", begin[parents], middle[children], (0, 0)),
        ("all is done", end[parents], end[children], (0, 0)),
    ];
    for (n, (what, of_parent, of_child, (taken_back, owed_again))) in cases.into_iter().enumerate() {
        let data = dir.path().join(format!("case-{n}"));
        let (a, b) = (format!("{parents}:{of_parent}"), format!("{children}:{of_child}"));
        let args = [
            "restore",
            text(&backup),
            "--data-dir",
            text(&data),
            "--shard-position",
            &a,
            "--shard-position",
            &b,
        ];
        let restored = told(NOWHERE, &args);
        let settled = (restored["taken_back"].as_u64(), restored["owed_again"].as_u64());
        assert_eq!(settled, (Some(taken_back), Some(owed_again)), "{what}");
        let node = NodeBuilder::new(&data).start();
        if of_child != end[children] {
            node.settle_at(&child, "w").await;
            go(&node, &child).await;
        }
        assert_eq!(node.end(&child).await["status"], "completed", "{what}");
        if of_parent != begin[parents] {
            assert_eq!(node.end(&id).await["output"]["of"], 42, "{what}");
        }
        assert!(node.stop().success());
        crate::cluster::assert_tables_equal_fold(&data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_writes_backups_beneath_its_folder_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("backups");
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--shards").arg("2");
    let closed = node.start();
    let (status, answer) = closed.post("/v1/backup", &json!({"path": "a"})).await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("--backup-dir"), "{answer}");
    assert!(closed.stop().success());
    let node = node.arg("--backup-dir").arg(text(&root)).start();
    node.submit(&waits("r")).await;
    let (status, written) = node.post("/v1/backup", &json!({"path": "monday/a"})).await;
    assert_eq!(status, 201, "{written}");
    assert_eq!(written["path"], text(&root.join("monday/a")));
    assert_eq!(written["shards"].as_array().unwrap().len(), 3, "{written}");
    assert!(written["bytes"].as_u64().unwrap() > 0 && written["duration_ms"].is_u64(), "{written}");
    assert_eq!(node.post("/v1/backup", &json!({"path": "monday/a"})).await.0, 409, "it is there already");
    let (status, extended) = node.post("/v1/backup", &json!({"path": "monday/a", "extend": true})).await;
    assert_eq!(status, 201, "{extended}");
    let (status, named) = node.post("/v1/backup", &json!({})).await;
    assert_eq!(status, 201, "{named}");
    for path in ["monday/a", named["path"].as_str().unwrap()] {
        told(NOWHERE, &["verify", text(&root.join(path))]);
    }
}

#[cfg(feature = "crash-points")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cut_off_is_none_and_a_restore_that_is_makes_no_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--shards").arg("2").start();
    node.submit(&waits("r")).await;
    let crash = |at: &str, args: &[&str]| {
        let mut command = opcode();
        command.args(args).env("OPCODE_SERVER", &node.url).env("OPCODE_CRASH_AT", at);
        let output = command.output().expect("the binary starts");
        assert!(String::from_utf8_lossy(&output.stderr).contains("crash point"), "{args:?}: {output:?}");
    };
    for (n, at) in
        ["backup.file.before:1", "backup.file.before:3", "backup.manifest.before:1"].iter().enumerate()
    {
        let backup = dir.path().join(format!("cut-{n}"));
        crash(at, &["backup", text(&backup)]);
        is_refused(&backup, at);
    }
    let (backup, data) = (dir.path().join("backup"), dir.path().join("restored"));
    told(&node.url, &["backup", text(&backup)]);
    node.submit(&waits("s")).await;
    crash("backup.manifest.before:1", &["backup", text(&backup), "--extend"]);
    // What was added in vain is taken away by the next that adds.
    told(&node.url, &["backup", text(&backup), "--extend"]);
    told(NOWHERE, &["verify", text(&backup)]);
    crash("restore.identity.before:1", &["restore", text(&backup), "--data-dir", text(&data)]);
    assert!(NodeBuilder::new(&data).try_start().is_none(), "it is no node's folder");
    assert!(refused(&["restore", text(&backup), "--data-dir", text(&data)]).contains("not empty"));
}

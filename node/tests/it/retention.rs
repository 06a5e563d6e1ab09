//! Retention on real nodes: what is kept no longer is archived, whole, and then deleted; no run is
//! lost on the way, whoever dies.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::run;
use crate::cluster::{Node, NodeBuilder, PATIENCE, assert_tables_equal_fold};
use crate::export::import;
use crate::failover::leads_most;
use crate::many::{Builders, all_shards, in_sync, wait_for};

async fn ask(node: &Node, method: Method, path: &str, body: Value) -> (u16, Value) {
    let response = node.request(method, path).json(&body).send().await.expect("the node answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn set(node: &Node, template: Option<&str>, body: Value) -> (u16, Value) {
    let path = template.map_or_else(String::new, |name| format!("/templates/{name}"));
    ask(node, Method::PUT, &format!("/v1/retention{path}"), body).await
}

/// Every archive below a folder.
fn archives(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "gz") => files.push(path),
                false => {}
            }
        }
    }
    files
}

fn text_of(file: &Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(file).expect("an archive");
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
    text
}

/// All runs in the archives below a folder, by id.
fn archived(dir: &Path) -> BTreeMap<String, Value> {
    let mut runs = BTreeMap::new();
    for file in archives(dir) {
        for line in text_of(&file).lines() {
            let run: Value = serde_json::from_str(line).expect("a line");
            runs.insert(run["workflow_id"].as_str().expect("an id").to_owned(), run);
        }
    }
    runs
}

/// The ids of the runs that there are; none while a shard does not answer.
async fn ids(node: &Node) -> Option<Vec<String>> {
    let (status, page) = node.get("/v1/workflows?limit=1000").await;
    if status != 200 || page.get("unreachable_shards").is_some() {
        return None;
    }
    let items = page["items"].as_array()?;
    let mut ids: Vec<String> =
        items.iter().filter_map(|run| Some(run["workflow_id"].as_str()?.to_owned())).collect();
    ids.sort_unstable();
    Some(ids)
}

/// Waits until only these runs are left.
async fn left(node: &Node, wanted: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ids = ids(node).await;
        if ids.as_ref().is_some_and(|ids| ids == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{ids:?} are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Imports an archive again. Ids of runs that were deleted just now are free in a moment.
async fn taken_again(node: &Node, file: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, answer) = import(node, "", text_of(file)).await;
        if (status, &answer["failed"]) == (200, &json!(0)) {
            return;
        }
        let results = answer["results"].as_array().expect("results");
        let is_late = |result: &Value| {
            result
                .get("detail")
                .is_none_or(|why| why.as_str().is_some_and(|why| why.contains("send it again")))
        };
        assert!(results.iter().all(is_late), "{answer}");
        assert!(Instant::now() < deadline, "it is not taken: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn step() -> Value {
    json!({"id": "a", "action": "crypto.hash", "params": {"data": "${{inputs.x}}"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_no_longer_is_archived_whole_and_deleted() {
    let home = tempfile::tempdir().unwrap();
    let (data, archive) = (home.path().join("data"), home.path().join("cold"));
    let builder = NodeBuilder::new(&data)
        .arg("--archive-dir")
        .arg(archive.display().to_string())
        .arg("--retention-every-s")
        .arg("1");
    let node = builder.start();
    for name in ["short", "ledger", "scratch", ".."] {
        let template = json!({"name": name, "definition": {"steps": [step()]}});
        assert_eq!(node.post("/v1/templates", &template).await.0, 201);
    }
    // Before there is a rule nothing goes.
    let mut whole = BTreeMap::new();
    for n in 0..8 {
        let id = format!("short-{n}");
        let body =
            json!({"id": id, "template": "short", "params": {"x": "1"}, "labels": {"n": n.to_string()}});
        node.submit(&body).await;
        let run = node.end(&id).await;
        whole.insert(id.clone(), (run, node.events(&id).await));
    }
    for (id, template) in [("ledger", "ledger"), ("scratch", "scratch"), ("dots", "..")] {
        node.submit(&json!({"id": id, "template": template, "params": {"x": "1"}})).await;
        node.end(id).await;
    }
    node.submit(&json!({"id": "own", "definition": {"steps": [step()]}, "params": {"x": "1"}})).await;
    node.end("own").await;
    let waits = json!({"steps": [{"id": "w", "type": "wait", "config": {"signal": "go"}}]});
    node.submit(&json!({"id": "waits", "definition": waits})).await;
    for (template, body) in [
        ("ledger", json!({"archive_after": "720h"})),
        ("scratch", json!({"delete_after": "1s"})),
        ("short", json!({"archive_after": "1s"})),
    ] {
        let (status, answer) = set(&node, Some(template), body).await;
        assert_eq!(status, 200, "{template}: {answer}");
    }
    left(&node, &["dots", "ledger", "own", "waits"]).await;
    let files = archived(&archive);
    assert_eq!(files.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
    node.kill();

    // Rules outlive the node; the one for all others leaves those that have their own.
    let node = builder.start();
    assert_eq!(set(&node, None, json!({"archive_after": "1s"})).await.0, 200);
    left(&node, &["ledger", "waits"]).await;
    let others = archived(&archive.join("default").join("default"));
    assert_eq!(others.keys().collect::<Vec<_>>(), ["dots", "own"]);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2, "no archive is beside the folder");
    let (_, rules) = node.get("/v1/retention").await;
    let names = rules["templates"].as_array().unwrap().iter().filter_map(|rule| rule["template"].as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["ledger", "scratch", "short"]);
    assert_eq!(rules["default"]["archive_after"], "1s");

    // An archive is imported again; there it stays, once nothing says otherwise.
    for path in ["/v1/retention", "/v1/retention/templates/short"] {
        assert_eq!(ask(&node, Method::DELETE, path, json!({})).await.0, 200);
        assert_eq!(ask(&node, Method::DELETE, path, json!({})).await.0, 404);
    }
    for file in archives(&archive) {
        taken_again(&node, &file).await;
    }
    for (id, (run, events)) in &whole {
        assert_eq!((&node.end(id).await, &node.events(id).await), (run, events), "{id}");
    }
    assert!(node.stop().success());
    assert_tables_equal_fold(&data);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_when_nothing_in_them_is_to_be_kept() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let node = NodeBuilder::new(&data).arg("--retention-every-s").arg("1").start();
    node.submit(&json!({"id": "w", "definition": {"steps": [step()]}, "params": {"x": "1"}})).await;
    node.end("w").await;
    let done = run(&node.url, &["retention", "set", "--archive-after", "1s", "--delete-after", "100h"], "");
    assert!(done.status.success(), "{done:?}");
    left(&node, &[]).await;
    let archive = data.join("archive");
    assert_eq!(archived(&archive).keys().collect::<Vec<_>>(), ["w"]);
    let set = run(&node.url, &["retention", "set", "--archive-after", "1s", "--delete-after", "2s"], "");
    assert!(set.status.success(), "{set:?}");
    let deadline = Instant::now() + PATIENCE;
    while !archives(&archive).is_empty() {
        assert!(Instant::now() < deadline, "the archive stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (args, code) in [
        (&["retention", "get"][..], 0),
        (&["retention", "get", "--template", "none"], 4),
        (&["retention", "set"], 2),
        (&["retention", "set", "--delete-after", "1ms"], 1),
        (&["retention", "rm"], 0),
        (&["retention", "rm"], 4),
    ] {
        let output = run(&node.url, args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_archived_stays() {
    let home = tempfile::tempdir().unwrap();
    // A file is where the folder should be.
    let archive = home.path().join("cold");
    std::fs::write(&archive, b"in the way").unwrap();
    let builder = NodeBuilder::new(&home.path().join("data"))
        .arg("--archive-dir")
        .arg(archive.display().to_string())
        .arg("--retention-every-s")
        .arg("1");
    let node = builder.start();
    node.submit(&json!({"id": "w", "definition": {"steps": [step()]}, "params": {"x": "1"}})).await;
    node.end("w").await;
    assert_eq!(set(&node, None, json!({"archive_after": "1s"})).await.0, 200);
    let deadline = Instant::now() + PATIENCE;
    while !node.get("/metrics").await.1.to_string().contains("opcode_retention_failures_total") {
        assert!(Instant::now() < deadline, "no sweep has failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    left(&node, &["w"]).await;
    std::fs::remove_file(&archive).unwrap();
    left(&node, &[]).await;
    assert!(archived(&archive).contains_key("w"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_run_is_lost_when_who_archives_dies() {
    const RUNS: usize = 150;
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    for builder in &mut builders.0 {
        *builder = builder.clone().arg("--retention-every-s").arg("1");
    }
    let mut nodes = builders.start().await;
    let id = |n: usize| format!("w-{n:03}");
    for n in 0..RUNS {
        let body = json!({"id": id(n), "definition": {"steps": [step()]}, "params": {"x": n.to_string()}});
        nodes[n % 3].submit(&body).await;
    }
    for n in 0..RUNS {
        nodes[n % 3].end(&id(n)).await;
    }
    assert_eq!(set(&nodes[0], None, json!({"archive_after": "1s"})).await.0, 200);
    // In the midst of it: some are gone, and some are not.
    let deadline = Instant::now() + PATIENCE;
    while ids(&nodes[0]).await.is_none_or(|ids| ids.len() == RUNS) {
        assert!(Instant::now() < deadline, "nothing is archived");
    }
    let (_, cluster) = nodes[0].get("/v1/cluster").await;
    let victim = leads_most(&cluster) - 1;
    nodes.remove(victim).kill();
    left(&nodes[0], &[]).await;
    let back = builders.0[victim].start();
    wait_for(&back, "the node has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    let all = archived(dir.path());
    let lost: Vec<String> = (0..RUNS).map(id).filter(|id| !all.contains_key(id)).collect();
    assert!(lost.is_empty(), "neither kept nor archived: {lost:?}");
    // What was archived twice is the same.
    let alone = NodeBuilder::new(&dir.path().join("alone")).start();
    for file in archives(dir.path()) {
        let (status, answer) = import(&alone, "", text_of(&file)).await;
        assert_eq!((status, &answer["failed"]), (200, &json!(0)), "{answer}");
    }
    assert_eq!(ids(&alone).await.map(|ids| ids.len()), Some(RUNS));
}

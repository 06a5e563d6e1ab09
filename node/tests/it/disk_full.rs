//! Disks that are full, as file systems of their own in memory: new work is refused while what was
//! accepted goes on, and a node whose disk takes nothing at all leaves the others alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{NodeBuilder, PATIENCE};
use crate::many::{Builders, Load, all_complete, all_shards, in_sync, wait_for};

/// A file system of a size; gone when this is.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// `None` where none can be mounted, which is said.
    fn new(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "opcode-test"]).arg(at);
        if !mount.status().is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("CI").is_none(), "no disk can be mounted: CI tests a full one");
            eprintln!("NOT TESTED: a full disk, since none can be mounted here");
            return None;
        }
        Some(Self { at: at.to_path_buf() })
    }

    fn resize(&self, mib: u32) {
        let options = format!("remount,size={mib}m");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.at).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also while a node that failed its test has files open.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_work_is_refused_while_accepted_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("disk");
    let Some(disk) = Disk::new(&data, 112) else { return };
    let node = NodeBuilder::new(&data).arg("--shards").arg("1").start();
    let ask = json!({"id": "open", "definition": {"steps": [{"id": "w", "type": "wait", "config": {"duration": "3s"}}]}});
    node.submit(&ask).await;
    let large = "x".repeat(500_000);
    let steps = json!([{"id": "a", "action": "expr.eval", "params": {"expression": "1 + 1"}}]);
    let deadline = Instant::now() + PATIENCE;
    let mut accepted = Vec::new();
    let refusal = loop {
        assert!(Instant::now() < deadline, "the disk is never full");
        let id = format!("large-{}", accepted.len());
        let body = json!({"id": id, "definition": {"steps": steps}, "params": {"x": large}});
        let (status, answer) = node.post("/v1/workflows", &body).await;
        match status {
            201 => accepted.push(id),
            _ => break (status, answer),
        }
    };
    assert_eq!((refusal.0, &refusal.1["code"]), (503, &json!("STORAGE_FULL")), "{}", refusal.1);
    assert_eq!(refusal.1["applied"], "no", "{}", refusal.1);
    assert!(!accepted.is_empty());
    // What was accepted is read, and ends.
    for id in accepted.iter().map(String::as_str).chain(["open"]) {
        let run = node.end(id).await;
        assert_eq!(run["status"], "completed", "{id}");
    }
    let (status, lost) = node.get(&format!("/v1/workflows/large-{}", accepted.len())).await;
    assert_eq!(status, 404, "it was refused, and is there: {lost}");
    disk.resize(400);
    let deadline = Instant::now() + PATIENCE;
    let small = json!({"id": "small", "definition": {"steps": steps}});
    while node.post("/v1/workflows", &small).await.0 != 201 {
        assert!(Instant::now() < deadline, "there is room again, and no new work is taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.end("small").await;
    assert!(node.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_takes_nothing_stops_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut builders = Builders::new(dir.path());
    let Some(disk) = Disk::new(&dir.path().join("n3"), 200) else { return };
    let mut nodes = builders.start().await;
    let mut full = nodes.remove(2);
    let urls: Vec<String> = nodes.iter().map(|node| node.url.clone()).collect();
    let load = Load::start("full", &urls);
    let filler = disk.at.join("filler");
    let mut rest = std::fs::File::create(&filler).unwrap();
    // Whatever is left goes to somebody else.
    while std::io::Write::write_all(&mut rest, &[0; 64 * 1024]).is_ok() {}
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = full.ended() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on without a disk");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(!ended.success(), "{ended}");
    let before = load.end().await;
    let load = Load::start("without", &urls);
    load.goes_on(10).await;
    let without = load.end().await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &before.ids).await;
    all_complete(&nodes.iter().collect::<Vec<_>>(), &without.ids).await;
    // With room it comes back and has everything.
    disk.resize(400);
    std::fs::remove_file(&filler).unwrap();
    let back = builders.0[2].start();
    wait_for(&back, "the node has caught up", |cluster| {
        all_shards(cluster).iter().all(|shard| in_sync(shard).len() == 3)
    })
    .await;
    all_complete(&[&back], &without.ids[..without.ids.len().min(20)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_to_a_full_disk_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(&dir.path().join("disk"), 1) else { return };
    let root = disk.at.display().to_string();
    let node = NodeBuilder::new(&dir.path().join("data")).arg("--shards").arg("1");
    let node = node.arg("--backup-dir").arg(&root).start();
    for n in 0..6 {
        let steps = json!([{"id": "a", "action": "expr.eval", "params": {"expression": "1 + 1"}}]);
        let id = node
            .submit(&json!({"definition": {"steps": steps}, "params": {"x": "y".repeat(400_000), "n": n}}))
            .await;
        node.end(&id).await;
    }
    let to = disk.at.join("by-a-client");
    let output = crate::backup::command(&node.url, &["backup", &to.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("No space left"), "{said}");
    let (status, answer) = node.post("/v1/backup", &json!({"path": "by-the-node"})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("STORAGE_FULL")), "{answer}");
    assert_eq!(std::fs::read_dir(&disk.at).unwrap().count(), 0, "something is left");
    // The node goes on, and elsewhere there is room.
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    crate::backup::told(&node.url, &["backup", &elsewhere]);
    assert!(node.stop().success());
}

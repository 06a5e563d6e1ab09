//! `deploy/lab/lab`: three hosts, which are network namespaces, with TLS and tokens between them. One
//! is cut off and comes back, and all are restarted in turn.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cluster::{PATIENCE, is_terminal};

/// What the lab exits with where namespaces cannot be had.
const SKIPPED: i32 = 77;

/// The lab; taken down at the end, whatever comes.
struct Lab {
    name: String,
    home: PathBuf,
}

impl Lab {
    fn try_run(&self, args: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lab/lab");
        std::process::Command::new(script)
            .args(args)
            .env("OPCODE", env!("CARGO_BIN_EXE_opcode"))
            .env("LAB_NAME", &self.name)
            .env("LAB_DIR", &self.home)
            .output()
            .expect("the lab's script runs")
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lab {args:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn client(&self, node: &str, args: &[&str]) -> Option<Value> {
        let output = self.try_run(&[&["opcode", node][..], args, &["-o", "json"]].concat());
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Starts a run on one host and waits for its end.
    fn complete(&self, node: &str, id: &str) {
        let deadline = Instant::now() + PATIENCE;
        let file = self.home.join("definition.json");
        let definition =
            json!({"steps": [{"id": "a", "action": "expr.eval", "params": {"expression": "6 * 7"}}]});
        std::fs::write(&file, definition.to_string()).unwrap();
        // The same id again is the same run: where its shard is not led for a moment it is tried again.
        while self.client(node, &["run", file.to_str().unwrap(), "--id", id]).is_none() {
            assert!(Instant::now() < deadline, "node {node} takes no runs");
        }
        loop {
            let run = self.client(node, &["wf", "get", id]).unwrap_or_default();
            if is_terminal(&run) {
                assert_eq!(run["status"], "completed", "{run}");
                return;
            }
            assert!(Instant::now() < deadline, "not in time: {run}");
        }
    }

    /// Waits until node `of` is alive or not, as another says.
    fn until_alive(&self, as_told_by: &str, of: &str, alive: bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let cluster = self.client(as_told_by, &["cluster", "status"]).unwrap_or_default();
            let members = cluster["members"].as_array().cloned().unwrap_or_default();
            if members.iter().any(|member| member["node_id"] == of && member["alive"] == alive) {
                return;
            }
            assert!(Instant::now() < deadline, "node {of} is not alive: {alive}: {cluster}");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.try_run(&["down"]);
    }
}

#[test]
fn three_hosts_lose_one_and_are_restarted_in_turn() {
    let home = tempfile::tempdir().unwrap();
    let lab = Lab { name: format!("opl{}", std::process::id()), home: home.path().join("lab") };
    let up = lab.try_run(&["up"]);
    let told = String::from_utf8_lossy(&up.stderr);
    if up.status.code() == Some(SKIPPED) {
        // Past the capture of the test's output, so that it is seen in every run.
        writeln!(std::io::stderr(), "test lab was SKIPPED: {told}").unwrap();
        return;
    }
    assert!(up.status.success(), "{told}");
    lab.complete("2", "before");
    for way in ["both", "out", "in"] {
        lab.run(&["partition", "3", way]);
        lab.until_alive("1", "3", false);
        for n in 0..4 {
            lab.complete("1", &format!("without-3-{way}-{n}"));
        }
        lab.run(&["heal"]);
        lab.until_alive("1", "3", true);
        lab.complete("3", &format!("healed-{way}"));
    }
    lab.run(&["restart"]);
    for node in ["1", "2", "3"] {
        lab.complete(node, "before");
        lab.complete(node, &format!("after-{node}"));
    }
    lab.run(&["down"]);
    assert!(!home.path().join("lab/token").exists(), "all is taken away");
}

//! Short runs of `jepsen-lite` with each of its faults: a cluster under load is harmed, healed, and
//! checked. Faults of a kind share a run, since starting a cluster and checking all that was
//! promised takes longer than one of them. Long runs are made with `cargo jepsen`.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// One cluster at a time: what is measured is how the nodes fare, not how two clusters share a core.
static ONE: Mutex<()> = Mutex::new(());

/// Runs it on the binary beside it; what it said, unless a promise was broken.
fn jepsen(args: &[&str]) -> String {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let jepsen = Path::new(env!("CARGO_BIN_EXE_jepsen-lite"));
    let binary = jepsen.with_file_name("opcode");
    assert!(binary.is_file(), "{}: is built when all tests are: `cargo it`", binary.display());
    let output = Command::new(jepsen)
        .arg("--binary")
        .arg(binary)
        // Few enough for an unoptimised build beside other tests.
        .args(["--shards", "4", "--rate", "40", "--clients", "4", "--seed", "7"])
        .args(args)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("every promise was kept"), "{said}");
    println!("{said}");
    said
}

/// One trial of each fault, one after another.
fn trials(nodes: &str, faults: &[&str]) -> String {
    let mut args = vec!["--nodes", nodes, "--trials", "1", "--lasts", "1"];
    faults.iter().for_each(|fault| args.extend(["--fault", fault]));
    jepsen(&args)
}

#[test]
fn nodes_are_killed_stopped_restarted_and_cut_off() {
    let nodes = ["kill", "kill-follower", "kill-meta", "kill-two", "kill-all", "pause", "roll", "wipe"];
    let network = ["partition", "one-way-out", "one-way-in", "bridge", "flap", "delay", "loss"];
    trials("3", &[&nodes[..], &network].concat());
}

#[test]
fn nodes_and_shards_are_moved() {
    trials("4", &["move", "replace"]);
}

#[test]
fn files_are_damaged_disks_are_slow_full_or_fail_and_clocks_are_off() {
    let disks = ["slow-sync", "disk-full", "fail-sync", "fail-write", "clock-skew"];
    let said = trials("3", &[&disks[..], &["flip-log", "cut-log", "cut-tables"]].concat());
    assert!(said.contains("it stopped after") && !said.contains("not felt"), "{said}");
    assert!(said.contains("flipped") && said.contains("cut from"), "{said}");
}

/// The number before each fault in what was said.
fn faults(said: &str) -> usize {
    let line = said.lines().find(|line| line.contains(" × ")).expect("it says what it did");
    line.split(", ").filter_map(|part| part.split(" × ").next()?.parse::<usize>().ok()).sum()
}

/// With the trials and the random faults beside it, over a hundred cycles in each run of the tests.
#[test]
fn one_node_is_killed_and_paused_again_and_again() {
    let said = jepsen(&["--nodes", "1", "--seconds", "75", "--every", "200"]);
    assert!(faults(&said) >= 80, "{said}");
}

#[test]
fn several_random_faults_at_a_time_with_a_report() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let report = dir.path().join("report.html");
    let path = report.to_str().expect("a path that is text");
    let said = jepsen(&["--nodes", "3", "--seconds", "20", "--at-once", "2", "--report", path]);
    assert!(faults(&said) >= 4, "{said}");
    let page = std::fs::read_to_string(&report).expect("a report is written");
    assert!(page.contains("Every promise was kept.") && page.contains("--seed 7"), "{page}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let jepsen = Path::new(env!("CARGO_BIN_EXE_jepsen-lite"));
    let output = Command::new(jepsen).args(["--binary", "/nowhere"]).output().expect("the binary starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such binary"));
}

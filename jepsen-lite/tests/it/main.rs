//! Short runs of `jepsen-lite` with each of its faults: a cluster under load is harmed, healed, and
//! checked. Faults of a kind share a run, since starting a cluster and checking all that was
//! promised takes longer than one of them. Long runs are made with `cargo jepsen`.

use std::path::Path;
use std::process::Command;

/// Runs it on the binary beside it; what it said, unless a promise was broken.
fn jepsen(args: &[&str]) -> String {
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
    let mut args = vec!["--nodes", nodes, "--trials", "1", "--lasts", "3"];
    faults.iter().for_each(|fault| args.extend(["--fault", fault]));
    jepsen(&args)
}

#[test]
fn nodes_are_killed() {
    trials("3", &["kill", "kill-follower", "kill-meta", "kill-two", "kill-all"]);
}

#[test]
fn a_node_stands_still_or_is_cut_off() {
    trials("3", &["pause", "partition", "one-way-out", "one-way-in"]);
}

#[test]
fn the_network_is_bad() {
    trials("3", &["bridge", "flap", "delay", "loss"]);
}

#[test]
fn nodes_are_restarted_in_turn_and_one_loses_its_disk() {
    trials("3", &["roll", "wipe"]);
}

#[test]
fn nodes_and_shards_are_moved() {
    trials("4", &["move", "replace"]);
}

#[test]
fn files_are_damaged() {
    let said = trials("3", &["flip-log", "cut-log", "cut-tables"]);
    assert!(said.contains("flipped") && said.contains("cut from"), "{said}");
}

#[test]
fn disks_are_slow_full_or_fail_and_clocks_are_off() {
    let said = trials("3", &["slow-sync", "disk-full", "fail-sync", "fail-write", "clock-skew"]);
    assert!(said.contains("it stopped after") && !said.contains("not felt"), "{said}");
}

#[test]
fn several_random_faults_at_a_time_with_a_report() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let report = dir.path().join("report.html");
    let path = report.to_str().expect("a path that is text");
    jepsen(&["--nodes", "3", "--seconds", "15", "--at-once", "2", "--report", path]);
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

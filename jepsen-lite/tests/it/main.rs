//! A short run of `jepsen-lite` with each of its faults: a cluster of three under load, harmed once,
//! healed, and checked. Long runs are made with `cargo jepsen`.

use std::path::Path;
use std::process::Command;

/// Runs it on the binary beside it; panics with all that it said unless every promise was kept.
fn jepsen(args: &[&str]) {
    let jepsen = Path::new(env!("CARGO_BIN_EXE_jepsen-lite"));
    let binary = jepsen.with_file_name("opcode");
    assert!(binary.is_file(), "{}: is built when all tests are: `cargo it`", binary.display());
    let output = Command::new(jepsen)
        .arg("--binary")
        .arg(binary)
        // Few enough for an unoptimised build beside other tests.
        .args(["--shards", "4", "--rate", "60", "--seed", "7"])
        .args(args)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("every promise was kept"), "{said}");
    println!("{said}");
}

fn trial(fault: &str) {
    jepsen(&["--nodes", "3", "--trials", "1", "--fault", fault]);
}

#[test]
fn the_busiest_leader_is_killed() {
    trial("kill");
}

#[test]
fn the_busiest_leader_stands_still() {
    trial("pause");
}

#[test]
fn the_busiest_leader_is_cut_off() {
    trial("partition");
}

#[test]
fn the_busiest_leader_is_not_heard() {
    trial("one-way-out");
}

#[test]
fn the_busiest_leader_hears_nobody() {
    trial("one-way-in");
}

#[test]
fn the_leader_of_the_membership_is_killed() {
    trial("kill-meta");
}

#[test]
fn a_majority_is_killed() {
    trial("kill-two");
}

#[test]
fn all_are_killed() {
    trial("kill-all");
}

#[test]
fn all_are_restarted_in_turn() {
    trial("roll");
}

#[test]
fn the_busiest_leader_loses_its_disk() {
    trial("wipe");
}

#[test]
fn random_faults_one_after_another() {
    jepsen(&["--nodes", "3", "--seconds", "20"]);
}

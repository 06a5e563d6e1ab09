//! Seeds keep every promise, and the same seed is the same run.

use std::process::{Command, Output};

/// Runs the simulation with these arguments, with this fault planted.
pub(crate) fn simulate(arguments: &[&str], planted: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opcode-sim"));
    command.args(arguments).env("OPCODE_PLANTED", planted).output().expect("the simulation runs")
}

/// What it said.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    let output = simulate(&["--seeds", "1..1001", "--seconds", "2"], "");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn seeds_repeat_to_the_byte() {
    let output = simulate(&["--seeds", "2001..2021", "--seconds", "2", "--check"], "");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn another_seed_is_another_run() {
    let traces = ["1", "2"].map(|seed| text(&simulate(&["--seed", seed, "--seconds", "1"], "")));
    let trace = |text: &str| text.split("trace ").nth(1).map(|rest| rest[..16].to_owned());
    assert!(trace(&traces[0]).is_some(), "{traces:?}");
    assert_ne!(trace(&traces[0]), trace(&traces[1]));
}

/// Each once showed a fault, of the code (12269) or of a checker. With other code they are other
/// histories, but cost little.
#[test]
fn seeds_that_broke_a_promise_keep_it() {
    for seed in ["3534", "10715", "12269", "208942"] {
        let output = simulate(&["--seed", seed, "--seconds", "2"], "");
        assert!(output.status.success(), "{}", text(&output));
    }
}

//! A guard on the hot paths: how many instructions each takes, against a baseline.
//!
//! `valgrind --tool=callgrind` counts them, so that neither a noisy machine nor a slow one matters.
//! What is counted is the build that the tests are of, so the figures compare with each other and
//! not with a release's. Incremental builds inline otherwise: the baseline is of a build without,
//! as `.ci/run` makes it, and any other build is only told its figures.
//! `OPCODE_ACCEPT_INSTRUCTIONS=1` writes a new baseline.

mod hot;
mod paths;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much more than its baseline a path may take, and how much less before that is worth a new one.
const TOLERANCE: f64 = 0.05;
/// Whether this build is not incremental.
fn is_judged() -> bool {
    option_env!("CARGO_INCREMENTAL") == Some("0")
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions/baseline.json")
}

/// Calls every path once, to be watched by callgrind; by itself it is a test that they work.
#[test]
fn every_path_works() {
    paths::Fixture::new().walk();
}

#[test]
fn no_hot_path_takes_more_instructions_than_it_did() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is missing: `apt-get install valgrind`");
        println!("NOT MEASURED: there is no valgrind here");
        return;
    }
    let counted = count();
    assert_eq!(counted.len(), paths::NAMES.len() - 1, "{counted:?}");
    if std::env::var_os("OPCODE_ACCEPT_INSTRUCTIONS").is_some() {
        assert!(is_judged(), "a baseline is of a build with CARGO_INCREMENTAL=0");
        let text = serde_json::to_string_pretty(&counted).expect("a map of numbers") + "\n";
        std::fs::write(baseline_path(), text).expect("the baseline can be written");
        return;
    }
    let text = std::fs::read_to_string(baseline_path()).expect("there is a baseline");
    let baseline: BTreeMap<String, u64> = serde_json::from_str(&text).expect("a map of numbers");
    let mut worse = Vec::new();
    for (name, count) in &counted {
        let before = baseline.get(name).copied().unwrap_or_default();
        let ratio = *count as f64 / before.max(1) as f64;
        println!("{name}: {count} instructions, {ratio:.3} of the baseline");
        if ratio > 1.0 + TOLERANCE {
            worse.push(format!("{name}: {count}, was {before}"));
        } else if ratio < 1.0 - TOLERANCE {
            println!("{name} has become cheaper: accept it with OPCODE_ACCEPT_INSTRUCTIONS=1");
        }
    }
    assert!(worse.is_empty() || !is_judged(), "more instructions than the baseline: {worse:#?}");
}

/// Runs [`every_path_works`] under callgrind, which writes a file whenever a path begins: how many
/// instructions were run since the one before it began.
fn count() -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", dir.path().join("out").display()))
        .arg("--dump-before=instructions::hot::*")
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "every_path_works", "--test-threads=1"])
        .output()
        .expect("valgrind starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = std::fs::read_dir(dir.path()).expect("what callgrind wrote");
    files
        .filter_map(|file| {
            let text = std::fs::read_to_string(file.ok()?.path()).ok()?;
            let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
            let next = field("desc: Trigger: --dump-before=instructions::hot::")?.trim();
            let place = paths::NAMES.iter().position(|name| *name == next)?;
            let name = paths::NAMES.get(place.checked_sub(1)?)?;
            Some(((*name).to_owned(), field("summary: ")?.trim().parse().ok()?))
        })
        .collect()
}

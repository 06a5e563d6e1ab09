//! The rules of the repository, as tests: what stands at the top, who may use whom, how files
//! open and how long they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest source file, in lines.
const FILE_LINES_MAX: usize = 600;

/// What stands at the top, beside dotfiles and build output.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "deny.toml",
    "deploy",
    "jepsen-lite",
    "node",
    "router",
    "rust-toolchain.toml",
    "shard",
    "target",
];

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["common", "types", "utils", "util", "core", "helpers", "manager", "misc"];

/// Which of our crates each may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("shard/engine", &[]),
    ("shard", &["opcode-engine"]),
    ("router", &["opcode-engine", "opcode-shard"]),
    ("node", &["opcode-engine", "opcode-shard", "opcode-router"]),
    ("bench", &["opcode-engine", "opcode-shard"]),
    ("jepsen-lite", &[]),
    ("shard/sim", &["opcode-engine", "opcode-shard"]),
    ("shard/fuzz", &["opcode-engine", "opcode-shard", "opcode-router"]),
];

/// What the engine may depend on: nothing that knows a clock, a file, a socket or a thread.
const ENGINE_MAY_USE: &[&str] = &[
    "base64",
    "cel",
    "chrono",
    "croner",
    "jaq-core",
    "jaq-json",
    "jaq-std",
    "jiff",
    "jsonschema",
    "petgraph",
    "regex",
    "serde",
    "serde_json",
    "sha2",
    "strsim",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every Rust file of ours.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["node", "router", "shard", "bench", "jepsen-lite"].map(|f| root().join(f)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "the sources are here");
    found
}

/// Names under `[dependencies]` of a manifest.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let section = text.split("[dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_top_level_is_fixed() {
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || TOP_LEVEL.contains(&name.as_str()),
            "{name} does not belong at the top"
        );
    }
}

#[test]
fn arrows_point_one_way() {
    for (folder, allowed) in ARROWS {
        for name in dependencies(&root().join(folder).join("Cargo.toml")) {
            if name.starts_with("opcode") {
                assert!(allowed.contains(&name.as_str()), "{folder} may not use {name}");
            }
        }
    }
    let router = dependencies(&root().join("router/Cargo.toml"));
    assert!(
        !router.contains("libsql") && !router.contains("openraft"),
        "the router knows neither tables nor log"
    );
}

#[test]
fn the_engine_is_pure() {
    for name in dependencies(&root().join("shard/engine/Cargo.toml")) {
        assert!(ENGINE_MAY_USE.contains(&name.as_str()), "the engine may not use {name}");
    }
    let engine = root().join("shard/engine/src");
    let is_test = |path: &Path| {
        path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.starts_with("tests") || part == "hostile.rs"
        })
    };
    for path in sources().into_iter().filter(|path| path.starts_with(&engine) && !is_test(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["SystemTime", "Instant::now", "std::fs", "std::net", "Utc::now", "rand::"] {
            let mut code = text
                .lines()
                .take_while(|line| !line.contains("#[cfg(test)]"))
                .filter(|line| !line.trim_start().starts_with("//"));
            assert!(!code.any(|line| line.contains(word)), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn files_open_with_their_reason_and_stay_short() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with `//!`", path.display());
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", path.display());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!EMPTY_NAMES.contains(&stem), "{} has a name that says nothing", path.display());
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("FIX", "ME"),
        concat!("#[ig", "nore"),
    ];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} has a {mark}", path.display());
        }
    }
}

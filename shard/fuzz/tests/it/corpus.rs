//! Every file of `corpus/TARGET/` through its target; a failure names the file.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use opcode_fuzz::{TARGETS, Target};

/// Most bytes of all corpora together, which come with every checkout.
const CORPORA_BYTES_MAX: usize = 300 * 1024;

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The corpus of a target; for definitions also the published examples.
pub(crate) fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = files(&crate::home().join("corpus").join(target.name));
    if target.name == "definition" {
        let examples = files(&crate::home().join("../../node/tests/examples"));
        paths.extend(examples.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")));
    }
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_seed_passes() {
    let mut bytes = 0;
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 5, "{} has a corpus", target.name);
        for (path, seed) in seeds {
            if path.starts_with(crate::home().join("corpus")) {
                bytes += seed.len();
            }
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&seed))).is_err() {
                panic!("{} fails on {}", target.name, path.display());
            }
        }
    }
    assert!(bytes < CORPORA_BYTES_MAX, "the corpora have {bytes} bytes");
}

/// Seeds that are only refused would test little.
#[test]
fn seeds_of_the_log_hold_messages_and_records() {
    use opcode_shard::log::codec::decode;
    use opcode_shard::log::fuzz::{answer_again, request_again};

    let of = |name| seeds(TARGETS.iter().find(|target| target.name == name).unwrap());
    let wire = of("wire");
    let requests = wire.iter().filter(|(_, seed)| request_again(seed).is_ok()).count();
    let answers = wire.iter().filter(|(_, seed)| answer_again(seed).is_ok()).count();
    let batches = of("records").iter().filter(|(_, seed)| decode(seed).is_ok()).count();
    assert!(requests >= 7 && answers >= 4 && batches >= 4, "{requests} {answers} {batches}");
}

#[test]
fn every_target_has_a_binary_and_a_corpus_and_nothing_else_has() {
    let manifest = fs::read_to_string(crate::home().join("Cargo.toml")).unwrap();
    let corpora: Vec<_> = files(&crate::home().join("corpus"));
    for path in &corpora {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has a binary");
    }
    for target in TARGETS {
        assert!(corpora.iter().any(|path| path.ends_with(target.name)), "{} has a corpus", target.name);
        let body =
            fs::read_to_string(crate::home().join("fuzz_targets").join(target.name).with_extension("rs"));
        assert!(body.unwrap().contains("fuzz_target!"), "{}", target.name);
    }
}

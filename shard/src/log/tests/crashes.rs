//! The process stops at every crash point of the log in turn; what it had acknowledged is there
//! when the log is opened again. The test runs itself as the process that stops.

use std::io::Write;
use std::process::Command;

use super::super::frame::EntryId;
use super::super::store::{Change, LogStore, Op};
use super::super::{GroupState, StoredVote};
use super::*;

const DIR: &str = "OPCODE_TEST_LOG_DIR";
/// Passes of a point that are tried: the first few, and some in the middle of the work.
const PASSES: [u32; 6] = [1, 2, 3, 7, 20, 41];
const ENTRIES_PER_APPEND: u64 = 5;

fn id(index: u64) -> EntryId {
    EntryId { term: 1, node: 1, index }
}

fn apply(store: &LogStore, change: Change) {
    let (synced, outcome) = std::sync::mpsc::channel();
    let done = Box::new(move |result| synced.send(result).unwrap());
    store.shared.submit(Op { group: 1, change, done: Some(done) });
    outcome.recv().unwrap().unwrap();
}

fn body(index: u64) -> bytes::Bytes {
    index.to_le_bytes().repeat(60).into()
}

/// The process that stops: appends, votes and purges, and says what has been acknowledged.
#[test]
fn life_of_a_process() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = LogStore::open(log_options(Path::new(&dir))).unwrap();
    let from = store.take_group(1).unwrap().last.map_or(0, |last| last.index + 1);
    for append in 0..60 {
        let first = from + append * ENTRIES_PER_APPEND;
        let entries = (first..first + ENTRIES_PER_APPEND).map(|index| (id(index), body(index)));
        apply(&store, Change::Append(entries.collect()));
        acknowledge("entry", first + ENTRIES_PER_APPEND - 1);
        if append % 4 == 0 {
            apply(&store, Change::Vote(StoredVote { term: first, node: 1, committed: false }));
            acknowledge("vote", first);
        }
        if append % 10 == 9 {
            apply(&store, Change::Purge(id(first - 3)));
            acknowledge("purge", first - 3);
        }
    }
}

/// Goes to the parent at once: nothing of it is lost when the process stops.
fn acknowledge(what: &str, index: u64) {
    let mut out = std::io::stderr();
    writeln!(out, "ACK {what} {index}").unwrap();
}

#[test]
fn what_was_acknowledged_survives_every_crash_point() {
    let me = std::env::current_exe().unwrap();
    let points = crate::crash::POINTS.iter().filter(|point| point.starts_with("log."));
    let mut crashes = 0;
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        let mut crashes_here = 0;
        for pass in PASSES {
            let output = Command::new(&me)
                .args(["--exact", "log::tests::crashes::life_of_a_process", "--nocapture"])
                .env(DIR, dir.path())
                .env("OPCODE_CRASH_AT", format!("{point}:{pass}"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            crashes_here += u32::from(said.contains(&format!("crash point {point}")));
            check(dir.path(), &said, &format!("{point}:{pass}"));
        }
        assert!(crashes_here > 0, "{point} was never passed");
        crashes += crashes_here;
    }
    assert!(crashes > 30, "only {crashes} crashes");
}

fn check(dir: &Path, said: &str, at: &str) {
    let last = |what: &str| {
        let acks = said.lines().filter_map(|line| line.split_once("ACK ")?.1.strip_prefix(what));
        acks.filter_map(|index| index.trim().parse::<u64>().ok()).next_back()
    };
    let store = LogStore::open(log_options(dir)).unwrap_or_else(|error| panic!("{at}: {error}"));
    let GroupState { vote, purged, last: end, .. } = store.take_group(1).unwrap();
    if let Some(acknowledged) = last("entry") {
        let end = end.expect("an acknowledged entry is there").index;
        assert!(end >= acknowledged, "{at}: {end} of {acknowledged}");
        assert!(end <= acknowledged + ENTRIES_PER_APPEND, "{at}: {end} was never asked for");
    }
    assert!(vote.map(|vote| vote.term) >= last("vote"), "{at}: {vote:?}");
    assert!(purged.map(|id| id.index) >= last("purge"), "{at}: {purged:?}");
    let from = purged.map_or(0, |id| id.index + 1);
    let read = store.shared.read(1, (from, u64::MAX), usize::MAX).unwrap();
    let wanted = from..end.map_or(0, |end| end.index + 1);
    assert_eq!(read.iter().map(|(id, _)| id.index).collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "{at}");
    assert!(read.iter().all(|(id, bytes)| *bytes == body(id.index)), "{at}");
}

//! What recovery makes of files that power loss, bad disks and hands have been at.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::frame::{EntryId, frame_bytes};
use super::super::recovery::{Recovered, recover};
use super::super::segment::HEADER_BYTES;
use super::super::store::{Change, LogStore, Op};
use super::super::{GroupState, StoredVote};
use super::*;
use crate::error::ShardError;

/// Applies changes to group 1, each synced before the next, and closes the store.
fn written(dir: &Path, changes: Vec<Change>) {
    let store = open(dir);
    for change in changes {
        apply(&store, 1, change);
    }
}

fn open(dir: &Path) -> Arc<LogStore> {
    LogStore::open_with(log_options(dir), |why| panic!("{why}")).unwrap()
}

/// Applies one change and waits for its sync.
fn apply(store: &LogStore, group: u32, change: Change) {
    let (synced, outcome) = std::sync::mpsc::channel();
    let done = Box::new(move |result| synced.send(result).unwrap());
    store.shared.submit(Op { group, change, done: Some(done) });
    outcome.recv().unwrap().unwrap();
}

fn id(index: u64) -> EntryId {
    EntryId { term: 1, node: 1, index }
}

/// The body of an entry: its index, and some length.
fn body(index: u64) -> Bytes {
    vec![u8::try_from(index % 251).unwrap(); 100 + usize::try_from(index * 37 % 400).unwrap()].into()
}

fn entries(range: std::ops::Range<u64>) -> Change {
    Change::Append(range.map(|index| (id(index), body(index))).collect())
}

/// What a group's log says when it is opened: its state and its entries, which must be what was
/// appended. Also appends one more, as a life goes on, and opens it again.
fn read_back(dir: &Path) -> Result<(GroupState, Vec<u64>), ShardError> {
    let look = || -> Result<(GroupState, Vec<u64>), ShardError> {
        let store = LogStore::open_with(log_options(dir), |why| panic!("{why}"))?;
        let state = store.take_group(1)?;
        let read = store.shared.read(1, (state.purged.map_or(0, |id| id.index + 1), u64::MAX), usize::MAX);
        let read = read.unwrap();
        for (id, bytes) in &read {
            assert_eq!(*bytes, body(id.index), "entry {} is not what was appended", id.index);
        }
        Ok((state, read.iter().map(|(id, _)| id.index).collect()))
    };
    let found = look()?;
    let next = found.0.last.map_or(0, |last| last.index + 1);
    apply(&open(dir), 1, entries(next..next + 1));
    let again = look().expect("what was recovered once is whole");
    assert_eq!(again.1, found.1.iter().copied().chain([next]).collect::<Vec<_>>());
    Ok(found)
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn last_segment(dir: &Path) -> PathBuf {
    dir.join(segment_files(dir, "seg-").last().unwrap())
}

/// Offset at which the last segment's frames end.
fn end(dir: &Path) -> u64 {
    let Recovered { tail, .. } = recover(&crate::disk::OsDisk, dir).unwrap();
    tail.offset.into()
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_log_comes_back_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let vote = StoredVote { term: 3, node: 2, committed: true };
    written(
        dir.path(),
        vec![
            entries(0..10),
            Change::Vote(vote),
            Change::Truncate { from: 7, last: Some(id(6)) },
            entries(7..9),
            Change::Purge(id(2)),
        ],
    );
    let (state, found) = read_back(dir.path()).unwrap();
    assert_eq!(found, [3, 4, 5, 6, 7, 8]);
    assert_eq!((state.vote, state.purged, state.last), (Some(vote), Some(id(2)), Some(id(8))));
}

/// The last write, torn at every place and in every way, is dropped, and all before it is kept.
#[test]
fn a_torn_tail_is_dropped_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), vec![entries(0..5)]);
    let before = copy(dir.path());
    let synced = end(before.path());
    written(dir.path(), vec![entries(5..8)]);
    // The second life begins with its own mark; what it appended comes behind.
    let torn_from = synced + (frame_bytes(0) + frame_bytes(GroupState::BYTES)) as u64;
    let torn_to = end(dir.path());
    assert!(torn_from < torn_to);
    for at in (torn_from..torn_to).step_by(7) {
        for tear in ["zeros", "garbage", "a hole"] {
            let copied = copy(dir.path());
            let length = usize::try_from(torn_to - at).unwrap();
            let bytes = match tear {
                "zeros" => vec![0; length],
                "garbage" => (0..length).map(|n| (n * 131 + 7) as u8).collect(),
                _ => vec![0xee; length.min(40)],
            };
            overwrite(&last_segment(copied.path()), at, &bytes);
            let (_, found) = read_back(copied.path()).unwrap();
            assert!(found.len() >= 5 && found.len() <= 8, "{found:?} with {tear} from {at}");
            assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        }
    }
}

/// Bytes that a later write proves to have been synced are damage when they do not read.
#[test]
fn every_flipped_bit_below_a_later_write_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), vec![entries(0..3), entries(3..4), entries(4..5)]);
    let proven = 3 * 700;
    let path = last_segment(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for at in (u64::from(HEADER_BYTES)..u64::from(HEADER_BYTES) + proven).step_by(11) {
        if at >= end_of_entry(&whole, 2) {
            break;
        }
        let flipped = whole[usize::try_from(at).unwrap()] ^ (1 << (at % 8));
        overwrite(&path, at, &[flipped]);
        let refused = LogStore::open(log_options(dir.path())).err().expect("it is damaged");
        let ShardError::Damaged(why) = &refused else { panic!("{refused}") };
        assert!(why.contains(path.to_str().unwrap()) && why.contains("at offset"), "{why}");
        overwrite(&path, at, &whole[usize::try_from(at).unwrap()..][..1]);
        assert_eq!(std::fs::read(&path).unwrap(), whole, "refusing changed the file");
    }
    assert_eq!(read_back(dir.path()).unwrap().1, [0, 1, 2, 3, 4]);
}

/// Offset behind the frame of entry `index` of group 1 in the only segment.
fn end_of_entry(segment: &[u8], index: u64) -> u64 {
    let found = segment.windows(100).position(|bytes| bytes.iter().all(|b| u64::from(*b) == index + 1));
    found.expect("the next entry's body is there") as u64 - 56
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), (0..30).map(|n| entries(n * 10..n * 10 + 10)).collect());
    let files = segment_files(dir.path(), "seg-");
    assert!(files.len() > 2);
    let path = dir.path().join(&files[0]);
    let whole = std::fs::read(&path).unwrap();
    for at in (u64::from(HEADER_BYTES) + 5..30_000).step_by(997) {
        overwrite(&path, at, &[whole[usize::try_from(at).unwrap()] ^ 4]);
        let refused = LogStore::open(log_options(dir.path())).err().expect("it is damaged");
        assert!(matches!(refused, ShardError::Damaged(_)), "{refused}");
        overwrite(&path, at, &whole[usize::try_from(at).unwrap()..][..1]);
    }
    read_back(dir.path()).unwrap();
}

#[test]
fn missing_cut_and_foreign_segments_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), (0..60).map(|n| entries(n * 10..n * 10 + 10)).collect());
    let files = segment_files(dir.path(), "seg-");
    assert!(files.len() > 3);
    let refusal = |spoil: &dyn Fn(&Path)| {
        let copied = copy(dir.path());
        spoil(copied.path());
        LogStore::open(log_options(copied.path())).err().expect("it is spoilt").to_string()
    };
    let remove = |number: usize| {
        let name = files[number].clone();
        move |dir: &Path| std::fs::remove_file(dir.join(&name)).unwrap()
    };
    assert!(refusal(&remove(1)).contains("segment 2 of the log is missing"));
    assert!(refusal(&remove(0)).contains("entries of the log are missing"));
    let cut = refusal(&|dir| {
        let file = std::fs::File::options().write(true).open(dir.join(&files[1])).unwrap();
        file.set_len(20_000).unwrap();
    });
    assert!(cut.contains("in a file of 20000"), "{cut}");
    let newer = refusal(&|dir| overwrite(&dir.join(&files[0]), 8, &3_u32.to_le_bytes()));
    assert!(newer.contains("log format 3; this build knows up to 2"), "{newer}");
    let other = tempfile::tempdir().unwrap();
    written(other.path(), vec![entries(0..1)]);
    let foreign = refusal(&|dir| {
        std::fs::copy(other.path().join(&files[0]), dir.join(&files[0])).unwrap();
    });
    assert!(foreign.contains("belongs to another log"), "{foreign}");
}

/// Files are used again and again; what an earlier use left in them never comes back.
#[test]
fn recycled_files_never_give_old_entries_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = 0;
    for _ in 0..6 {
        let store = open(dir.path());
        for _ in 0..12 {
            apply(&store, 1, entries(next..next + 20));
            next += 20;
            apply(&store, 1, Change::Purge(id(next - 5)));
        }
        drop(store);
        let (state, found) = read_back(dir.path()).unwrap();
        next += 1;
        assert_eq!(state.purged, Some(id(next - 6)));
        assert_eq!(found, (next - 5..next - 1).collect::<Vec<_>>());
        assert!(segment_files(dir.path(), "seg-").len() < 5);
        assert!(segment_files(dir.path(), "free-").len() < 4);
    }
}

/// One entry and one vote that stay while another group writes a hundred segments.
#[test]
fn a_quiet_group_pins_no_segment_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let quiet = StoredVote { term: 9, node: 4, committed: false };
    let store = open(dir.path());
    apply(&store, 1, entries(0..3));
    apply(&store, 1, Change::Vote(quiet));
    for n in 0..150_u64 {
        apply(&store, 2, entries(n * 10..n * 10 + 10));
        apply(&store, 2, Change::Purge(id(n * 10 + 9)));
    }
    eventually("the old segments go", || segment_files(dir.path(), "seg-").len() <= 5);
    drop(store);
    let (state, found) = read_back(dir.path()).unwrap();
    assert_eq!((state.vote, found), (Some(quiet), vec![0, 1, 2]));
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large: Bytes = vec![7; 300_000].into();
    apply(&store, 1, entries(0..2));
    apply(&store, 1, Change::Append(vec![(id(2), large.clone())]));
    apply(&store, 1, entries(3..5));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.shared.read(1, (2, 3), usize::MAX).unwrap(), [(id(2), large)]);
    assert_eq!(store.shared.read(1, (0, 9), 1).unwrap().len(), 1, "a read gives at least one");
    apply(&store, 1, Change::Purge(id(4)));
}

#[test]
fn a_log_that_cannot_grow_acknowledges_nothing_more() {
    static WHY: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open_with(log_options(dir.path()), |why| why.clone_into(&mut WHY.lock())).unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    let mut refused = 0;
    for n in 0..20 {
        let (synced, outcome) = std::sync::mpsc::channel();
        let done = Box::new(move |result| synced.send(result).unwrap());
        store.shared.submit(Op { group: 1, change: entries(n * 10..n * 10 + 10), done: Some(done) });
        match outcome.recv().unwrap() {
            Ok(()) => assert_eq!(refused, 0, "acknowledged after it had failed"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10);
    assert!(WHY.lock().contains(dir.path().to_str().unwrap()), "{}", WHY.lock());
    store.shared.read(1, (0, 1), 1).unwrap_err();
}

/// What several groups hold, kept beside the store in the plainest way.
#[derive(Default, Clone, Debug, PartialEq)]
struct Model(BTreeMap<u32, (Option<u64>, Vec<u64>)>);

#[derive(Clone, Debug)]
enum Step {
    Append(u32, u64),
    Truncate(u32, prop::sample::Index),
    Purge(u32, prop::sample::Index),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (1..4_u32, 1..30_u64).prop_map(|(group, count)| Step::Append(group, count)),
        1 => (1..4_u32, index()).prop_map(|(group, at)| Step::Truncate(group, at)),
        3 => (1..4_u32, index()).prop_map(|(group, at)| Step::Purge(group, at)),
        1 => Just(Step::Restart),
    ]
}

impl Model {
    /// Does to the model and to the store what a step says.
    fn step(&mut self, store: &LogStore, step: &Step) {
        let (Step::Append(group, _) | Step::Truncate(group, _) | Step::Purge(group, _)) = step else {
            return;
        };
        let (purged, live) = self.0.entry(*group).or_default();
        let last = live.last().copied().or(*purged);
        match step {
            Step::Append(_, count) => {
                let from = last.map_or(0, |last| last + 1);
                live.extend(from..from + count);
                apply(store, *group, entries(from..from + count));
            }
            Step::Truncate(_, at) if !live.is_empty() => {
                let from = live[at.index(live.len())];
                live.retain(|index| *index < from);
                let last = live.last().copied().or(*purged).map(id);
                apply(store, *group, Change::Truncate { from, last });
            }
            Step::Purge(_, at) if !live.is_empty() => {
                let upto = live[at.index(live.len())];
                live.retain(|index| *index > upto);
                *purged = Some(upto);
                apply(store, *group, Change::Purge(id(upto)));
            }
            Step::Truncate(..) | Step::Purge(..) | Step::Restart => {}
        }
    }

    fn check(&self, store: &LogStore) {
        for (group, (purged, live)) in &self.0 {
            let read = store.shared.read(*group, (live.first().copied().unwrap_or(0), u64::MAX), usize::MAX);
            let read = read.unwrap();
            assert_eq!(read.iter().map(|(id, _)| id.index).collect::<Vec<_>>(), *live);
            assert!(read.iter().all(|(id, bytes)| *bytes == body(id.index)));
            let state = store.take_group(*group).unwrap();
            store.give_back(*group);
            assert_eq!(state.purged, purged.map(id));
            assert_eq!(state.last, live.last().copied().or(*purged).map(id));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_store_holds_what_a_plain_map_holds(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::default();
        for step in &steps {
            if matches!(step, Step::Restart) {
                drop(store);
                store = open(dir.path());
                model.check(&store);
            }
            model.step(&store, step);
        }
        model.check(&store);
        drop(store);
        model.check(&open(dir.path()));
    }

    /// Whatever happens to a file's bytes, opening gives a log that goes on, or refuses.
    #[test]
    fn spoilt_bytes_never_panic_and_never_lie(
        offset in 0..32_000_u64, bytes in prop::collection::vec(any::<u8>(), 1..600), file in 0..2_usize
    ) {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), (0..10).map(|n| entries(n * 10..n * 10 + 10)).collect());
        let files = segment_files(dir.path(), "seg-");
        overwrite(&dir.path().join(&files[file]), offset.min(32_000 - bytes.len() as u64), &bytes);
        match read_back(dir.path()) {
            Ok((_, found)) => {
                let missing = 100 - found.len();
                prop_assert!(missing <= 10, "only the last write may be lost, not {missing} entries");
                prop_assert_eq!(found, (0..100 - missing as u64).collect::<Vec<_>>());
            }
            Err(ShardError::Damaged(_) | ShardError::Refused(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

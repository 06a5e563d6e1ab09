//! The files of a node's audit log: what is written is read, in whatever state they are found.

use std::path::Path;

use opcode_engine::ids::Timestamp;
use opcode_router::audit::query::{Filter, PageQuery};
use opcode_router::audit::{AuditLog, Call};

use super::*;

const SMALL: AuditOptions = AuditOptions { segment_bytes: 2_000, bytes_max: 10_000 };

fn call(at: i64) -> Call {
    Call::made(Timestamp(at), "POST", &format!("/v1/workflows/w{at}/cancel")).unwrap()
}

fn open(dir: &Path, options: AuditOptions) -> AuditFiles {
    AuditFiles::open(dir, 3, options).unwrap()
}

/// Numbers of the entries that a log has, the newest first.
async fn numbers(log: &AuditFiles, query: &PageQuery) -> Vec<u64> {
    log.page(query.clone()).await.unwrap().entries.into_iter().map(|entry| entry.seq).collect()
}

fn all() -> PageQuery {
    PageQuery { filter: Filter::default(), before: None, at_most: None, limit: 1_000 }
}

/// Segments, the oldest first.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_is_taken_down_is_read_newest_first_also_after_a_start() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path(), SMALL);
    for at in 1..=5 {
        log.record(call(at));
    }
    log.record_durably(call(6)).await.unwrap();
    assert_eq!(numbers(&log, &all()).await, [6, 5, 4, 3, 2, 1]);
    let page = log.page(PageQuery { limit: 2, ..all() }).await.unwrap();
    assert_eq!(page.more_before, Some(5));
    assert_eq!((page.entries[0].node_id.as_str(), page.entries[0].workflow_id.as_deref()), ("3", Some("w6")));
    assert_eq!(numbers(&log, &PageQuery { before: Some(3), ..all() }).await, [2, 1]);
    assert_eq!(numbers(&log, &PageQuery { at_most: Some(Timestamp(4)), ..all() }).await, [4, 3, 2, 1]);
    let since = Filter { since: Some(Timestamp(5)), ..Filter::default() };
    assert_eq!(numbers(&log, &PageQuery { filter: since, ..all() }).await, [6, 5]);
    drop(log);
    let log = open(home.path(), SMALL);
    log.record(call(7));
    assert_eq!(numbers(&log, &all()).await, [7, 6, 5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn segments_are_begun_and_the_oldest_go() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path(), SMALL);
    for at in 1..=400 {
        log.record(call(at));
        if at % 50 == 0 {
            log.flush().await.unwrap();
        }
    }
    let found = numbers(&log, &all()).await;
    assert_eq!(found.first(), Some(&400));
    assert!(found.windows(2).all(|pair| pair[0] == pair[1] + 1), "no gaps: {found:?}");
    assert!(*found.last().unwrap() > 200, "the oldest are gone");
    let bytes: u64 = files(home.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!((5_000..=SMALL.bytes_max).contains(&bytes), "{bytes} bytes");
    for file in files(home.path()) {
        assert!(file.metadata().unwrap().len() <= SMALL.segment_bytes, "{}", file.display());
    }
    // Read once, a segment is passed over when its times are none that are asked for.
    let late = Filter { since: Some(Timestamp(399)), ..Filter::default() };
    assert_eq!(numbers(&log, &PageQuery { filter: late, ..all() }).await, [400, 399]);
    drop(log);
    let log = open(home.path(), SMALL);
    assert_eq!(numbers(&log, &all()).await, found);
}

#[tokio::test]
async fn a_torn_line_is_cut_and_damaged_ones_are_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path(), SMALL);
    (1..=3).for_each(|at| log.record(call(at)));
    drop(log);
    let file = files(home.path()).pop().unwrap();
    let whole = std::fs::read(&file).unwrap();
    for keep in 0..whole.len() {
        std::fs::write(&file, &whole[..keep]).unwrap();
        let log = open(home.path(), SMALL);
        log.record(call(9));
        let lines = whole[..keep].iter().filter(|byte| **byte == b'\n').count() as u64;
        let wanted: Vec<u64> = (1..=lines + 1).rev().collect();
        assert_eq!(numbers(&log, &all()).await, wanted, "{keep} bytes kept");
    }
    // Zeros, as a file system may leave them, and whatever else is no entry.
    let mut damaged = whole.clone();
    let second = damaged.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    damaged[second..second + 40].fill(0);
    damaged.extend_from_slice(b"{}\nnot JSON\n\n\xff\xfe\n");
    std::fs::write(&file, &damaged).unwrap();
    let log = open(home.path(), SMALL);
    log.record(call(9));
    assert_eq!(numbers(&log, &all()).await, [4, 3, 1]);
}

#[tokio::test]
async fn calls_that_are_not_taken_down_are_counted() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path(), SMALL);
    (0..7).for_each(|_| log.skip_refused());
    log.record(call(1));
    let page = log.page(all()).await.unwrap();
    let missing = page.entries.iter().find_map(|entry| entry.not_recorded).expect("it is said");
    assert_eq!((missing.refused, missing.lost), (7, 0));
    assert_eq!(page.entries.len(), 2);
    assert_eq!(numbers(&log, &all()).await.len(), 2, "once");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_keeps_nobody_waiting_and_is_told_of() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("audit");
    let log = open(&dir, SMALL);
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::write(&dir, b"in the way").unwrap();
    let refused = log.record_durably(call(1)).await.unwrap_err();
    assert!(refused.contains("takes no more"), "{refused}");
    std::fs::remove_file(&dir).unwrap();
    std::fs::create_dir(&dir).unwrap();
    log.record_durably(call(2)).await.unwrap();
    let page = log.page(all()).await.unwrap();
    let lost: u64 =
        page.entries.iter().filter_map(|entry| entry.not_recorded).map(|missing| missing.lost).sum();
    assert_eq!(lost, 1);
    assert!(page.entries.iter().any(|entry| entry.workflow_id.as_deref() == Some("w2")));
}

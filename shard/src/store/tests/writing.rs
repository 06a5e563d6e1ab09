//! The writer among readers: snapshots, checkpoints, large rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use opcode_engine::ids::{RunNo, Sequence};
use tempfile::TempDir;

use super::super::apply::Applier;
use super::super::connection::{Access, CheckpointMode, Connection};
use super::super::{reader, schema};
use super::{at, custom, entry, open, options};
use crate::log::Tables;
use crate::record::{EventRecord, Record};

fn with_data(no: u64, sequence: u64, data: Vec<u8>) -> Record {
    match custom(no, sequence) {
        Record::Event(event) => Record::Event(EventRecord { data, ..event }),
        other => other,
    }
}

#[tokio::test]
async fn a_checkpoint_counts_only_when_it_moved_everything() {
    let dir = TempDir::new().unwrap();
    let connection = schema::open_for_writing(&options(&dir)).unwrap();
    let mut applier = Applier::new(connection).unwrap();
    assert!(applier.apply(&[entry(1, vec![custom(1, 1)])]).unwrap());
    let mut reading = Connection::open(&options(&dir).path, Access::Read).unwrap();
    reading.execute("BEGIN").unwrap();
    assert_eq!(reader::events(&mut reading, RunNo(1), Sequence(0), 9).unwrap().len(), 1);

    assert!(applier.apply(&[entry(2, vec![custom(1, 2)])]).unwrap());
    assert!(applier.connection().wal_frames() > 0);
    let passive = applier.connection().checkpoint(CheckpointMode::Passive).unwrap();
    assert!(!passive.is_whole(), "a reader holds the state before: {passive:?}");
    assert_eq!(
        reader::events(&mut reading, RunNo(1), Sequence(0), 9).unwrap().len(),
        1,
        "its snapshot stays"
    );
    reading.execute("COMMIT").unwrap();
    let passive = applier.connection().checkpoint(CheckpointMode::Passive).unwrap();
    assert!(passive.is_whole(), "{passive:?}");

    // The next transaction starts the WAL over.
    let before = applier.connection().wal_frames();
    assert!(applier.apply(&[entry(3, vec![custom(1, 3)])]).unwrap());
    assert!(applier.connection().wal_frames() < before);
    assert!(!applier.apply(&[entry(3, vec![custom(1, 3)])]).unwrap(), "nothing of it is new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_whole_batches_while_the_writer_works() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1), custom(2, 1)])]);
    store.reached(at(1)).await.unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let (store, is_done) = (store.clone(), Arc::clone(&is_done));
            tokio::spawn(async move {
                let mut reads = 0;
                while !is_done.load(Ordering::Relaxed) || reads == 0 {
                    let sql = "SELECT workflow_no, max(sequence) AS last FROM event_rows GROUP BY 1";
                    let rows = store.sql(sql, 9, 10_000).await.unwrap();
                    assert_eq!(rows[0]["last"], rows[1]["last"], "both runs grow in the same batches");
                    let events = store.events(RunNo(2), Sequence(0), 9_999).await.unwrap();
                    assert!(events.iter().zip(1..).all(|(event, n)| event.sequence.0 == n));
                    reads += 1;
                }
            })
        })
        .collect();
    for index in 2..=300 {
        store.enqueue(vec![entry(index, vec![custom(1, index), custom(2, index)])]);
        if index % 10 == 0 {
            store.reached(at(index)).await.unwrap();
        }
    }
    is_done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(store.events(RunNo(1), Sequence(0), 9_999).await.unwrap().len(), 300);
}

#[tokio::test]
async fn a_row_of_a_mebibyte_comes_back_as_it_was() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let data = format!("{{\"name\":\"n\",\"payload\":\"{}\"}}", "é\\u0000".repeat(128 * 1024)).into_bytes();
    store.enqueue(vec![entry(1, vec![with_data(1, 1, data.clone()), with_data(1, 2, b"{}".to_vec())])]);
    store.reached(at(1)).await.unwrap();
    let events = store.events(RunNo(1), Sequence(0), 9).await.unwrap();
    assert!(events[0].data == data && events[1].data == b"{}");
}

#[tokio::test]
async fn a_large_wal_gives_its_space_back_when_nothing_comes() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let data = format!("{{\"name\":\"n\",\"payload\":\"{}\"}}", "x".repeat(512 * 1024)).into_bytes();
    store.enqueue(vec![entry(1, (1..=10).map(|n| with_data(1, n, data.clone())).collect())]);
    store.reached(at(1)).await.unwrap();
    let wal = dir.path().join("shard.db-wal");
    let bytes = || std::fs::metadata(&wal).unwrap().len();
    assert!(bytes() > 5 * 1024 * 1024);
    let since = Instant::now();
    while bytes() > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "{} bytes are left", bytes());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.events(RunNo(1), Sequence(0), 99).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_closed_store_refuses_and_takes_nothing() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.close().await.unwrap();
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    assert!(store.reached(at(1)).await.is_err());
    assert!(store.last_run_no().await.is_err());
    assert_eq!(store.backlog(), 0);
    store.close().await.unwrap();
}

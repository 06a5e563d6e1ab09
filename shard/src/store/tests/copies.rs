//! Copies for members of the group that lag: made while work goes on, and taken whole or not at all.

use super::*;

/// Tables with entries up to `last`, one event each.
async fn filled(dir: &TempDir, last: u64) -> Store {
    let store = open(dir).await;
    store.enqueue((1..=last).map(|index| entry(index, vec![custom(1, index)])).collect());
    store.reached(at(last)).await.unwrap();
    store
}

#[tokio::test]
async fn a_copy_takes_the_place_of_tables_that_lag_and_they_go_on_from_there() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (filled(&dirs[0], 40).await, filled(&dirs[1], 3).await);
    let copy = dirs[1].path().join("a 'copy'");
    ahead.copy(copy.clone()).await.unwrap();
    ahead.enqueue(vec![entry(41, vec![custom(1, 41)])]);
    assert_eq!(count(&behind, "SELECT count(*) FROM event_rows").await, 3);

    let applied = behind.install(copy.clone()).await.unwrap();
    assert_eq!(applied.log_id, 40_u64.to_be_bytes());
    assert_eq!(behind.applied(), applied);
    assert_eq!(behind.applied_position(), at(40));
    assert!(!copy.exists(), "it is the tables now");
    assert_eq!(count(&behind, "SELECT count(*) FROM event_rows").await, 40);
    // What the copy holds already comes again, and is passed over.
    behind.enqueue((30..=42).map(|index| entry(index, vec![custom(1, index)])).collect());
    behind.reached(at(42)).await.unwrap();
    assert_eq!(count(&behind, "SELECT count(*) FROM event_rows").await, 42);
    drop(behind);
    assert_eq!(open(&dirs[1]).await.applied_position(), at(42));
}

#[tokio::test]
async fn what_is_no_copy_of_these_tables_changes_nothing() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let store = filled(&dirs[0], 5).await;
    let foreign = StoreOptions { shard: ShardId(4), ..options(&dirs[1]) };
    let foreign = Store::open(foreign).await.unwrap();
    foreign.enqueue((1..=9).map(|index| entry(index, vec![custom(1, index)])).collect());
    foreign.reached(at(9)).await.unwrap();
    let path = |name: &str| dirs[2].path().join(name);
    foreign.copy(path("other shard")).await.unwrap();
    filled(&dirs[2], 20).await.copy(path("whole")).await.unwrap();
    let whole = std::fs::read(path("whole")).unwrap();
    std::fs::write(path("cut"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(path("noise"), [7; 9_000]).unwrap();
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::copy(dirs[2].path().join("shard.db"), path("with a WAL")).unwrap();
    for name in ["other shard", "cut", "noise", "empty", "with a WAL", "nothing"] {
        for refused in [store.check(path(name)).await, store.install(path(name)).await] {
            assert!(refused.is_err(), "{name}: {refused:?}");
        }
        assert_eq!(store.applied_position(), at(5));
        assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 5);
    }
    let mut holed = whole.clone();
    let middle = whole.len() / 2;
    holed[middle..middle + 4096].fill(0xa5);
    std::fs::write(path("holed"), holed).unwrap();
    assert!(store.check(path("holed")).await.is_err());
    // One that is not further is left alone, and the tables go on.
    store.copy(path("own")).await.unwrap();
    store.enqueue(vec![entry(6, vec![custom(1, 6)])]);
    store.reached(at(6)).await.unwrap();
    assert_eq!(store.install(path("own")).await.unwrap().log_id, 6_u64.to_be_bytes());
}

#[tokio::test]
async fn a_copy_is_never_written_over_a_file_that_is_there() {
    let dir = TempDir::new().unwrap();
    let store = filled(&dir, 3).await;
    let precious = dir.path().join("precious");
    std::fs::write(&precious, b"not to be lost").unwrap();
    assert!(store.copy(precious.clone()).await.is_err());
    assert_eq!(std::fs::read(&precious).unwrap(), b"not to be lost");
}

/// Whatever a file's schema says beyond ours would run when the tables are used.
#[tokio::test]
async fn a_copy_with_anything_else_in_its_schema_is_refused() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (filled(&dirs[0], 40).await, filled(&dirs[1], 3).await);
    let strange = [
        "CREATE TRIGGER t AFTER INSERT ON event_rows BEGIN DELETE FROM event_rows; END",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more(x)",
        "CREATE INDEX more ON event_rows(data)",
        "DROP VIEW timers; CREATE VIEW timers AS SELECT 1 AS workflow_id, 2 AS step_id, 3 AS due",
        "DROP INDEX workflows_due",
        "ALTER TABLE event_rows ADD COLUMN more INTEGER DEFAULT 1",
    ];
    for (number, sql) in strange.iter().enumerate() {
        let copy = dirs[1].path().join(format!("copy-{number}"));
        ahead.copy(copy.clone()).await.unwrap();
        let access = super::super::connection::Access::Write;
        super::super::connection::Connection::open(&copy, access).unwrap().execute(sql).unwrap();
        for refused in [behind.check(copy.clone()).await, behind.install(copy.clone()).await] {
            let why = refused.expect_err(sql).to_string();
            assert!(why.contains("is not as this release makes it"), "{sql}: {why}");
        }
        assert_eq!(behind.applied_position(), at(3));
    }
}

/// Connections that rest would go on reading the file that was there, and the WAL of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_the_copy_at_once_also_when_nobody_waits_for_it() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (filled(&dirs[0], 400).await, filled(&dirs[1], 3).await);
    let reading = futures::future::join_all((0..4).map(|_| behind.last_run_no()));
    reading.await.into_iter().for_each(|read| assert_eq!(read.unwrap(), RunNo(0)));
    let copy = dirs[1].path().join("copy");
    ahead.copy(copy.clone()).await.unwrap();
    drop(behind.install(copy));
    behind.reached(at(400)).await.unwrap();
    for _ in 0..8 {
        assert_eq!(behind.events(RunNo(1), Sequence(0), 1_000).await.unwrap().len(), 400);
    }
    assert_eq!(behind.applied().log_id, 400_u64.to_be_bytes());
    assert_eq!(behind.checkpointed(), Some(behind.applied()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn copies_are_installed_under_readers() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (open(&dirs[0]).await, open(&dirs[1]).await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, stop) = (behind.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = 0;
                while !stop.load(std::sync::atomic::Ordering::Acquire) {
                    let events = store.events(RunNo(1), Sequence(0), 10_000).await.unwrap();
                    let numbers: Vec<u64> = events.iter().map(|event| event.sequence.0).collect();
                    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "a gap: {numbers:?}");
                    assert!(numbers.len() >= seen, "it went back from {seen} to {}", numbers.len());
                    seen = numbers.len();
                }
                seen
            })
        })
        .collect();
    for round in 1..=10_u64 {
        let last = round * 30;
        ahead.enqueue((last - 29..=last).map(|index| entry(index, vec![custom(1, index)])).collect());
        ahead.reached(at(last)).await.unwrap();
        let copy = dirs[1].path().join(format!("copy-{round}"));
        ahead.copy(copy.clone()).await.unwrap();
        behind.install(copy).await.unwrap();
        assert_eq!(count(&behind, "SELECT count(*) FROM event_rows").await, i64::try_from(last).unwrap());
    }
    stop.store(true, std::sync::atomic::Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() <= 300);
    }
}

#[tokio::test]
async fn tables_that_have_ended_take_no_copy() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (filled(&dirs[0], 40).await, filled(&dirs[1], 3).await);
    let copy = dirs[1].path().join("copy");
    ahead.copy(copy.clone()).await.unwrap();
    behind.close().await.unwrap();
    let refused = behind.install(copy.clone()).await;
    assert!(matches!(&refused, Err(ShardError::Stopped(_))), "{refused:?}");
    assert!(copy.exists());
    // The same when what they were given cannot be applied.
    let failed = filled(&dirs[2], 1).await;
    failed.enqueue(vec![entry(9, vec![custom(1, 9)])]);
    failed.failure().await;
    assert!(failed.install(copy).await.is_err());
}

#[tokio::test]
async fn a_copy_on_its_way_that_is_not_of_these_tables_is_refused_and_nothing_changes() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let foreign = Store::open(StoreOptions { cluster_id: "c-2".into(), ..options(&dirs[0]) }).await.unwrap();
    foreign.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    foreign.reached(at(1)).await.unwrap();
    drop(filled(&dirs[1], 3).await);
    let installing = dirs[1].path().join("shard.db.installing");
    foreign.copy(installing.clone()).await.unwrap();
    let refused = Store::open(options(&dirs[1])).await.err().expect("refused").to_string();
    assert!(refused.contains("belongs to cluster c-2, not to cluster c-1"), "{refused}");
    std::fs::remove_file(installing).unwrap();
    assert_eq!(open(&dirs[1]).await.applied_position(), at(3));
}

#[tokio::test]
async fn a_copy_on_its_way_at_a_crash_ends_its_way_when_the_tables_are_opened() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (ahead, behind) = (filled(&dirs[0], 12).await, filled(&dirs[1], 3).await);
    drop(behind);
    ahead.copy(dirs[1].path().join("shard.db.installing")).await.unwrap();
    let store = open(&dirs[1]).await;
    assert_eq!(store.applied_position(), at(12));
    assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 12);
    assert!(!dirs[1].path().join("shard.db.installing").exists());
}

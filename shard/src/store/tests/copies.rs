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
    for name in ["other shard", "cut", "noise", "nothing"] {
        let refused = store.install(path(name)).await;
        assert!(refused.is_err(), "{name}: {refused:?}");
        assert_eq!(store.applied_position(), at(5));
        assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 5);
    }
    // One that is not further is left alone, and the tables go on.
    store.copy(path("own")).await.unwrap();
    store.enqueue(vec![entry(6, vec![custom(1, 6)])]);
    store.reached(at(6)).await.unwrap();
    assert_eq!(store.install(path("own")).await.unwrap().log_id, 6_u64.to_be_bytes());
    assert!(store.copy(path("own")).await.is_err(), "a file that is there is not written over");
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
}

//! A majority that is gone for good, and a node that goes on alone because it was told to.

use std::collections::BTreeSet;

use super::super::type_config::{encode_log_id, log_id};
use super::super::{EntryId, Held};
use super::*;

/// Stops a group and waits until its log is free again.
async fn stop(store: Arc<LogStore>, group: Arc<Group>) {
    group.shutdown().await;
    drop(group);
    eventually("the store is let go", || Arc::strong_count(&store) == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_majority_is_gone_goes_on_alone_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Shared::default();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let group = start_alone(dir.path(), 0, &store, &tables).await.unwrap();
    let term = group.leading_term().unwrap();
    group.propose(batch(&["a"]), term).await.unwrap();
    group.add_learner(2).await.unwrap();
    // The other one is never there: this is in the log, and is not committed.
    let changing = tokio::time::timeout(Duration::from_millis(200), group.set_voters(BTreeSet::from([1, 2])));
    assert!(changing.await.is_err(), "nobody acknowledges it");
    stop(store, group).await;

    let store = LogStore::open(log_options(dir.path())).unwrap();
    let options = group_options(dir.path(), 0);
    let group = Group::start(options, store.clone(), tables.clone(), Arc::new(NoPeers)).await.unwrap();
    assert!(group.leads(Duration::from_secs(2)).await.is_err(), "it has no majority");
    stop(store, group).await;

    let store = LogStore::open(log_options(dir.path())).unwrap();
    let before = store.held(ShardId(0)).unwrap();
    let ahead = log_id(EntryId { term: 9, node: 2, index: 1_000 });
    let ahead = Applied { log_id: encode_log_id(ahead), membership: Vec::new() };
    store.make_alone(ShardId(0), 1, &ahead, None).await.unwrap_err();
    assert_eq!(store.held(ShardId(0)).unwrap(), before, "refused, and nothing changed");
    // Twice, as after a crash in between.
    for _ in 0..2 {
        store.make_alone(ShardId(0), 1, &tables.applied(), None).await.unwrap();
    }
    let group = start_alone(dir.path(), 0, &store, &tables).await.unwrap();
    let now = group.leading_term().unwrap();
    assert!(now > before.term + 1, "{now} after {before:?}");
    group.propose(batch(&["b"]), now).await.unwrap();
    assert_eq!(tables.texts(), ["a", "b"]);
    assert_eq!(group.members().voters, BTreeSet::from([1]));
    stop(store, group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_which_there_is_nothing_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    assert_eq!(store.held(ShardId(4)).unwrap(), Held { last: None, term: 0 });
    store.make_alone(ShardId(4), 3, &Applied::default(), Some(b"change")).await.unwrap();
    let tables = Shared::default();
    let options = GroupOptions { node_id: 3, founds: false, ..group_options(dir.path(), 4) };
    let group = Group::start(options, store.clone(), tables.clone(), Arc::new(NoPeers)).await.unwrap();
    group.leads(Duration::from_secs(60)).await.unwrap();
    eventually("the change is handed over", || {
        tables.entries.lock().iter().any(|entry| entry.change.as_deref() == Some(b"change"))
    });
    stop(store, group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_begins_behind_tables_that_come_from_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let old = log_id(EntryId { term: 7, node: 3, index: 40 });
    let applied = Applied { log_id: encode_log_id(old), membership: Vec::new() };
    let tables = Shared::default();
    *tables.applied.lock() = applied.clone();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    store.begin_behind(ShardId(0), 1, &Applied::default()).await.unwrap_err();
    store.begin_behind(ShardId(0), 1, &applied).await.unwrap();
    store.begin_behind(ShardId(0), 1, &applied).await.unwrap_err();
    drop(store);
    for n in 0..2 {
        let store = LogStore::open(log_options(dir.path())).unwrap();
        let group = start_alone(dir.path(), 0, &store, &tables).await.unwrap();
        let term = group.leading_term().unwrap();
        assert!(term > 7, "{term}");
        assert_eq!(group.members().voters, BTreeSet::from([1]));
        let committed = group.propose(batch(&[format!("b{n}").as_str()]), term).await.unwrap();
        assert!(committed.position().index > 40);
        stop(store, group).await;
    }
    assert_eq!(tables.texts(), ["b0", "b1"]);
}

//! Groups from start to restart.

use tokio::sync::watch;

use super::*;
use crate::batch::Position;

async fn start(dir: &Path, tables: &Shared) -> (Arc<LogStore>, Arc<Group>) {
    let store = LogStore::open(log_options(dir)).unwrap();
    let group = start_alone(dir, 0, &store, tables).await.unwrap();
    (store, group)
}

async fn propose(group: &Group, batch: Batch<Gathered>) -> Result<Batch<Committed>, ShardError> {
    group.propose(batch, group.leading_term().unwrap_or_default()).await
}

/// Stops a group and waits until its log is free again.
async fn stop(store: Arc<LogStore>, group: Arc<Group>) {
    group.shutdown().await;
    drop(group);
    eventually("the group lets its log go", || store.take_group(0).is_ok());
    eventually("the store is let go", || Arc::strong_count(&store) == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_handed_over_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Shared::default();
    let (store, group) = start(dir.path(), &tables).await;
    let term = group.leading_term().expect("it leads once started");
    let one = propose(&group, batch(&["a", "b"])).await.unwrap();
    let two = propose(&group, batch(&["c"])).await.unwrap();
    assert_eq!(one.position().term, term);
    assert!(one.position() < two.position());
    assert_eq!(texts(one.records()), ["a", "b"]);
    assert_eq!(group.committed(), two.position());
    assert_eq!(tables.texts(), ["a", "b", "c"]);
    stop(store, group).await;

    let lost = Shared::default();
    let (store, group) = start(dir.path(), &lost).await;
    assert_eq!(lost.texts(), ["a", "b", "c"], "tables that held nothing get everything");
    assert!(group.leading_term().unwrap() > term, "a new term after each start");
    stop(store, group).await;

    let (store, group) = start(dir.path(), &tables).await;
    propose(&group, batch(&["d"])).await.unwrap();
    assert_eq!(tables.texts(), ["a", "b", "c", "d"], "tables that were up to date get only what is new");
    stop(store, group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_below_what_the_tables_have_checkpointed() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Shared::default();
    let (store, group) = start(dir.path(), &tables).await;
    let long = "x".repeat(6_000);
    for n in 0..40 {
        propose(&group, batch(&[&long, &n.to_string()])).await.unwrap();
        if n == 30 {
            tables.checkpoint();
        }
    }
    assert!(segment_files(dir.path(), "seg-").len() > 7);
    group.purge().await.unwrap();
    group.purge().await.unwrap();
    eventually("the old segments go", || segment_files(dir.path(), "seg-").len() < 5);
    let kept = segment_files(dir.path(), "free-").len();
    assert!((2..=3).contains(&kept), "some are kept for later, not all: {kept}");
    stop(store, group).await;

    // Tables that are where they were checkpointed get the rest, and the group still elects.
    let behind = Shared::default();
    *behind.applied.lock() = tables.checkpointed().unwrap();
    let (store, group) = start(dir.path(), &behind).await;
    assert_eq!(behind.texts().len(), 2 * 9);
    propose(&group, batch(&["more"])).await.unwrap();
    stop(store, group).await;

    // Tables that are behind that are refused.
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let refused = start_alone(dir.path(), 0, &store, &Shared::default()).await.err().unwrap();
    assert!(matches!(&refused, ShardError::Damaged(why) if why.contains("starts behind")), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_behind_its_tables_is_refused() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let tables = Shared::default();
    let (store, group) = start(dirs[0].path(), &tables).await;
    propose(&group, batch(&["a"])).await.unwrap();
    stop(store, group).await;
    let store = LogStore::open(log_options(dirs[1].path())).unwrap();
    let refused = start_alone(dirs[1].path(), 0, &store, &tables).await.err().unwrap();
    assert!(matches!(&refused, ShardError::Damaged(why) if why.contains("log ends at None")), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_groups_share_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let mut groups = Vec::new();
    for shard in 0..16 {
        let tables = Shared::default();
        let group = start_alone(dir.path(), shard, &store, &tables).await.unwrap();
        groups.push((Arc::new(group), tables));
    }
    let proposals = groups.iter().map(|(group, _)| {
        let group = group.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                propose(&group, batch(&[&n.to_string()])).await.unwrap();
            }
        })
    });
    for proposal in proposals.collect::<Vec<_>>() {
        proposal.await.unwrap();
    }
    let wanted: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for (group, tables) in &groups {
        assert_eq!(tables.texts(), wanted);
        group.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_after_a_sync_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Shared::default();
    let store = LogStore::open_with(log_options(dir.path()), |_| {}).unwrap();
    let group = start_alone(dir.path(), 0, &store, &tables).await.unwrap();
    propose(&group, batch(&["a"])).await.unwrap();
    store.shared.fail_syncs.store(true, std::sync::atomic::Ordering::SeqCst);
    propose(&group, batch(&["b"])).await.unwrap_err();
    store.shared.fail_syncs.store(false, std::sync::atomic::Ordering::SeqCst);
    propose(&group, batch(&["c"])).await.unwrap_err();
    eventually("it leads no more", || group.leading_term().is_none());
    assert_eq!(tables.texts(), ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let refused = LogStore::open(log_options(dir.path())).err().unwrap();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    let _group = start_alone(dir.path(), 0, &store, &Shared::default()).await.unwrap();
    let refused = start_alone(dir.path(), 0, &store, &Shared::default()).await.err().unwrap();
    assert!(refused.to_string().contains("in use already"), "{refused}");
}

/// Entries are read through the edge between memory and disk while others are appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_have_no_gap_where_memory_ends() {
    use openraft::RaftLogReader;
    use openraft::storage::RaftLogStorageExt;

    use super::super::frame::EntryId;
    use super::super::storage::GroupLog;
    use super::super::type_config::{Proposal, log_id};

    const ENTRIES: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(LogOptions { segment_bytes: 1 << 20, ..log_options(dir.path()) }).unwrap();
    let mut log = GroupLog::open(store, 1, watch::channel(Position::default()).1).unwrap();
    let mut reader = log.clone();
    let large = "y".repeat(150_000);
    let appends = tokio::spawn(async move {
        for index in 0..ENTRIES {
            let proposal = Proposal::encode(batch(&[&large]).records(), 1).unwrap();
            let payload = openraft::EntryPayload::Normal(proposal);
            let log_id = log_id(EntryId { term: 1, node: 1, index });
            log.blocking_append([openraft::Entry { log_id, payload }]).await.unwrap();
        }
    });
    let mut longest = 0;
    while longest < ENTRIES {
        let read = reader.try_get_log_entries(0..ENTRIES).await.unwrap();
        let found: Vec<_> = read.iter().map(|entry| entry.log_id.index).collect();
        assert!(found.len() as u64 >= longest, "entries are gone");
        longest = found.len() as u64;
        assert_eq!(found, (0..longest).collect::<Vec<_>>());
    }
    appends.await.unwrap();
    let limited = reader.limited_get_log_entries(0, ENTRIES).await.unwrap().len();
    assert!((20..40).contains(&limited), "{limited} entries of 150 KB are not about 4 MiB");
}

/// While a copy of the tables is on its way to their place, a crash must find the old log or the copy.
#[tokio::test]
async fn the_log_is_not_cut_before_the_tables_have_what_was_in_it() {
    use openraft::storage::RaftLogStorage;

    use super::super::frame::EntryId;
    use super::super::storage::GroupLog;
    use super::super::type_config::log_id;

    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(log_options(dir.path())).unwrap();
    let (tables, handed_over) = watch::channel(Position { term: 1, index: 6 });
    let mut log = GroupLog::open(store, 1, handed_over).unwrap();
    let purged = |log: &GroupLog| log.state().purged.map(|id| id.index);
    let id = |index| log_id(EntryId { term: 1, node: 1, index });
    {
        let mut cut = std::pin::pin!(log.purge(id(47)));
        assert!(futures::poll!(&mut cut).is_pending());
        tables.send_replace(Position { term: 1, index: 46 });
        assert!(futures::poll!(&mut cut).is_pending());
    }
    assert_eq!(purged(&log), None);
    tables.send_replace(Position { term: 1, index: 47 });
    log.purge(id(47)).await.unwrap();
    assert_eq!(purged(&log), Some(47));
    drop(tables);
    log.purge(id(48)).await.unwrap_err();
    assert_eq!(purged(&log), Some(47));
}

/// No member could be sent it, and the group would wait for it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_over_the_limit_is_refused_before_it_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let tables = Shared::default();
    let (store, group) = start(dir.path(), &tables).await;
    let before = group.committed();
    let large = "x".repeat(super::super::codec::BATCH_BYTES_MAX / 2);
    let refused = propose(&group, batch(&[&large, &large])).await.unwrap_err();
    assert!(matches!(&refused, ShardError::Refused(why) if why.contains("over the limit")), "{refused}");
    let refused = group.propose_change(vec![b'x'; super::super::codec::BATCH_BYTES_MAX].into()).await;
    assert!(
        matches!(&refused, Err(ShardError::Refused(why)) if why.contains("over the limit")),
        "{refused:?}"
    );
    assert_eq!(group.committed(), before);
    let next = propose(&group, batch(&["small"])).await.unwrap();
    assert_eq!(next.position().index, before.index + 1, "nothing of it is in the log");
    assert_eq!(tables.texts(), ["small"]);
    stop(store, group).await;
}

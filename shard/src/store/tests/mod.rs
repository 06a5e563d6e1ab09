//! The tables by what they promise: nothing lost, nothing twice, nothing written by a reader.

mod catalogue;
mod copies;
mod damage;
mod lists;
mod namespaces;
mod outbox;
mod purge;
mod runs;
mod writing;

use std::sync::Arc;

use opcode_engine::event::EventType;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, ShardId, Timestamp};
use tempfile::TempDir;

use super::{Store, StoreOptions};
use crate::batch::{Batch, Position};
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry, Tables};
use crate::record::{EventRecord, Record, TemplateRecord};

pub(super) fn options(dir: &TempDir) -> StoreOptions {
    StoreOptions { path: dir.path().join("shard.db"), shard: ShardId(3), cluster_id: "c-1".into() }
}

pub(crate) async fn open(dir: &TempDir) -> Store {
    Store::open(options(dir)).await.expect("the tables open")
}

/// An event that changes no view.
pub(crate) fn custom(no: u64, sequence: u64) -> Record {
    Record::Event(EventRecord {
        no: RunNo(no),
        sequence: Sequence(sequence),
        event_type: EventType::Custom,
        step_id: Some(Arc::from("a.b'c\";--")),
        data: br#"{"name":"x","payload":{"n":12345678901234567890}}"#.to_vec(),
        agent_id: None,
        timestamp: Timestamp(1_700_000_000_000),
    })
}

pub(crate) fn at(index: u64) -> Position {
    Position { term: 1, index }
}

pub(crate) fn entry(index: u64, records: Vec<Record>) -> CommittedEntry {
    CommittedEntry {
        change: None,
        log_id: index.to_be_bytes().to_vec(),
        membership: None,
        batch: Batch::committed(Arc::new(records), at(index)),
    }
}

async fn count(store: &Store, query: &str) -> i64 {
    let rows = store.sql(query, 1, 1_000).await.expect("the query runs");
    rows[0].as_object().and_then(|row| row.values().next()?.as_i64()).expect("a number")
}

#[tokio::test]
async fn entries_are_applied_once_over_a_restart() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    assert_eq!(store.applied(), Applied::default());
    let membership = CommittedEntry { membership: Some(b"one".to_vec()), ..entry(0, vec![]) };
    store.enqueue(vec![membership, entry(1, vec![custom(1, 1), custom(2, 1)])]);
    store.enqueue(vec![entry(2, vec![custom(1, 2)])]);
    store.reached(at(2)).await.unwrap();
    drop(store);

    let store = open(&dir).await;
    assert_eq!(store.applied_position(), at(2));
    let applied = store.applied();
    assert_eq!((applied.log_id, applied.membership), (2_u64.to_be_bytes().to_vec(), b"one".to_vec()));
    store.enqueue(vec![entry(1, vec![custom(1, 1), custom(2, 1)]), entry(2, vec![custom(1, 2)])]);
    store.enqueue(vec![entry(3, vec![custom(2, 2)])]);
    store.reached(at(3)).await.unwrap();
    let events = store.events(RunNo(1), Sequence(0), 10).await.unwrap();
    assert_eq!(events.iter().map(|e| e.sequence.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(Record::Event(events[1].clone()), custom(1, 2));
    assert_eq!(store.events(RunNo(2), Sequence(1), 10).await.unwrap().len(), 1);
    assert_eq!(store.events(RunNo(2), Sequence(0), 1).await.unwrap().len(), 1);
    assert_eq!(store.backlog(), 0);
}

#[tokio::test]
async fn many_entries_go_into_one_transaction_under_load() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    // The first finds the writer idle; the others come right after its commit and are gathered.
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.reached(at(1)).await.unwrap();
    for index in 2..=500 {
        store.enqueue(vec![entry(index, vec![custom(1, index)])]);
    }
    store.reached(at(500)).await.unwrap();
    assert!(store.commits() <= 10, "{} transactions for 500 entries", store.commits());
    assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 500);
}

#[tokio::test]
async fn an_entry_alone_is_applied_without_being_asked_for() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let mut progress = store.inner.shared.watch();
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    progress.wait_for(|p| p.position == Some(at(1))).await.unwrap();
}

#[tokio::test]
async fn a_gap_or_a_repetition_stops_the_tables_and_changes_nothing() {
    let broken: [(&str, Vec<CommittedEntry>); 5] = [
        ("a gap in a run", vec![entry(2, vec![custom(1, 3)])]),
        ("a sequence again", vec![entry(2, vec![custom(1, 1)])]),
        ("one twice in a batch", vec![entry(2, vec![custom(1, 2), custom(1, 2)])]),
        ("a run that does not begin", vec![entry(2, vec![custom(9, 2)])]),
        ("a missing entry", vec![entry(3, vec![custom(1, 2)])]),
    ];
    for (what, entries) in broken {
        let dir = TempDir::new().unwrap();
        let store = open(&dir).await;
        store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
        store.reached(at(1)).await.unwrap();
        let last = entries[0].batch.position();
        store.enqueue(entries);
        let error = store.reached(last).await.expect_err(what);
        assert!(matches!(error, ShardError::Stopped(_)), "{what}: {error}");
        assert!(store.failure().await.contains("damaged"), "{what}");
        // It takes nothing more, and says so.
        store.enqueue(vec![entry(last.index, vec![custom(1, 2)])]);
        assert!(store.reached(last).await.is_err());
        assert!(store.close().await.is_err());
        drop(store);
        let store = open(&dir).await;
        assert_eq!(store.applied_position(), at(1), "{what}");
        assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 1, "{what}");
    }
}

#[tokio::test]
async fn a_foreign_file_is_refused_unchanged() {
    let dir = TempDir::new().unwrap();
    let own = options(&dir);
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.close().await.unwrap();
    drop(store);
    let before = std::fs::read(&own.path).unwrap();
    let others = [
        (StoreOptions { shard: ShardId(4), ..own.clone() }, "holds shard 3, not shard 4"),
        (StoreOptions { cluster_id: "c-2".into(), ..own.clone() }, "cluster c-1, not to cluster c-2"),
    ];
    for (options, message) in others {
        let error = Store::open(options).await.err().expect("refused").to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(std::fs::read(&own.path).unwrap() == before, "the file was changed");

    let writer = super::connection::Connection::open(&own.path, super::connection::Access::Write).unwrap();
    writer.execute("UPDATE meta SET value = 3 WHERE key = 'format'").unwrap();
    drop(writer);
    let error = Store::open(own.clone()).await.err().expect("refused").to_string();
    assert!(error.contains("format 3, this release knows formats up to 2"), "{error}");

    std::fs::write(&own.path, b"this is a letter, not a database, and it is long enough to tell").unwrap();
    assert!(matches!(Store::open(own).await.err(), Some(ShardError::Damaged(_))));
}

/// A crash while a new file changes into WAL mode leaves a rollback journal that a read-only
/// connection may not play back.
#[tokio::test]
async fn a_file_with_a_hot_journal_is_opened() {
    let dir = TempDir::new().unwrap();
    let own = options(&dir);
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.close().await.unwrap();
    drop(store);
    let torn = StoreOptions { path: dir.path().join("torn.db"), ..own.clone() };
    {
        let writer =
            super::connection::Connection::open(&own.path, super::connection::Access::Write).unwrap();
        writer
            .execute(
                "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN IMMEDIATE;
                 CREATE TABLE half (x); INSERT INTO half
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 SELECT hex(randomblob(100)) FROM n;",
            )
            .unwrap();
        std::fs::copy(&own.path, &torn.path).unwrap();
        std::fs::copy(dir.path().join("shard.db-journal"), dir.path().join("torn.db-journal")).unwrap();
    }
    let store = Store::open(torn).await.unwrap();
    assert_eq!(store.applied_position(), at(1));
    assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 1);
}

#[tokio::test]
async fn what_was_applied_is_checkpointed_when_it_is_quiet_and_on_close() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    assert_eq!(store.checkpointed(), None);
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.close().await.unwrap();
    assert_eq!(store.checkpointed().map(|a| a.log_id), Some(1_u64.to_be_bytes().to_vec()));
    drop(store);
    // The main file alone has it all.
    let _ = std::fs::remove_file(dir.path().join("shard.db-wal"));
    let store = open(&dir).await;
    assert_eq!(store.applied_position(), at(1));
    assert_eq!(store.checkpointed(), None, "what the last process moved is not known to this one");
}

#[tokio::test]
async fn definitions_and_templates_are_kept() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let hash = DefinitionHash([7; 32]);
    let definition = Record::Definition { hash, source: Arc::from("{\"steps\":[]}") };
    let template = TemplateRecord {
        name: Arc::from("t'\u{0}ü"),
        version: 2,
        definition: hash,
        source: Arc::from("{}"),
        created_at: Timestamp(5),
    };
    store.enqueue(vec![
        entry(1, vec![definition.clone(), Record::Template(template.clone())]),
        entry(2, vec![definition]),
    ]);
    store.reached(at(2)).await.unwrap();
    assert_eq!(store.definition(hash).await.unwrap().as_deref(), Some("{\"steps\":[]}"));
    assert_eq!(store.definition(DefinitionHash([8; 32])).await.unwrap(), None);
    assert_eq!(store.templates().await.unwrap(), [template]);
}

#[tokio::test]
async fn people_may_read_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1), custom(1, 2)])]);
    store.reached(at(1)).await.unwrap();
    let refused = [
        "DELETE FROM event_rows",
        "INSERT INTO meta VALUES ('x', 1)",
        "DROP TABLE event_rows",
        "CREATE TEMP TABLE t(x)",
        "PRAGMA user_version = 3",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint",
        "ATTACH DATABASE '/tmp/elsewhere.db' AS e",
        "VACUUM INTO '/tmp/elsewhere.db'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('/tmp/x.so')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM event_rows",
        "SELECT 1; garbage",
        "WITH x AS (SELECT 1) DELETE FROM event_rows",
        "EXPLAIN DELETE FROM event_rows",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT zeroblob(100000000)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    ];
    for query in refused {
        let error = store.sql(query, 10, 200).await.expect_err(query);
        assert!(matches!(error, ShardError::Refused(_)), "{query}: {error}");
    }
    assert_eq!(count(&store, "SELECT count(*) FROM event_rows; -- the end ;").await, 2);
    let rows =
        store.sql("SELECT sequence, 1 AS a, 2 AS a, x'ff' AS b FROM event_rows", 1, 1_000).await.unwrap();
    assert_eq!(rows.len(), 1, "the limit holds");
    assert_eq!(rows[0].to_string(), r#"{"a":1,"a:3":2,"b":"ff","sequence":1}"#);
    let columns = store.sql("SELECT name FROM pragma_table_info('events')", 10, 1_000).await.unwrap();
    assert_eq!(columns.len(), 7);
}

/// The one text that a query on a file gives.
pub(crate) fn text(path: &std::path::Path, sql: &str) -> String {
    use super::connection::{Access, Connection, Datum};
    let mut connection = Connection::open(path, Access::Read).unwrap();
    let mut rows = connection.select_once(sql, &[]).unwrap();
    match rows.next().unwrap().unwrap().get(0) {
        Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        other => panic!("{other:?} is no text"),
    }
}

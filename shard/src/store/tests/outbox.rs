//! Messages to other runs: rows from the event that owes them until they are delivered, also in
//! files of a release that had none.

use std::collections::BTreeMap;

use opcode_engine::child::{self, Outcome, Owed, Parent};
use opcode_engine::command::{Command, Reason, Start};
use opcode_engine::definition::Definition;
use opcode_engine::ids::WorkflowId;
use opcode_engine::run::Run;
use serde_json::{Value, json};

use super::super::connection::{Access, Connection};
use super::super::rebuild;
use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The records of a child that is cancelled, which its parent is to be told; the last event owes it.
fn cancelled_child(no: u64) -> Vec<Record> {
    let text = json!({"steps": [{"id": "w", "type": "wait", "config": {"signal": "never"}}]}).to_string();
    let definition = Arc::new(Definition::parse(&text).expect("the definition is valid"));
    let parent = Parent {
        workflow_id: WorkflowId::parse("above").unwrap(),
        step_id: "c".into(),
        attempt: 1,
        depth: 1,
        waits: true,
    };
    let start = Start {
        no: RunNo(no),
        id: WorkflowId::parse(&format!("child-{no}")).unwrap(),
        definition: definition.clone(),
        template: None,
        params: json!({}),
        agent_id: None,
        context: Value::Null,
        labels: BTreeMap::new(),
        start_at: None,
        body_hash: None,
        request: None,
        parent: Some(Box::new(parent)),
    };
    let (mut run, begun) = Run::start(start, NOW).expect("the run starts");
    let ended = run.handle(Command::Cancel(Reason::default()), NOW).expect("it can be cancelled");
    let definition = Record::Definition { hash: definition.hash, source: definition.source.clone() };
    let events = begun.events.iter().chain(&ended.events);
    std::iter::once(definition)
        .chain(events.map(|event| Record::Event(EventRecord::encode(RunNo(no), event))))
        .collect()
}

fn key_of(records: &[Record]) -> (RunNo, Sequence) {
    match records.last() {
        Some(Record::Event(event)) => (event.no, event.sequence),
        other => panic!("an event is last: {other:?}"),
    }
}

fn delivered((no, sequence): (RunNo, Sequence)) -> Record {
    Record::Delivered { no, sequence }
}

#[tokio::test]
async fn a_message_is_a_row_until_it_is_delivered() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let (first, second) = (cancelled_child(1), cancelled_child(2));
    let (first_key, second_key) = (key_of(&first), key_of(&second));
    // The second is delivered in the very batch that owes it.
    let both = [second, vec![delivered(second_key)]].concat();
    store.enqueue(vec![entry(1, first), entry(2, both)]);
    store.reached(at(2)).await.unwrap();
    assert_eq!(store.outbox().await.unwrap(), [first_key]);
    drop(store);

    let store = open(&dir).await;
    assert_eq!(store.outbox().await.unwrap(), [first_key]);
    let owed = store.owed(vec![first_key]).await.unwrap();
    let [(from, record)] = owed.as_slice() else { panic!("one was asked for: {owed:?}") };
    assert_eq!(from.as_str(), "child-1");
    match child::owed(&record.decode().unwrap()) {
        Some(Owed::Ended { parent, outcome: Outcome::Cancelled(None) }) => {
            assert_eq!((parent.workflow_id.as_str(), &*parent.step_id), ("above", "c"));
        }
        other => panic!("its end is owed: {other:?}"),
    }
    assert!(store.owed(vec![(RunNo(7), Sequence(1))]).await.is_err(), "no such event");
    // Said delivered twice, since the first time may not have been heard.
    store.enqueue(vec![entry(3, vec![delivered(first_key), delivered(first_key)])]);
    store.enqueue(vec![entry(4, vec![delivered(first_key)])]);
    store.reached(at(4)).await.unwrap();
    assert_eq!(store.outbox().await.unwrap(), []);
}

fn drop_outbox(dir: &TempDir) {
    let connection = Connection::open(&options(dir).path, Access::Write).unwrap();
    connection.execute("DROP TABLE outbox; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

#[tokio::test]
async fn a_file_of_the_release_before_gets_its_outbox_also_when_it_comes_as_a_copy() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let store = open(&dirs[0]).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.reached(at(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    drop_outbox(&dirs[0]);
    let copy = dirs[1].path().join("copy");
    {
        let connection = Connection::open(&options(&dirs[0]).path, Access::Read).unwrap();
        connection.execute(&format!("VACUUM INTO '{}'", copy.display())).unwrap();
    }

    let taking = open(&dirs[1]).await;
    taking.install(copy).await.unwrap();
    let opened = open(&dirs[0]).await;
    for store in [taking, opened] {
        assert_eq!(store.applied_position(), at(1));
        let records = cancelled_child(2);
        let key = key_of(&records);
        store.enqueue(vec![entry(2, records)]);
        store.reached(at(2)).await.unwrap();
        assert_eq!(store.outbox().await.unwrap(), [key]);
    }
}

#[tokio::test]
async fn the_rebuild_finds_rows_that_no_event_stands_for() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let records = cancelled_child(1);
    let key = key_of(&records);
    store.enqueue(vec![entry(1, records)]);
    store.reached(at(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let path = options(&dir).path;
    assert!(rebuild(&path, true).await.unwrap().differences.is_empty());

    let connection = Connection::open(&path, Access::Write).unwrap();
    connection.execute("INSERT INTO outbox VALUES (1, 1)").unwrap();
    drop(connection);
    let differences = rebuild(&path, true).await.unwrap().differences;
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert_eq!((differences[0].table, differences[0].key.as_str()), ("outbox", "1/1"));
    rebuild(&path, false).await.unwrap();
    assert!(rebuild(&path, true).await.unwrap().differences.is_empty());
    assert_eq!(open(&dir).await.outbox().await.unwrap(), [key]);
}

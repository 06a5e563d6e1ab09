//! Runs that are purged: nothing of them is left, and no other has their numbers.

use super::super::rebuild;
use super::*;

fn event(no: u64, sequence: u64, event_type: EventType, data: &str) -> Record {
    Record::Event(EventRecord {
        no: RunNo(no),
        sequence: Sequence(sequence),
        event_type,
        step_id: (event_type == EventType::StepStarted).then(|| Arc::from("a")),
        data: data.as_bytes().to_vec(),
        agent_id: None,
        timestamp: Timestamp(1_700_000_000_000),
    })
}

/// A run with a step and labels, from its start to its end.
fn run(no: u64) -> Vec<Record> {
    let started = format!(
        r#"{{"workflow_id":"w-{no}","status":"active","definition":"{}","params":{{}},"context":{{}},
            "labels":{{"team":"red","we'ird":"{no}"}}}}"#,
        "07".repeat(32)
    );
    vec![
        Record::Definition { hash: DefinitionHash([7; 32]), source: "{}".into() },
        event(no, 1, EventType::WorkflowStarted, &started),
        event(no, 2, EventType::StepStarted, r#"{"attempt":1}"#),
        event(no, 3, EventType::WorkflowCompleted, r#"{"output":null}"#),
    ]
}

#[tokio::test]
async fn nothing_of_a_purged_run_is_left_and_its_number_is_used() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, [run(1), run(2), run(3)].concat())]);
    store.reached(at(1)).await.unwrap();
    let tables = ["event_rows", "workflows", "labels", "step_rows"];
    let before = count(&store, "SELECT count(*) FROM labels").await;
    store.enqueue(vec![
        entry(2, vec![Record::Purged { no: RunNo(3) }]),
        // Made and gone in one transaction.
        entry(3, [run(4), vec![Record::Purged { no: RunNo(4) }]].concat()),
    ]);
    store.reached(at(3)).await.unwrap();
    for table in tables {
        let column = if table == "workflows" { "no" } else { "workflow_no" };
        let left = format!("SELECT count(*) FROM {table} WHERE {column} IN (3, 4)");
        assert_eq!(count(&store, &left).await, 0, "{table}");
    }
    assert_eq!((before, count(&store, "SELECT count(*) FROM labels").await), (6, 4));
    assert_eq!(count(&store, "SELECT count(*) FROM event_rows").await, 6);
    assert_eq!(store.last_run_no().await.unwrap(), RunNo(4));
    assert_eq!(store.stats().await.unwrap().workflows, 2);
    store.close().await.unwrap();
    drop(store);
    assert!(rebuild(&options(&dir).path, true).await.unwrap().differences.is_empty());
    let store = open(&dir).await;
    assert_eq!(store.last_run_no().await.unwrap(), RunNo(4));
    // Its id may be another run's.
    let again = run(3).into_iter().map(|record| match record {
        Record::Event(event) => Record::Event(EventRecord { no: RunNo(5), ..event }),
        other => other,
    });
    store.enqueue(vec![entry(4, again.collect())]);
    store.reached(at(4)).await.unwrap();
    assert_eq!(store.last_run_no().await.unwrap(), RunNo(5));
}

#[tokio::test]
async fn a_purge_of_what_is_not_there_is_damage() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.enqueue(vec![entry(1, run(1)), entry(2, vec![Record::Purged { no: RunNo(2) }])]);
    assert!(store.reached(at(2)).await.is_err());
    assert!(store.failure().await.contains("was not there"));
}

#[tokio::test]
async fn a_purge_finds_its_rows_by_their_keys() {
    use super::super::connection::{Access, Connection};
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    store.close().await.unwrap();
    let mut connection = Connection::open(&options(&dir).path, Access::Write).unwrap();
    for sql in super::super::purge::DELETES {
        let sql = format!("EXPLAIN QUERY PLAN {}", sql.replace("?1", "1"));
        let plan = connection.prepare(&sql).unwrap();
        let mut rows = connection.rows(plan, &[]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let step = row.text(3).unwrap();
            let is_scan = step.starts_with("SCAN") && !step.contains("VIRTUAL TABLE");
            assert!(!is_scan, "{sql}: {step}");
        }
    }
}

//! Rows that are not what was written: never shown, told of, and written anew from the events.

use std::path::Path;

use opcode_engine::ids::WorkflowId;

use super::super::connection::{Access, Connection, Datum};
use super::super::copy_reader::CopyReader;
use super::super::{DecisionFilter, RunFilter, rebuild};
use super::runs::two_runs;
use super::*;
use crate::catalogue::{CatalogueEntry, EntryKind};

fn all_runs() -> RunFilter {
    RunFilter { limit: 9, ..RunFilter::default() }
}

fn all_decisions() -> DecisionFilter {
    DecisionFilter { status: Some("all".into()), limit: 9, ..DecisionFilter::default() }
}

/// The lines of both lists.
async fn lists(store: &Store) -> Result<Vec<String>, ShardError> {
    let runs = store.list_runs(all_runs()).await?;
    let decisions = store.list_decisions(all_decisions()).await?;
    let runs = runs.iter().map(|run| format!("{run:?}"));
    Ok(runs.chain(decisions.iter().map(|decision| format!("{decision:?}"))).collect())
}

fn execute(path: &Path, sql: &str) {
    Connection::open(path, Access::Write).unwrap().execute(sql).unwrap();
}

fn count_of(path: &Path, sql: &str) -> i64 {
    let mut connection = Connection::open(path, Access::Read).unwrap();
    let mut rows = connection.select_once(sql, &[]).unwrap();
    match rows.next().unwrap().unwrap().get(0) {
        Datum::Int(int) => int,
        other => panic!("{other:?} is no number"),
    }
}

/// A folder with two runs whose tables are closed, and what lists show of them.
async fn closed(dir: &TempDir) -> Vec<String> {
    let store = two_runs(dir).await.0;
    let lines = lists(&store).await.unwrap();
    assert_eq!(lines.len(), 4);
    store.close().await.unwrap();
    lines
}

#[tokio::test]
async fn an_altered_row_of_a_view_is_not_shown_and_is_written_anew() {
    let dir = TempDir::new().unwrap();
    let lines = closed(&dir).await;
    let path = options(&dir).path;
    let damages = [
        "UPDATE workflows SET status = 'failed' WHERE no = 2",
        "UPDATE workflows SET id = 'waitt' WHERE no = 1",
        "UPDATE workflows SET labels = replace(labels, 'team', 'tean')",
        "UPDATE workflows SET created_at = created_at + 1 WHERE no = 1",
        "UPDATE workflows SET error = '{}' WHERE no = 2",
        "UPDATE workflows SET checksum = checksum + 1 WHERE no = 1",
        "UPDATE workflows SET no = 9 WHERE no = 2",
        "UPDATE decision_rows SET context = replace(context, 'go on', 'go in')",
        "UPDATE decision_rows SET status = 'resolved' WHERE status = 'pending'",
        "UPDATE decision_rows SET timeout_at = timeout_at + 1 WHERE workflow_no = 2",
    ];
    for damage in damages {
        execute(&path, damage);
        let store = open(&dir).await;
        assert_eq!(lists(&store).await.unwrap(), lines, "{damage}");
        let id = WorkflowId::parse("waits").unwrap();
        assert_eq!(store.find(&id).await.unwrap(), Some(RunNo(1)), "{damage}");
        assert_eq!(store.last_run_no().await.unwrap(), RunNo(2), "{damage}");
        assert!(store.failed().is_none());
        store.close().await.unwrap();
        let report = rebuild(&path, true).await.unwrap();
        assert_eq!((report.difference_count, report.damage_count), (0, 0), "{damage}: {report:?}");
    }
}

/// Whatever bit it is: what a list shows was written. It may lack a row, when an index is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_bit_makes_a_list_show_what_was_not_written() {
    const EVERY: usize = 397;
    let dir = TempDir::new().unwrap();
    let lines = closed(&dir).await;
    let whole = std::fs::read(options(&dir).path).unwrap();
    let (mut whole_lists, mut refusals) = (0, 0);
    for place in (0..whole.len()).step_by(EVERY) {
        let Some(at) = (place..whole.len()).take(EVERY).find(|at| whole[*at] != 0) else { continue };
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (place % 8);
        let dir = TempDir::new().unwrap();
        std::fs::write(options(&dir).path, flipped).unwrap();
        let Ok(store) = Store::open(options(&dir)).await else {
            refusals += 1;
            continue;
        };
        match lists(&store).await {
            Ok(shown) => {
                assert!(shown.iter().all(|line| lines.contains(line)), "byte {at}: {shown:#?}");
                whole_lists += usize::from(shown == lines);
            }
            Err(_) => refusals += 1,
        }
    }
    assert!(whole_lists > 10 && refusals > 0, "{whole_lists} whole lists, {refusals} refusals");
}

/// A row on disk that disagrees with its indexes cannot be replaced before they are made anew.
#[tokio::test]
async fn a_row_that_its_indexes_do_not_know_any_more_is_written_anew() {
    let dir = TempDir::new().unwrap();
    let lines = closed(&dir).await;
    let path = options(&dir).path;
    let mut bytes = std::fs::read(&path).unwrap();
    // The row itself: its status stands right behind its id there.
    let row = b"waitssuspended";
    let at = bytes.windows(row.len()).position(|some| some == row).expect("the row of the run");
    bytes[at + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let store = open(&dir).await;
    assert_eq!(lists(&store).await.unwrap(), lines);
    store.close().await.unwrap();
    assert_eq!(rebuild(&path, true).await.unwrap().difference_count, 0);
    assert_eq!(count_of(&path, "SELECT count(*) FROM pragma_quick_check WHERE quick_check = 'ok'"), 1);
}

#[tokio::test]
async fn the_writer_does_not_make_damage_pass_for_what_it_writes() {
    let damages = [
        "UPDATE workflows SET labels = replace(labels, 'team', 'tean') WHERE no = 1",
        "UPDATE decision_rows SET context = '{}' WHERE workflow_no = 1",
        "DELETE FROM workflows WHERE no = 1",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        let (store, mut waiting) = two_runs(&dir).await;
        store.close().await.unwrap();
        let path = options(&dir).path;
        execute(&path, damage);
        let store = open(&dir).await;
        waiting.choose("no");
        waiting.work();
        store.enqueue_all(std::mem::take(&mut waiting.records)).await;
        let runs = store.list_runs(all_runs()).await.unwrap();
        assert!(runs.len() == 2 && runs.iter().all(|run| run.labels["team"] == "a"), "{damage}: {runs:?}");
        store.close().await.unwrap();
        let report = rebuild(&path, true).await.unwrap();
        assert_eq!((report.difference_count, report.damage_count), (0, 0), "{damage}: {report:?}");
    }
}

/// There is nothing left that these could be written anew from.
#[tokio::test]
async fn what_is_no_view_of_events_is_refused_when_it_is_damaged() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let template = TemplateRecord {
        name: "t".into(),
        version: 1,
        definition: DefinitionHash([7; 32]),
        source: "{}".into(),
        created_at: Timestamp(5),
    };
    let made = CatalogueEntry {
        kind: EntryKind::Schedule,
        key: "a".into(),
        revision: 1,
        body: Some("1".into()),
        at: Timestamp(5),
    };
    store.enqueue_all(vec![Record::Template(template), Record::Entry(made)]).await;
    store.close().await.unwrap();
    let path = options(&dir).path;
    execute(&path, "UPDATE templates SET created_at = 4; UPDATE catalogue SET body = '2'");
    let store = open(&dir).await;
    let refused = [store.templates().await.err(), store.catalogue().await.err()];
    for (refused, table) in refused.into_iter().zip(["templates", "catalogue"]) {
        let refused = refused.expect("it is damaged").to_string();
        assert!(refused.contains(&format!("of {table} is not what was written")), "{refused}");
    }
    store.close().await.unwrap();
    assert_eq!(rebuild(&path, true).await.unwrap().damage_count, 2);
}

/// What the release before has written: the same tables without checksums.
fn without_checksums(path: &Path) {
    for table in super::super::checksum::TABLES {
        execute(path, &format!("ALTER TABLE {table} DROP COLUMN checksum"));
    }
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)");
}

#[tokio::test]
async fn a_file_of_the_release_before_is_read_as_it_is_and_gets_checksums_as_it_is_written() {
    const NONE: &str = "SELECT count(*) FROM workflows WHERE checksum IS NULL";
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (store, mut waiting) = two_runs(&dirs[0]).await;
    let lines = lists(&store).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let path = options(&dirs[0]).path;
    without_checksums(&path);
    assert_eq!(rebuild(&path, true).await.unwrap().difference_count, 0);
    // A copy that is read and not written, and one that takes other tables' place.
    let read = CopyReader::new(options(&dirs[0])).list_runs(all_runs()).await.unwrap();
    assert_eq!(read.len(), 2);
    let copy = dirs[1].path().join("copy");
    {
        let connection = Connection::open(&path, Access::Read).unwrap();
        connection.execute(&format!("VACUUM INTO '{}'", copy.display())).unwrap();
    }
    let taking = open(&dirs[1]).await;
    taking.install(copy).await.unwrap();
    let opened = open(&dirs[0]).await;
    waiting.choose("no");
    waiting.work();
    for (store, dir) in [(taking, &dirs[1]), (opened, &dirs[0])] {
        assert_eq!(lists(&store).await.unwrap(), lines);
        let path = options(dir).path;
        assert_eq!(count_of(&path, NONE), 2);
        store.enqueue_all(waiting.records.clone()).await;
        assert_eq!(count_of(&path, NONE), 1, "a row gets its checksum when it is written");
        store.close().await.unwrap();
    }
    // The rebuild writes every row, also of a file that nobody has opened since.
    execute(&path, "UPDATE workflows SET status = 'failed' WHERE no = 2");
    without_checksums(&path);
    assert!(rebuild(&path, false).await.unwrap().is_rewritten);
    assert_eq!(count_of(&path, NONE), 0);
}

/// What no read comes upon: steps, labels, indexes, rows of runs that are not there.
#[tokio::test]
async fn a_scrub_mends_what_nobody_reads() {
    let damages = [
        "UPDATE step_rows SET status = 'failed' WHERE workflow_no = 2",
        "UPDATE step_rows SET output = '\"another\"' WHERE workflow_no = 2",
        "UPDATE workflows SET output = '\"another\"' WHERE no = 2",
        "DELETE FROM step_rows WHERE workflow_no = 1",
        "DELETE FROM labels WHERE workflow_no = 2",
        "INSERT INTO labels SELECT 'teal', value, created_at, workflow_no FROM labels WHERE workflow_no = 2",
        "INSERT INTO labels VALUES (CAST(x'ff41' AS TEXT), x'00', 'x', 2)",
        "INSERT INTO step_rows(workflow_no, step_id, status, attempts) VALUES (7, 'a', 'running', 1)",
        "INSERT INTO step_rows(workflow_no, step_id, status, attempts) VALUES (1, 'zz', 'running', 1)",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        closed(&dir).await;
        let path = options(&dir).path;
        execute(&path, damage);
        let before = rebuild(&path, true).await.unwrap().difference_count;
        assert!(before > 0, "{damage}");
        let store = open(&dir).await;
        let found = store.scrub(0).await.unwrap();
        assert_eq!((found.runs, found.mended, found.damage_count), (2, 1, 0), "{damage}: {found:?}");
        let again = store.scrub(0).await.unwrap();
        assert_eq!((again.mended, again.difference_count), (0, 0), "{damage}: {again:?}");
        store.close().await.unwrap();
        let report = rebuild(&path, true).await.unwrap();
        assert_eq!((report.difference_count, report.damage_count), (0, 0), "{damage}: {report:?}");
    }
}

/// An entry of an index that leads nowhere any more: the row is there, and a list would skip it.
#[tokio::test]
async fn a_scrub_finds_what_an_index_does_not_lead_to() {
    let dir = TempDir::new().unwrap();
    let lines = closed(&dir).await;
    let path = options(&dir).path;
    let mut bytes = std::fs::read(&path).unwrap();
    // In the index by status the id stands behind the status and the time; in the row right behind it.
    let mut places = bytes.windows(9).enumerate().filter(|(_, some)| *some == b"suspended");
    let (at, _) = places
        .rfind(|(at, _)| {
            &bytes[at - 5..*at] != b"waits" && bytes[at + 9..at + 24].windows(5).any(|some| some == b"waits")
        })
        .expect("the entry of the index by status");
    bytes[at] = b't';
    std::fs::write(&path, bytes).unwrap();
    let store = open(&dir).await;
    let suspended = RunFilter { statuses: vec!["suspended".into()], ..all_runs() };
    assert_eq!(store.list_runs(suspended.clone()).await.unwrap().len(), 0, "the damage is in the way");
    let found = store.scrub(0).await.unwrap();
    assert_eq!((found.mended, found.damage_count), (1, 0), "{found:?}");
    assert_eq!(store.list_runs(suspended).await.unwrap().len(), 1);
    assert_eq!(lists(&store).await.unwrap(), lines);
    store.close().await.unwrap();
    assert_eq!(
        count_of(&path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"),
        1
    );
}

/// What the events said is not known here any more.
#[tokio::test]
async fn a_scrub_tells_of_damage_that_it_cannot_mend() {
    let damages = [
        "UPDATE event_rows SET data = '{}' WHERE workflow_no = 2 AND sequence = 1",
        "DELETE FROM event_rows WHERE workflow_no = 2 AND sequence = 2",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        closed(&dir).await;
        execute(&options(&dir).path, damage);
        let store = open(&dir).await;
        let found = store.scrub(0).await.unwrap();
        assert_eq!((found.mended, found.damage_count), (0, 1), "{damage}: {found:?}");
        // Whoever holds the replica is told.
        store.act_on(&found);
        store.damage().await;
    }
}

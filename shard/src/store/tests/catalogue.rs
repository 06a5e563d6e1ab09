//! The catalogue's entries: as the last change made them, and the last change of all even when it
//! deleted its entry; also in files of a release that had no catalogue.

use super::super::connection::{Access, Connection};
use super::super::rebuild;
use super::*;
use crate::catalogue::{CatalogueEntry, EntryKind};

fn changed(key: &str, revision: u64, body: Option<&str>) -> CatalogueEntry {
    CatalogueEntry {
        kind: EntryKind::Schedule,
        key: key.into(),
        revision,
        body: body.map(Arc::from),
        at: Timestamp(1_700_000_000_000),
    }
}

fn records(entries: &[CatalogueEntry]) -> Vec<Record> {
    entries.iter().cloned().map(Record::Entry).collect()
}

#[tokio::test]
async fn entries_are_as_their_last_change_made_them() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let secret = CatalogueEntry { kind: EntryKind::Secret, ..changed("a'\u{0}ü", 2, Some("{\"n\":1.50}")) };
    let first = [changed("a", 1, Some("1")), secret.clone(), changed("b", 3, Some("3"))];
    store.enqueue(vec![entry(1, records(&first)), entry(2, records(&[changed("b", 4, Some("4"))]))]);
    store.reached(at(2)).await.unwrap();
    let (a, b) = (changed("a", 1, Some("1")), changed("b", 4, Some("4")));
    assert_eq!(store.catalogue().await.unwrap(), [a, b.clone(), secret.clone()]);

    // The last change stays as long as it is the last, and its number with it.
    store.enqueue(vec![entry(3, records(&[changed("a", 5, None)]))]);
    store.reached(at(3)).await.unwrap();
    drop(store);
    let store = open(&dir).await;
    assert_eq!(store.catalogue().await.unwrap(), [changed("a", 5, None), b.clone(), secret.clone()]);
    let anew = changed("a", 7, Some("7"));
    store.enqueue(vec![entry(4, records(&[changed("c", 6, None), anew.clone()]))]);
    store.reached(at(4)).await.unwrap();
    assert_eq!(store.catalogue().await.unwrap(), [anew, b, secret]);
}

#[tokio::test]
async fn a_file_of_the_release_before_gets_its_catalogue_also_when_it_comes_as_a_copy() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let store = open(&dirs[0]).await;
    store.enqueue(vec![entry(1, vec![custom(1, 1)])]);
    store.reached(at(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let path = options(&dirs[0]).path;
    let connection = Connection::open(&path, Access::Write).unwrap();
    connection.execute("DROP TABLE catalogue; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    assert!(rebuild(&path, true).await.unwrap().differences.is_empty());
    let copy = dirs[1].path().join("copy");
    {
        let connection = Connection::open(&path, Access::Read).unwrap();
        connection.execute(&format!("VACUUM INTO '{}'", copy.display())).unwrap();
    }

    let taking = open(&dirs[1]).await;
    taking.install(copy).await.unwrap();
    let opened = open(&dirs[0]).await;
    for store in [taking, opened] {
        let made = changed("a", 1, Some("1"));
        store.enqueue(vec![entry(2, records(std::slice::from_ref(&made)))]);
        store.reached(at(2)).await.unwrap();
        assert_eq!(store.catalogue().await.unwrap(), [made]);
    }
}

#[tokio::test]
async fn a_copy_brings_the_catalogue() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let store = open(&dirs[0]).await;
    let made = changed("a", 1, Some("1"));
    store.enqueue(vec![entry(1, records(std::slice::from_ref(&made)))]);
    store.reached(at(1)).await.unwrap();
    let copy = dirs[1].path().join("copy");
    store.copy(copy.clone()).await.unwrap();
    let taking = open(&dirs[1]).await;
    taking.install(copy).await.unwrap();
    assert_eq!(taking.catalogue().await.unwrap(), [made]);
}

#[tokio::test]
async fn the_rebuild_leaves_the_catalogue_and_tells_what_can_be_no_entry() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).await;
    let made = [changed("a", 1, Some("{}")), changed("b", 2, None)];
    store.enqueue(vec![entry(1, records(&made))]);
    store.reached(at(1)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let path = options(&dir).path;
    let report = rebuild(&path, false).await.unwrap();
    assert!(report.damages.is_empty() && report.differences.is_empty(), "{report:?}");

    let connection = Connection::open(&path, Access::Write).unwrap();
    connection
        .execute(
            "INSERT INTO catalogue(kind, key, revision, body, updated_at) VALUES ('schedule', 'c', 2, '{}', 0), ('schedule', 'd', 4, '{', 0),
                ('nothing', 'e', 5, '{}', 0)",
        )
        .unwrap();
    drop(connection);
    let damages = rebuild(&path, true).await.unwrap().damages.join("; ");
    for told in ["schedule c has the revision 2 after 2", "schedule d is not JSON", "entry e is of a kind"] {
        assert!(damages.contains(told), "{told}: {damages}");
    }
}

//! What travels arrives as it was.

use super::*;

#[test]
fn changes_of_the_catalogue_travel_as_they_are() {
    let change = EntryChange {
        kind: EntryKind::Schedule,
        key: "nightly".into(),
        after: Some(u64::MAX),
        body: Some(r#"{"n":1.50}"#.into()),
    };
    let bytes = encode_request(&Request::ChangeEntry(change.clone()), Freshness::Strong).unwrap();
    match decode_request(&bytes, &Definitions::default()) {
        Ok((Request::ChangeEntry(read), Freshness::Strong)) => assert_eq!(read, change),
        other => panic!("{other:?} is another request"),
    }
    let EntryChange { kind, key, body, .. } = change;
    let entry = CatalogueEntry { kind, key, revision: 7, body, at: Timestamp(-1) };
    for changed in [Changed::Made(entry.clone()), Changed::Already(None), Changed::Stale(Some(entry))] {
        let answer = Answer::Changed(changed.clone());
        let answered = Answered { answer, position: Position::default(), lag_ms: None };
        let bytes = encode_answer(Ok(answered)).unwrap();
        let read = decode_answer(&bytes).unwrap().unwrap().answer.changed().unwrap();
        assert_eq!(read, changed);
    }
}

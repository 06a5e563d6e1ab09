//! The bytes of every version, frozen, and whatever else comes in their place.

use proptest::prelude::*;

use super::*;

fn samples() -> Vec<Record> {
    vec![
        Record::Definition { hash: DefinitionHash([7; 32]), source: "{}".into() },
        Record::Event(EventRecord {
            no: RunNo(300),
            sequence: Sequence(2),
            event_type: EventType::StepStarted,
            step_id: Some("a.b[1]".into()),
            data: br#"{"attempt":1}"#.to_vec(),
            agent_id: None,
            timestamp: Timestamp(1_700_000_000_000),
        }),
        Record::Template(TemplateRecord {
            name: "t".into(),
            version: 3,
            definition: DefinitionHash([9; 32]),
            source: "{\"name\":\"t\"}".into(),
            created_at: Timestamp(-1),
        }),
    ]
}

#[test]
fn the_bytes_of_known_versions_never_change() {
    let records = concat!(
        "03000000",
        "01",
        "0707070707070707070707070707070707070707070707070707070707070707",
        "027b7d",
        "00fb2c0102150106612e625b315d0d7b22617474656d7074223a317d00fd00d0ca9f17030000",
        "02",
        "017403",
        "0909090909090909090909090909090909090909090909090909090909090909",
        "0c7b226e616d65223a2274227d01",
    );
    let golden = format!("020700000000000000{records}");
    assert_eq!(hex::encode(encode(&samples(), 7).unwrap()), golden);
    let decoded = decode(&hex::decode(golden).unwrap()).unwrap();
    assert_eq!(decoded, Decoded { term: Some(7), records: samples() });
    let before = decode(&hex::decode(format!("01{records}")).unwrap()).unwrap();
    assert_eq!(before, Decoded { term: None, records: samples() });
}

fn samples_v3() -> Vec<Record> {
    let delivered = Record::Delivered { no: RunNo(300), sequence: Sequence(9) };
    [&samples()[..1], &[delivered]].concat()
}

#[test]
fn the_bytes_of_version_3_never_change() {
    let golden = concat!(
        "030700000000000000",
        "02000000",
        "0001",
        "0707070707070707070707070707070707070707070707070707070707070707",
        "027b7d",
        "01fb2c0109",
    );
    assert_eq!(hex::encode(encode(&samples_v3(), 7).unwrap()), golden);
    let decoded = decode(&hex::decode(golden).unwrap()).unwrap();
    assert_eq!(decoded, Decoded { term: Some(7), records: samples_v3() });
}

fn samples_v4() -> Vec<Record> {
    let entry = |revision, body: Option<&str>| {
        Record::Entry(CatalogueEntry {
            kind: EntryKind::Schedule,
            key: "nightly".into(),
            revision,
            body: body.map(Arc::from),
            at: Timestamp(1_700_000_000_000),
        })
    };
    let records = [entry(300, Some("{}")), entry(301, None)];
    [&samples_v3()[1..], &records].concat()
}

#[test]
fn the_bytes_of_version_4_never_change() {
    let golden = concat!(
        "040700000000000000",
        "03000000",
        "0001fb2c0109",
        "0101076e696768746c79fb2c0101027b7dfd00d0ca9f17030000",
        "0101076e696768746c79fb2d0100fd00d0ca9f17030000",
    );
    assert_eq!(hex::encode(encode(&samples_v4(), 7).unwrap()), golden);
    let decoded = decode(&hex::decode(golden).unwrap()).unwrap();
    assert_eq!(decoded, Decoded { term: Some(7), records: samples_v4() });
}

#[test]
fn the_bytes_of_version_5_never_change() {
    let records = [&samples_v4()[..1], &[Record::Purged { no: RunNo(300) }]].concat();
    let golden = concat!("050700000000000000", "02000000", "000001fb2c0109", "01fb2c01");
    assert_eq!(hex::encode(encode(&records, 7).unwrap()), golden);
    let decoded = decode(&hex::decode(golden).unwrap()).unwrap();
    assert_eq!(decoded, Decoded { term: Some(7), records });
    // The smallest of all records.
    let small = vec![Record::Purged { no: RunNo(1) }; 3];
    assert_eq!(decode(&encode(&small, 7).unwrap()).unwrap().records, small);
}

#[test]
fn the_bytes_of_version_6_never_change() {
    let Record::Event(event) = samples()[1].clone() else { panic!("the second is an event") };
    let records = vec![Record::Purged { no: RunNo(300) }, Record::History(event)];
    let golden = concat!(
        "060700000000000000",
        "02000000",
        "0001fb2c01",
        "01fb2c0102150106612e625b315d0d7b22617474656d7074223a317d00fd00d0ca9f17030000",
    );
    assert_eq!(hex::encode(encode(&records, 7).unwrap()), golden);
    let decoded = decode(&hex::decode(golden).unwrap()).unwrap();
    assert_eq!(decoded, Decoded { term: Some(7), records });
    every_truncation_of(&hex::decode(golden).unwrap());
}

#[test]
fn kinds_have_their_codes_and_names_for_ever() {
    let all: Vec<(u8, &str)> = EntryKind::ALL.iter().map(|kind| (kind.code(), kind.as_str())).collect();
    let frozen = [
        (1, "schedule"),
        (2, "agent"),
        (3, "token"),
        (4, "secret"),
        (5, "plugin"),
        (6, "webhook"),
        (7, "namespace"),
        (8, "pause"),
        (9, "retention"),
        (10, "webhook_failure"),
    ];
    assert_eq!(all, frozen);
    let mut unknown_kind = encode(&samples_v4()[1..], 1).unwrap();
    assert_eq!((unknown_kind[13], unknown_kind[14]), (1, EntryKind::Schedule.code()));
    unknown_kind[14] = 200;
    assert!(decode(&unknown_kind).unwrap_err().contains("code 200"));
}

#[test]
fn every_truncation_is_an_error() {
    every_truncation_of(&encode(&samples(), 1).unwrap());
    every_truncation_of(&encode(&samples_v4(), 1).unwrap());
    every_truncation_of(&encode(&samples_v3(), 1).unwrap());
}

fn every_truncation_of(bytes: &[u8]) {
    for end in 0..bytes.len() {
        decode(&bytes[..end]).unwrap_err();
    }
    decode(&[bytes, &[0]].concat()).unwrap_err();
}

#[test]
fn a_newer_version_and_a_mad_count_are_refused() {
    assert!(decode(&[7, 0, 0, 0, 0]).unwrap_err().contains("version 7"));
    assert!(decode(&[2, 0, 0, 0, 0]).unwrap_err().contains("without a term"));
    assert!(decode(&[1, 255, 255, 255, 255, 0, 0]).unwrap_err().contains("claims"));
    assert!(decode(&[1, 1, 0, 0, 0, 1, 2, 3, 4]).unwrap_err().contains("record 0 of 1"));
    let mut unknown_type = encode(&samples()[1..2], 1).unwrap();
    let at = 13 + 1 + 3 + 1;
    assert_eq!(unknown_type[at], EventType::StepStarted.code());
    unknown_type[at] = 255;
    assert!(decode(&unknown_type).unwrap_err().contains("code 255"));
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zäß.]{0,12}".prop_map(Arc::from)
}

fn record() -> impl Strategy<Value = Record> {
    let data = prop::collection::vec(any::<u8>(), 0..300);
    let kind = prop::sample::select(EventType::ALL);
    prop_oneof![
        4 => (any::<(u64, u64, i64)>(), kind, prop::option::of(text()), data, prop::option::of(text()))
            .prop_map(|((no, sequence, ms), event_type, step_id, data, agent_id)| {
                Record::Event(EventRecord {
                    no: RunNo(no),
                    sequence: Sequence(sequence),
                    event_type,
                    step_id,
                    data,
                    agent_id,
                    timestamp: Timestamp(ms),
                })
            })
            .prop_flat_map(|record| any::<bool>().prop_map(move |is_past| match &record {
                Record::Event(event) if is_past => Record::History(event.clone()),
                _ => record.clone(),
            })),
        1 => any::<(u64, u64)>().prop_map(|(no, sequence)| Record::Delivered {
            no: RunNo(no),
            sequence: Sequence(sequence),
        }),
        1 => (prop::sample::select(&EntryKind::ALL), text(), prop::option::of(text()), any::<(u64, i64)>())
            .prop_map(|(kind, key, body, (revision, ms))| {
                Record::Entry(CatalogueEntry { kind, key, revision, body, at: Timestamp(ms) })
            }),
        1 => any::<u64>().prop_map(|no| Record::Purged { no: RunNo(no) }),
        1 => (any::<[u8; 32]>(), text())
            .prop_map(|(hash, source)| Record::Definition { hash: DefinitionHash(hash), source }),
        1 => (text(), any::<(u32, [u8; 32], i64)>(), text()).prop_map(
            |(name, (version, definition, ms), source)| {
                Record::Template(TemplateRecord {
                    name,
                    version,
                    definition: DefinitionHash(definition),
                    source,
                    created_at: Timestamp(ms),
                })
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_encoded_is_decoded(records in prop::collection::vec(record(), 0..20)) {
        prop_assert_eq!(decode(&encode(&records, 9).unwrap()).unwrap().records, records);
    }

    #[test]
    fn any_bytes_end_in_records_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
        let _ = decode(&[&[1, 2, 0, 0, 0], bytes.as_slice()].concat());
        for version in [3, 4, 5, 6] {
            let head = [version, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
            let _ = decode(&[&head, bytes.as_slice()].concat());
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(
        records in prop::collection::vec(record(), 1..6), at in any::<prop::sample::Index>(), flip in 1_u8..
    ) {
        let mut bytes = encode(&records, 9).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = decode(&bytes);
    }
}

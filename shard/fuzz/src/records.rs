//! Batches of the log: bytes of any version decode to records or are refused, no more of them than
//! the bytes can hold; what was decoded encodes to bytes that decode to the same.

use opcode_shard::log::codec::{decode, encode};

/// Runs one input.
pub fn records(data: &[u8]) {
    let decoded = match decode(data) {
        Ok(decoded) => decoded,
        Err(error) => return assert!(!error.is_empty()),
    };
    assert!(decoded.records.len() * 3 <= data.len(), "{} records of {data:?}", decoded.records.len());
    let term = decoded.term.unwrap_or(7);
    let bytes = match encode(&decoded.records, term) {
        Ok(bytes) => bytes,
        Err(error) => panic!("what {data:?} holds cannot be encoded: {error}"),
    };
    match decode(&bytes) {
        Ok(again) => {
            assert_eq!(again.records, decoded.records);
            assert_eq!(again.term, Some(term));
        }
        Err(error) => panic!("{error}, of what {data:?} holds"),
    }
    for record in &decoded.records {
        // Data that is no payload is an error, never a panic.
        let _ = record.as_event().map(|event| (event.decode().is_ok(), event.started_run()));
    }
}

//! What stands in backups, and what nodes say to each other for one: whatever the bytes are, reading
//! them ends in a value, which is written as it was read, or in an error.

use std::collections::BTreeSet;

use opcode_shard::backup::call::{BackupCall, BackupReply};
use opcode_shard::backup::manifest::Manifest;
use opcode_shard::log::read_archive;

/// Runs one input: its first byte says what the rest is.
pub fn backup(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => manifest(rest),
        1 => archive(rest),
        2 => {
            let bytes = rest.to_vec().into();
            if let Ok(call) = BackupCall::decode(&bytes) {
                assert_eq!(BackupCall::decode(&call.encode()), Ok(call));
            }
        }
        _ => {
            let bytes = rest.to_vec().into();
            if let Ok(reply) = BackupReply::decode(&bytes) {
                assert_eq!(BackupReply::decode(&reply.clone().encode()), Ok(reply));
            }
        }
    }
}

/// No name in a manifest leads out of its folder, and none is there twice.
fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    let names: BTreeSet<&str> = manifest.files().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), manifest.files().count());
    assert!(names.iter().all(|name| !name.contains('/') && name.starts_with("shard-")), "{names:?}");
    assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
}

/// Entries follow one another without a gap.
fn archive(bytes: &[u8]) {
    let Ok(entries) = read_archive(&bytes.to_vec().into()) else { return };
    for two in entries.windows(2) {
        let (one, next) = (two[0].batch.position(), two[1].batch.position());
        assert!(one.index + 1 == next.index && one.term <= next.term, "{one:?} {next:?}");
    }
}

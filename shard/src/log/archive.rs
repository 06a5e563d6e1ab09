//! Committed entries as bytes apart from the log: what a backup keeps behind its copy of the tables,
//! so that they can be brought to any entry in between.
//!
//! The form is frozen, as what stands in backups: for each entry its term, its node, its index and the
//! length of its payload, then the payload as the log has it. Whoever keeps the bytes keeps a checksum.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::frame::EntryId;
use super::state_machine::{committed_entry, position};
use super::type_config::{Entry, decode_entry, encode_payload, entry_id};
use super::{CommittedEntry, Group, codec};
use crate::batch::Position;
use crate::error::ShardError;

/// Bytes that are given at a time, at about: entries are read until they are more.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes of one archive: a piece whose last entry is as large as any.
pub const ARCHIVE_BYTES_MAX: usize = PIECE_BYTES + codec::BATCH_BYTES_MAX + HEAD_BYTES;
/// Bytes before each payload.
const HEAD_BYTES: usize = 28;
/// How long the log keeps what the last backup does not have yet.
const KEPT_MAX: Duration = Duration::from_secs(600);
/// Bytes that it keeps for that at most.
const KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where the last backup ends, and how long the log is kept from there on.
#[derive(Default)]
pub(super) struct KeptForBackups(Mutex<Option<(u64, Instant)>>);

/// Some committed entries.
#[derive(Debug, PartialEq, Eq)]
pub struct Archived {
    /// As [`read_archive`] reads them.
    pub bytes: Bytes,
    /// The last of them; where they were asked for from when there are none.
    pub last: Position,
}

impl Group {
    /// Has the log kept from the entry at `from` on, which a backup ends with, for a while and as far
    /// as that does not take much room.
    pub(crate) fn keep_for_backups(&self, from: Position) {
        *self.kept_for_backups.0.lock() = Some((from.index, Instant::now() + KEPT_MAX));
    }

    /// The first entry that is kept for backups.
    pub(super) fn first_for_backups(&self) -> Option<u64> {
        let (first, until) = (*self.kept_for_backups.0.lock())?;
        let fits = self.store.first_of_last(self.id, u64::MAX, KEPT_BYTES_MAX)?;
        (Instant::now() < until).then(|| first.max(fits))
    }

    /// Entries committed after `after`, a piece of them; `None` when the log no longer holds that one,
    /// or holds another in its place.
    pub(crate) async fn archive(&self, after: Position) -> Result<Option<Archived>, ShardError> {
        let upto = self.committed().index;
        if upto < after.index {
            return Ok(None);
        }
        let failed = |error| ShardError::Unknown(format!("the log cannot be read: {error}"));
        let before = self.log.read(after.index, after.index + 1, 0).await.map_err(failed)?;
        if before.first().is_none_or(|entry| position(entry.log_id) != after) {
            return Ok(None);
        }
        let entries = self.log.read(after.index + 1, upto + 1, PIECE_BYTES).await.map_err(failed)?;
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| push(&mut bytes, entry));
        let last = entries.last().map_or(after, |entry| position(entry.log_id));
        Ok(Some(Archived { bytes: bytes.into(), last }))
    }
}

fn push(bytes: &mut Vec<u8>, entry: &Entry) {
    let payload = encode_payload(&entry.payload);
    let EntryId { term, node, index } = entry_id(entry.log_id);
    [term, node, index].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    let length = u32::try_from(payload.len()).expect("an entry of the log is under 4 GiB");
    bytes.extend(length.to_le_bytes());
    bytes.extend(payload);
}

/// Reads what [`Group::archive`] gave, or several of them behind one another; the error says what is
/// broken. Entries follow one another.
pub fn read_archive(bytes: &Bytes) -> Result<Vec<CommittedEntry>, String> {
    let mut entries: Vec<CommittedEntry> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let head = bytes.get(at..at + HEAD_BYTES).ok_or("it ends within an entry's head")?;
        let number =
            |place: usize| u64::from_le_bytes(*head[place..].first_chunk().expect("28 bytes hold it"));
        let length = u32::from_le_bytes(*head[24..].first_chunk().expect("28 bytes hold it")) as usize;
        at += HEAD_BYTES;
        if length > bytes.len() - at {
            return Err(format!("it ends within the entry at {}", number(16)));
        }
        let id = EntryId { term: number(0), node: number(8), index: number(16) };
        let entry = decode_entry(id, bytes.slice(at..at + length))?;
        let entry = committed_entry(&entry).map_err(|what| format!("entry {}: {what}", id.index))?;
        at += length;
        let (now, before) = (entry.batch.position(), entries.last().map(|entry| entry.batch.position()));
        if before
            .is_some_and(|before| before.index.checked_add(1) != Some(now.index) || now.term < before.term)
        {
            return Err(format!("{now:?} follows {before:?}"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::super::type_config::log_id;
    use super::*;

    fn archive(ids: &[(u64, u64)]) -> Bytes {
        let mut bytes = Vec::new();
        for (term, index) in ids {
            let log_id = log_id(EntryId { term: *term, node: 1, index: *index });
            push(&mut bytes, &Entry { log_id, payload: EntryPayload::Blank });
        }
        bytes.into()
    }

    #[test]
    fn entries_are_read_back_and_must_follow_one_another() {
        let read = |ids: &[(u64, u64)]| {
            let entries = read_archive(&archive(ids))?;
            Ok::<_, String>(entries.iter().map(|entry| entry.batch.position()).collect::<Vec<_>>())
        };
        let at = |term, index| Position { term, index };
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[(1, 7), (1, 8), (3, 9)]), Ok(vec![at(1, 7), at(1, 8), at(3, 9)]));
        for wrong in [&[(1, 7), (1, 9)][..], &[(1, 7), (1, 7)], &[(2, 7), (1, 8)], &[(1, u64::MAX), (1, 0)]] {
            read(wrong).unwrap_err();
        }
        let bytes = archive(&[(1, 7), (1, 8)]);
        (1..bytes.len()).filter(|cut| *cut != HEAD_BYTES).for_each(|cut| {
            read_archive(&bytes.slice(..cut)).unwrap_err();
        });
    }
}

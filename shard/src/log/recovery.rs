//! Reading a log back: every segment in order, every frame, into the index.
//!
//! A log may end in what an interrupted write left: that was never acknowledged and is dropped.
//! Anything else that does not read is damage: a segment that does not end in its seal though
//! another follows, a gap between segments, a frame that contradicts those before it, or bytes
//! that do not read although a later frame says that they were synced. Damage is refused with the
//! file and the offset. Recovery only reads; it changes nothing, whatever it finds.

use std::path::Path;

use super::frame::{ALIGN_BYTES, Kind, parse};
use super::index::{Index, Place};
use super::segment::{self, HEADER_BYTES, Listing, Segment};
use crate::disk::Disk;
use crate::error::ShardError;
use crate::planted;

/// What was read back.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// In order; empty for a new log.
    pub(super) segments: Vec<Segment>,
    pub(super) index: Index,
    /// The log's id; `None` for a new one.
    pub(super) log_id: Option<u64>,
    /// Where the last segment goes on.
    pub(super) tail: Tail,
    /// The rest of the listing.
    pub(super) free: Vec<(u64, std::path::PathBuf)>,
}

/// Where a segment's frames end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail {
    /// Offset of the next frame.
    pub(super) offset: u32,
    /// Checksum of the last frame, or the segment's seed.
    pub(super) previous: u32,
    /// Whether the last frame is a seal.
    pub(super) sealed: bool,
}

/// Reads the log in `dir`.
pub(super) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, ShardError> {
    let Listing { segments, free } = segment::list(disk, dir)?;
    let mut recovered = Recovered { free, ..Recovered::default() };
    for (number, path) in &segments {
        let (segment, log_id) = segment::open(disk, *number, path)?;
        if *recovered.log_id.get_or_insert(log_id) != log_id {
            return Err(ShardError::Refused(format!("{} belongs to another log", path.display())));
        }
        if let Some(before) = recovered.segments.last()
            && before.number + 1 != *number
        {
            return Err(ShardError::Damaged(format!(
                "{}: segment {} of the log is missing before it",
                path.display(),
                before.number + 1
            )));
        }
        recovered.segments.push(segment);
    }
    for (place, segment) in recovered.segments.iter().enumerate() {
        let last = place + 1 == recovered.segments.len();
        recovered.tail = scan(segment, last, &mut recovered.index)?;
    }
    recovered.index.check_whole().map_err(|what| {
        ShardError::Damaged(format!("{}: entries of the log are missing: {what}", dir.display()))
    })?;
    Ok(recovered)
}

/// Folds a segment's frames into the index; returns where they end.
fn scan(segment: &Segment, last: bool, index: &mut Index) -> Result<Tail, ShardError> {
    let damaged = |offset: usize, what: &str| {
        ShardError::Damaged(format!("{}: {what} at offset {offset}", segment.path.display()))
    };
    let bytes = segment
        .read(0, segment.bytes)
        .map_err(segment::failed(format!("reading {}", segment.path.display())))?;
    let mut tail = Tail { offset: HEADER_BYTES, previous: segment.seed, sealed: false };
    while !tail.sealed {
        let at = tail.offset as usize;
        let Some(parsed) = parse(&bytes, at, segment.seed).filter(|p| p.previous == tail.previous) else {
            if !last {
                return Err(damaged(at, "a broken frame in the middle of the log"));
            }
            if let Some(witness) = witness(&bytes, at, segment.seed) {
                let what = format!("a broken frame (the frame at {witness} was written when it was synced)");
                return Err(damaged(at, &what));
            }
            return Ok(tail);
        };
        let place = Place {
            segment: segment.number,
            offset: tail.offset,
            bytes: u32::try_from(parsed.end - at).expect("a frame lies within its segment"),
        };
        let is_last =
            || parse(&bytes, parsed.end, segment.seed).is_none_or(|next| next.previous != parsed.crc);
        if planted::is("drop-last-log-record") && last && parsed.frame.kind == Kind::Entry && is_last() {
            return Ok(tail);
        }
        index.apply(&parsed.frame, place).map_err(|what| damaged(at, &what))?;
        tail = Tail {
            offset: place.offset + place.bytes,
            previous: parsed.crc,
            sealed: parsed.frame.kind == Kind::Seal,
        };
    }
    Ok(tail)
}

/// A frame behind a break that was written when the disk had confirmed what is broken now.
fn witness(bytes: &[u8], broken: usize, seed: u32) -> Option<usize> {
    (broken + ALIGN_BYTES..bytes.len())
        .step_by(ALIGN_BYTES)
        .find(|at| parse(bytes, *at, seed).is_some_and(|parsed| parsed.synced as usize > broken))
}

//! Segment files: written with zeros and synced before their first use, and used again when
//! nothing in them is needed, since overwriting space that the file system knows costs half the
//! sync of growing a file.
//!
//! A file is `seg-NUMBER` while it is part of the log and `free-NUMBER` while it is not; numbers
//! only grow. Its header names the format, the log it belongs to and the number of its use, which
//! seeds the checksum of all it holds. Every rename is synced before anything rests on it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{HEAD_BYTES, frame_bytes};
use crate::crash;
use crate::disk::{Disk, DiskFile, Opening};
use crate::error::ShardError;

/// The format written and the newest understood. 2 knows groups that were given away, and has
/// their floor in the states of groups; 1 is read.
pub(super) const FORMAT: u32 = 2;
const MAGIC: [u8; 8] = *b"OPCODLOG";
/// Frames start here: one block, so that no frame shares it with the header.
pub(super) const HEADER_BYTES: u32 = 4096;
const HEADER_USED_BYTES: usize = 40;
/// Smallest segment file.
pub(super) const SEGMENT_BYTES_MIN: u64 = 32 * 1024;
/// Largest: offsets are 32 bits.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 31;
const ZEROS_BYTES: usize = 1024 * 1024;

/// A segment file that is part of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    /// Bytes of the file.
    pub(super) bytes: u32,
    /// What the checksums of its frames start from.
    pub(super) seed: u32,
    /// The format it was begun in.
    pub(super) format: u32,
}

impl Segment {
    /// Whether a frame of `bytes` fits at `at`, with room for the seal behind it.
    pub(super) fn fits(&self, at: u32, bytes: usize) -> bool {
        at as usize + bytes + frame_bytes(0) <= self.bytes as usize
    }

    /// Reads `bytes` at `offset`.
    pub(super) fn read(&self, offset: u32, bytes: u32) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; bytes as usize];
        self.file.read_exact_at(&mut buffer, offset.into())?;
        Ok(buffer)
    }
}

/// The folder of one log, and how its files are made.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    /// Bytes of an ordinary segment.
    pub(super) segment_bytes: u32,
    /// Random; tells this log's files from another's.
    pub(super) log_id: u64,
}

/// What a folder held when it was listed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segments by number, ascending.
    pub(super) segments: Vec<(u64, PathBuf)>,
    /// Files that may be used again.
    pub(super) free: Vec<(u64, PathBuf)>,
}

/// Describes an error of the file system.
pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ShardError {
    move |source| ShardError::Io { what: what.into(), source }
}

/// Lists the log's files in `dir`.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Listing, ShardError> {
    let mut listing = Listing::default();
    let paths = disk.list(dir).map_err(failed(format!("listing {}", dir.display())))?;
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for (prefix, into) in [("seg-", &mut listing.segments), ("free-", &mut listing.free)] {
            let number = name.strip_prefix(prefix).and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if let Some(number) = number {
                into.push((number, path.clone()));
            }
        }
    }
    listing.segments.sort();
    listing.free.sort();
    Ok(listing)
}

fn seed(log_id: u64, number: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log_id.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.finalize()
}

/// Opens a segment that a listing found; returns it with its log's id. Changes nothing.
pub(super) fn open(disk: &dyn Disk, number: u64, path: &Path) -> Result<(Segment, u64), ShardError> {
    let name = path.display();
    let file = disk.open(path, Opening::Existing).map_err(failed(format!("opening {name}")))?;
    let bytes = file.bytes().map_err(failed(format!("reading {name}")))?;
    let damaged = |what: String| ShardError::Damaged(format!("{name}: {what} at offset 0"));
    let mut header = [0; HEADER_USED_BYTES];
    if bytes < u64::from(HEADER_BYTES) || bytes > SEGMENT_BYTES_MAX {
        return Err(damaged(format!("a log segment of {bytes} bytes")));
    }
    file.read_exact_at(&mut header, 0).map_err(failed(format!("reading {name}")))?;
    let number_at = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
    let short_at = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
    if header[..8] != MAGIC {
        return Err(damaged("no header of a log segment".into()));
    }
    // Before the checksum: a newer format may keep it elsewhere.
    let format = short_at(8);
    if format > FORMAT {
        return Err(ShardError::Refused(format!(
            "{name} is of log format {format}; this build knows up to {FORMAT}: use the newer one"
        )));
    }
    if short_at(12) != crc32fast::hash(&header[16..]) || format == 0 {
        return Err(damaged("a broken header of a log segment".into()));
    }
    let (log_id, held, size) = (number_at(16), number_at(24), number_at(32));
    if held != number {
        return Err(damaged(format!("the header of segment {held} in the file of segment {number}")));
    }
    if size != bytes {
        return Err(damaged(format!("a segment of {size} bytes in a file of {bytes}")));
    }
    let bytes = u32::try_from(bytes).map_err(|_| damaged(format!("a segment of {bytes} bytes")))?;
    let seed = seed(log_id, number);
    let segment = Segment { number, file, path: path.to_owned(), bytes, seed, format };
    Ok((segment, log_id))
}

impl Folder {
    /// Makes `free-NUMBER` of `bytes` zeros, synced, name included.
    pub(super) fn make_free(&self, number: u64, bytes: u32) -> io::Result<PathBuf> {
        let path = self.dir.join(format!("free-{number:016x}"));
        let made = self.write_zeros(&path, bytes).and_then(|()| self.disk.sync_dir(&self.dir));
        if let Err(error) = made {
            // Half a file is of no use, and the disk may be full.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        crash::point("log.roll.created");
        Ok(path)
    }

    /// Turns a free file into segment `number`, the name synced.
    pub(super) fn take_free(&self, free: &Path, number: u64) -> io::Result<Segment> {
        let file = self.disk.open(free, Opening::Existing)?;
        let bytes = file.bytes()?;
        let mut header = [0; HEADER_USED_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        header[24..32].copy_from_slice(&number.to_le_bytes());
        header[32..40].copy_from_slice(&bytes.to_le_bytes());
        let crc = crc32fast::hash(&header[16..]);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&header, 0)?;
        file.sync_data()?;
        let path = self.dir.join(format!("seg-{number:016x}"));
        self.disk.rename(free, &path)?;
        self.disk.sync_dir(&self.dir)?;
        crash::point("log.roll.renamed");
        let bytes = u32::try_from(bytes).map_err(|_| io::Error::other("a segment over 4 GiB"))?;
        let seed = seed(self.log_id, number);
        Ok(Segment { number, file, path, bytes, seed, format: FORMAT })
    }

    /// Takes a segment out of the log: to be used again when `keep` and of ordinary size, else
    /// removed. Synced, so that a later segment never outlives an earlier one.
    pub(super) fn release(&self, segment: &Segment, keep: bool) -> io::Result<Option<(u64, PathBuf)>> {
        let kept = if keep && segment.bytes == self.segment_bytes {
            let path = self.dir.join(format!("free-{:016x}", segment.number));
            self.disk.rename(&segment.path, &path)?;
            Some((segment.number, path))
        } else {
            self.disk.remove(&segment.path)?;
            None
        };
        self.disk.sync_dir(&self.dir)?;
        Ok(kept)
    }

    /// Bytes of a segment that can hold a frame of `frame` bytes.
    pub(super) fn bytes_for(&self, frame: usize) -> io::Result<u32> {
        let needed = HEADER_BYTES as usize + frame + frame_bytes(0) + HEAD_BYTES;
        if needed as u64 > SEGMENT_BYTES_MAX {
            return Err(io::Error::other(format!("an entry of {frame} bytes fits no segment")));
        }
        let needed = u32::try_from(needed.next_multiple_of(4096)).map_err(io::Error::other)?;
        Ok(needed.max(self.segment_bytes))
    }

    fn write_zeros(&self, path: &Path, bytes: u32) -> io::Result<()> {
        let file = self.disk.open(path, Opening::Fresh)?;
        let zeros = vec![0; ZEROS_BYTES.min(bytes as usize)];
        let mut at = 0_u64;
        while at < u64::from(bytes) {
            let part = zeros.len().min((u64::from(bytes) - at) as usize);
            file.write_all_at(&zeros[..part], at)?;
            at += part as u64;
        }
        file.sync_all()
    }
}

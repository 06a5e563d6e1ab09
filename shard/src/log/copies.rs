//! Copies of the tables on their way from one member to another, as files: made when one is sent,
//! gathered piece by piece when one comes in, and gone when nobody needs them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use super::state_machine::{decode_applied, position};
use super::wire::Piece;
use super::{Applied, Group, Tables};
use crate::batch::Position;
use crate::disk;
use crate::error::ShardError;

/// What stands for a copy of the tables inside openraft: made only when it is sent.
#[derive(Clone)]
pub enum Copy {
    /// The tables of this node: copied when somebody needs it.
    Here(Arc<dyn Tables>),
    /// A file that has come in whole.
    File(Arc<WholeCopy>),
}

/// A copy that has come in whole: its file goes with it, unless it has become the tables.
#[derive(Debug)]
pub struct WholeCopy {
    path: PathBuf,
}

impl WholeCopy {
    /// Its file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WholeCopy {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(_) => f.write_str("the tables here"),
            Self::File(copy) => write!(f, "{}", copy.path.display()),
        }
    }
}

/// A copy being sent; its file goes with it.
pub(crate) struct OutgoingCopy {
    /// What it holds.
    pub(super) applied: Applied,
    pub(crate) id: u64,
    pub(crate) bytes: u64,
    /// XXH3, 64 bits.
    pub(crate) checksum: u64,
    path: PathBuf,
    file: File,
}

fn io_failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

impl OutgoingCopy {
    /// Copies the tables to a file of its own.
    pub(super) async fn make(of: Copy, dir: &Path, group: u32) -> Result<Self, ShardError> {
        let Copy::Here(tables) = of else {
            return Err(ShardError::Refused("only the tables here are copied".into()));
        };
        let id: u64 = rand::random();
        std::fs::create_dir_all(dir).map_err(io_failed("making", dir))?;
        let path = dir.join(format!("{group}-{id:016x}.out"));
        let applied = tables.copy(path.clone()).await?;
        let opened = crate::simulation::blocking(move || Self::open(id, path, applied)).await;
        opened.map_err(|error| ShardError::Stopped(error.to_string()))?
    }

    fn open(id: u64, path: PathBuf, applied: Applied) -> Result<Self, ShardError> {
        let read = File::open(&path).and_then(|file| Ok((checksum(&file)?, file)));
        match read {
            Ok(((bytes, checksum), file)) => Ok(Self { applied, id, bytes, checksum, path, file }),
            Err(error) => {
                remove(&path);
                Err(io_failed("reading", &path)(error))
            }
        }
    }

    /// The last entry of the log that it holds.
    pub(crate) fn position(&self) -> Result<Position, ShardError> {
        let (last, _) = decode_applied(&self.applied).map_err(ShardError::Damaged)?;
        Ok(last.map(position).unwrap_or_default())
    }

    /// Up to `count` bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, count: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(left)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

impl Group {
    /// Copies the tables here to a file of its own, for whoever fetches it piece by piece.
    pub(crate) async fn copy_tables(&self) -> Result<OutgoingCopy, ShardError> {
        OutgoingCopy::make(Copy::Here(self.tables.clone()), &self.copies_dir, self.id).await
    }
}

impl Drop for OutgoingCopy {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a copy that is not needed any more is still there");
    }
}

/// Removes what a process that ended early has left of a group's copies.
pub(super) fn remove_leftovers(dir: &Path, group: u32) {
    // A folder that is not there holds nothing.
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let prefix = format!("{group}-");
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        remove(&entry.path());
    }
}

fn checksum(mut file: &File) -> io::Result<(u64, u64)> {
    let mut hash = Xxh3Default::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, hash.digest()));
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
    }
}

/// The copy that a group is being sent; at most one, the newest.
#[derive(Default)]
pub(super) struct IncomingCopy {
    current: Option<Incoming>,
}

struct Incoming {
    copy: u64,
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Xxh3Default,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What a piece came to.
pub(super) enum Taken {
    /// The next one starts at this byte.
    Next(u64),
    /// The copy is whole and its checksum right.
    Whole(WholeCopy),
}

impl IncomingCopy {
    /// Takes a piece. One that does not fit is answered with where to go on; after an error there
    /// is nothing left of the copy.
    pub(super) fn take(&mut self, dir: &Path, group: u32, piece: &Piece) -> Result<Taken, ShardError> {
        let is_other = self.current.as_ref().is_none_or(|current| current.copy != piece.copy);
        if is_other && piece.offset != 0 {
            return Ok(Taken::Next(0));
        }
        let mut current = match self.current.take() {
            Some(current) if !is_other => current,
            // The one before it goes, and leaves its room.
            Some(_) | None => Incoming::begin(dir, group, piece)?,
        };
        if piece.offset != current.bytes {
            let next = current.bytes;
            self.current = Some(current);
            return Ok(Taken::Next(next));
        }
        current.write(piece)?;
        if current.bytes == piece.total {
            return current.end(piece).map(Taken::Whole);
        }
        let next = current.bytes;
        self.current = Some(current);
        Ok(Taken::Next(next))
    }
}

impl Incoming {
    fn begin(dir: &Path, group: u32, piece: &Piece) -> Result<Self, ShardError> {
        std::fs::create_dir_all(dir).map_err(io_failed("making", dir))?;
        disk::check_room(dir, piece.total)?;
        let path = dir.join(format!("{group}-{:016x}.in", piece.copy));
        let file = File::create(&path).map_err(io_failed("making", &path))?;
        Ok(Self { copy: piece.copy, path, file, bytes: 0, hash: Xxh3Default::new() })
    }

    fn write(&mut self, piece: &Piece) -> Result<(), ShardError> {
        if piece.bytes.is_empty() || piece.bytes.len() as u64 > piece.total.saturating_sub(self.bytes) {
            return Err(ShardError::Refused(format!(
                "a piece of {} bytes at {} of a copy of {}",
                piece.bytes.len(),
                piece.offset,
                piece.total
            )));
        }
        self.file.write_all(&piece.bytes).map_err(io_failed("writing", &self.path))?;
        self.hash.update(&piece.bytes);
        self.bytes += piece.bytes.len() as u64;
        Ok(())
    }

    fn end(self, piece: &Piece) -> Result<WholeCopy, ShardError> {
        if self.hash.digest() != piece.checksum {
            return Err(ShardError::Damaged("a copy that came in is not what was sent".into()));
        }
        self.file.sync_all().map_err(io_failed("syncing", &self.path))?;
        // Under a name of its own: the next copy may come in while this one is being installed.
        let whole = WholeCopy { path: self.path.with_extension("whole") };
        std::fs::rename(&self.path, &whole.path).map_err(io_failed("renaming", &self.path))?;
        Ok(whole)
    }
}

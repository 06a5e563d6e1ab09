//! Copies of the tables on their way from one member to another, as files: made when one is sent,
//! gathered piece by piece when one comes in, and gone when nobody needs them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use super::Tables;
use super::wire::Piece;
use crate::error::ShardError;

/// What stands for a copy of the tables inside openraft: made only when it is sent.
#[derive(Clone)]
pub enum Copy {
    /// The tables of this node: copied when somebody needs it.
    Here(Arc<dyn Tables>),
    /// A file that has come in whole.
    File(PathBuf),
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(_) => f.write_str("the tables here"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A copy being sent; its file goes with it.
pub(super) struct OutgoingCopy {
    pub(super) id: u64,
    pub(super) bytes: u64,
    pub(super) checksum: u64,
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
        tables.copy(path.clone()).await?;
        let opened = tokio::task::spawn_blocking(move || Self::open(id, path)).await;
        opened.map_err(|error| ShardError::Stopped(error.to_string()))?
    }

    fn open(id: u64, path: PathBuf) -> Result<Self, ShardError> {
        let file = File::open(&path).map_err(io_failed("opening", &path))?;
        let (bytes, checksum) = checksum(&file).map_err(io_failed("reading", &path))?;
        Ok(Self { id, bytes, checksum, path, file })
    }

    /// Up to `count` bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, count: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count.min(left)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes.into())
    }
}

impl Drop for OutgoingCopy {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
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
        // An installed copy has been moved away.
        if self.path.exists() {
            remove(&self.path);
        }
    }
}

/// What a piece came to.
pub(super) enum Taken {
    /// The next one starts at this byte.
    Next(u64),
    /// The copy is whole and its checksum right.
    Whole(PathBuf),
}

impl IncomingCopy {
    /// Takes a piece. One that does not fit is answered with where to go on.
    pub(super) fn take(&mut self, dir: &Path, group: u32, piece: &Piece) -> Result<Taken, ShardError> {
        if self.current.as_ref().is_none_or(|current| current.copy != piece.copy) {
            if piece.offset != 0 {
                return Ok(Taken::Next(0));
            }
            self.current = Some(Incoming::begin(dir, group, piece.copy)?);
        }
        let current = self.current.as_mut().expect("it has just been looked at");
        if piece.offset != current.bytes {
            return Ok(Taken::Next(current.bytes));
        }
        if piece.bytes.is_empty() || current.bytes + piece.bytes.len() as u64 > piece.total {
            return Err(ShardError::Refused(format!(
                "a piece of {} bytes at {} of a copy of {}",
                piece.bytes.len(),
                piece.offset,
                piece.total
            )));
        }
        current.file.write_all(&piece.bytes).map_err(io_failed("writing", &current.path))?;
        current.hash.update(&piece.bytes);
        current.bytes += piece.bytes.len() as u64;
        if current.bytes < piece.total {
            return Ok(Taken::Next(current.bytes));
        }
        if current.hash.digest() != piece.checksum {
            self.current = None;
            return Err(ShardError::Damaged("a copy that came in is not what was sent".into()));
        }
        current.file.sync_all().map_err(io_failed("syncing", &current.path))?;
        // Under a name of its own: the next copy may come in while this one is being installed.
        let whole = current.path.with_extension("whole");
        std::fs::rename(&current.path, &whole).map_err(io_failed("renaming", &current.path))?;
        self.current = None;
        Ok(Taken::Whole(whole))
    }
}

impl Incoming {
    fn begin(dir: &Path, group: u32, copy: u64) -> Result<Self, ShardError> {
        std::fs::create_dir_all(dir).map_err(io_failed("making", dir))?;
        let path = dir.join(format!("{group}-{copy:016x}.in"));
        let file = File::create(&path).map_err(io_failed("making", &path))?;
        Ok(Self { copy, path, file, bytes: 0, hash: Xxh3Default::new() })
    }
}

//! The disk under the log, and room on it, looked at before much is written: what fills a disk to
//! its last byte takes the log down with it, and the node.
//!
//! The log asks for a disk's files through [`Disk`], one call for a whole batch of frames, so that
//! a simulation can put one under it that tears, fails and fills up.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::ShardError;

/// How to open a file, for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// One that is there.
    Existing,
    /// An empty one, whatever was there before.
    Fresh,
}

/// The files of a disk.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a folder, and those above it.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// Paths of what is in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Opens a file.
    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file; durable once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable once the folder is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Syncs a folder, so that names made, changed or removed in it stay so.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How long the next write would take: of a disk that is simulated, on which nothing else takes
    /// time. The log's writer is a task then, which rests so long, and no thread.
    fn simulated_pause(&self) -> Option<Duration> {
        None
    }
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Its length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; durable once synced.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The same, and the file's length and times.
    fn sync_all(&self) -> io::Result<()>;
}

/// The disks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        let is_fresh = opening == Opening::Fresh;
        let file =
            OpenOptions::new().read(true).write(true).create(is_fresh).truncate(is_fresh).open(path)?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }
}

/// Bytes that stay free for the log whatever else is written.
pub(crate) const SPARE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes that are free on the disk of `folder`, for whoever is not its administrator.
pub(crate) fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Refuses when `bytes` more in `folder` would leave less than [`SPARE_BYTES`].
pub(crate) fn check_room(folder: &Path, bytes: u64) -> Result<(), ShardError> {
    let failed =
        |source| ShardError::Io { what: format!("looking at the room in {}", folder.display()), source };
    let free = free_bytes(folder).map_err(failed)?;
    if free < bytes.saturating_add(SPARE_BYTES) {
        return Err(ShardError::Io {
            what: format!(
                "{}: {bytes} bytes are to be written and {free} are free, of which {SPARE_BYTES} are the log's",
                folder.display()
            ),
            source: std::io::ErrorKind::StorageFull.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        check_room(dir.path(), 0).unwrap();
        let refused = check_room(dir.path(), u64::MAX / 2).unwrap_err();
        assert!(
            matches!(&refused, ShardError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::StorageFull),
            "{refused}"
        );
        assert!(check_room(&dir.path().join("none"), 0).is_err());
    }
}

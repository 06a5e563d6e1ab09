//! A disk whose syncs take long, under the log: this machine's own, with a delay put in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opcode_shard::disk::{Disk, DiskFile, Opening, OsDisk};

/// The system's disk, each sync of which takes at least so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowDisk {
    pub(crate) sync: Duration,
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn DiskFile>,
    sync: Duration,
}

/// Does a sync, and rests for what is left of its time.
fn lasting(least: Duration, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let begun = Instant::now();
    let result = sync();
    std::thread::sleep(least.saturating_sub(begun.elapsed()));
    result
}

impl Disk for SlowDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.make_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        OsDisk.list(dir)
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile { file: OsDisk.open(path, opening)?, sync: self.sync }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        lasting(self.sync, || OsDisk.sync_dir(dir))
    }
}

impl DiskFile for SlowFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        lasting(self.sync, || self.file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        lasting(self.sync, || self.file.sync_all())
    }
}

//! A disk in memory: what was not synced may be lost or torn when the power goes, and it may fail,
//! fill up and be slow.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use opcode_shard::disk::{Disk, DiskFile, Opening};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Longest pause before a write of a disk that is well.
const PAUSE_MS_MAX: u64 = 2;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ills {
    /// Longest pause before a write.
    pub pause_ms_max: u64,
    /// Nothing more can be written.
    pub is_full: bool,
    /// So many more writes and syncs succeed before the power goes.
    pub power_fails_after: Option<u32>,
    /// So many more syncs succeed before one fails.
    pub sync_fails_after: Option<u32>,
}

#[derive(Debug, Default)]
struct Data {
    bytes: Vec<u8>,
    /// Writes since the last sync, oldest first: where, and what was there before.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// A change of names, undone unless it is synced.
#[derive(Debug)]
enum Renamed {
    Made(PathBuf),
    Moved { from: PathBuf, to: PathBuf, replaced: Option<u64> },
    Removed(PathBuf, u64),
}

#[derive(Debug)]
struct Inner {
    names: BTreeMap<PathBuf, u64>,
    files: BTreeMap<u64, Data>,
    made: u64,
    /// Changes of names since the last sync of a folder, oldest first.
    unsynced: Vec<Renamed>,
    ills: Ills,
    /// Grows at every crash: files opened before it are of no use.
    age: u64,
    rng: StdRng,
}

/// One node's disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct OpenFile {
    disk: Arc<Mutex<Inner>>,
    file: u64,
    age: u64,
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl SimulatedDisk {
    /// An empty one.
    pub fn new(rng: StdRng) -> Self {
        let inner = Inner {
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            made: 0,
            unsynced: Vec::new(),
            ills: Ills::default(),
            age: 0,
            rng,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Makes it ill, or well.
    pub fn set_ills(&self, ills: Ills) {
        self.inner.lock().ills = ills;
    }

    /// What is wrong with it.
    pub fn ills(&self) -> Ills {
        self.inner.lock().ills
    }

    /// The power goes and comes back: what was synced is there, of the rest anything may be.
    pub fn crash(&self) {
        let mut inner = self.inner.lock();
        inner.age += 1;
        inner.ills.power_fails_after = None;
        inner.ills.sync_fails_after = None;
        inner.lose_names();
        inner.lose_writes();
    }
}

impl Inner {
    /// Counts a write or a sync against what is left of the disk.
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.ills.power_fails_after {
            Some(0) => Err(gone()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_room(&self) -> io::Result<()> {
        match self.ills.is_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    /// Keeps the first of the changes of names that were not synced, as a journal does.
    fn lose_names(&mut self) {
        let kept = self.rng.random_range(0..=self.unsynced.len());
        while self.unsynced.len() > kept {
            match self.unsynced.pop() {
                Some(Renamed::Made(path)) => drop(self.names.remove(&path)),
                Some(Renamed::Moved { from, to, replaced }) => {
                    if let Some(file) = self.names.remove(&to) {
                        self.names.insert(from, file);
                    }
                    if let Some(file) = replaced {
                        self.names.insert(to, file);
                    }
                }
                Some(Renamed::Removed(path, file)) => drop(self.names.insert(path, file)),
                None => break,
            }
        }
        self.unsynced.clear();
        let names: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| names.contains(file));
    }

    /// Of each write that was not synced, all, nothing, or some sectors stay.
    fn lose_writes(&mut self) {
        let Self { files, rng, .. } = self;
        for data in files.values_mut() {
            for (at, before) in std::mem::take(&mut data.unsynced).into_iter().rev() {
                let fate = rng.random_range(0..4);
                for (sector, old) in before.chunks(SECTOR_BYTES).enumerate() {
                    let is_lost = match fate {
                        0 => false,
                        1 => true,
                        _ => rng.random_bool(0.5),
                    };
                    if is_lost {
                        let at = at + sector * SECTOR_BYTES;
                        data.bytes[at..at + old.len()].copy_from_slice(old);
                    }
                }
            }
        }
    }

    fn sync_fails(&mut self) -> bool {
        match &mut self.ills.sync_fails_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

impl Disk for SimulatedDisk {
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let inner = self.inner.lock();
        Ok(inner.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn open(&self, path: &Path, opening: Opening) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        let known = inner.names.get(path).copied();
        let file = match (opening, known) {
            (Opening::Existing, None) => return Err(io::ErrorKind::NotFound.into()),
            (Opening::Existing, Some(file)) => file,
            (Opening::Fresh, known) => {
                inner.check_room()?;
                inner.spend()?;
                if let Some(old) = known {
                    inner.unsynced.push(Renamed::Removed(path.to_owned(), old));
                }
                inner.made += 1;
                let file = inner.made;
                inner.files.insert(file, Data::default());
                inner.names.insert(path.to_owned(), file);
                inner.unsynced.push(Renamed::Made(path.to_owned()));
                file
            }
        };
        Ok(Arc::new(OpenFile { disk: self.inner.clone(), file, age: inner.age }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.spend()?;
        let file = inner.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        let replaced = inner.names.insert(to.to_owned(), file);
        inner.unsynced.push(Renamed::Moved { from: from.to_owned(), to: to.to_owned(), replaced });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.spend()?;
        let file = inner.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        inner.unsynced.push(Renamed::Removed(path.to_owned(), file));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.spend()?;
        if inner.sync_fails() {
            return Err(io::Error::other("the sync failed"));
        }
        inner.unsynced.clear();
        Ok(())
    }

    fn simulated_pause(&self) -> Option<Duration> {
        let mut inner = self.inner.lock();
        let most = inner.ills.pause_ms_max.max(PAUSE_MS_MAX);
        let pause_ms = inner.rng.random_range(0..=most);
        Some(Duration::from_millis(pause_ms))
    }
}

impl OpenFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner, u64) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.lock();
        if inner.age != self.age {
            return Err(gone());
        }
        act(&mut inner, self.file)
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|inner, file| {
            inner.spend()?;
            if inner.sync_fails() {
                return Err(io::Error::other("the sync failed"));
            }
            inner.files.entry(file).or_default().unsynced.clear();
            Ok(())
        })
    }
}

impl DiskFile for OpenFile {
    fn bytes(&self) -> io::Result<u64> {
        self.with(|inner, file| Ok(inner.files.get(&file).map_or(0, |data| data.bytes.len() as u64)))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|inner, file| {
            let data = inner.files.get(&file).ok_or(io::ErrorKind::NotFound)?;
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = data.bytes.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|inner, file| {
            inner.check_room()?;
            inner.spend()?;
            let data = inner.files.entry(file).or_default();
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            let end = at + bytes.len();
            if data.bytes.len() < end {
                data.bytes.resize(end, 0);
            }
            let before = data.bytes[at..end].to_vec();
            data.unsynced.push((at, before));
            data.bytes[at..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

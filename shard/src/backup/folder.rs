//! Writing a backup's folder: each file under another name until it is whole and synced, the manifest
//! last. What is given up on the way leaves nothing.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use super::manifest::{MANIFEST, Manifest};
use super::reading::failed;
use crate::crash;
use crate::disk;
use crate::error::ShardError;
use crate::simulation;

/// What a file's name ends with until it is whole.
const PART: &str = ".part";

/// A folder that is being written. What it has made goes with it, unless it is finished.
pub struct Writer {
    dir: PathBuf,
    spares_room: bool,
    made_dir: bool,
    /// Files that are not part of a finished backup.
    made: BTreeSet<PathBuf>,
}

/// A file that is being written, and its checksums so far.
pub struct NewFile {
    name: String,
    part: PathBuf,
    file: File,
    bytes: u64,
    sha256: Sha256,
    checksum: Xxh3Default,
}

/// A file that is whole.
pub(super) struct Done {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// XXH3, 64 bits.
    pub(super) checksum: u64,
}

fn sync_folder(dir: &Path) -> Result<(), ShardError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("syncing", dir))
}

/// Names in a folder.
pub(super) fn names(dir: &Path) -> Result<BTreeSet<String>, ShardError> {
    let entries = std::fs::read_dir(dir).map_err(failed("listing", dir))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names.collect::<Result<_, _>>().map_err(failed("listing", dir))
}

impl Writer {
    /// Begins a backup in a folder that is not there yet, or empty.
    pub(super) fn create(dir: &Path, spares_room: bool) -> Result<Self, ShardError> {
        let made_dir = match std::fs::symlink_metadata(dir) {
            Ok(metadata) if !metadata.is_dir() => {
                return Err(ShardError::Refused(format!("{} is there and no folder", dir.display())));
            }
            Ok(_) => false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // For nobody else: it holds all that the cluster has.
                DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("making", dir))?;
                true
            }
            Err(error) => return Err(failed("looking at", dir)(error)),
        };
        match names(dir)?.first() {
            None => Ok(Self { dir: dir.to_owned(), spares_room, made_dir, made: BTreeSet::new() }),
            Some(name) if name == MANIFEST => Err(ShardError::Refused(format!(
                "there is a backup in {} already: add to it (--extend), or name another folder",
                dir.display()
            ))),
            Some(_) => {
                Err(ShardError::Refused(format!("{} is not empty: name another folder", dir.display())))
            }
        }
    }

    /// Goes on with a backup. What an earlier try has left goes first.
    pub(super) fn reopen(dir: &Path, manifest: &Manifest, spares_room: bool) -> Result<Self, ShardError> {
        let known: BTreeSet<&str> = manifest.files().map(|(name, ..)| name).chain([MANIFEST]).collect();
        for name in names(dir)?.iter().filter(|name| !known.contains(name.as_str())) {
            if !name.starts_with("shard-") && !name.ends_with(PART) {
                return Err(ShardError::Refused(format!("{}: {name} is no part of a backup", dir.display())));
            }
            let path = dir.join(name);
            std::fs::remove_file(&path).map_err(failed("removing", &path))?;
        }
        Ok(Self { dir: dir.to_owned(), spares_room, made_dir: false, made: BTreeSet::new() })
    }

    /// Refuses what would leave the log on the same disk without room.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), ShardError> {
        match self.spares_room {
            true => disk::check_room(&self.dir, bytes),
            false => Ok(()),
        }
    }

    /// Begins a file, anew if it was begun before.
    pub(super) fn file(&mut self, name: &str) -> Result<NewFile, ShardError> {
        let (path, part) = (self.dir.join(name), self.dir.join(format!("{name}{PART}")));
        for old in [&path, &part] {
            match std::fs::remove_file(old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("removing", old)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(failed("making", &part))?;
        self.made.extend([path, part.clone()]);
        let (sha256, checksum) = (Sha256::new(), Xxh3Default::new());
        Ok(NewFile { name: name.to_owned(), part, file, bytes: 0, sha256, checksum })
    }

    /// Makes what was written a backup.
    pub(super) fn finish(mut self, manifest: &Manifest) -> Result<(), ShardError> {
        let (path, part) = (self.dir.join(MANIFEST), self.dir.join(format!("{MANIFEST}{PART}")));
        // The files' names must stay before the one that counts on them does.
        sync_folder(&self.dir)?;
        self.made.insert(part.clone());
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(&manifest.encode())?;
            file.sync_all()
        };
        write().map_err(failed("writing", &part))?;
        crash::point("backup.manifest.before");
        std::fs::rename(&part, &path).map_err(failed("renaming", &part))?;
        self.made.clear();
        self.made_dir = false;
        sync_folder(&self.dir)?;
        if let Some(above) = self.dir.parent().filter(|above| !above.as_os_str().is_empty()) {
            sync_folder(above)?;
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for path in &self.made {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a part of a backup that was given up is still there");
            }
        }
        if self.made_dir {
            // Somebody else's files may be in it by now.
            let _ = std::fs::remove_dir(&self.dir);
        }
    }
}

impl NewFile {
    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes more.
    pub(super) async fn push(mut self, piece: Bytes) -> Result<Self, ShardError> {
        let written = simulation::blocking(move || {
            self.file.write_all(&piece).map_err(failed("writing", &self.part))?;
            self.bytes += piece.len() as u64;
            self.sha256.update(&piece);
            self.checksum.update(&piece);
            Ok::<_, ShardError>(self)
        });
        written.await.map_err(|error| ShardError::Stopped(error.to_string()))?
    }

    /// Syncs it and gives it its name.
    pub(super) async fn finish(self) -> Result<Done, ShardError> {
        let ended = simulation::blocking(move || {
            self.file.sync_all().map_err(failed("syncing", &self.part))?;
            crash::point("backup.file.before");
            let path = self.part.with_file_name(&self.name);
            std::fs::rename(&self.part, &path).map_err(failed("renaming", &self.part))?;
            let (name, bytes, checksum) = (self.name, self.bytes, self.checksum.digest());
            Ok::<_, ShardError>(Done { name, bytes, sha256: hex::encode(self.sha256.finalize()), checksum })
        });
        ended.await.map_err(|error| ShardError::Stopped(error.to_string()))?
    }
}

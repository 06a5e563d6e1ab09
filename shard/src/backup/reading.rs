//! Reading the files of a backup: plain ones, by their own names, and no others.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use sha2::{Digest, Sha256};

use crate::error::ShardError;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The error of something that was being done with a file.
pub(super) fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

/// Opens a plain file; a symlink, a pipe or a folder is refused.
pub(super) fn open_plain(path: &Path) -> Result<File, ShardError> {
    let mut options = OpenOptions::new();
    // A pipe would be waited for.
    let opened = options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = opened.map_err(failed("opening", path))?;
    match file.metadata().map_err(failed("looking at", path))?.is_file() {
        true => Ok(file),
        false => Err(ShardError::Refused(format!("{} is no plain file", path.display()))),
    }
}

/// Reads a file of a backup to its end and hands it on; an error when it is not what the manifest says.
pub(super) fn read_whole(
    path: &Path,
    (bytes, sha256): (u64, &str),
    to: &mut dyn Write,
) -> Result<(), ShardError> {
    let mut file = open_plain(path)?;
    let (mut hash, mut read_bytes) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(failed("reading", path))?;
        if read == 0 {
            break;
        }
        read_bytes += read as u64;
        if read_bytes > bytes {
            break;
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(failed("copying", path))?;
    }
    let damaged = |what: &str| Err(ShardError::Damaged(format!("{}: {what}", path.display())));
    if read_bytes != bytes {
        return damaged("it is not as long as the manifest says");
    }
    match hex::encode(hash.finalize()) == sha256 {
        true => Ok(()),
        false => damaged("it is not what was written: its checksum is another"),
    }
}

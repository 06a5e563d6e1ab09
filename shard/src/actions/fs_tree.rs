//! Walks over folders by open descriptors: list, remove, copy. Symlinks are never followed.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::fs_guard::open_at;

/// Entries that one walk may meet.
pub(super) const ENTRIES_MAX: usize = 100_000;
/// Deepest folder of a walk.
const DEPTH_MAX: usize = 64;
const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// An open folder and a name in it.
pub(super) type End<'a> = (BorrowedFd<'a>, &'a OsStr);

/// One entry of a folder.
pub(super) struct Entry {
    pub(super) name: OsString,
    /// Path from the folder that was walked, with its name.
    pub(super) path: String,
    pub(super) stat: FileStat,
}

pub(super) fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

pub(super) fn is_file(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// The entries of a folder sorted by path, with those of the folders in it when `is_recursive`, but
/// for those in `closed` ones.
pub(super) fn list(folder: OwnedFd, is_recursive: bool, closed: &[(u64, u64)]) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    let mut folders = VecDeque::from([(folder, String::new(), 0)]);
    while let Some((folder, prefix, depth)) = folders.pop_front() {
        for name in names(&folder, ENTRIES_MAX - entries.len())? {
            let stat = match fstatat(&folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            let path = format!("{prefix}{}", name.to_string_lossy());
            if is_recursive && is_dir(&stat) && !closed.contains(&(stat.st_dev, stat.st_ino)) {
                if depth == DEPTH_MAX {
                    return Err(Errno::ENAMETOOLONG);
                }
                let inner = openat(&folder, name.as_os_str(), FOLDER, Mode::empty())?;
                folders.push_back((inner, format!("{path}/"), depth + 1));
            }
            entries.push(Entry { name, path, stat });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Removes a folder and all in it.
pub(super) fn remove(folder: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<(), Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let inner = openat(folder, name, FOLDER, Mode::empty())?;
    for child in names(&inner, ENTRIES_MAX)? {
        match unlinkat(&inner, child.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // Linux says EISDIR for a folder, POSIX allows EPERM.
            Err(Errno::EISDIR | Errno::EPERM) => remove(inner.as_fd(), &child, depth + 1)?,
            Err(errno) => return Err(errno),
        }
    }
    unlinkat(folder, name, UnlinkatFlags::RemoveDir)
}

/// Copies a folder into another, made if need be; the bytes copied. Symlinks and special files are
/// left out, and so is what is `closed`, and the target itself where it lies in the source.
pub(super) fn copy(from: End<'_>, to: End<'_>, closed: &[(u64, u64)]) -> Result<u64, Errno> {
    make_folder(to)?;
    let target = fstatat(to.0, to.1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let skipped: Vec<_> = closed.iter().copied().chain([(target.st_dev, target.st_ino)]).collect();
    copy_inner(from, to, &skipped, 0)
}

fn make_folder((folder, name): End<'_>) -> Result<(), Errno> {
    match mkdirat(folder, name, Mode::from_bits_truncate(0o777)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn copy_inner(from: End<'_>, to: End<'_>, skipped: &[(u64, u64)], depth: usize) -> Result<u64, Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    make_folder(to)?;
    let source = openat(from.0, from.1, FOLDER, Mode::empty())?;
    let target = openat(to.0, to.1, FOLDER, Mode::empty())?;
    let mut bytes = 0;
    for child in names(&source, ENTRIES_MAX)? {
        let stat = fstatat(&source, child.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let ends = ((source.as_fd(), child.as_os_str()), (target.as_fd(), child.as_os_str()));
        if skipped.contains(&(stat.st_dev, stat.st_ino)) {
            continue;
        }
        if is_dir(&stat) {
            bytes += copy_inner(ends.0, ends.1, skipped, depth + 1)?;
        } else if is_file(&stat) {
            bytes += copy_file(ends.0, ends.1, &stat)?;
        }
    }
    Ok(bytes)
}

/// Copies a file's bytes and permissions; the bytes copied.
pub(super) fn copy_file(from: End<'_>, to: End<'_>, stat: &FileStat) -> Result<u64, Errno> {
    let mut source = open_at(from.0, from.1, OFlag::O_RDONLY, 0)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let mut target = open_at(to.0, to.1, flags, stat.st_mode & 0o777)?;
    io::copy(&mut source, &mut target).map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// The names in a folder, sorted; over `count_max` is `E2BIG`.
fn names(folder: &OwnedFd, count_max: usize) -> Result<Vec<OsString>, Errno> {
    let mut dir = Dir::openat(folder, ".", FOLDER, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if names.len() == count_max {
            return Err(Errno::E2BIG);
        }
        names.push(OsStr::from_bytes(name).to_owned());
    }
    names.sort();
    Ok(names)
}

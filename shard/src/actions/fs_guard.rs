//! Confines paths to the folders that are open to actions, symlinks resolved.
//!
//! A path is resolved to its real one, which must lie under a root, and is then walked again from
//! that root, one component at a time, refusing symlinks. Whatever is swapped in between, the
//! walk either stays under the root or fails: nothing is opened by a path that was only checked.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use opcode_engine::{Code, Fault};

use super::Failure;

/// Longest path, in bytes, and most components of one.
const PATH_BYTES_MAX: usize = 4_096;
const COMPONENTS_MAX: usize = 256;
const WALK: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The folders that are open.
#[derive(Debug)]
pub(super) struct FsGuard {
    roots: Vec<PathBuf>,
    working_dir: PathBuf,
    /// What lies under no root, wherever it lies: the node's own files; resolved.
    closed: Vec<PathBuf>,
}

/// What to do with a symlink that is the last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLink {
    /// Go on to what it points to.
    Follow,
    /// It is meant itself.
    Keep,
}

/// A place under a root: an open folder and a name in it.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    /// `None`: the root itself.
    name: Option<OsString>,
    /// The path as the caller wrote it.
    pub(super) shown: String,
    /// The path with every symlink resolved, as it was found.
    pub(super) real: PathBuf,
}

impl FsGuard {
    pub(super) fn new(roots: Vec<PathBuf>, working_dir: PathBuf) -> Self {
        Self { roots, working_dir, closed: Vec::new() }
    }

    /// The same, but for files and folders that stay closed.
    pub(super) fn without(self, closed: Vec<PathBuf>) -> Self {
        Self { closed, ..self }
    }

    /// Whether a place is, or lies above, something that is closed.
    pub(super) fn is_around_closed(&self, place: &Place) -> bool {
        self.closed.iter().any(|closed| closed.starts_with(&place.real))
    }

    /// What is closed, for walks that meet it: device and number.
    pub(super) fn closed_ids(&self) -> Vec<(u64, u64)> {
        let found = self.closed.iter().filter_map(|closed| fs::metadata(closed).ok());
        found.map(|found| (found.dev(), found.ino())).collect()
    }

    /// Finds a path's place, whether anything is there or not; `create_dirs` makes the folders
    /// above it.
    pub(super) fn locate(&self, path: &str, last: LastLink, create_dirs: bool) -> Result<Place, Failure> {
        if path.is_empty() || path.contains('\0') || path.len() > PATH_BYTES_MAX {
            return Err(
                Fault::new(Code::ValidationError, "a path is empty, too long or has a NUL in it").into()
            );
        }
        let denied = |why: &str| Fault::new(Code::PathDenied, format!("{path:?} {why}"));
        let real = real_path(&self.working_dir.join(path), last).map_err(denied)?;
        if self.closed.iter().any(|closed| real.starts_with(closed)) {
            return Err(denied("belongs to the node itself").into());
        }
        let root = self
            .roots
            .iter()
            .filter_map(|root| fs::canonicalize(root).ok())
            .filter(|root| real.starts_with(root))
            .max_by_key(|root| root.as_os_str().len())
            .ok_or_else(|| denied("is outside the folders that are open to actions"))?;
        let inner = real.strip_prefix(&root).expect("the root was chosen as a prefix");
        let names: Vec<&OsStr> = inner.components().map(Component::as_os_str).collect();
        if names.len() > COMPONENTS_MAX {
            return Err(denied("is too deep").into());
        }
        let fails = |errno| io_failure(path, errno);
        // The root's own path is the operator's, so links in it are followed.
        let mut folder = open(&root, WALK.difference(OFlag::O_NOFOLLOW), Mode::empty()).map_err(fails)?;
        let (name, folders) = match names.split_last() {
            Some((name, folders)) => (Some(name.to_os_string()), folders),
            None => (None, names.as_slice()),
        };
        for name in folders {
            folder = enter(folder.as_fd(), name, create_dirs).map_err(fails)?;
        }
        Ok(Place { folder, name, shown: path.to_owned(), real: real.clone() })
    }
}

fn enter(folder: BorrowedFd<'_>, name: &OsStr, create: bool) -> Result<OwnedFd, Errno> {
    match openat(folder, name, WALK, Mode::empty()) {
        Err(Errno::ENOENT) if create => {
            match mkdirat(folder, name, Mode::from_bits_truncate(0o777)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            openat(folder, name, WALK, Mode::empty())
        }
        other => other,
    }
}

/// The path with every symlink resolved; what does not exist yet follows what does.
fn real_path(path: &Path, last: LastLink) -> Result<PathBuf, &'static str> {
    let mut missing: Vec<OsString> = Vec::new();
    let mut existing = path;
    if last == LastLink::Keep
        && let (Some(name), Some(parent)) = (path.file_name(), path.parent())
    {
        missing.push(name.to_owned());
        existing = parent;
    }
    for _ in 0..PATH_BYTES_MAX {
        match fs::canonicalize(existing) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(_) => return Err("cannot be resolved"),
        }
        if fs::symlink_metadata(existing).is_ok_and(|m| m.is_symlink()) {
            return Err("is a symlink to nothing");
        }
        // A path that climbs with `..` out of what does not exist has no real path.
        let (Some(name), Some(parent)) = (existing.file_name(), existing.parent()) else {
            return Err("cannot be resolved");
        };
        missing.push(name.to_owned());
        existing = parent;
    }
    Err("cannot be resolved")
}

impl Place {
    /// Whether it is a root itself, which may be listed but not written, moved or deleted.
    pub(super) fn is_root(&self) -> bool {
        self.name.is_none()
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    pub(super) fn name(&self) -> &OsStr {
        self.name.as_deref().unwrap_or(OsStr::from_bytes(b"."))
    }

    /// Another name in the same folder.
    pub(super) fn beside(&self, name: OsString) -> Result<Self, Failure> {
        let folder = self.folder.try_clone().map_err(|e| failure_of_io(&self.shown, &e))?;
        let real = self.real.with_file_name(&name);
        Ok(Self { folder, name: Some(name), shown: self.shown.clone(), real })
    }

    /// Opens it; a symlink is not followed, and a pipe or device does not block.
    pub(super) fn open(&self, flags: OFlag, mode: u32) -> Result<fs::File, Failure> {
        open_at(self.folder(), self.name(), flags, mode).map_err(|errno| self.failure(errno))
    }

    /// What is there, or `None`.
    pub(super) fn stat(&self) -> Result<Option<FileStat>, Failure> {
        match fstatat(self.folder(), self.name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failure(errno)),
        }
    }

    /// What went wrong with it, for its caller.
    pub(super) fn failure(&self, errno: Errno) -> Failure {
        io_failure(&self.shown, errno)
    }

    /// Opens the folder that it is.
    pub(super) fn open_folder(&self) -> Result<OwnedFd, Failure> {
        let flags = WALK.difference(OFlag::O_PATH).union(OFlag::O_RDONLY);
        openat(self.folder(), self.name(), flags, Mode::empty()).map_err(|errno| self.failure(errno))
    }
}

/// Opens a name in a folder; a symlink is not followed, and a pipe or device does not block.
pub(super) fn open_at(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlag,
    mode: u32,
) -> Result<fs::File, Errno> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    openat(folder, name, flags, Mode::from_bits_truncate(mode)).map(fs::File::from)
}

/// A failure of the file system; only what is not the caller's doing counts as an outage.
pub(super) fn io_failure(path: &str, errno: Errno) -> Failure {
    let why = match errno {
        Errno::ENOENT => "does not exist",
        Errno::ENOTDIR => "is not a folder, or lies under a file",
        Errno::EISDIR => "is a folder",
        Errno::EEXIST => "exists already",
        Errno::ENOTEMPTY => "is a folder that is not empty (recursive is off)",
        Errno::ENXIO => "is not a file",
        Errno::ELOOP => {
            return Fault::new(Code::PathDenied, format!("{path:?} leads through a symlink")).into();
        }
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            return Fault::new(Code::PermissionDenied, format!("{path:?}: {}", errno.desc())).into();
        }
        Errno::E2BIG => "holds too many entries",
        Errno::ENAMETOOLONG => "is too long or too deep",
        Errno::EINVAL => "cannot be put into itself, or is no name here",
        other => {
            let message = format!("{path:?}: {}", other.desc());
            return Failure::outage(Fault::new(Code::ExecutionError, message));
        }
    };
    Fault::new(Code::ExecutionError, format!("{path:?} {why}")).into()
}

/// The same for an error of the standard library.
pub(super) fn failure_of_io(path: &str, error: &io::Error) -> Failure {
    io_failure(path, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        dir: tempfile::TempDir,
        guard: FsGuard,
    }

    /// `root/sub/file` inside, `outside/secret` beside it.
    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(root.join("sub/file"), "in").unwrap();
        fs::write(dir.path().join("outside/secret"), "out").unwrap();
        let guard = FsGuard::new(vec![root.clone()], root);
        Tree { dir, guard }
    }

    impl Tree {
        fn code(&self, path: &str) -> Option<Code> {
            self.guard.locate(path, LastLink::Follow, false).err().map(|f| f.fault.code)
        }
    }

    #[test]
    fn inside_is_open_and_outside_is_not() {
        let t = tree();
        let root = t.dir.path().join("root");
        let absolute = root.join("sub/file");
        for path in ["sub/file", "sub/../sub/file", ".", "new", "sub/./file", absolute.to_str().unwrap()] {
            assert_eq!(t.code(path), None, "{path}");
        }
        let beside = format!("{}x/file", root.display());
        for path in [
            "..",
            "../outside/secret",
            "sub/../../outside/secret",
            "/etc/passwd",
            "/",
            "new/../../x",
            &beside,
        ] {
            assert_eq!(t.code(path), Some(Code::PathDenied), "{path}");
        }
        assert_eq!(t.code("a\0b"), Some(Code::ValidationError));
        assert_eq!(
            FsGuard::new(vec![], root).locate("sub", LastLink::Follow, false).unwrap_err().fault.code,
            Code::PathDenied
        );
    }

    #[test]
    fn symlinks_are_resolved_before_they_are_judged() {
        let t = tree();
        let root = t.dir.path().join("root");
        symlink("../outside", root.join("escape")).unwrap();
        symlink(t.dir.path().join("outside/secret"), root.join("escape_file")).unwrap();
        symlink("sub", root.join("stay")).unwrap();
        symlink(root.join("sub/file"), root.join("stay_file")).unwrap();
        symlink("../outside/new", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for path in ["escape/secret", "escape/new", "escape", "escape_file", "dangling", "loop", "loop/x"] {
            assert_eq!(t.code(path), Some(Code::PathDenied), "{path}");
        }
        for path in ["stay/file", "stay_file", "stay/new"] {
            assert_eq!(t.code(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_the_nodes_own_stays_closed_under_a_root() {
        let mut t = tree();
        let root = t.dir.path().join("root").canonicalize().unwrap();
        fs::create_dir_all(root.join("data/shards")).unwrap();
        symlink("data", root.join("link")).unwrap();
        t.guard = FsGuard::new(vec![root.clone()], root.clone()).without(vec![root.join("data")]);
        for path in ["data", "data/new", "data/shards", "link/shards", "sub/../data"] {
            assert_eq!(t.code(path), Some(Code::PathDenied), "{path}");
        }
        assert_eq!(t.code("data-old"), None);
        let around = t.guard.locate(".", LastLink::Follow, false).unwrap();
        let beside = t.guard.locate("sub", LastLink::Follow, false).unwrap();
        assert!(t.guard.is_around_closed(&around) && !t.guard.is_around_closed(&beside));
        assert_eq!(t.guard.closed_ids().len(), 1);
    }

    #[test]
    fn a_link_swapped_in_after_the_check_is_not_followed() {
        let t = tree();
        let root = t.dir.path().join("root");
        let place = t.guard.locate("sub/file", LastLink::Follow, false).unwrap();
        fs::remove_file(root.join("sub/file")).unwrap();
        symlink(t.dir.path().join("outside/secret"), root.join("sub/file")).unwrap();
        let failure = place.open(OFlag::O_RDONLY, 0).unwrap_err();
        assert_eq!(failure.fault.code, Code::PathDenied);
        let folder = open(&root, WALK, Mode::empty()).unwrap();
        symlink("../outside", root.join("folder")).unwrap();
        assert!(enter(folder.as_fd(), OsStr::new("folder"), true).is_err());
    }
}

//! Which files a program may touch, by Landlock: it reads the system, writes in the folders that it
//! was given, and signals nobody but what it started. Names may be listed everywhere that nothing
//! hides; contents may not.
//!
//! Landlock knows only what is open. So around what is closed, everything beside it is opened: where
//! a closed folder lies in a folder that may be written to, it is open too, unless it is hidden.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

/// The rights that are ruled over: those of the versions up to this one, as far as a kernel has them.
const KNOWN: ABI = ABI::V5;
/// Devices that every program may use; no others, since root could read the disk.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// Entries of one folder that are looked at. What is beyond stays closed.
const ENTRIES_MAX: usize = 10_000;

/// Restricts this process and what it becomes; Landlock's version.
pub(super) fn restrict(closed: &[PathBuf], writable: &[PathBuf]) -> Result<i32, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let (all, read) = (AccessFs::from_all(KNOWN), AccessFs::from_read(KNOWN));
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let everywhere = PathFd::new("/").map_err(|error| told(&error))?;
    let rules = || -> Result<RestrictionStatus, RulesetError> {
        Ruleset::default()
            .handle_access(all)?
            .scope(Scope::Signal)?
            .create()?
            .add_rule(PathBeneath::new(everywhere, AccessFs::ReadDir))?
            .add_rules(path_beneath_rules(open_to_read(closed), read))?
            .add_rules(path_beneath_rules(DEVICES, device))?
            .add_rules(path_beneath_rules(writable, all))?
            .restrict_self()
    };
    match rules().map_err(|error| told(&error))?.landlock {
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            Ok(kernel_abi.unwrap_or(effective_abi as i32))
        }
        LandlockStatus::NotEnabled => Err("off in this kernel".to_owned()),
        LandlockStatus::NotImplemented => Err("not in this kernel".to_owned()),
    }
}

/// All that is neither a device nor closed, as few folders as say so.
fn open_to_read(closed: &[PathBuf]) -> Vec<PathBuf> {
    let mut around: Vec<&Path> = closed.iter().map(PathBuf::as_path).collect();
    around.push(Path::new("/dev"));
    let mut open = Vec::new();
    beside(Path::new("/"), &around, &mut open);
    open
}

fn beside(path: &Path, closed: &[&Path], open: &mut Vec<PathBuf>) {
    if closed.iter().any(|closed| path.starts_with(closed)) {
        return;
    }
    if !closed.iter().any(|closed| closed.starts_with(path)) {
        open.push(path.to_owned());
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.take(ENTRIES_MAX).flatten() {
        // Where a link leads is open by itself, or closed.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            beside(&entry.path(), closed, open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_beside_what_is_closed_is_open() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for folder in ["data/shards", "data-old", "files/a"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("key"), "k").unwrap();
        std::os::unix::fs::symlink(root.join("data"), root.join("link")).unwrap();
        let open = open_to_read(&[root.join("data"), root.join("key")]);
        let is_open = |path: &str| open.iter().any(|open| Path::new(path).starts_with(open));
        let at = |path: &str| root.join(path).display().to_string();
        for path in [at("data-old"), at("files/a/b"), "/usr/bin/env".into(), "/proc/self".into()] {
            assert!(is_open(&path), "{path}");
        }
        for path in [at("data"), at("data/shards/0"), at("key"), at("link"), "/dev/sda".into(), "/".into()] {
            assert!(!is_open(&path), "{path}");
        }
    }
}

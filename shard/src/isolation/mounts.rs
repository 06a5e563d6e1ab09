//! The node's own files, hidden: a program sees an empty folder, or an empty file, in their place.
//!
//! In a mount namespace of the program's own; where that asks for root and the node is not root, in
//! a user namespace too, in which the program is who it was.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Hides folders and files from this process and what it becomes.
pub(super) fn hide(closed: &[PathBuf]) -> Result<(), String> {
    enter().map_err(|error| format!("not permitted: {error}"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("not permitted: {errno}"))?;
    for path in closed {
        let hidden = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(Some("none"), path, Some("tmpfs"), flags, Some("mode=0555,size=4k"))
            }
            Ok(_) => mount(Some("/dev/null"), path, none, MsFlags::MS_BIND, none),
            // What is not there shows nothing.
            Err(_) => Ok(()),
        };
        hidden.map_err(|errno| format!("{} cannot be hidden: {errno}", path.display()))?;
    }
    Ok(())
}

fn enter() -> std::io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) => unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?,
        done => return done.map_err(Into::into),
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

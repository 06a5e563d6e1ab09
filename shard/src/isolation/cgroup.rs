//! Cgroups, where this node may make them: bounds of memory and processes that hold for a program with
//! all that it starts, and a hand on all of that, whatever process group or session it went into.
//!
//! Version 2 where its controllers are there, else version 1. What a node that was killed has left
//! is ended and taken away by the next one that starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Limits;

/// What every group of ours begins with; behind it the node's PID namespace, its process in it, and a
/// number.
const PREFIX: &str = "opcode-";
/// Where version 2 wants the node itself, once there are groups beside it.
const OWN: &str = "opcode-node";
/// How often, and how many times, a group is looked at until all in it have ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS_MAX: usize = 500;

/// Where a node makes groups.
pub(super) struct Cgroups {
    /// One for version 2; one for each controller of version 1.
    folders: Vec<Folder>,
    told: String,
    next: AtomicU64,
}

/// A folder of the hierarchy and what groups in it are bounded by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    is_v2: bool,
    bounds_memory: bool,
    bounds_processes: bool,
}

impl Cgroups {
    pub(super) fn none() -> Self {
        Self { folders: Vec::new(), told: "not used".to_owned(), next: AtomicU64::new(0) }
    }

    /// Looks for folders that groups can be made in, and takes away what is left of nodes before.
    pub(super) fn find() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (mounts, own) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
        let (mut folders, mut why) = (Vec::new(), Vec::new());
        for folder in hierarchies(&mounts, &own) {
            match prepare(&folder) {
                Ok(folder) if folder.is_v2 => (folders, why) = (vec![folder], Vec::new()),
                Ok(folder) => folders.push(folder),
                Err(error) => why.push(format!("{}: {error}", folder.path.display())),
            }
            if folders.iter().any(|folder: &Folder| folder.is_v2) {
                break;
            }
        }
        folders.iter().for_each(|folder| sweep(&folder.path));
        let told = describe(&folders, &why);
        Self { folders, told, next: AtomicU64::new(0) }
    }

    pub(super) fn are_there(&self) -> bool {
        !self.folders.is_empty()
    }

    pub(super) fn told(&self) -> &str {
        &self.told
    }

    /// A group for one program; none where there are none.
    pub(super) fn make(&self, limits: &Limits) -> io::Result<Option<Cgroup>> {
        if self.folders.is_empty() {
            return Ok(None);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", own_prefix(std::process::id()));
        let mut cgroup = Cgroup { folders: Vec::new() };
        for folder in &self.folders {
            let path = folder.path.join(&name);
            fs::create_dir(&path)?;
            cgroup.folders.push(path.clone());
            if folder.bounds_processes {
                fs::write(path.join("pids.max"), limits.processes.to_string())?;
            }
            if folder.bounds_memory {
                let file = if folder.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
                fs::write(path.join(file), limits.memory_bytes.to_string())?;
            }
        }
        Ok(Some(cgroup))
    }
}

/// The hierarchies with a controller that is wanted, version 2 first, at this process's own place.
fn hierarchies(mountinfo: &str, own: &str) -> Vec<Folder> {
    let mut found: Vec<Folder> = mountinfo
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let (root, point) = (before.split(' ').nth(3)?, before.split(' ').nth(4)?);
            let mut words = after.split(' ');
            let (kind, options) = (words.next()?, words.nth(1)?);
            let has = |controller: &str| options.split(',').any(|option| option == controller);
            let is_v2 = kind == "cgroup2";
            if !is_v2 && (kind != "cgroup" || !(has("memory") || has("pids"))) {
                return None;
            }
            let place = own.lines().find_map(|line| {
                let (_, line) = line.split_once(':')?;
                let (controllers, place) = line.split_once(':')?;
                let is_it = if is_v2 { controllers.is_empty() } else { controllers.split(',').any(has) };
                is_it.then_some(place)
            })?;
            // What is mounted may be a part of the hierarchy.
            let inner = place.strip_prefix(root.trim_end_matches('/')).unwrap_or(place);
            let path = Path::new(point).join(inner.trim_start_matches('/'));
            Some(Folder { path, is_v2, bounds_memory: has("memory"), bounds_processes: has("pids") })
        })
        .collect();
    found.sort_by_key(|folder| !folder.is_v2);
    found
}

/// Makes a folder ready: version 2 wants its controllers handed on, and nobody beside the groups.
fn prepare(folder: &Folder) -> io::Result<Folder> {
    let mut folder = folder.clone();
    let path = &folder.path;
    if folder.is_v2 {
        let controllers = fs::read_to_string(path.join("cgroup.controllers"))?;
        let has = |name: &str| controllers.split_whitespace().any(|controller| controller == name);
        (folder.bounds_memory, folder.bounds_processes) = (has("memory"), has("pids"));
        if !folder.bounds_memory && !folder.bounds_processes {
            return Err(io::Error::other("no controllers"));
        }
        let wanted: Vec<&str> = [("+memory", "memory"), ("+pids", "pids")]
            .into_iter()
            .filter_map(|(sign, name)| has(name).then_some(sign))
            .collect();
        let wanted = wanted.join(" ");
        // The root of the hierarchy has none of this, and may hold processes.
        let is_root = !path.join("cgroup.type").exists();
        if !is_root {
            let own = path.join(OWN);
            fs::create_dir(&own).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })?;
            fs::write(own.join("cgroup.procs"), "0")?;
        }
        if let Err(error) = fs::write(path.join("cgroup.subtree_control"), wanted) {
            // Back where it was: others are there, whom nobody may send away.
            if !is_root && fs::write(path.join("cgroup.procs"), "0").is_ok() {
                let _ = fs::remove_dir(path.join(OWN));
            }
            return Err(error);
        }
    }
    let trial = path.join(format!("{}trial", own_prefix(std::process::id())));
    fs::create_dir(&trial)?;
    fs::remove_dir(&trial)?;
    Ok(folder)
}

fn describe(folders: &[Folder], why: &[String]) -> String {
    let bounds = |is_bound: fn(&Folder) -> bool| folders.iter().any(is_bound);
    let names = [("memory", bounds(|f| f.bounds_memory)), ("pids", bounds(|f| f.bounds_processes))];
    let names: Vec<&str> = names.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    match folders.first() {
        Some(folder) => format!("{}: {}", if folder.is_v2 { "v2" } else { "v1" }, names.join(", ")),
        None if why.is_empty() => "not in this kernel".to_owned(),
        None => format!("not permitted: {}", why.join("; ")),
    }
}

/// What the groups of a node begin with that is this process of this PID namespace.
fn own_prefix(node: u32) -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{PREFIX}{digits}-{node}-")
}

/// Ends and takes away groups of nodes that are no more.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let node = name.split('-').nth(2).and_then(|node| node.parse().ok());
        // Of processes of another namespace nobody here can say that they are no more.
        let is_left =
            |node: u32| name.starts_with(&own_prefix(node)) && !Path::new(&format!("/proc/{node}")).exists();
        if node.is_some_and(is_left) {
            drop(Cgroup { folders: vec![entry.path()] });
        }
    }
}

/// A group of one program. Dropped, all in it are killed, and it goes when they have.
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// The files that take a process in.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let folders = std::mem::take(&mut self.folders);
        if folders.iter().filter(|folder| !is_gone(folder)).count() == 0 {
            return;
        }
        // The kernel tells nobody when the last of a group of version 1 has ended.
        let last = move || {
            for _ in 0..LOOKS_MAX {
                if folders.iter().filter(|folder| !is_gone(folder)).count() == 0 {
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            tracing::warn!(?folders, "what a program has left behind does not end");
        };
        if let Err(error) = std::thread::Builder::new().name("cgroup-end".into()).spawn(last) {
            tracing::warn!(%error, "a program's cgroup stays until the node starts again");
        }
    }
}

/// Kills all in a group and takes it away; whether it is gone.
fn is_gone(folder: &Path) -> bool {
    // From here on nothing in it can multiply.
    let _ = fs::write(folder.join("pids.max"), "0");
    if fs::write(folder.join("cgroup.kill"), "1").is_err() {
        let inside = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
            // One that has ended meanwhile is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_where_this_process_is_in_them() {
        let v2 = "34 25 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = hierarchies(v2, "0::/system.slice/opcode.service\n");
        assert_eq!(found[0].path, Path::new("/sys/fs/cgroup/system.slice/opcode.service"));
        assert!(found[0].is_v2 && found.len() == 1);
        let v1 = "30 24 0:26 /box /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  32 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  33 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(v1, "8:pids:/box/1\n4:memory:/api/2\n0::/\n");
        let paths: Vec<String> = found.iter().map(|folder| folder.path.display().to_string()).collect();
        assert_eq!(
            paths,
            ["/sys/fs/cgroup/unified/", "/sys/fs/cgroup/pids/1", "/sys/fs/cgroup/memory/api/2"]
        );
        assert!(found[1].bounds_processes && !found[1].bounds_memory && found[2].bounds_memory);
        assert!(hierarchies("nonsense\n - \n", "").is_empty());
    }

    #[test]
    fn what_left_its_session_ends_with_its_group() {
        let cgroups = Cgroups::find();
        let limits = Limits { processes: 8, ..Limits::default() };
        let Some(cgroup) = cgroups.make(&limits).expect("a group can be made where groups are") else {
            eprintln!("NOT TESTED: cgroups are {}", cgroups.told());
            return;
        };
        let folders = cgroup.folders.clone();
        let script = "for door in \"$@\"; do echo 0 > $door; done; setsid sleep 600 & \
                      for n in 1 2 3 4 5 6 7 8 9; do sleep 600 & done 2>/dev/null; wait";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh"]).args(cgroup.doors()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let inside = || fs::read_to_string(folders[0].join("cgroup.procs")).unwrap_or_default();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while inside().lines().count() < 3 {
            assert!(std::time::Instant::now() < deadline, "never more than {:?}", inside());
            std::thread::yield_now();
        }
        drop(cgroup);
        child.wait().unwrap();
        while folders.iter().any(|folder| folder.exists()) {
            assert!(std::time::Instant::now() < deadline, "it stays: {:?}", inside());
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_in_force_is_told() {
        let folder = Folder { path: "/x".into(), is_v2: false, bounds_memory: true, bounds_processes: true };
        assert_eq!(describe(&[folder], &[]), "v1: memory, pids");
        assert_eq!(describe(&[], &[]), "not in this kernel");
        assert!(describe(&[], &["/x: read-only".into()]).starts_with("not permitted: /x"));
    }
}

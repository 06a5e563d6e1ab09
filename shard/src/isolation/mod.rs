//! Programs of others, run so that they reach little: those of `shell.exec`, and MCP plugins.
//!
//! A program is started by a process of our own, the launcher, which confines itself and then becomes
//! the program ([`launch`]), so that there is no moment in which it is free. What a host has none of
//! is left out, and the [report](Isolation::report) says so; what it has, it has to give for every
//! program, or the program is not started. The environment is clean but for what is named here. When
//! a program's time is over its process group is killed, and with a cgroup all that it ever started.

mod cgroup;
mod files;
mod launch;
mod mounts;

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use cgroup::{Cgroup, Cgroups};
pub use launch::launch_main;
use launch::{Found, Layers, Plan, Said};

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest time that finding out what a host gives may take.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// What one program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of its data, for each process, and of all of them together where there are cgroups.
    pub memory_bytes: u64,
    /// Addresses that a process may map: far more than memory, since runtimes reserve without using.
    pub address_space_bytes: u64,
    /// Largest file that it may write.
    pub file_bytes: u64,
    /// Processes and threads where there are cgroups; four times as many of the user's anywhere.
    pub processes: u64,
    /// Open files of a process.
    pub open_files: u64,
    /// Time of a processor, for each process of a command; a plugin lives on.
    pub cpu_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        Self {
            memory_bytes: 2 * GIB,
            address_space_bytes: 64 * GIB,
            file_bytes: GIB,
            processes: 1_024,
            open_files: 1_024,
            cpu_s: 3_600,
        }
    }
}

/// How a node confines programs.
#[derive(Clone, Debug, Default)]
pub struct IsolationOptions {
    /// Command line of the launcher; empty: only rlimits and the clean environment are left.
    pub launcher: Vec<String>,
    /// What one program may use.
    pub limits: Limits,
    /// The node's own files and folders, which no program and no `fs.*` is to see; resolved.
    pub closed: Vec<PathBuf>,
    /// Folders that every program may write to; resolved.
    pub writable: Vec<PathBuf>,
    /// Where programs put temporary files, and plugins live; none: where the host has them.
    pub scratch: Option<PathBuf>,
    /// Each program has a cgroup, where they can be made.
    pub groups: bool,
}

/// A program to be started.
pub struct Program<'a> {
    /// Its name or path.
    pub program: &'a str,
    /// Its arguments.
    pub args: &'a [String],
    /// Variables beside those that every program has.
    pub env: Vec<(String, String)>,
    /// Open, so that it is the folder that was checked.
    pub dir: BorrowedFd<'a>,
    /// Where that is: it may write there.
    pub dir_path: PathBuf,
    /// Its standard input is a pipe.
    pub has_input: bool,
    /// It stays until it is ended, and so has no limit of processor time.
    pub is_service: bool,
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program.
    #[error("the command cannot be started: {0}")]
    Missing(String),
    /// The host cannot start it now.
    #[error("the command cannot be started: {0}")]
    Host(io::Error),
    /// It could not be confined as programs are on this host.
    #[error("the command cannot be confined: {0}")]
    Isolation(String),
}

/// Starts programs.
pub struct Isolation {
    options: IsolationOptions,
    cgroups: Cgroups,
    found: OnceCell<Found>,
}

impl Isolation {
    /// Starts nothing yet.
    pub fn new(options: IsolationOptions) -> Arc<Self> {
        let cgroups = if options.groups { Cgroups::find() } else { Cgroups::none() };
        Arc::new(Self { options, cgroups, found: OnceCell::new() })
    }

    /// The options.
    pub fn options(&self) -> &IsolationOptions {
        &self.options
    }

    /// Starts a program, confined.
    pub async fn start(&self, program: Program<'_>) -> Result<Running, StartError> {
        let layers = self.found().await.layers();
        let cgroup = self.cgroups.make(&self.options.limits).map_err(StartError::Host)?;
        let token = format!("opcode-launch-{:032x}", rand::random::<u128>());
        let mut command = match self.options.launcher.split_first() {
            Some((launcher, args)) => {
                let plan = self.plan(&program, layers, cgroup.as_ref(), &token);
                let mut command = Command::new(launcher);
                command.args(args).arg(plan.written()).arg(program.program);
                command
            }
            None => Command::new(program.program),
        };
        self.set_environment(&mut command, program.env);
        let child = command
            .args(program.args)
            .current_dir(format!("/proc/self/fd/{}", program.dir.as_raw_fd()))
            .stdin(if program.has_input { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StartError::Missing(error.to_string()),
                _ => StartError::Host(error),
            })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.expect("a child that was not waited for has an id");
        let running = Running { child, group: Group(Pid::from_raw(id)), _cgroup: cgroup, token };
        if self.options.launcher.is_empty() {
            launch::limit_other(id, &self.options.limits)
                .map_err(|error| StartError::Isolation(format!("its limits cannot be set: {error}")))?;
        }
        Ok(running)
    }

    fn plan(&self, program: &Program<'_>, layers: Layers, cgroup: Option<&Cgroup>, token: &str) -> Plan {
        let mut writable = self.options.writable.clone();
        writable.extend(self.temporary());
        // A folder that holds all others is where a node happens to stand, not what a step was given.
        writable.extend((program.dir_path.parent().is_some()).then(|| program.dir_path.clone()));
        Plan {
            token: token.to_owned(),
            parent: std::process::id(),
            limits: self.options.limits,
            is_service: program.is_service,
            closed: self.options.closed.clone(),
            writable,
            cgroups: cgroup.map(Cgroup::doors).unwrap_or_default(),
            layers,
            is_probe: false,
        }
    }

    /// The folder of temporary files, if the node has one of its own.
    fn temporary(&self) -> Option<PathBuf> {
        self.options.scratch.as_ref().map(|scratch| scratch.join("tmp"))
    }

    fn set_environment(&self, command: &mut Command, given: Vec<(String, String)>) {
        command.env_clear();
        let own = |name: &str| std::env::var_os(name);
        let temporary = self.temporary().map(OsString::from).or_else(|| own("TMPDIR"));
        let base = [
            ("PATH", own("PATH").or(Some(PATH_DEFAULT.into()))),
            ("HOME", own("HOME")),
            ("LANG", own("LANG").or(Some("C.UTF-8".into()))),
            ("TMPDIR", temporary),
        ];
        command.envs(base.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.envs(given);
    }

    /// What this host gives, found out once by trying it.
    async fn found(&self) -> &Found {
        self.found.get_or_init(|| self.probe()).await
    }

    async fn probe(&self) -> Found {
        let Some((launcher, args)) = self.options.launcher.split_first() else {
            return Found::none("programs are started without a launcher");
        };
        let plan = Plan {
            token: String::new(),
            parent: std::process::id(),
            limits: self.options.limits,
            is_service: false,
            closed: self.options.closed.clone(),
            writable: self.options.writable.clone(),
            cgroups: Vec::new(),
            layers: Layers::ALL,
            is_probe: true,
        };
        let mut command = Command::new(launcher);
        command.args(args).arg(plan.written()).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let told = match tokio::time::timeout(PROBE_MAX, command.output()).await {
            Ok(Ok(output)) => serde_json::from_slice(&output.stdout).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the launcher does not answer".to_owned()),
        };
        told.unwrap_or_else(|why| Found::none(&format!("the launcher cannot be run: {why}")))
    }

    /// What is in force for programs on this host, in words for people and programs.
    pub async fn report(&self) -> Value {
        let found = self.found().await;
        let is_under = |closed: &PathBuf| self.options.writable.iter().any(|open| closed.starts_with(open));
        let own_files = match (found.mounts.is_ok(), found.landlock.is_ok()) {
            (true, _) => "hidden".to_owned(),
            (false, true) if !self.options.closed.iter().any(is_under) => "closed".to_owned(),
            (false, true) => "open to programs: they lie in a folder that programs may write to".to_owned(),
            (false, false) => "open to programs: only file permissions guard them".to_owned(),
        };
        let landlock = match &found.landlock {
            Ok(abi) => format!("abi {abi}"),
            Err(why) => why.clone(),
        };
        let escapes = match self.cgroups.are_there() {
            true => "what leaves a program's process group ends with its cgroup",
            false => "what leaves a program's process group outlives it",
        };
        json!({
            "rlimits": true,
            "limits": self.options.limits,
            "environment": "clean",
            "no_new_privs": found.no_new_privs,
            "capabilities": found.capabilities,
            "landlock": landlock,
            "namespaces": match &found.mounts { Ok(()) => "mount", Err(why) => why.as_str() },
            "cgroups": self.cgroups.told(),
            "own_files": own_files,
            "escapes": escapes,
            "network": "not confined",
        })
    }
}

/// Opens a folder of this user's alone, made when it is not there; one that others could have made, or a
/// link, is refused.
pub fn own_folder(folder: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = std::fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it is not a folder of this node's user"));
    }
    File::open(folder)
}

/// Kills a process group when it is dropped, so that no way out leaves one behind.
struct Group(Pid);

impl Group {
    fn kill(&self) {
        // It fails only when nothing of the group is left.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program that was started; dropped, it ends with all that it has started.
pub struct Running {
    /// Its process.
    pub child: Child,
    group: Group,
    _cgroup: Option<Cgroup>,
    token: String,
}

impl Running {
    /// Kills its process group.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// Its process, by number.
    pub fn pid(&self) -> i32 {
        self.group.0.as_raw()
    }

    /// Why it never became the program, if that is what its exit and its stderr say.
    pub fn start_error(&self, exit_code: Option<i32>, stderr: &[u8]) -> Option<StartError> {
        if exit_code != Some(i32::from(launch::FAILED)) {
            return None;
        }
        let said = stderr.strip_prefix(self.token.as_bytes())?;
        Some(match serde_json::from_slice(said) {
            Ok(Said { why, is_missing: true, .. }) => StartError::Missing(why),
            Ok(Said { why, is_confined: true, .. }) => StartError::Host(io::Error::other(why)),
            Ok(Said { why, .. }) => StartError::Isolation(why),
            Err(error) => StartError::Isolation(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_no_folder_of_ones_own() {
        let home = tempfile::tempdir().unwrap();
        own_folder(&home.path().join("plugins/a")).unwrap();
        own_folder(&home.path().join("plugins/a")).unwrap();
        std::os::unix::fs::symlink("/etc", home.path().join("plugins/b")).unwrap();
        assert!(own_folder(&home.path().join("plugins/b")).is_err());
    }
}

//! The launcher: what a program's process does before it becomes the program.
//!
//! The order matters. Groups and mounts are made while that may be done; then privileges are given
//! up, files closed, limits set; and last the kernel is told to kill it with its parent, since
//! whatever changes credentials makes the kernel forget that.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use serde::{Deserialize, Serialize};

use super::{Limits, files, mounts};

/// The exit code of a launcher that has not become its program.
pub(super) const FAILED: u8 = 126;

/// What root keeps: its own files and users. Nothing of devices, the kernel, other processes, mounts.
const KEPT: [Capability; 8] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// What a launcher is to do: the first of its arguments, behind which the program's stand.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Begins what the launcher says on stderr; the program cannot know it.
    pub(super) token: String,
    /// The process that starts it.
    pub(super) parent: u32,
    pub(super) limits: Limits,
    pub(super) is_service: bool,
    pub(super) closed: Vec<PathBuf>,
    pub(super) writable: Vec<PathBuf>,
    /// Files that take it into its cgroups.
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) layers: Layers,
    /// Nothing is started: what can be had is told on stdout.
    pub(super) is_probe: bool,
}

impl Plan {
    pub(super) fn written(&self) -> String {
        serde_json::to_string(self).expect("a plan is JSON")
    }
}

/// The layers that not every host has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Layers {
    pub(super) mounts: bool,
    pub(super) landlock: bool,
}

impl Layers {
    pub(super) const ALL: Self = Self { mounts: true, landlock: true };
}

/// What a host gives; each error says why not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) mounts: Result<(), String>,
    /// Landlock's version.
    pub(super) landlock: Result<i32, String>,
    pub(super) no_new_privs: bool,
    pub(super) capabilities: String,
}

impl Found {
    pub(super) fn none(why: &str) -> Self {
        let none = why.to_owned();
        Self {
            mounts: Err(none.clone()),
            landlock: Err(none.clone()),
            no_new_privs: false,
            capabilities: none,
        }
    }

    pub(super) fn layers(&self) -> Layers {
        Layers { mounts: self.mounts.is_ok(), landlock: self.landlock.is_ok() }
    }
}

/// Why a launcher has not become its program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) why: String,
    /// It was confined, and then could not be started.
    pub(super) is_confined: bool,
    /// There is no such program.
    pub(super) is_missing: bool,
}

/// The main of a launcher, with the arguments behind its name: a plan, the program, its arguments. Call
/// it before anything else in a process made for it, in its first thread.
pub fn launch_main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let plan = args.next().and_then(|plan| plan.into_string().ok());
    let Some(plan) = plan.and_then(|plan| serde_json::from_str::<Plan>(&plan).ok()) else {
        eprintln!("opcode: a node starts programs so, and nobody else");
        return ExitCode::from(FAILED);
    };
    let confined = confine(&plan);
    if plan.is_probe {
        let found = confined.unwrap_or_else(|why| Found::none(&why));
        let told = serde_json::to_string(&found).expect("what was found is JSON");
        // Who does not listen does not want to know.
        let _ = io::stdout().write_all(told.as_bytes());
        return ExitCode::SUCCESS;
    }
    let said = match (confined, args.next()) {
        (Ok(_), Some(program)) => {
            let error = Command::new(program).args(args).exec();
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            Said { why: error.to_string(), is_confined: true, is_missing }
        }
        (Err(why), _) => Said { why, is_confined: false, is_missing: false },
        (Ok(_), None) => Said { why: "no program is named".into(), is_confined: true, is_missing: true },
    };
    let said = serde_json::to_string(&said).expect("a reason is JSON");
    // Nobody is left to be told that it could not be told.
    let _ = io::stderr().write_all(format!("{}{said}", plan.token).as_bytes());
    ExitCode::from(FAILED)
}

/// Confines this process. An error is a layer that was wanted and is not to be had.
fn confine(plan: &Plan) -> Result<Found, String> {
    close_what_is_not_ours().map_err(|error| format!("open files: {error}"))?;
    for door in &plan.cgroups {
        // Zero is whoever writes it.
        std::fs::write(door, "0").map_err(|error| format!("cgroup {}: {error}", door.display()))?;
    }
    let mounts = layer(plan, plan.layers.mounts, || mounts::hide(&plan.closed))?;
    prctl::set_no_new_privs().map_err(|error| format!("no_new_privs: {error}"))?;
    // What is hidden need not be walked around.
    let closed = if mounts.is_ok() { &[][..] } else { &plan.closed[..] };
    let landlock = layer(plan, plan.layers.landlock, || files::restrict(closed, &plan.writable))?;
    let capabilities = drop_capabilities()?;
    for (resource, most) in limits(&plan.limits, plan.is_service) {
        let hard = getrlimit(resource).map_err(|error| format!("{resource:?}: {error}"))?.1.min(most);
        setrlimit(resource, hard, hard).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("the death of its parent: {error}"))?;
    // The parent may have died before it was asked for.
    if u32::try_from(getppid().as_raw()) != Ok(plan.parent) {
        return Err("the node has ended".to_owned());
    }
    Ok(Found { mounts, landlock, no_new_privs: true, capabilities })
}

/// Closes all but the standard streams. What the node opens is closed by itself; what was left open to
/// the node by whoever started it is not.
fn close_what_is_not_ours() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|file| *file > 2)
        .collect();
    for file in open {
        // The one that told of the others is closed already.
        let _ = nix::unistd::close(file);
    }
    Ok(())
}

/// One layer: left out when it is not wanted; when it is and fails, an error, but in a probe.
fn layer<T>(
    plan: &Plan,
    is_wanted: bool,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<Result<T, String>, String> {
    match is_wanted.then(work) {
        Some(Err(why)) if !plan.is_probe => Err(why),
        Some(done) => Ok(done),
        None => Ok(Err("not wanted".to_owned())),
    }
}

fn limits(limits: &Limits, is_service: bool) -> Vec<(Resource, u64)> {
    let mut all = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_DATA, limits.memory_bytes),
        (Resource::RLIMIT_AS, limits.address_space_bytes),
        (Resource::RLIMIT_FSIZE, limits.file_bytes),
        // The kernel counts all of the user's, and none of root's.
        (Resource::RLIMIT_NPROC, limits.processes.saturating_mul(4)),
        (Resource::RLIMIT_NOFILE, limits.open_files),
    ];
    all.extend((!is_service).then_some((Resource::RLIMIT_CPU, limits.cpu_s)));
    all
}

/// Takes from this process, and from whatever it becomes, what root could do beyond files.
fn drop_capabilities() -> Result<String, String> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        return Ok("none to drop".to_owned());
    }
    for capability in caps::runtime::thread_all_supported() {
        if !KEPT.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)
                .map_err(|error| format!("{capability}: {error}"))?;
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(|error| error.to_string())?;
    Ok("dropped".to_owned())
}

/// Sets limits of a process that has just started without a launcher. What it forked before that,
/// within microseconds, has none.
pub(super) fn limit_other(id: i32, most: &Limits) -> io::Result<()> {
    for (resource, most) in [
        (rlimit::Resource::CORE, 0),
        (rlimit::Resource::NOFILE, most.open_files),
        (rlimit::Resource::NPROC, most.processes.saturating_mul(4)),
    ] {
        let hard = resource.get()?.1.min(most);
        match rlimit::prlimit(id, resource, Some((hard, hard)), None) {
            // It has ended already.
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

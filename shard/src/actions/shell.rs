//! `shell.exec`: one command in a process group of its own, ended as a group.
//!
//! The environment is clean but for `PATH`, `HOME`, `LANG`, `TMPDIR` and what the step gives. As
//! in OPCODE a command that ran has an output whatever its exit code; `fail_on_nonzero_exit`
//! makes that a failure. When the command ends, whatever it left running in its group is killed.
//! Output is bounded: a flood ends the command.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::fs_guard::{FsGuard, LastLink};
use super::params::{Params, text_of};
use super::{Call, Failure, timed_out};

/// Bytes of stdout and of stderr that a command may write.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How long the pipes may stay open once the command and its group are gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const ARGS_MAX: usize = 4_096;
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files, and processes of the user, that a command may have.
const OPEN_FILES_MAX: u64 = 1_024;
const PROCESSES_MAX: u64 = 4_096;

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

/// How a command ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
    Flooded(&'static str),
}

/// Runs the call within `limit`; `is_own_limit`: it is the `timeout` param, so its passing is an
/// output with `killed: true` rather than a failure.
pub(super) async fn run(
    call: &Call,
    dirs: &FsGuard,
    limit: Duration,
    is_own_limit: bool,
) -> Result<Value, Failure> {
    let params = Params::new(&call.action, &call.params);
    let fails_on_nonzero_exit = params.bool("fail_on_nonzero_exit", false)?;
    let input = params.get("stdin").map(|stdin| text_of(stdin).into_owned());
    // The folder stays open until the command has started in it.
    let dir = dirs.locate(params.str("cwd")?.unwrap_or("."), LastLink::Follow, false)?.open_folder()?;
    let mut command = command_of(call, params)?;
    let start = Instant::now();
    let (mut child, group) = spawn(&mut command, &dir, input.is_some())?;
    drop(dir);
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let end = attend(&mut child, &group, input, (&mut stdout, &mut stderr), limit).await;
    group.kill();
    let duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let end =
        end.map_err(|e| Failure::outage(Fault::new(Code::ExecutionError, format!("shell.exec: {e}"))))?;
    let (exit_code, is_killed) = match end {
        End::Exited(status) => (status.code().unwrap_or(-1), false),
        End::TimedOut if is_own_limit => (-1, true),
        End::TimedOut => return Err(timed_out("shell.exec", limit)),
        End::Flooded(stream) => {
            let message = format!("shell.exec: {stream} is over {OUTPUT_BYTES_MAX} bytes, so it was stopped");
            return Err(Fault::new(Code::NonRetryable, message).into());
        }
    };
    let signal = if let End::Exited(status) = end { status.signal() } else { None };
    let stdout_raw = String::from_utf8_lossy(&stdout).into_owned();
    let parsed = serde_json::from_str(&stdout_raw).unwrap_or_else(|_| Value::String(stdout_raw.clone()));
    let output = json!({
        "stdout": parsed,
        "stdout_raw": stdout_raw,
        "stderr": String::from_utf8_lossy(&stderr),
        "exit_code": exit_code,
        "duration_ms": duration_ms,
        "killed": is_killed,
    });
    if !fails_on_nonzero_exit || exit_code == 0 {
        return Ok(output);
    }
    if is_killed {
        return Err(timed_out("shell.exec", limit));
    }
    let how = match signal {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with exit code {exit_code}"),
    };
    // The command ran, so its breaker does not count this.
    Err(Fault::new(Code::ExecutionError, format!("shell.exec: the command {how}"))
        .with_details(output)
        .into())
}

fn command_of(call: &Call, params: Params<'_>) -> Result<Command, Fault> {
    let program = params.require_str("command")?;
    let args = match params.get("args") {
        None => Vec::new(),
        Some(Value::Array(args)) if args.len() <= ARGS_MAX => {
            args.iter().map(|arg| text_of(arg).into_owned()).collect()
        }
        Some(_) => return Err(params.invalid("args", &format!("must be an array of at most {ARGS_MAX}"))),
    };
    if program.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
        return Err(params.invalid("args", "has a NUL in it"));
    }
    let mut command = if params.bool("shell", false)? {
        let mut command = Command::new("/bin/sh");
        let line = std::iter::once(program.to_owned()).chain(args).collect::<Vec<_>>().join(" ");
        command.arg("-c").arg(line);
        command
    } else {
        let mut command = Command::new(program);
        command.args(args);
        command
    };
    command.env_clear();
    for (name, default) in
        [("PATH", Some(PATH_DEFAULT)), ("HOME", None), ("LANG", Some("C.UTF-8")), ("TMPDIR", None)]
    {
        if let Some(value) = std::env::var_os(name).or(default.map(Into::into)) {
            command.env(name, value);
        }
    }
    match params.get("env") {
        None => {}
        Some(Value::Object(env)) => {
            for (name, value) in env {
                let value = text_of(value);
                if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                    return Err(params.invalid("env", "has a name or a value that no environment can hold"));
                }
                command.env(name, value.as_ref());
            }
        }
        Some(_) => return Err(params.invalid("env", "must be an object")),
    }
    command.env("OPCODE_IDEMPOTENCY_KEY", &call.idempotency_key);
    Ok(command)
}

fn spawn(command: &mut Command, dir: &OwnedFd, has_input: bool) -> Result<(Child, Group), Failure> {
    let child = command
        // By descriptor, so that the folder is the one that was checked.
        .current_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))
        .stdin(if has_input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            // A command that is not there is the step's mistake; anything else is the host's trouble.
            let fault =
                Fault::new(Code::ExecutionError, format!("shell.exec: the command cannot be started: {e}"));
            Failure { fault, is_outage: e.kind() != std::io::ErrorKind::NotFound }
        })?;
    let id =
        child.id().and_then(|id| i32::try_from(id).ok()).expect("a child that was not waited for has an id");
    let group = Group(Pid::from_raw(id));
    limit(id).map_err(|e| {
        Failure::outage(Fault::new(
            Code::IsolationError,
            format!("shell.exec: its limits cannot be set: {e}"),
        ))
    })?;
    Ok((child, group))
}

/// Sets limits of a process that has just started. What it forked before that, within
/// microseconds, has none: they guard against accidents, the group against the rest.
fn limit(id: i32) -> std::io::Result<()> {
    for (resource, most) in [
        (rlimit::Resource::CORE, 0),
        (rlimit::Resource::NOFILE, OPEN_FILES_MAX),
        (rlimit::Resource::NPROC, PROCESSES_MAX),
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

/// Feeds and reads a child until it ends, floods or runs out of time.
async fn attend(
    child: &mut Child,
    group: &Group,
    input: Option<String>,
    (stdout, stderr): (&mut Vec<u8>, &mut Vec<u8>),
    limit: Duration,
) -> std::io::Result<End> {
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A command need not read its input.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let read = async { tokio::try_join!(drain(out, stdout, "stdout"), drain(err, stderr, "stderr")) };
    tokio::pin!(feed, read);
    let (mut is_fed, mut is_read) = (false, false);
    let ended = tokio::time::timeout(limit, async {
        loop {
            tokio::select! {
                status = child.wait() => return status.map(End::Exited),
                () = &mut feed, if !is_fed => is_fed = true,
                read = &mut read, if !is_read => match read {
                    Ok(_) => is_read = true,
                    Err(stream) => return Ok(End::Flooded(stream)),
                },
            }
        }
    });
    let end = ended.await.unwrap_or(Ok(End::TimedOut))?;
    group.kill();
    if is_read || matches!(end, End::Flooded(_)) {
        return Ok(end);
    }
    // What left the group may hold the pipes open: what it has not said by now is not waited for.
    match tokio::time::timeout(DRAIN_TIMEOUT, &mut read).await {
        Ok(Err(stream)) => Ok(End::Flooded(stream)),
        Ok(Ok(_)) | Err(_) => Ok(end),
    }
}

/// Reads all of a stream; its name as an error when it is longer than it may be.
async fn drain(
    from: Option<impl AsyncRead + Unpin>,
    to: &mut Vec<u8>,
    name: &'static str,
) -> Result<(), &'static str> {
    let Some(from) = from else { return Ok(()) };
    // A pipe that breaks has given all that it had.
    let _ = from.take(OUTPUT_BYTES_MAX as u64 + 1).read_to_end(to).await;
    if to.len() > OUTPUT_BYTES_MAX { Err(name) } else { Ok(()) }
}

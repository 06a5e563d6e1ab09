//! `shell.exec`: one command in a process group of its own, ended as a group.
//!
//! It is confined as [`crate::isolation`] says. The environment is clean but for `PATH`, `HOME`,
//! `LANG`, `TMPDIR` and what the step gives. As in OPCODE a command that ran has an output whatever
//! its exit code; `fail_on_nonzero_exit` makes that a failure. When the command ends, whatever it
//! left running in its group is killed. Output is bounded: a flood ends the command.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use opcode_engine::{Code, Fault};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::fs_guard::{FsGuard, LastLink};
use super::params::{Params, text_of};
use super::{Call, Failure, timed_out};
use crate::isolation::{Isolation, Program, Running, StartError};

/// Bytes of stdout and of stderr that a command may write.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How long the pipes may stay open once the command and its group are gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const ARGS_MAX: usize = 4_096;

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
    isolation: &Isolation,
    limit: Duration,
    is_own_limit: bool,
) -> Result<Value, Failure> {
    let params = Params::new(&call.action, &call.params);
    let fails_on_nonzero_exit = params.bool("fail_on_nonzero_exit", false)?;
    let input = params.get("stdin").map(|stdin| text_of(stdin).into_owned());
    // The folder stays open until the command has started in it.
    let place = dirs.locate(params.str("cwd")?.unwrap_or("."), LastLink::Follow, false)?;
    let dir = place.open_folder()?;
    let Line { program, args, env } = line_of(call, params)?;
    let start = Instant::now();
    let program = Program {
        program: &program,
        args: &args,
        env,
        dir: dir.as_fd(),
        dir_path: place.real.clone(),
        has_input: input.is_some(),
        is_service: false,
    };
    let mut running = isolation.start(program).await.map_err(not_started)?;
    drop(dir);
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let end = attend(&mut running, input, (&mut stdout, &mut stderr), limit).await;
    running.kill();
    if let Ok(End::Exited(status)) = &end
        && let Some(error) = running.start_error(status.code(), &stderr)
    {
        return Err(not_started(error));
    }
    let duration = start.elapsed();
    let end =
        end.map_err(|e| Failure::outage(Fault::new(Code::ExecutionError, format!("shell.exec: {e}"))))?;
    let is_killed = match end {
        End::Exited(_) => false,
        End::TimedOut if is_own_limit && !fails_on_nonzero_exit => true,
        End::TimedOut => return Err(timed_out("shell.exec", limit)),
        End::Flooded(stream) => {
            let message = format!("shell.exec: {stream} is over {OUTPUT_BYTES_MAX} bytes, so it was stopped");
            return Err(Fault::new(Code::NonRetryable, message).into());
        }
    };
    let status = if let End::Exited(status) = end { Some(status) } else { None };
    let exit_code = status.and_then(|status| status.code()).unwrap_or(-1);
    let output = output_of(&stdout, &stderr, exit_code, duration, is_killed);
    if !fails_on_nonzero_exit || exit_code == 0 {
        return Ok(output);
    }
    let how = match status.and_then(|status| status.signal()) {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with exit code {exit_code}"),
    };
    // The command ran, so its breaker does not count this.
    Err(Fault::new(Code::ExecutionError, format!("shell.exec: the command {how}"))
        .with_details(output)
        .into())
}

fn output_of(stdout: &[u8], stderr: &[u8], exit_code: i32, duration: Duration, is_killed: bool) -> Value {
    let stdout_raw = String::from_utf8_lossy(stdout).into_owned();
    let parsed = serde_json::from_str(&stdout_raw).unwrap_or_else(|_| Value::String(stdout_raw.clone()));
    json!({
        "stdout": parsed,
        "stdout_raw": stdout_raw,
        "stderr": String::from_utf8_lossy(stderr),
        "exit_code": exit_code,
        "duration_ms": u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        "killed": is_killed,
    })
}

/// What is to be run.
struct Line {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

fn line_of(call: &Call, params: Params<'_>) -> Result<Line, Fault> {
    let program = params.require_str("command")?;
    let args: Vec<String> = match params.get("args") {
        None => Vec::new(),
        Some(Value::Array(args)) if args.len() <= ARGS_MAX => {
            args.iter().map(|arg| text_of(arg).into_owned()).collect()
        }
        Some(_) => return Err(params.invalid("args", &format!("must be an array of at most {ARGS_MAX}"))),
    };
    if program.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
        return Err(params.invalid("args", "has a NUL in it"));
    }
    let mut env = Vec::new();
    match params.get("env") {
        None => {}
        Some(Value::Object(given)) => {
            for (name, value) in given {
                let value = text_of(value);
                if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                    return Err(params.invalid("env", "has a name or a value that no environment can hold"));
                }
                env.push((name.clone(), value.into_owned()));
            }
        }
        Some(_) => return Err(params.invalid("env", "must be an object")),
    }
    env.push(("OPCODE_IDEMPOTENCY_KEY".to_owned(), call.idempotency_key.clone()));
    if !params.bool("shell", false)? {
        return Ok(Line { program: program.to_owned(), args, env });
    }
    let line = std::iter::once(program.to_owned()).chain(args).collect::<Vec<_>>().join(" ");
    Ok(Line { program: "/bin/sh".to_owned(), args: vec!["-c".to_owned(), line], env })
}

/// A command that is not there is the step's mistake; anything else is the host's trouble.
fn not_started(error: StartError) -> Failure {
    let code = match error {
        StartError::Missing(_) | StartError::Host(_) => Code::ExecutionError,
        StartError::Isolation(_) => Code::IsolationError,
    };
    let is_outage = !matches!(error, StartError::Missing(_));
    Failure { fault: Fault::new(code, format!("shell.exec: {error}")), is_outage }
}

/// Feeds and reads a child until it ends, floods or runs out of time.
async fn attend(
    running: &mut Running,
    input: Option<String>,
    (stdout, stderr): (&mut Vec<u8>, &mut Vec<u8>),
    limit: Duration,
) -> std::io::Result<End> {
    let child = &mut running.child;
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
    running.kill();
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

//! A pool of processes that run jq, each killed when it takes too long.
//!
//! jq cannot be bounded from inside: a filter may loop for ever, recurse until the stack is gone,
//! or allocate without end. So it runs in a child with limits of its own that can be killed
//! without loss. Children are started when needed, kept, and used again. Filters never run in
//! the node's own process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use opcode_engine::expr::{EvalError, JqRunner};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest run of one filter.
pub const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Largest request and largest answer, in bytes of JSON.
// The unoptimised JSON code of test builds takes longer than a request may for the real bound.
pub const FRAME_BYTES_MAX: usize = if cfg!(test) { 256 * 1024 } else { 8 * 1024 * 1024 };
/// Memory a worker may use beyond what its program takes at its start.
pub const MEMORY_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Requests that one worker serves before a fresh one takes its place.
pub const REQUESTS_PER_WORKER_MAX: u32 = 1_000;
/// Longest wait for a worker to start, and for one to be free.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const FREE_TIMEOUT: Duration = Duration::from_secs(10);
/// CPU time for one request; stops a worker whose parent died while it was busy.
const REQUEST_CPU_SECONDS_MAX: u64 = 2;
/// The line that says that a worker is ready.
const READY: &str = "opcode-jq-worker-1";
/// Bytes that may come before it.
const PREAMBLE_BYTES_MAX: u64 = 4_096;

#[derive(Serialize)]
struct RequestRef<'a> {
    filter: &'a str,
    input: &'a Value,
}

#[derive(Deserialize)]
struct Request {
    filter: String,
    input: Value,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    results: Vec<Value>,
    error: Option<String>,
}

/// The pool: a [`JqRunner`] that blocks its caller for as long as the filter runs.
pub struct JqPool {
    command: Vec<String>,
    workers_max: usize,
    state: Mutex<PoolState>,
    freed: Condvar,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<Worker>,
    busy: usize,
}

/// A child process and the thread that talks to it.
struct Worker {
    child: Child,
    requests: mpsc::SyncSender<Vec<u8>>,
    answers: mpsc::Receiver<io::Result<Vec<u8>>>,
    served: u32,
}

/// A place among the busy ones, given back when it is dropped.
struct Place<'a>(&'a JqPool);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy -= 1;
        self.0.freed.notify_one();
    }
}

impl JqPool {
    /// A pool of at most `workers_max` processes (at least one) started by `command`; none is
    /// started yet.
    pub fn new(command: Vec<String>, workers_max: usize) -> Self {
        Self {
            command,
            workers_max: workers_max.max(1),
            state: Mutex::new(PoolState::default()),
            freed: Condvar::new(),
        }
    }

    fn place(&self) -> Result<(Place<'_>, Option<Worker>), EvalError> {
        let deadline = Instant::now() + FREE_TIMEOUT;
        let mut state = self.state.lock();
        while state.busy >= self.workers_max {
            if self.freed.wait_until(&mut state, deadline).timed_out() {
                return Err(EvalError::failed("every jq worker is busy; try again"));
            }
        }
        state.busy += 1;
        let idle = state.idle.pop();
        drop(state);
        Ok((Place(self), idle))
    }

    fn ask(&self, request: Vec<u8>) -> Result<Vec<u8>, EvalError> {
        let (place, idle) = self.place()?;
        // One that died while idle is replaced before it gets the request.
        let idle = idle.and_then(|mut worker| worker.is_alive().then_some(worker));
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker::start(&self.command)
                .map_err(|e| EvalError::failed(format!("the jq worker cannot be started: {e}")))?,
        };
        let answer = worker.ask(request);
        if answer.is_ok() && worker.served < REQUESTS_PER_WORKER_MAX {
            self.state.lock().idle.push(worker);
        }
        drop(place);
        answer
    }
}

impl JqRunner for JqPool {
    fn run(&self, filter: &str, input: &Value) -> Result<Vec<Value>, EvalError> {
        let mut request = Bounded::default();
        serde_json::to_writer(&mut request, &RequestRef { filter, input })
            .map_err(|_| EvalError::failed(format!("the input of jq is over {FRAME_BYTES_MAX} bytes")))?;
        let answer = self.ask(request.bytes)?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|e| EvalError::failed(format!("the jq worker's answer cannot be read: {e}")))?;
        match answer.error {
            Some(message) => Err(EvalError::failed(message)),
            None => Ok(answer.results),
        }
    }
}

impl Worker {
    fn start(command: &[String]) -> io::Result<Self> {
        let (program, args) =
            command.split_first().ok_or_else(|| io::Error::other("no command for it is configured"))?;
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        let (requests, requests_in) = mpsc::sync_channel(1);
        let (answers_out, answers) = mpsc::sync_channel(1);
        let mut worker = Self { child, requests, answers, served: 0 };
        thread::Builder::new()
            .name("jq-pipe".into())
            .spawn(move || converse(stdin, stdout, &requests_in, &answers_out))?;
        match worker.answers.recv_timeout(START_TIMEOUT) {
            Ok(Ok(_)) => Ok(worker),
            Ok(Err(e)) => Err(e),
            Err(_) => {
                worker.kill();
                Err(io::Error::other("it is not ready in time"))
            }
        }
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn ask(&mut self, request: Vec<u8>) -> Result<Vec<u8>, EvalError> {
        self.served += 1;
        let sent = self.requests.send(request).is_ok();
        let answer = if sent {
            self.answers.recv_timeout(REQUEST_TIMEOUT)
        } else {
            Err(mpsc::RecvTimeoutError::Disconnected)
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(EvalError::failed(format!("jq took longer than {} ms", REQUEST_TIMEOUT.as_millis())))
            }
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => Err(EvalError::failed(format!(
                "jq was stopped: it recursed too deep or used more than {} MiB",
                MEMORY_BYTES_MAX / (1024 * 1024)
            ))),
        }
    }

    fn kill(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Passes requests to a child and its answers back, until either end goes away.
fn converse(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    requests: &mpsc::Receiver<Vec<u8>>,
    answers: &mpsc::SyncSender<io::Result<Vec<u8>>>,
) {
    let mut stdout = BufReader::new(stdout);
    let ready = await_ready(&mut stdout).map(|()| Vec::new());
    let is_ready = ready.is_ok();
    if answers.send(ready).is_err() || !is_ready {
        return;
    }
    while let Ok(request) = requests.recv() {
        let answer = write_frame(&mut stdin, &request).and_then(|()| {
            read_frame(&mut stdout)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        });
        let is_broken = answer.is_err();
        if answers.send(answer).is_err() || is_broken {
            return;
        }
    }
}

fn await_ready(stdout: &mut impl BufRead) -> io::Result<()> {
    let mut preamble = stdout.take(PREAMBLE_BYTES_MAX);
    let mut line = Vec::new();
    while preamble.read_until(b'\n', &mut line)? > 0 {
        if line.strip_suffix(b"\n") == Some(READY.as_bytes()) {
            return Ok(());
        }
        line.clear();
    }
    Err(io::Error::other("it ended before it was ready"))
}

fn write_frame(to: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(payload)?;
    to.flush()
}

/// One frame, `None` at the end of the stream.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Some(payload))
}

/// Collects bytes up to [`FRAME_BYTES_MAX`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
}

impl Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > FRAME_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The main of a worker process: answers requests on stdin until it ends, under limits that it
/// sets itself. Call it before anything else in a process made for it, in its first thread.
pub fn jq_worker_main() -> io::Result<()> {
    worker_main(opcode_engine::expr::jq::run_unbounded)
}

type Evaluate = fn(&str, &Value) -> Result<Vec<Value>, EvalError>;

fn worker_main(evaluate: Evaluate) -> io::Result<()> {
    limit_self()?;
    let mut stdout = io::stdout().lock();
    write!(stdout, "\n{READY}\n")?;
    stdout.flush()?;
    serve(&mut io::stdin().lock(), &mut stdout, evaluate)
}

fn limit_self() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .next()
        .and_then(|p| p.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/statm cannot be read"))?;
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?
        .and_then(|b| u64::try_from(b).ok())
        .unwrap_or(4_096);
    let memory = pages * page_bytes + MEMORY_BYTES_MAX;
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    Ok(())
}

/// Lets this process use a little more CPU time than it has used so far, and no more.
fn limit_cpu() -> io::Result<()> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let used = usage.user_time().num_seconds() + usage.system_time().num_seconds();
    let soft = u64::try_from(used).unwrap_or(0) + 1 + REQUEST_CPU_SECONDS_MAX;
    setrlimit(Resource::RLIMIT_CPU, soft, nix::sys::resource::RLIM_INFINITY)?;
    Ok(())
}

fn serve(from: &mut impl Read, to: &mut impl Write, evaluate: Evaluate) -> io::Result<()> {
    while let Some(frame) = read_frame(from)? {
        limit_cpu()?;
        let request: Request = serde_json::from_slice(&frame)?;
        drop(frame);
        let answer = match evaluate(&request.filter, &request.input) {
            Ok(results) => Answer { results, error: None },
            Err(e) => Answer { results: Vec::new(), error: Some(e.to_string()) },
        };
        let mut encoded = Bounded::default();
        if serde_json::to_writer(&mut encoded, &answer).is_err() {
            let error = format!("jq gave more than {FRAME_BYTES_MAX} bytes");
            encoded.bytes = serde_json::to_vec(&Answer { results: Vec::new(), error: Some(error) })?;
        }
        write_frame(to, &encoded.bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Stands in for jq where the pool itself is tested.
    #[allow(unconditional_recursion)]
    fn scripted(filter: &str, input: &Value) -> Result<Vec<Value>, EvalError> {
        fn deep(n: u64) -> u64 {
            std::hint::black_box(deep(std::hint::black_box(n + 1)) + 1)
        }
        match filter {
            "spin" => loop {
                std::hint::spin_loop();
            },
            "deep" => Ok(vec![json!(deep(0))]),
            "hoard" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![0; 1 << 24]);
                }
            }
            "long" => Ok(vec![json!("x".repeat(FRAME_BYTES_MAX))]),
            "die" => std::process::exit(3),
            "pid" => Ok(vec![json!(std::process::id())]),
            "fail" => Err(EvalError::failed("no such thing")),
            _ => Ok(vec![input.clone(), json!(filter)]),
        }
    }

    /// The tests' own program as a worker: this test, told so by one more argument.
    fn pool(kind: &str, workers_max: usize) -> JqPool {
        let program = std::env::current_exe().unwrap().display().to_string();
        let name = "workers::jq_pool::tests::worker_entry";
        JqPool::new([&program, "--exact", name, "--nocapture", kind].map(str::to_owned).to_vec(), workers_max)
    }

    #[test]
    fn worker_entry() {
        let is = |kind: &str| std::env::args().any(|arg| arg == kind);
        if is("as-scripted-worker") {
            worker_main(scripted).unwrap();
        } else if is("as-jq-worker") {
            jq_worker_main().unwrap();
        } else {
            let mut answers = Vec::new();
            serve(&mut io::empty(), &mut answers, scripted).unwrap();
            assert!(answers.is_empty(), "a worker ends when its parent does");
        }
    }

    fn message(result: Result<Vec<Value>, EvalError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_worker_is_kept_and_used_again() {
        let pool = pool("as-scripted-worker", 1);
        let pid = pool.run("pid", &Value::Null).unwrap();
        let input: Value = serde_json::from_str(r#"{"n": 123456789012345678901.50}"#).unwrap();
        let echo = pool.run("echo", &input).unwrap();
        assert_eq!(echo[0].to_string(), input.to_string());
        assert_eq!(message(pool.run("fail", &Value::Null)), "no such thing");
        let long = message(pool.run("long", &Value::Null));
        assert!(long.contains("more than 262144 bytes"), "{long}");
        let long = message(pool.run("echo", &json!("x".repeat(FRAME_BYTES_MAX))));
        assert!(long.contains("over 262144 bytes"), "{long}");
        assert_eq!(pool.run("pid", &Value::Null).unwrap(), pid);
    }

    #[test]
    fn what_does_not_end_is_ended_and_the_pool_goes_on() {
        let pool = pool("as-scripted-worker", 2);
        for (filter, expected) in
            [("spin", "longer than 500 ms"), ("deep", "stopped"), ("hoard", "stopped"), ("die", "stopped")]
        {
            let message = message(pool.run(filter, &Value::Null));
            assert!(message.contains(expected), "{filter}: {message}");
            assert_eq!(pool.run("echo", &json!(1)).unwrap(), [json!(1), json!("echo")]);
        }
    }

    #[test]
    fn hostile_filters_end_in_an_error() {
        let pool = pool("as-jq-worker", 2);
        let parens = format!("{}1{}", "(".repeat(1_000), ")".repeat(1_000));
        let hostile = [
            "[range(1e12)]",
            "def f: f; f",
            "last(repeat(1))",
            "until(false; .)",
            "def f: [f]; f",
            "\"a\" * 1e9",
            "[limit(1e9; repeat(\"xxxxxxxxxxxxxxxx\"))] | join(\"\")",
            &parens,
            "][",
        ];
        for filter in hostile {
            // It ends, which without the limits none of these would.
            let message = message(pool.run(filter, &json!(null)));
            assert!(!message.is_empty(), "{filter:.40}");
        }
    }

    #[test]
    fn callers_share_a_bounded_number_of_workers() {
        let pool = pool("as-scripted-worker", 2);
        let pids: std::collections::BTreeSet<String> = thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| pool.run("pid", &Value::Null).unwrap()[0].to_string()))
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        assert!((1..=2).contains(&pids.len()), "{pids:?}");
        let state = pool.state.lock();
        assert_eq!((state.busy, state.idle.len()), (0, pids.len()));
    }

    #[test]
    fn a_worker_that_cannot_start_is_an_error() {
        for command in
            [vec![], vec!["/no/such/program".to_owned()], vec!["true".to_owned()], vec!["yes".to_owned()]]
        {
            let pool = JqPool::new(command, 1);
            assert!(message(pool.run(".", &Value::Null)).contains("cannot be started"));
        }
    }
}

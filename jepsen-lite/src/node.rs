//! One node under test: a process that is killed, paused, and started again, at addresses that stay.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::nemesis::shim::Control;

/// Longest time from a start to being ready, or to the end of a start that fails.
const START_MAX: Duration = Duration::from_secs(60);
/// What is told of a node's log.
const LOG_LINES: usize = 3;

/// Ports that the system gives to nobody's outgoing connections, so that a node that comes back
/// finds its own free.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The pauses between tries of a webhook's delivery: short, so that all is told soon after the faults.
const DELAYS: &str = "1s,1s,2s,2s,3s,3s,5s,5s,5s,5s";

/// How a node is started, every time.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) binary: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) args: Vec<String>,
    /// A library that is loaded into it.
    pub(crate) shim: Option<Shim>,
}

/// The library between a node and its disk, and what tells it.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    pub(crate) library: PathBuf,
    pub(crate) control: Arc<Control>,
}

/// A node.
pub(crate) struct Node {
    options: Mutex<NodeOptions>,
    child: Mutex<Option<Child>>,
    /// How it ended though nobody made it.
    deaths: Mutex<Vec<String>>,
    /// Whether it may end by itself: its disk was damaged or fails.
    may_end: Mutex<bool>,
}

/// The file of the key that seals the secrets of webhooks, the same for every node. A passphrase would
/// have to be made a key of first, which takes longer than a client waits.
fn key_file(data: &Path) -> Result<PathBuf> {
    let file = data.with_extension("key");
    std::fs::write(&file, "c5".repeat(32)).with_context(|| file.display().to_string())?;
    std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    Ok(file)
}

fn spawn(options: &NodeOptions) -> Result<Child> {
    let key = key_file(&options.data)?;
    let log = options.data.with_extension("log");
    let log =
        File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(&options.binary);
    command
        .args(["serve", "--allow-private-network", "--pool-size", "64", "--log-level", "warn"])
        .arg("--listen")
        .arg(options.listen.to_string())
        .arg("--data-dir")
        .arg(&options.data)
        .args(&options.args)
        .arg("--secrets-key-file")
        .arg(key)
        .args(["--webhook-retry-delays", DELAYS])
        .stdout(Stdio::piped())
        .stderr(log);
    if let Some(shim) = &options.shim {
        command
            .env("LD_PRELOAD", &shim.library)
            .env("JEPSEN_SHIM_CONTROL", &shim.control.path)
            .env("JEPSEN_SHIM_FOLDER", format!("{}/", options.data.display()));
    }
    let mut child =
        command.spawn().with_context(|| format!("{} cannot be started", options.binary.display()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (told_in, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // Nobody waits for it any more when this fails.
        let _ = told_in.send(lines.any(|line| line.starts_with("OPCODE is ready at ")));
    });
    match told.recv_timeout(START_MAX) {
        Ok(true) => Ok(child),
        Ok(false) => {
            let status = child.wait();
            bail!("the node ended before it was ready: {status:?}: {}", log_end(options));
        }
        Err(_) => {
            child.kill().and_then(|()| child.wait()).context("the node cannot be killed")?;
            bail!("the node was neither ready nor ended after {START_MAX:?}: {}", log_end(options));
        }
    }
}

/// The last lines that a node wrote to people: what is an object of JSON tells of its work.
fn log_end(options: &NodeOptions) -> String {
    let log = std::fs::read_to_string(options.data.with_extension("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('{')).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

impl Node {
    pub(crate) fn start(options: NodeOptions) -> Result<Self> {
        let child = spawn(&options)?;
        Ok(Self {
            options: Mutex::new(options),
            child: Mutex::new(Some(child)),
            deaths: Mutex::default(),
            may_end: Mutex::default(),
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.options.lock().listen)
    }

    /// Its HTTP address.
    pub(crate) fn address(&self) -> String {
        self.options.lock().listen.to_string()
    }

    /// With an empty folder, it joins the cluster of these nodes from now on.
    pub(crate) fn joins_from_now_on(&self, others: &[String]) {
        let args = &mut self.options.lock().args;
        while let Some(at) = args.iter().position(|arg| arg == "--shards" || arg == "--join") {
            args.drain(at..at + 2);
        }
        args.extend(others.iter().flat_map(|other| ["--join".to_owned(), other.clone()]));
    }

    /// Started from now on with this binary.
    pub(crate) fn set_binary(&self, binary: &Path) {
        self.options.lock().binary = binary.to_path_buf();
    }

    /// Where it has its files.
    pub(crate) fn data(&self) -> PathBuf {
        self.options.lock().data.clone()
    }

    /// What tells its disk and clock to be wrong.
    pub(crate) fn control(&self) -> Result<Arc<Control>> {
        let options = self.options.lock();
        options.shim.as_ref().map(|shim| shim.control.clone()).context("the node has no shim")
    }

    /// Its process, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().map(Child::id)
    }

    /// Whether it may end by itself from now on: its disk was damaged, or fails.
    pub(crate) fn set_may_end(&self, may: bool) {
        *self.may_end.lock() = may;
    }

    pub(crate) fn may_end(&self) -> bool {
        *self.may_end.lock()
    }

    /// Whether it has ended, though nobody made it end; if it must not, that is taken down.
    pub(crate) fn has_ended(&self) -> bool {
        let mut child = self.child.lock();
        let Some(running) = child.as_mut() else { return false };
        let Ok(Some(status)) = running.try_wait() else { return false };
        *child = None;
        if !self.may_end() {
            let end = log_end(&self.options.lock());
            self.deaths.lock().push(format!("{} ended by itself with {status}: {end}", self.address()));
        }
        true
    }

    /// The last that it wrote.
    pub(crate) fn log_end(&self) -> String {
        log_end(&self.options.lock())
    }

    /// How it ended though nobody made it.
    pub(crate) fn deaths(&self) -> Vec<String> {
        self.has_ended();
        self.deaths.lock().clone()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock();
        let child = child.as_ref().context("the node does not run")?;
        let pid = i32::try_from(child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to the node"))
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&self) -> Result<()> {
        self.has_ended();
        let Some(mut child) = self.child.lock().take() else { return Ok(()) };
        child.kill().context("the node cannot be killed")?;
        child.wait().context("the node cannot be waited for")?;
        Ok(())
    }

    /// Asks it to stop; it must do so in order.
    pub(crate) fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let Some(mut child) = self.child.lock().take() else { return Ok(()) };
        let status = child.wait().context("the node cannot be waited for")?;
        if !status.success() {
            bail!("the node stopped with {status}");
        }
        Ok(())
    }

    /// Starts it again, unless it runs; how long it took to be ready.
    pub(crate) fn start_again(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.has_ended();
        if self.child.lock().is_some() {
            return Ok(Duration::ZERO);
        }
        let options = self.options.lock().clone();
        *self.child.lock() = Some(spawn(&options)?);
        Ok(begun.elapsed())
    }

    /// Forgets all that it had, as a lost disk does.
    pub(crate) fn wipe(&self) -> Result<()> {
        let data = self.options.lock().data.clone();
        std::fs::remove_dir_all(data).context("the node's folder cannot be removed")
    }

    /// Has it stand still, if it runs.
    pub(crate) fn pause(&self) -> Result<()> {
        if self.pid().is_none() {
            return Ok(());
        }
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on, if it still runs.
    pub(crate) fn resume(&self) -> Result<()> {
        if self.pid().is_none() {
            return Ok(());
        }
        self.signal(Signal::SIGCONT)
    }

    /// The tables of the stopped node equal the fold of its events.
    pub(crate) fn check_tables(&self) -> Result<()> {
        let options = self.options.lock().clone();
        let output = Command::new(&options.binary)
            .args(["rebuild", "--check", "--data-dir"])
            .arg(&options.data)
            .output()?;
        if !output.status.success() {
            bail!("tables differ from the fold: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already; nothing is left to do then.
        let _ = self.kill();
    }
}

//! One node under test: a process that is killed, paused, and started again, at addresses that stay.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

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

/// How a node is started, every time.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) binary: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) args: Vec<String>,
}

/// A node.
pub(crate) struct Node {
    options: Mutex<NodeOptions>,
    child: Mutex<Option<Child>>,
}

fn spawn(options: &NodeOptions) -> Result<Child> {
    let log = options.data.with_extension("log");
    let log =
        File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let mut child = Command::new(&options.binary)
        .args(["serve", "--allow-private-network", "--pool-size", "64", "--log-level", "warn"])
        .arg("--listen")
        .arg(options.listen.to_string())
        .arg("--data-dir")
        .arg(&options.data)
        .args(&options.args)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} cannot be started", options.binary.display()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let ready = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.starts_with("OPCODE is ready at "));
    if !ready {
        let log = std::fs::read_to_string(options.data.with_extension("log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        bail!("the node ended before it was ready: {:?}: {last}", child.wait());
    }
    Ok(child)
}

impl Node {
    pub(crate) fn start(options: NodeOptions) -> Result<Self> {
        let child = spawn(&options)?;
        Ok(Self { options: Mutex::new(options), child: Mutex::new(Some(child)) })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.options.lock().listen)
    }

    /// Its HTTP address.
    pub(crate) fn address(&self) -> String {
        self.options.lock().listen.to_string()
    }

    /// With an empty folder, it joins the cluster of that node from now on.
    pub(crate) fn joins_from_now_on(&self, other: &str) {
        let args = &mut self.options.lock().args;
        if let Some(at) = args.iter().position(|arg| arg == "--shards") {
            args.drain(at..at + 2);
        }
        args.extend(["--join".into(), other.into()]);
    }

    /// Started from now on with this binary.
    pub(crate) fn set_binary(&self, binary: &Path) {
        self.options.lock().binary = binary.to_path_buf();
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.lock();
        let child = child.as_ref().context("the node does not run")?;
        let pid = i32::try_from(child.id()).context("a process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to the node"))
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&self) -> Result<()> {
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

    /// Starts it again; how long it took to be ready.
    pub(crate) fn start_again(&self) -> Result<Duration> {
        let begun = Instant::now();
        let options = self.options.lock().clone();
        *self.child.lock() = Some(spawn(&options)?);
        Ok(begun.elapsed())
    }

    /// Forgets all that it had, as a lost disk does.
    pub(crate) fn wipe(&self) -> Result<()> {
        let data = self.options.lock().data.clone();
        std::fs::remove_dir_all(data).context("the node's folder cannot be removed")
    }

    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn resume(&self) -> Result<()> {
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

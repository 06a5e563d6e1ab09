//! The node under test: a process that is killed, paused, and started again.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;

/// Longest wait for the node to be ready again.
const READY_MAX: Duration = Duration::from_secs(30);

/// Where the node listens now; changes at every start.
#[derive(Clone)]
pub(crate) struct Address(Arc<Mutex<String>>);

impl Address {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.lock())
    }
}

/// The node.
pub(crate) struct Node {
    binary: PathBuf,
    data: PathBuf,
    child: Mutex<Child>,
    address: Address,
    pub(crate) client: reqwest::Client,
}

fn spawn(binary: &PathBuf, data: &PathBuf) -> Result<(Child, String)> {
    let mut child = Command::new(binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-private-network", "--pool-size", "64"])
        .args(["--log-level", "warn", "--data-dir"])
        .arg(data)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", binary.display()))?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let url = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("OPCODE is ready at ").map(str::to_owned))
        .context("the node ended before it was ready")?;
    Ok((child, url))
}

impl Node {
    pub(crate) fn start(binary: PathBuf, data: PathBuf) -> Result<Self> {
        let (child, url) = spawn(&binary, &data)?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let address = Address(Arc::new(Mutex::new(url)));
        Ok(Self { binary, data, child: Mutex::new(child), address, client })
    }

    pub(crate) fn address(&self) -> Address {
        self.address.clone()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.lock().id()).context("a process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to the node"))
    }

    /// Kills it and starts it again; how long it took to be ready.
    pub(crate) fn kill_and_restart(&self) -> Result<Duration> {
        {
            let mut child = self.child.lock();
            child.kill().context("the node cannot be killed")?;
            child.wait().context("the node cannot be waited for")?;
        }
        self.restart()
    }

    /// Asks it to stop and starts it again.
    pub(crate) fn stop_and_restart(&self) -> Result<Duration> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.lock().wait().context("the node cannot be waited for")?;
        if !status.success() {
            bail!("the node stopped with {status}");
        }
        self.restart()
    }

    /// Starts it after an orderly stop.
    pub(crate) fn start_again(&self) -> Result<()> {
        self.restart().map(drop)
    }

    fn restart(&self) -> Result<Duration> {
        let begun = Instant::now();
        let (child, url) = spawn(&self.binary, &self.data)?;
        *self.child.lock() = child;
        *self.address.0.lock() = url;
        Ok(begun.elapsed())
    }

    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Asks it to stop; it must do so in order.
    pub(crate) fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.lock().wait().context("the node cannot be waited for")?;
        if !status.success() {
            bail!("the node stopped with {status}");
        }
        Ok(())
    }

    /// The tables of the stopped node equal the fold of its events.
    pub(crate) fn check_tables(&self) -> Result<()> {
        let output =
            Command::new(&self.binary).args(["rebuild", "--check", "--data-dir"]).arg(&self.data).output()?;
        if !output.status.success() {
            bail!("tables differ from the fold: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    }

    pub(crate) async fn ensure_running(&self) -> Result<()> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            if let Ok(response) = self.client.get(self.address.url("/readyz")).send().await
                && response.status().is_success()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the node is not ready {READY_MAX:?} after all was healed");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let response = self.client.get(self.address.url(path)).send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.bytes().await?).unwrap_or_default()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        // It may have ended already; nothing is left to do then.
        let _ = child.kill();
        let _ = child.wait();
    }
}

//! The node under load: started on a fresh folder, or somebody's own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Target;

/// Clock ticks a second in `/proc`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A node to put under load.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    child: Option<(Child, PathBuf)>,
}

/// What the node's process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) peak_mb: f64,
    pub(crate) written_mb: f64,
}

impl Server {
    /// Starts a node, or takes the one that `target` names.
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(120))
            .build()
            .context("an HTTP client can be made")?;
        if let Some(url) = &target.server {
            return Ok(Self { url: url.trim_end_matches('/').to_owned(), client, child: None });
        }
        let beside = std::env::current_exe()?.with_file_name("opcode");
        let binary = target.binary.clone().unwrap_or(beside);
        if !binary.is_file() {
            bail!("{}: no such binary; build it with `cargo build --release -p opcode`", binary.display());
        }
        let parent = target.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = parent.join(format!("opcode-bench-{}", std::process::id()));
        let mut child = Command::new(&binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data-dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let url = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("OPCODE is ready at ").map(str::to_owned))
            .context("the node ended before it was ready")?;
        Ok(Self { url, client, child: Some((child, dir)) })
    }

    /// What the node's process has used; zeros for somebody's own node.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let (child, _) = self.child.as_ref()?;
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        let number = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<f64>().ok())
                .unwrap_or_default()
        };
        Some(Usage {
            cpu_s: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            peak_mb: number(&read("status"), "VmHWM:") / 1000.0,
            written_mb: number(&read("io"), "write_bytes:") / 1e6,
        })
    }

    /// `GET` of JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let response = self.client.get(format!("{}{path}", self.url)).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }

    /// Whether any run has this status.
    pub(crate) async fn any_run(&self, status: &str) -> Result<bool> {
        let list = self.get(&format!("/v1/workflows?status={status}&limit=1")).await?;
        Ok(list["items"].as_array().is_some_and(|items| !items.is_empty()))
    }

    /// Whether any run has not ended.
    pub(crate) async fn open_runs(&self) -> Result<bool> {
        for status in ["active", "pending", "suspended"] {
            if self.any_run(status).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut child, dir)) = self.child.take() {
            // The folder was made for this run alone; what cannot be removed is left to the system.
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

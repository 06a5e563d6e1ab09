//! A process that the driver starts: what it says goes to a file, and it ends with its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often is looked whether a process has said what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of its output that an error shows.
const TAIL_LINES: usize = 5;

pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to a file in `folder`.
    pub(crate) fn start(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self> {
        let output = folder.join(format!("{name}.txt"));
        let file = File::create(&output).with_context(|| format!("{} cannot be made", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        Ok(Self { name, child, output })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that begins with `start`, and returns the rest of it.
    pub(crate) async fn line(&mut self, start: &str, wait_max: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            // What it said before it ended counts, so this is asked first.
            let has_ended = self.child.try_wait()?.is_some();
            let output = self.output();
            // The last piece may be a line that is still being written.
            let whole = output.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(rest) = whole.lines().find_map(|line| line.strip_prefix(start)) {
                return Ok(rest.trim().to_owned());
            }
            if has_ended {
                bail!("{} ended too early{}", self.name, self.tail());
            }
            if begun.elapsed() > wait_max {
                bail!("{} did not say `{start}` within {wait_max:?}{}", self.name, self.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An error unless it still runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            bail!("{} ended too early{}", self.name, self.tail());
        }
        Ok(())
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The last of what it said, for an error.
    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        last.iter().fold(String::new(), |text, line| format!("{text}\n  {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

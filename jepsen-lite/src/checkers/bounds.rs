//! What nodes take of the machine: memory, open files, disk; watched while a run lasts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::history::History;
use crate::node::Node;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that are kept: some hours of nine nodes.
const USAGES_MAX: usize = 100_000;
/// Resident memory of a node.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Open files of a node.
const FILES_MAX: usize = 512;
/// Disk of a node: what it has from the start, segments of its log included, and what it may have
/// for each run.
const DISK_BYTES_MAX: u64 = 512 << 20;
const DISK_BYTES_A_RUN_MAX: u64 = 64 << 10;

/// What one node took at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// Since the history began.
    pub(crate) at: Duration,
    pub(crate) node: String,
    pub(crate) memory_bytes: u64,
    pub(crate) files: usize,
    pub(crate) disk_bytes: u64,
}

/// All that was seen.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Vec<Usage>>>);

impl Watch {
    /// Looks at every node that runs until it is told to stop.
    pub(crate) async fn run(&self, cluster: &Cluster, history: &History, mut stop: watch::Receiver<bool>) {
        loop {
            self.look(cluster, history.age().await);
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn look(&self, cluster: &Cluster, at: Duration) {
        for member in cluster.members() {
            // It may be gone, or go while it is looked at.
            let usage = usage(&member.node, at).ok();
            let mut all = self.0.lock();
            if all.len() < USAGES_MAX {
                all.extend(usage);
            }
        }
    }

    pub(crate) fn usages(&self) -> Vec<Usage> {
        self.0.lock().clone()
    }

    /// Whether all stayed within bounds, and is so now, after so many runs.
    pub(crate) async fn check(&self, cluster: &Cluster, runs: usize) -> Result<String> {
        for member in cluster.members() {
            self.0.lock().push(usage(&member.node, Duration::MAX)?);
        }
        let all = self.usages();
        let most = |of: fn(&Usage) -> u64| all.iter().map(of).max().unwrap_or_default();
        let (memory, disk) = (most(|one| one.memory_bytes), most(|one| one.disk_bytes));
        let files = most(|one| one.files as u64);
        self.0.lock().retain(|one| one.at != Duration::MAX);
        ensure!(memory > 0 && files > 0 && disk > 0, "nothing was seen of the nodes");
        let told = format!(
            "at most {} MB of memory, {files} open files, {} MB of disk a node, in {} looks",
            memory >> 20,
            disk >> 20,
            all.len()
        );
        let disk_max = DISK_BYTES_MAX + DISK_BYTES_A_RUN_MAX * runs as u64;
        let is_bounded = memory <= MEMORY_BYTES_MAX && files <= FILES_MAX as u64 && disk <= disk_max;
        ensure!(
            is_bounded,
            "{told}; the bounds are {} MB, {FILES_MAX} and {} MB",
            MEMORY_BYTES_MAX >> 20,
            disk_max >> 20
        );
        Ok(told)
    }
}

fn usage(node: &Node, at: Duration) -> Result<Usage> {
    let pid = node.pid().context("the node does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: u64 = memory.trim().trim_end_matches("kB").trim().parse()?;
    Ok(Usage {
        at,
        node: node.address(),
        memory_bytes: kib << 10,
        files: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        disk_bytes: disk_bytes(&node.data())?,
    })
}

/// Bytes of the disk that a folder takes, with all that is in it.
fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Files come and go while it is looked at.
        let Ok(data) = entry.metadata() else { continue };
        sum += if data.is_dir() { disk_bytes(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::disk_bytes;

    #[test]
    fn what_a_folder_takes_is_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        for name in ["one", "below/two"] {
            std::fs::write(dir.path().join(name), vec![1; 100_000]).unwrap();
        }
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!((200_000..400_000).contains(&bytes), "{bytes}");
    }
}

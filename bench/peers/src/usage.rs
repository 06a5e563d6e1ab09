//! What processes and the disk have used, from `/proc` and `/sys`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Clock ticks a second in `/proc`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Where a block device's counters have the flushes that were done, since Linux 5.5.
const FLUSHES_FIELD: usize = 15;

/// A process and its descendants, as they are now.
pub struct Tree(Vec<Process>);

struct Process {
    id: u32,
    parent: u32,
    /// Of its own and of the children it has waited for.
    cpu_ticks: f64,
}

impl Tree {
    /// The processes; none when `root` has ended.
    #[must_use]
    pub fn of(root: u32) -> Self {
        let mut all: BTreeMap<u32, Process> = BTreeMap::new();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for id in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            // One that has ended meanwhile is not there.
            let stat = fs::read_to_string(format!("/proc/{id}/stat"));
            if let Some(process) = stat.ok().and_then(|stat| Process::parse(id, &stat)) {
                all.insert(id, process);
            }
        }
        let mut tree = Vec::new();
        let mut next = vec![root];
        while let Some(id) = next.pop() {
            next.extend(all.values().filter(|process| process.parent == id).map(|process| process.id));
            tree.extend(all.remove(&id));
        }
        Self(tree)
    }

    /// CPU time so far, of those that have ended too.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        self.0.iter().map(|process| process.cpu_ticks).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Memory held now: what is a process's alone from each, and what is shared (program files, and
    /// PostgreSQL's buffers) from the one that has most of it.
    #[must_use]
    pub fn memory_mb(&self) -> f64 {
        let (mut own_kb, mut files_kb, mut shared_kb) = (0.0, 0.0_f64, 0.0_f64);
        for process in &self.0 {
            let status = fs::read_to_string(format!("/proc/{}/status", process.id)).unwrap_or_default();
            own_kb += number(&status, "RssAnon:");
            files_kb = files_kb.max(number(&status, "RssFile:"));
            shared_kb = shared_kb.max(number(&status, "RssShmem:"));
        }
        (own_kb + files_kb + shared_kb) / 1000.0
    }
}

impl Process {
    /// From a line of `/proc/ID/stat`, whose second field may hold anything, in parentheses.
    fn parse(id: u32, stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        Some(Self {
            id,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        })
    }
}

/// The number after a key at the beginning of a line; 0 where there is none.
fn number(text: &str, key: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Flushes done so far by the disk that holds `folder`, whoever asked for them; `None` where it is on
/// no block device.
#[must_use]
pub fn flushes(folder: &Path) -> Option<u64> {
    let device = fs::metadata(folder).ok()?.dev();
    // As the C library takes them apart.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let mut disk = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // Flushes are counted for the whole disk.
    if disk.join("partition").exists() {
        disk.pop();
    }
    let counters = fs::read_to_string(disk.join("stat")).ok()?;
    counters.split_whitespace().nth(FLUSHES_FIELD)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 0 0 0 0 0 10 20 30 40 20 0 1 0 5";
        let process = Process::parse(7, stat).unwrap();
        assert_eq!((process.id, process.parent), (7, 3));
        assert_eq!(process.cpu_ticks, 100.0);
    }

    #[test]
    fn this_process_holds_memory_and_one_that_is_gone_holds_none() {
        assert!(Tree::of(std::process::id()).memory_mb() > 0.0);
        assert_eq!(Tree::of(u32::MAX).memory_mb(), 0.0);
    }
}

//! The machine a benchmark runs on: what it is, what its disk does, and how long a sync takes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};

use crate::latencies::Latencies;

/// Column of `/proc/diskstats` with the flushes that a device has completed.
const FLUSHES_COLUMN: usize = 18;
/// Writes that the time of a sync is taken of.
const SYNCS: u64 = 400;
/// Bytes of each.
const SYNC_BYTES: u64 = 512;

/// Cores and processor.
pub(crate) fn describe() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores, {}", model.unwrap_or("unknown processor"))
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The commit that the server's binary names in its version, else the one checked out here.
pub(crate) fn commit(binary: Option<&Path>) -> String {
    let output = |command: &mut Command| {
        let output = command.output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let version = binary.and_then(|binary| output(Command::new(binary).arg("--version")));
    let is_commit = |word: &&str| word.len() >= 7 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = |text: String| text.split(|c: char| !c.is_alphanumeric()).find(is_commit).map(str::to_owned);
    let named = version.and_then(words);
    let checked_out = || output(Command::new("git").args(["rev-parse", "--short=12", "HEAD"]));
    named.or_else(checked_out).map_or_else(|| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

/// Syncs that the device of a folder has completed since it was there; `None` when it cannot be
/// told. Those of everybody: a quiet machine is assumed.
pub(crate) fn flushes(folder: &Path) -> Option<u64> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let mut link =
        std::fs::canonicalize(format!("/sys/dev/block/{}:{}", major(device), minor(device))).ok()?;
    if link.join("partition").exists() {
        // Flushes are counted for whole disks alone.
        link.pop();
    }
    let name = link.file_name()?.to_str()?;
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    let mut lines = stats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|columns| columns.get(2) == Some(&name))?.get(FLUSHES_COLUMN)?.parse().ok()
}

/// How long the disk takes to write 512 bytes over others and sync them: the least that anything
/// durable can take.
pub(crate) fn sync_times(folder: &Path) -> Result<Latencies> {
    let path = folder.join("sync-time");
    let measure = || -> io::Result<Latencies> {
        let file = File::options().create_new(true).write(true).open(&path)?;
        file.write_all_at(&vec![1; usize::try_from(SYNCS * SYNC_BYTES).expect("a few KiB")], 0)?;
        file.sync_all()?;
        let block = [2; SYNC_BYTES as usize];
        let one = |n: u64| -> io::Result<_> {
            let begun = Instant::now();
            file.write_all_at(&block, n * SYNC_BYTES)?;
            file.sync_data()?;
            Ok(begun.elapsed())
        };
        let times = (0..SYNCS).map(one).collect();
        std::fs::remove_file(&path)?;
        times
    };
    measure().with_context(|| format!("timing syncs in {}", folder.display()))
}

/// Bytes that a folder takes on its disk, with all that is in it.
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
            let path = entry?.path();
            // What goes away meanwhile, takes nothing.
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(bytes)
}

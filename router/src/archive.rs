//! Archives: runs that are about to be deleted, in files that outlive them.
//!
//! A file is gzip over the lines of an export, and is imported like one. It is on stable storage under
//! its name before any of its runs is deleted, and never changed afterwards. A crash in between leaves
//! runs that are archived again, the same.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use opcode_engine::ids::{Sequence, ShardId, Timestamp, WorkflowId};
use opcode_shard::CallError;
use opcode_shard::history::Line;

use crate::forward::ShardClient;
use crate::namespace::local_run;

/// Bytes from which on a file takes no further run, before they are compressed.
const FILE_BYTES: usize = 16 * 1024 * 1024;
/// How the names of files begin and end.
const PREFIX: &str = "runs-";
const SUFFIX: &str = ".jsonl.gz";

/// A file in the making, in memory until it is written.
pub(crate) struct Archive {
    lines: Vec<u8>,
    /// When the last of its runs ended.
    newest_end: Option<Timestamp>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { lines: Vec::new(), newest_end: None }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lines.len() >= FILE_BYTES
    }

    /// Adds a run with all its events; the last of them, for who deletes no more than was archived.
    pub(crate) async fn add(
        &mut self,
        shard: &ShardClient,
        id: &WorkflowId,
        ended_at: Timestamp,
    ) -> Result<Sequence, CallError> {
        let run = shard.history(id).await?;
        let last = run.events.last().map_or(Sequence(0), |event| Sequence(event.sequence));
        let failed = |why: String| CallError::Unavailable {
            applied_unknown: false,
            message: format!("workflow {id} cannot be archived: {why}"),
        };
        let line = local_run(run).and_then(|run| Line::Run(Box::new(run)).write());
        self.lines.extend(line.map_err(failed)?);
        self.newest_end = self.newest_end.max(Some(ended_at));
        Ok(last)
    }

    /// Writes it to a new file in a folder, which is made when it is missing; returns once it is on
    /// stable storage. None when there is nothing to write. Blocks.
    pub(crate) fn write(self, dir: &Path, shard: ShardId) -> std::io::Result<Option<PathBuf>> {
        let Some(newest_end) = self.newest_end else { return Ok(None) };
        make_dir(dir)?;
        let name = format!("{PREFIX}{}-{shard}-{}{SUFFIX}", uuid::Uuid::now_v7(), newest_end.0);
        let (path, unfinished) = (dir.join(&name), dir.join(format!("{name}.tmp")));
        let mut packed = GzEncoder::new(File::create(&unfinished)?, Compression::default());
        packed.write_all(&self.lines)?;
        packed.finish()?.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(Some(path))
    }
}

/// Makes a folder and those above it, each on stable storage.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    if let Some(above) = above {
        make_dir(above)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    above.map_or(Ok(()), |above| File::open(above)?.sync_all())
}

/// Deletes the archives of a folder all of whose runs ended by then; how many. Blocks.
pub(crate) fn delete_older(dir: &Path, until: Timestamp) -> std::io::Result<usize> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut deleted = 0;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if newest_end_of(name).is_some_and(|newest| newest <= until) {
            std::fs::remove_file(&path)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// When the last run of the archive of this name ended; none when it is no archive.
fn newest_end_of(name: &str) -> Option<Timestamp> {
    let (_, at) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    at.parse().ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn archive(at: i64) -> Archive {
        let mut archive = Archive::new();
        archive.lines.extend(b"{}\n");
        archive.newest_end = Some(Timestamp(at));
        archive
    }

    #[test]
    fn a_file_is_whole_under_its_name_or_not_there() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = home.path().join("new/er");
        assert_eq!(Archive::new().write(&folder, ShardId(1)).expect("nothing to write"), None);
        assert!(!folder.exists());
        let path = archive(5).write(&folder, ShardId(1)).expect("written").expect("a file");
        let mut text = String::new();
        let file = File::open(&path).expect("it is there");
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "{}\n");
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn archives_go_when_all_in_them_is_old_and_nothing_else_does() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = |at| archive(at).write(home.path(), ShardId(1)).expect("written").expect("a file");
        let (old, young) = (path(5), path(7));
        std::fs::write(home.path().join("runs-x.jsonl"), b"").expect("written");
        assert_eq!(delete_older(home.path(), Timestamp(6)).expect("a folder"), 1);
        assert!(!old.exists() && young.exists());
        assert_eq!(std::fs::read_dir(home.path()).expect("a folder").count(), 2);
        assert_eq!(delete_older(&home.path().join("none"), Timestamp(6)).expect("no folder"), 0);
    }
}

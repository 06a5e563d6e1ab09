//! Looking whether a backup is whole: every byte by its checksum, and what the bytes mean.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use serde::Serialize;

use super::folder::names;
use super::manifest::{CopyFile, LogFile, MANIFEST, Manifest};
use super::reading::read_whole;
use crate::batch::Position;
use crate::error::ShardError;
use crate::log::{CommittedEntry, read_archive};
use crate::store;

/// Problems that are listed; the rest are counted.
const LISTED_MAX: usize = 100;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// That every file is what was written.
    Checksums,
    /// Also that tables are sound and equal the fold of their events.
    Events,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Verified {
    pub files: u64,
    pub bytes: u64,
    pub runs: u64,
    pub events: u64,
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<String>,
}

impl Verified {
    fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(problem);
        }
    }

    fn note(&mut self, result: Result<(), ShardError>) {
        if let Err(error) = result {
            self.problem(error.to_string());
        }
    }
}

/// Looks at a backup that has this manifest; what is wrong is told, not returned. Reads all of it.
pub async fn verify(dir: &Path, manifest: &Manifest, depth: Depth) -> Result<Verified, ShardError> {
    let (dir, manifest) = (dir.to_owned(), manifest.clone());
    let (looked, dir, manifest) = blocking(move || {
        let looked = checksums(&dir, &manifest)?;
        Ok((looked, dir, manifest))
    })
    .await?;
    let mut verified = looked;
    // What is not what was written is not looked at further.
    if depth == Depth::Events && verified.problem_count == 0 {
        for copy in &manifest.copies {
            let looked = events(&dir, &manifest.cluster_id, copy, &mut verified).await;
            verified.note(looked);
        }
        for file in &manifest.log {
            let (path, file) = (dir.clone(), file.clone());
            verified.note(blocking(move || entries(&path, &file).map(drop)).await);
        }
    }
    Ok(verified)
}

/// Compares a backup's files with their checksums; an error only when the folder cannot be read.
pub(super) fn checksums(dir: &Path, manifest: &Manifest) -> Result<Verified, ShardError> {
    let mut verified = Verified::default();
    let known: BTreeSet<&str> = manifest.files().map(|(name, ..)| name).chain([MANIFEST]).collect();
    for name in names(dir)?.iter().filter(|name| !known.contains(name.as_str())) {
        verified.problem(format!(
            "{}: {name:?} is no part of the backup: remove it, or, if a backup was being added to, add to it again",
            dir.display()
        ));
    }
    for (name, bytes, sha256) in manifest.files() {
        verified.files += 1;
        verified.bytes = verified.bytes.saturating_add(bytes);
        verified.note(read_whole(&dir.join(name), (bytes, sha256), &mut std::io::sink()));
    }
    Ok(verified)
}

/// Looks at the tables of a copy: that they are the shard's, sound, and equal the fold of their events.
async fn events(
    dir: &Path,
    cluster_id: &str,
    copy: &CopyFile,
    verified: &mut Verified,
) -> Result<(), ShardError> {
    let path = dir.join(&copy.file);
    check_copy(dir, cluster_id, copy).await?;
    let report = store::rebuild(&path, true).await?;
    verified.runs += report.runs;
    verified.events += report.events;
    for damage in report.damages {
        verified.problem(format!("{}: {damage}", path.display()));
    }
    for difference in report.differences {
        verified.problem(format!("{}: {difference:?}", path.display()));
    }
    Ok(())
}

/// That a copy's tables are the shard's, sound, and go as far as the manifest says.
pub(super) async fn check_copy(dir: &Path, cluster_id: &str, copy: &CopyFile) -> Result<(), ShardError> {
    let (path, cluster_id, copy) = (dir.join(&copy.file), cluster_id.to_owned(), copy.clone());
    blocking(move || {
        let holds = store::check_copy(&path, copy.shard, &cluster_id)?;
        same_place(&path, holds, copy.position)
    })
    .await
}

fn same_place(path: &Path, holds: Position, wanted: Position) -> Result<(), ShardError> {
    match holds == wanted {
        true => Ok(()),
        false => {
            let why = format!("{} ends at {holds:?}, the manifest says {wanted:?}", path.display());
            Err(ShardError::Damaged(why))
        }
    }
}

/// The entries of a file of the log, which must be those that the manifest says.
pub(super) fn entries(dir: &Path, file: &LogFile) -> Result<Vec<CommittedEntry>, ShardError> {
    let path = dir.join(&file.file);
    let mut bytes = Vec::new();
    read_whole(&path, (file.bytes, &file.sha256), &mut bytes)?;
    let damaged = |what: String| ShardError::Damaged(format!("{}: {what}", path.display()));
    let entries = read_archive(&Bytes::from(bytes)).map_err(damaged)?;
    let first = entries.first().map(|entry| entry.batch.position());
    if first.map(|first| first.index) != file.after.index.checked_add(1) {
        return Err(damaged(format!("it begins with {first:?}, behind {:?}", file.after)));
    }
    let last = entries.last().map(|entry| entry.batch.position());
    same_place(&path, last.unwrap_or_default(), file.upto)?;
    Ok(entries)
}

/// Runs what reads much on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ShardError> + Send + 'static,
) -> Result<T, ShardError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ShardError::Stopped("the process is ending".into())),
    }
}

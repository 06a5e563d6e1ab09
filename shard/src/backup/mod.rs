//! Backups: a folder with a copy of each shard's tables, taken while the cluster works, and the log
//! behind each copy as far as it was fetched.
//!
//! A copy comes from whoever leads its shard, and holds everything that was acknowledged before it was
//! asked for. Copies of different shards are of different moments; what their runs have to say to each
//! other is settled when they are restored ([`crate::store::settle`]). The system shard comes first:
//! a schedule moves on after its run was submitted, so whatever run a schedule counts as started is in
//! the copy of its shard.
//!
//! A folder is a backup once [`manifest`] says what is in it, which is written last; whatever else was
//! written before that is nothing. [`folder`] writes, [`verify`] looks, [`restore`] makes a new cluster of
//! it; where the bytes come from is a [`Source`]'s affair, and [`call`] how nodes ask each other.

pub mod call;
pub mod folder;
pub mod manifest;
mod reading;
pub mod restore;
pub mod verify;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use opcode_engine::ids::ShardId;

use self::folder::{NewFile, Writer};
use self::manifest::{CopyFile, LogFile, Manifest, all_shards, copy_name, log_name};
use crate::batch::Position;
use crate::clock::Clock;
use crate::error::ShardError;
use crate::log::Archived;

/// How often one shard is tried: its leader may die under it.
const TRIES_MAX: u32 = 6;
/// Pause before the second try; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes from which on a file of the log is ended and another begun.
const LOG_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Where a backup's bytes come from.
pub trait Source: Sync {
    /// Why there are none.
    type Error: From<ShardError> + Send;

    /// Whether it may go well when it is tried again.
    fn may_pass(error: &Self::Error) -> bool;

    /// A copy of a shard's tables.
    fn copy(&self, shard: ShardId)
    -> impl Future<Output = Result<Incoming<Self::Error>, Self::Error>> + Send;

    /// Entries of a shard's log after one; `None` when the log no longer holds that.
    fn log(
        &self,
        shard: ShardId,
        after: Position,
    ) -> impl Future<Output = Result<Option<Archived>, Self::Error>> + Send;
}

/// A copy that is being fetched.
pub struct Incoming<E> {
    /// The last entry of the log that it holds.
    pub position: Position,
    /// How long it is.
    pub bytes: u64,
    /// XXH3, 64 bits, of all of it.
    pub checksum: u64,
    /// Its bytes, in order.
    pub pieces: BoxStream<'static, Result<Bytes, E>>,
}

/// Which cluster a backup is of.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct About {
    pub cluster_id: String,
    /// The release that writes it.
    pub version: String,
    pub shards: u32,
}

/// How far a backup has come.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Progress {
    /// The shard that is done.
    pub shard: ShardId,
    /// Bytes of its file.
    pub bytes: u64,
    pub shards_done: usize,
    pub shards: usize,
}

/// Whom to tell of it.
pub type Told<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// Writes a backup to a folder that is not there yet, or empty. `spares_room` when the folder may be on
/// the disk of a node's log, which needs some. After an error, and when it is given up, nothing is left.
pub async fn write<S: Source>(
    dir: &Path,
    about: About,
    source: &S,
    spares_room: bool,
    told: Told<'_>,
) -> Result<Manifest, S::Error> {
    let began_at = Clock::default().now().to_rfc3339();
    let mut writer = Writer::create(dir, spares_room)?;
    let shards = all_shards(about.shards);
    let mut copies = Vec::with_capacity(shards.len());
    for (done, shard) in (1..).zip(&shards) {
        let copy = fetch_copy(&mut writer, source, *shard).await?;
        told(Progress { shard: *shard, bytes: copy.bytes, shards_done: done, shards: shards.len() });
        copies.push(copy);
    }
    let ended_at = Clock::default().now().to_rfc3339();
    let About { cluster_id, version, shards } = about;
    let manifest = Manifest::new(cluster_id, version, shards, (began_at, ended_at), copies);
    writer.finish(&manifest)?;
    Ok(manifest)
}

/// Adds to a backup what the cluster has committed since it was written, or added to last. After an
/// error the backup is what it was; an error also when a log no longer holds what follows.
pub async fn extend<S: Source>(
    dir: &Path,
    about: &About,
    source: &S,
    spares_room: bool,
    told: Told<'_>,
) -> Result<Manifest, S::Error> {
    let mut manifest = Manifest::read(dir)?;
    if manifest.cluster_id != about.cluster_id {
        let why = format!("the backup is of cluster {}, this is {}", manifest.cluster_id, about.cluster_id);
        return Err(ShardError::Refused(why).into());
    }
    let mut writer = Writer::reopen(dir, &manifest, spares_room)?;
    let shards = all_shards(manifest.shards);
    for (done, shard) in (1..).zip(&shards) {
        let mut bytes = 0;
        loop {
            let (before, number) = (manifest.last(*shard), manifest.log_of(*shard).count() + 1);
            let Some(file) = fetch_log(&mut writer, source, *shard, before, number).await? else { break };
            bytes += file.bytes;
            manifest.log.push(file);
        }
        told(Progress { shard: *shard, bytes, shards_done: done, shards: shards.len() });
    }
    manifest.ended_at = Clock::default().now().to_rfc3339();
    writer.finish(&manifest)?;
    Ok(manifest)
}

/// Pauses before a try that comes after a failure; the failure, when there is to be none.
async fn pause<S: Source>(error: S::Error, tries: &mut u32) -> Result<(), S::Error> {
    *tries += 1;
    if *tries >= TRIES_MAX || !S::may_pass(&error) {
        return Err(error);
    }
    tokio::time::sleep(PAUSE * (1 << (*tries - 1))).await;
    Ok(())
}

/// Fetches a copy, from whoever leads the shard by then, anew when it breaks off.
async fn fetch_copy<S: Source>(
    writer: &mut Writer,
    source: &S,
    shard: ShardId,
) -> Result<CopyFile, S::Error> {
    let mut tries = 0;
    loop {
        match fetch_copy_once(writer, source, shard).await {
            Ok(copy) => return Ok(copy),
            Err(error) => pause::<S>(error, &mut tries).await?,
        }
    }
}

async fn fetch_copy_once<S: Source>(
    writer: &mut Writer,
    source: &S,
    shard: ShardId,
) -> Result<CopyFile, S::Error> {
    let mut incoming = source.copy(shard).await?;
    writer.check_room(incoming.bytes)?;
    let mut file = writer.file(&copy_name(shard))?;
    while let Some(piece) = incoming.pieces.next().await {
        file = file.push(piece?).await?;
    }
    let done = file.finish().await?;
    if (done.bytes, done.checksum) != (incoming.bytes, incoming.checksum) {
        let why = format!("the copy of shard {shard} that came in is not what was sent");
        return Err(ShardError::Damaged(why).into());
    }
    let (file, position) = (done.name, incoming.position);
    Ok(CopyFile { shard, file, bytes: done.bytes, sha256: done.sha256, position })
}

/// One file more of a shard's log; `None` when there is nothing more.
async fn fetch_log<S: Source>(
    writer: &mut Writer,
    source: &S,
    shard: ShardId,
    after: Position,
    number: usize,
) -> Result<Option<LogFile>, S::Error> {
    let (mut upto, mut file): (Position, Option<NewFile>) = (after, None);
    loop {
        let Some(archived) = fetch_entries(source, shard, upto).await? else {
            let why = format!(
                "the log of shard {shard} no longer holds entry {}, with which this backup ends: make a new \
                 one, in another folder, and add to it more often",
                upto.index
            );
            return Err(ShardError::Refused(why).into());
        };
        if archived.last == upto {
            break;
        }
        writer.check_room(archived.bytes.len() as u64)?;
        let growing = match file.take() {
            Some(file) => file,
            None => writer.file(&log_name(shard, number))?,
        };
        let growing = growing.push(archived.bytes).await?;
        upto = archived.last;
        let is_large = growing.bytes() >= LOG_FILE_BYTES;
        file = Some(growing);
        if is_large {
            break;
        }
    }
    let Some(file) = file else { return Ok(None) };
    let done = file.finish().await?;
    Ok(Some(LogFile { shard, file: done.name, bytes: done.bytes, sha256: done.sha256, after, upto }))
}

async fn fetch_entries<S: Source>(
    source: &S,
    shard: ShardId,
    after: Position,
) -> Result<Option<Archived>, S::Error> {
    let mut tries = 0;
    loop {
        match source.log(shard, after).await {
            Ok(archived) => return Ok(archived),
            Err(error) => pause::<S>(error, &mut tries).await?,
        }
    }
}

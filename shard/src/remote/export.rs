//! What a leader gives to backups: copies of its tables, made when they are asked for and fetched
//! piece by piece, and its log behind them.
//!
//! A copy holds all that was acknowledged before it was asked for: who makes it has been told by a
//! majority that it leads. It goes when it has been fetched, or when nobody asks for it any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::lead::Lead;
use crate::backup::call::{BackupCall, BackupReply, CopyMade};
use crate::error::{CallError, ShardError};
use crate::handle::ShardHandle;
use crate::log::copies::OutgoingCopy;
use crate::simulation;

/// Copies of one shard at a time: each takes the room of the tables.
const COPIES_MAX: usize = 2;
/// How long one is kept that nobody asks for.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a caller waits before it is told that its copy is still being made.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Bytes of one piece.
const PIECE_BYTES: usize = 1024 * 1024;

/// A copy, or why there is none.
type Making = Shared<BoxFuture<'static, Result<Arc<OutgoingCopy>, BackupFault>>>;

/// Why a copy could not be made.
#[derive(Clone, Debug)]
enum BackupFault {
    Full,
    Other(String),
}

impl From<ShardError> for BackupFault {
    fn from(error: ShardError) -> Self {
        match &error {
            ShardError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Self::Full,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<BackupFault> for BackupReply {
    fn from(fault: BackupFault) -> Self {
        match fault {
            BackupFault::Full => Self::Full,
            BackupFault::Other(why) => Self::Failed(why),
        }
    }
}

/// The copies of one shard that are being fetched, by number.
#[derive(Clone, Default)]
pub(crate) struct Exports {
    copies: Arc<Mutex<BTreeMap<u64, (Making, Instant)>>>,
}

/// Answers a call for a backup with the replica here.
pub async fn answer_backup(handle: &ShardHandle, body: &Bytes) -> Result<Bytes, String> {
    let reply = match BackupCall::decode(body)? {
        BackupCall::Copy(None) => begin(handle).await,
        BackupCall::Copy(Some(copy)) => Ok(handle.inner.exports.look(copy).await),
        BackupCall::Piece(copy, offset) => Ok(handle.inner.exports.piece(copy, offset).await),
        BackupCall::Done(copy) => {
            handle.inner.exports.copies.lock().remove(&copy);
            Ok(BackupReply::Gone)
        }
        BackupCall::Log(after) => log(handle, after).await,
    };
    Ok(reply.unwrap_or_else(BackupReply::from).encode())
}

fn failed(error: &ShardError) -> CallError {
    CallError::Unavailable { applied_unknown: false, message: error.to_string() }
}

/// Begins a copy of what is acknowledged by now.
async fn begin(handle: &ShardHandle) -> Result<BackupReply, CallError> {
    let lead = Lead::now(handle);
    lead.confirm().await?;
    let (at, store, group) = (handle.committed(), handle.inner.store.clone(), handle.group().clone());
    lead.holds()?;
    // What comes after it is asked for next, if the backup is added to.
    group.keep_for_backups(at);
    let make = async move {
        store.reached(at).await?;
        let copy = group.copy_tables().await?;
        group.keep_for_backups(copy.position()?);
        Ok::<_, ShardError>(Arc::new(copy))
    };
    let exports = &handle.inner.exports;
    let copy = exports.add(make.map(|made| made.map_err(BackupFault::from)).boxed())?;
    Ok(exports.look(copy).await)
}

/// Entries that are committed by now.
async fn log(handle: &ShardHandle, after: crate::batch::Position) -> Result<BackupReply, CallError> {
    let lead = Lead::now(handle);
    lead.confirm().await?;
    let archived = handle.group().archive(after).await.map_err(|error| failed(&error))?;
    lead.holds()?;
    Ok(match archived {
        Some(archived) => {
            handle.group().keep_for_backups(archived.last);
            BackupReply::Log(archived.bytes, archived.last)
        }
        None => BackupReply::Gone,
    })
}

impl Exports {
    fn add(
        &self,
        making: BoxFuture<'static, Result<Arc<OutgoingCopy>, BackupFault>>,
    ) -> Result<u64, CallError> {
        let number = rand::random();
        let mut copies = self.copies.lock();
        if copies.len() >= COPIES_MAX {
            return Err(CallError::Overloaded);
        }
        // It goes on whether anybody asks or not.
        let task = tokio::spawn(making);
        let ended =
            task.map(|ended| ended.unwrap_or_else(|panic| Err(BackupFault::Other(panic.to_string()))));
        copies.insert(number, (ended.boxed().shared(), Instant::now()));
        tokio::spawn(self.clone().forget(number));
        Ok(number)
    }

    /// Lets a copy go once nobody has asked for it for a while.
    async fn forget(self, number: u64) {
        loop {
            let Some(used) = self.copies.lock().get(&number).map(|(_, used)| *used) else { return };
            if used.elapsed() >= IDLE_MAX {
                self.copies.lock().remove(&number);
                return;
            }
            tokio::time::sleep_until(used + IDLE_MAX).await;
        }
    }

    fn copy(&self, number: u64) -> Option<Making> {
        let mut copies = self.copies.lock();
        let (making, used) = copies.get_mut(&number)?;
        *used = Instant::now();
        Some(making.clone())
    }

    async fn look(&self, number: u64) -> BackupReply {
        let Some(making) = self.copy(number) else { return BackupReply::Gone };
        match tokio::time::timeout(LOOK_MAX, making).await {
            Err(_) => BackupReply::Making(number),
            Ok(Err(fault)) => {
                self.copies.lock().remove(&number);
                fault.into()
            }
            Ok(Ok(copy)) => match copy.position() {
                Ok(position) => {
                    let OutgoingCopy { bytes, checksum, .. } = *copy;
                    BackupReply::Made(CopyMade { copy: number, bytes, checksum, position })
                }
                Err(error) => BackupReply::Failed(error.to_string()),
            },
        }
    }

    async fn piece(&self, number: u64, offset: u64) -> BackupReply {
        let copy = match self.copy(number).map(FutureExt::now_or_never) {
            Some(Some(Ok(copy))) => copy,
            Some(Some(Err(fault))) => return fault.into(),
            Some(None) => return BackupReply::Making(number),
            None => return BackupReply::Gone,
        };
        match simulation::blocking(move || copy.read(offset, PIECE_BYTES)).await {
            Ok(Ok(bytes)) => BackupReply::Piece(bytes),
            Ok(Err(error)) => BackupReply::Failed(format!("the copy cannot be read: {error}")),
            Err(error) => BackupReply::Failed(error.to_string()),
        }
    }
}

//! The readers: a few read-only connections, each read on a blocking thread within one snapshot.
//!
//! A read that fails is an error, never an empty answer.

use std::path::PathBuf;
use std::sync::Arc;

use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::checksum;
use super::codec::{self, no_bind};
use super::connection::{Access, Bind, Connection};
use super::fold::run_summed;
use super::{StoredRun, codec::integer, purge};
use crate::catalogue::CatalogueEntry;
use crate::error::ShardError;
use crate::record::{EventRecord, TemplateRecord};

/// Reads of one shard at the same time; more wait for one to end.
const READERS_MAX: usize = 4;

/// The pool of reading connections.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), permits: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    /// Runs `read` on a blocking thread, within one snapshot of the tables.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Connection) -> Result<T, ShardError> + Send + 'static,
    ) -> Result<T, ShardError> {
        let readers = Arc::clone(self);
        self.blocking(move || {
            let idle = readers.idle.lock().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(&readers.path, Access::Read)?,
            };
            let (begin, commit) = (connection.cached("BEGIN")?, connection.cached("COMMIT")?);
            connection.run(begin, &[])?;
            // After an error the connection is dropped, and its snapshot with it.
            let answer = read(&mut connection)?;
            connection.run(commit, &[])?;
            readers.idle.lock().push(connection);
            Ok(answer)
        })
        .await
    }

    /// Runs `read` on a blocking thread with a connection of its own.
    pub(super) async fn read_apart<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(Connection) -> Result<T, ShardError> + Send + 'static,
    ) -> Result<T, ShardError> {
        let path = self.path.clone();
        self.blocking(move || read(Connection::open(&path, Access::Read)?)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, ShardError> + Send + 'static,
    ) -> Result<T, ShardError> {
        let closed = |_| ShardError::Stopped("the tables are closed".into());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(closed)?;
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read()
        });
        match reading.await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ShardError::Stopped("the process is ending".into())),
        }
    }

    /// Waits for the reads under way and runs `change` while no reader has the file open; reads
    /// that come meanwhile wait, and open it anew. `None`, and nothing is run, once the readers
    /// are closed. Blocks the thread.
    pub(super) fn exclusively<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let all = u32::try_from(READERS_MAX).expect("a few");
        let _all = futures::executor::block_on(self.permits.acquire_many(all)).ok()?;
        self.idle.lock().clear();
        Some(change())
    }

    /// Refuses further reads and closes the connections that rest.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

pub(super) fn find(connection: &mut Connection, id: &WorkflowId) -> Result<Option<RunNo>, ShardError> {
    let binds = [Bind::Text(id.as_str())];
    let sql = concat!("SELECT ", run_summed!(), ", checksum FROM workflows WHERE id = ?1");
    let mut rows = connection.select(sql, &binds)?;
    let Some(row) = rows.next()? else { return Ok(None) };
    match codec::run_key(&row)? {
        (no, found) if found == id.as_str() => Ok(Some(no)),
        // The index led to another's row.
        (no, _) => Err(checksum::damaged("workflows", no.0.to_string(), Some(no))),
    }
}

pub(super) fn load_run(
    connection: &mut Connection,
    id: &WorkflowId,
) -> Result<Option<StoredRun>, ShardError> {
    let Some(no) = find(connection, id)? else { return Ok(None) };
    let events = events(connection, no, Sequence(0), usize::MAX)?;
    Ok(Some(StoredRun { no, id: id.clone(), events }))
}

pub(super) fn load_runs(
    connection: &mut Connection,
    ids: &[WorkflowId],
) -> Result<Vec<StoredRun>, ShardError> {
    let mut runs = Vec::new();
    for id in ids {
        runs.extend(load_run(connection, id)?);
    }
    Ok(runs)
}

fn id_of(connection: &mut Connection, no: RunNo) -> Result<Option<WorkflowId>, ShardError> {
    let binds = [no_bind(no)];
    let sql = concat!("SELECT ", run_summed!(), ", checksum FROM workflows WHERE no = ?1");
    let mut rows = connection.select(sql, &binds)?;
    rows.next()?.map(|row| codec::workflow_id(codec::run_key(&row)?.1)).transpose()
}

pub(super) fn load_run_no(connection: &mut Connection, no: RunNo) -> Result<Option<StoredRun>, ShardError> {
    let Some(id) = id_of(connection, no)? else { return Ok(None) };
    let events = events(connection, no, Sequence(0), usize::MAX)?;
    Ok(Some(StoredRun { no, id, events }))
}

pub(super) fn load_run_nos(
    connection: &mut Connection,
    nos: &[RunNo],
) -> Result<Vec<Option<StoredRun>>, ShardError> {
    nos.iter().map(|no| load_run_no(connection, *no)).collect()
}

pub(super) fn last_run_no(connection: &mut Connection) -> Result<RunNo, ShardError> {
    let sql = concat!("SELECT ", run_summed!(), ", checksum FROM workflows ORDER BY no DESC LIMIT 1");
    let there = {
        let mut rows = connection.select(sql, &[])?;
        rows.next()?.map_or(Ok(RunNo(0)), |row| codec::run_key(&row).map(|(no, _)| no))?
    };
    // Of the last runs all may be purged, and none gets a number that another had.
    let sql = "SELECT coalesce((SELECT value FROM meta WHERE key = ?1), 0)";
    let mut rows = connection.select(sql, &[Bind::Text(purge::LAST_KEY)])?;
    let purged = rows.next()?.map_or(Ok(RunNo(0)), |row| row.unsigned(0).map(RunNo))?;
    Ok(there.max(purged))
}

pub(super) fn purged_count(connection: &mut Connection) -> Result<u64, ShardError> {
    let sql = "SELECT coalesce((SELECT value FROM meta WHERE key = ?1), 0)";
    let mut rows = connection.select(sql, &[Bind::Text(purge::COUNT_KEY)])?;
    rows.next()?.map_or(Ok(0), |row| row.unsigned(0))
}

/// From an index alone: each row is looked at when its run is loaded.
pub(super) fn live_runs(connection: &mut Connection) -> Result<Vec<RunNo>, ShardError> {
    let sql = "SELECT no FROM workflows WHERE status IN ('pending', 'active') ORDER BY no";
    let mut rows = connection.select(sql, &[])?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        runs.push(RunNo(row.unsigned(0)?));
    }
    Ok(runs)
}

/// From indexes alone: a run that is woken at another time than it is due finds nothing to do.
pub(super) fn timers(connection: &mut Connection) -> Result<Vec<(Timestamp, RunNo)>, ShardError> {
    let sql = "SELECT min(due), no FROM (
            SELECT due, no FROM workflows WHERE due IS NOT NULL
            UNION ALL
            SELECT due, workflow_no FROM step_rows WHERE due IS NOT NULL)
        GROUP BY no ORDER BY 1, 2";
    let mut rows = connection.select(sql, &[])?;
    let mut timers = Vec::new();
    while let Some(row) = rows.next()? {
        timers.push((Timestamp(row.int(0)?), RunNo(row.unsigned(1)?)));
    }
    Ok(timers)
}

/// Keys of the messages that are owed, oldest run first.
pub(super) fn outbox(connection: &mut Connection) -> Result<Vec<(RunNo, Sequence)>, ShardError> {
    let sql = "SELECT workflow_no, sequence FROM outbox ORDER BY workflow_no, sequence";
    let mut rows = connection.select(sql, &[])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push((RunNo(row.unsigned(0)?), Sequence(row.unsigned(1)?)));
    }
    Ok(keys)
}

/// The events of some keys, each with its run's id.
pub(super) fn owed(
    connection: &mut Connection,
    keys: &[(RunNo, Sequence)],
) -> Result<Vec<(WorkflowId, EventRecord)>, ShardError> {
    let mut found = Vec::with_capacity(keys.len());
    for (no, sequence) in keys {
        let id = id_of(connection, *no)?;
        let before = Sequence(sequence.0.saturating_sub(1));
        let event = events(connection, *no, before, 1)?.pop();
        match (id, event) {
            (Some(id), Some(event)) if event.sequence == *sequence => found.push((id, event)),
            _ => {
                let why = format!("event {} of run {} owes a message and is not there", sequence.0, no.0);
                return Err(ShardError::Damaged(why));
            }
        }
    }
    Ok(found)
}

pub(super) fn definition(
    connection: &mut Connection,
    hash: DefinitionHash,
) -> Result<Option<Arc<str>>, ShardError> {
    let binds = [Bind::Blob(&hash.0)];
    let mut rows = connection.select("SELECT source FROM definitions WHERE hash = ?1", &binds)?;
    rows.next()?.map(|row| row.text(0).map(Arc::from)).transpose()
}

pub(super) fn events(
    connection: &mut Connection,
    no: RunNo,
    after: Sequence,
    limit: usize,
) -> Result<Vec<EventRecord>, ShardError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let binds = [no_bind(no), Bind::Int(integer(after.0)), Bind::Int(limit)];
    let sql = "SELECT workflow_no, sequence, type, step_id, data, agent_id, timestamp, checksum
        FROM event_rows WHERE workflow_no = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3";
    let mut rows = connection.select(sql, &binds)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(codec::event(&row)?);
    }
    Ok(events)
}

pub(super) fn templates(connection: &mut Connection) -> Result<Vec<TemplateRecord>, ShardError> {
    let sql = format!("SELECT {}, checksum FROM templates ORDER BY name, version", codec::TEMPLATE_COLUMNS);
    let mut rows = connection.select_once(&sql, &[])?;
    let mut templates = Vec::new();
    while let Some(row) = rows.next()? {
        templates.push(codec::template(&row)?);
    }
    Ok(templates)
}

pub(super) fn catalogue(connection: &mut Connection) -> Result<Vec<CatalogueEntry>, ShardError> {
    let sql = format!("SELECT {}, checksum FROM catalogue ORDER BY kind, key", codec::CATALOGUE_COLUMNS);
    let mut rows = connection.select_once(&sql, &[])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(codec::catalogue_entry(&row)?);
    }
    Ok(entries)
}

//! The tables of one shard: libSQL, the query model. One writer thread, read-only readers.
//!
//! The commit point is the log; these files lag behind it by at most a moment under load, and
//! can be rebuilt from it, and their views from their events.

mod apply;
mod bulk;
mod check;
mod checksum;
mod codec;
mod connection;
mod copy;
pub(crate) mod copy_reader;
mod fold;
mod lists;
mod mend;
mod purge;
mod reader;
mod rebuild;
mod restore;
mod schema;
mod scrub;
mod settle;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
mod sql;
#[cfg(test)]
pub(crate) mod tests;
mod turns;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use opcode_engine::namespace::Namespace;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, broadcast, oneshot};

use self::apply::Applier;
use self::connection::Connection;
pub(crate) use self::fold::check_foldable;
use self::reader::Readers;
pub use self::rebuild::{Difference, RebuildReport, rebuild};
pub use self::restore::{adopt, check_copy};
pub use self::scrub::ScrubReport;
pub use self::settle::{Settled, settle};
use self::writer::{Damaged, Shared, Writer};
use crate::batch::{Batch, Committed, Position};
use crate::catalogue::CatalogueEntry;
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry, Tables};
use crate::record::{EventRecord, TemplateRecord};
use crate::replica::feed::Feed;

/// Batches that a slow subscriber may lie behind.
const SUBSCRIBER_BATCHES_MAX: usize = 1_024;
/// Damaged rows that one read, or one transaction, has mended before it gives up.
const MENDS_MAX: usize = 16;

/// How to open a shard's tables.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The libSQL file.
    pub path: PathBuf,
    /// Which shard; another's file is refused.
    pub shard: ShardId,
    /// The cluster's id; another's file is refused.
    pub cluster_id: String,
}

/// A shard's tables: handle to the writer, door to the readers. Cheap to clone; when the last
/// clone goes, the writer ends after its current transaction, and the log has the rest.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    options: StoreOptions,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    committed: broadcast::Sender<Batch<Committed>>,
    /// A read has found damage that is not mended.
    damage: Notify,
    /// The last entry that subscribers were told of, or would have been.
    told: Mutex<Position>,
    writer: Option<JoinHandle<()>>,
    /// What is in the place of the file in a simulation.
    #[cfg(feature = "sim")]
    simulated: Option<Arc<simulated::SimulatedTables>>,
}

/// Reads from what is in the place of the file, in a simulation.
macro_rules! simulated {
    ($store:ident.$method:ident($($argument:expr),*)) => {
        #[cfg(feature = "sim")]
        if let Some(tables) = &$store.inner.simulated {
            return tables.$method($($argument),*).await;
        }
    };
}

/// A run as stored: its key and its whole log.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct StoredRun {
    pub no: RunNo,
    pub id: WorkflowId,
    pub events: Vec<EventRecord>,
}

/// A line of a list of runs.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunSummary {
    pub workflow_id: String,
    pub status: String,
    pub template: Option<String>,
    pub version: Option<String>,
    pub agent_id: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Milliseconds since the epoch here; the router writes RFC 3339.
    #[serde(skip)]
    pub created_at: Timestamp,
    #[serde(skip)]
    pub started_at: Option<Timestamp>,
    #[serde(skip)]
    pub completed_at: Option<Timestamp>,
    pub error: Option<Box<RawValue>>,
}

/// Which runs to list. Newest first: by `created_at` descending, then id descending.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunFilter {
    /// Only of this namespace; of all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Any of these statuses; empty is all.
    pub statuses: Vec<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only of this template, by the name that it is kept under.
    pub template: Option<String>,
    /// Only with all these labels.
    pub labels: Vec<(String, String)>,
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// Only after this (created_at, id) in the order of the list.
    pub after: Option<(Timestamp, String)>,
    /// At most this many.
    pub limit: usize,
}

/// A decision as listed, in the shape of the HTTP contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DecisionRow {
    pub decision_id: String,
    pub workflow_id: String,
    pub step_id: String,
    pub status: String,
    pub context: Box<RawValue>,
    pub options: Box<RawValue>,
    pub target_agent: Option<String>,
    pub fallback: Option<String>,
    pub timeout_at: Option<String>,
    pub created_at: String,
    pub resolution: Option<Box<RawValue>>,
}

/// Which decisions to list, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DecisionFilter {
    /// Only of this namespace's runs; of all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// `pending` (default), `resolved`, `timed_out`, `cancelled`, or `all`.
    pub status: Option<String>,
    /// Those that this agent may answer: its own and those for anybody.
    pub agent_id: Option<String>,
    pub workflow_id: Option<String>,
    /// Only after this (created_at, decision id).
    pub after: Option<(Timestamp, String)>,
    pub limit: usize,
}

/// Counts for the cluster read-out.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct StoreStats {
    pub workflows: u64,
    pub bytes: u64,
}

impl Store {
    /// Opens or makes the file and starts its writer thread. Refuses a file of another shard,
    /// cluster or newer format, unchanged.
    pub async fn open(options: StoreOptions) -> Result<Self, ShardError> {
        #[cfg(feature = "sim")]
        if crate::simulation::is_on() {
            return Ok(simulated::open(options));
        }
        let path = options.path.clone();
        let shared = Arc::new(Shared::new(path.clone()));
        let readers = Arc::new(Readers::new(path));
        let (opened, opening) = oneshot::channel();
        let writer = std::thread::Builder::new()
            .name(format!("tables-{}", options.shard))
            .spawn({
                let (options, shared) = (options.clone(), Arc::clone(&shared));
                let readers = Arc::clone(&readers);
                move || write(options, shared, readers, opened)
            })
            .map_err(|source| ShardError::Io { what: "start the tables' writer".into(), source })?;
        opening.await.map_err(|_| ShardError::Stopped("the tables' writer panicked".into()))??;
        let (committed, _) = broadcast::channel(SUBSCRIBER_BATCHES_MAX);
        let inner = Inner {
            options,
            shared,
            readers,
            committed,
            damage: Notify::new(),
            told: Mutex::default(),
            writer: Some(writer),
            #[cfg(feature = "sim")]
            simulated: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The position applied last; the default before the first entry.
    pub fn applied_position(&self) -> Position {
        self.inner.shared.watch().borrow().position.unwrap_or_default()
    }

    /// Waits until everything up to `position` is applied; asks the writer to be quick about it.
    /// The default position, of a log that holds nothing yet, is reached from the start.
    pub async fn reached(&self, position: Position) -> Result<(), ShardError> {
        if position == Position::default() {
            return Ok(());
        }
        let mut progress = self.inner.shared.watch();
        let is_there = progress.borrow().position >= Some(position);
        if !is_there {
            self.inner.shared.hurry(position);
        }
        let ended = || ShardError::Stopped("the tables are closed".into());
        let progress = progress
            .wait_for(|p| p.position >= Some(position) || p.failed.is_some() || p.is_closed)
            .await
            .map_err(|_| ended())?;
        match &progress.failed {
            Some(why) => Err(ShardError::Stopped(why.to_string())),
            None if progress.position >= Some(position) => Ok(()),
            None => Err(ended()),
        }
    }

    /// Every entry that is committed from now on, also those without records, so that one that was
    /// missed is seen to be. On its way to the tables, which may not have it yet: what came before
    /// is in them from the position on that is given too.
    pub fn subscribe(&self) -> (Position, broadcast::Receiver<Batch<Committed>>) {
        let entries = self.inner.committed.subscribe();
        // Looked at afterwards: whatever is not in the subscription has been noted by now.
        let told = *self.inner.told.lock();
        (told, entries)
    }

    /// Why the tables have stopped for good, if they have. What is committed stays in the log;
    /// the shard must stop as well.
    pub fn failed(&self) -> Option<Arc<str>> {
        self.inner.shared.watch().borrow().failed.clone()
    }

    /// Waits until the tables stop for good, and tells why; never ends while they are well.
    pub async fn failure(&self) -> Arc<str> {
        let mut progress = self.inner.shared.watch();
        let failed = progress.wait_for(|p| p.failed.is_some()).await.map(|p| p.failed.clone());
        match failed {
            Ok(Some(why)) => why,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until a read finds damage that cannot be mended from what is here; told once.
    pub async fn damage(&self) {
        self.inner.damage.notified().await;
    }

    /// The tables' frames, for copies of them.
    pub(crate) fn feed(&self) -> &Arc<Feed> {
        self.inner.shared.feed()
    }

    /// Has the writer look what those who copy frames want.
    pub(crate) fn look_at_feed(&self) {
        self.inner.shared.look_at_feed();
    }

    /// Transactions committed since the tables were opened.
    pub fn commits(&self) -> u64 {
        self.inner.shared.commits()
    }

    /// Reads in one snapshot. A run's row that is not what was written is written anew first, from the
    /// run's events, so that what is read is what was committed; any other damage is the answer.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&mut Connection) -> Result<T, ShardError> + Send + Sync + 'static,
    ) -> Result<T, ShardError> {
        let (read, mut mended) = (Arc::new(read), None);
        for turn in 0.. {
            let reading = Arc::clone(&read);
            let answer = self.inner.readers.read(move |connection| reading(connection)).await;
            let run = match &answer {
                Err(ShardError::DamagedRow { run, .. }) => *run,
                Err(ShardError::Damaged(_)) => None,
                Ok(_) | Err(_) => return answer,
            };
            tell_damage(self.inner.options.shard, answer.as_ref().err());
            let Some(no) = run.filter(|_| turn < MENDS_MAX) else {
                self.inner.damage.notify_one();
                return answer;
            };
            if self.inner.shared.mend(Damaged::Run { no, is_again: mended == Some(no) }).await.is_err() {
                self.inner.damage.notify_one();
                return answer;
            }
            mended = Some(no);
        }
        unreachable!("it answers at last")
    }

    /// A run's key by id.
    pub async fn find(&self, id: &WorkflowId) -> Result<Option<RunNo>, ShardError> {
        simulated!(self.find(id));
        let id = id.clone();
        self.read(move |connection| reader::find(connection, &id)).await
    }

    /// A run with its whole log.
    pub async fn load_run(&self, id: &WorkflowId) -> Result<Option<StoredRun>, ShardError> {
        simulated!(self.load_run(id));
        let id = id.clone();
        self.read(move |connection| reader::load_run(connection, &id)).await
    }

    /// Those of these runs that there are, with their logs, all as of one moment.
    pub async fn load_runs(&self, ids: Vec<WorkflowId>) -> Result<Vec<StoredRun>, ShardError> {
        simulated!(self.load_runs(ids));
        self.read(move |connection| reader::load_runs(connection, &ids)).await
    }

    /// The same by number.
    pub async fn load_run_no(&self, no: RunNo) -> Result<Option<StoredRun>, ShardError> {
        simulated!(self.load_run_no(no));
        self.read(move |connection| reader::load_run_no(connection, no)).await
    }

    /// The same for several, in their order, all as of one moment. One that is damaged fails all.
    pub async fn load_run_nos(&self, nos: Vec<RunNo>) -> Result<Vec<Option<StoredRun>>, ShardError> {
        simulated!(self.load_run_nos(nos));
        self.read(move |connection| reader::load_run_nos(connection, &nos)).await
    }

    /// The highest run number ever given, 0 when none.
    pub async fn last_run_no(&self) -> Result<RunNo, ShardError> {
        simulated!(self.last_run_no());
        self.read(reader::last_run_no).await
    }

    /// How many runs were purged.
    async fn purged_count(&self) -> Result<u64, ShardError> {
        simulated!(self.purged_count());
        self.inner.readers.read(reader::purged_count).await
    }

    /// Numbers of runs that are pending or active, ascending: those to go on with after a start.
    pub async fn live_runs(&self) -> Result<Vec<RunNo>, ShardError> {
        simulated!(self.live_runs());
        self.read(reader::live_runs).await
    }

    /// Every run that has a timer, with its earliest: `(due, run)`, by due.
    pub async fn timers(&self) -> Result<Vec<(Timestamp, RunNo)>, ShardError> {
        simulated!(self.timers());
        self.read(reader::timers).await
    }

    /// Keys of the messages that are owed to other runs, ascending.
    pub async fn outbox(&self) -> Result<Vec<(RunNo, Sequence)>, ShardError> {
        simulated!(self.outbox());
        self.read(reader::outbox).await
    }

    /// The events of some of these keys, each with its run's id.
    pub async fn owed(
        &self,
        keys: Vec<(RunNo, Sequence)>,
    ) -> Result<Vec<(WorkflowId, EventRecord)>, ShardError> {
        simulated!(self.owed(keys));
        self.read(move |connection| reader::owed(connection, &keys)).await
    }

    /// A definition's canonical text.
    pub async fn definition(&self, hash: DefinitionHash) -> Result<Option<Arc<str>>, ShardError> {
        simulated!(self.definition(hash));
        self.read(move |connection| reader::definition(connection, hash)).await
    }

    /// Events of a run after a sequence.
    pub async fn events(
        &self,
        no: RunNo,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, ShardError> {
        simulated!(self.events(no, after, limit));
        self.read(move |connection| reader::events(connection, no, after, limit)).await
    }

    /// Lists runs.
    pub async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, ShardError> {
        self.read(move |connection| lists::runs(connection, &filter)).await
    }

    /// Lists decisions.
    pub async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, ShardError> {
        self.read(move |connection| lists::decisions(connection, &filter)).await
    }

    /// Every version of every template, by name and version.
    pub async fn templates(&self) -> Result<Vec<TemplateRecord>, ShardError> {
        simulated!(self.templates());
        self.read(reader::templates).await
    }

    /// The catalogue's entries by kind and key, and its last change when that deleted one.
    pub async fn catalogue(&self) -> Result<Vec<CatalogueEntry>, ShardError> {
        simulated!(self.catalogue());
        self.read(reader::catalogue).await
    }

    /// Rows of a read-only `SELECT`, at most `limit`, within `timeout_ms`, as JSON objects. A
    /// query that writes, fails, or takes too long is [`ShardError::Refused`].
    pub async fn sql(
        &self,
        query: &str,
        limit: usize,
        timeout_ms: u64,
    ) -> Result<Vec<serde_json::Value>, ShardError> {
        let query = query.to_owned();
        self.inner.readers.read_apart(move |c| sql::query(c, &query, limit, timeout_ms)).await
    }

    /// Counts for people. Runs are numbered from 1 without gaps, so the last number counts them, but
    /// for those that were purged.
    pub async fn stats(&self) -> Result<StoreStats, ShardError> {
        let workflows = self.last_run_no().await?.0 - self.purged_count().await?;
        let path = &self.inner.options.path;
        let wal = path.with_file_name(
            path.file_name().map_or_else(String::new, |n| format!("{}-wal", n.to_string_lossy())),
        );
        let bytes = schema::file_bytes(path)? + schema::file_bytes(&wal)?;
        Ok(StoreStats { workflows, bytes })
    }

    /// Applies what is enqueued, checkpoints and syncs: for a graceful stop. Nothing can be read
    /// afterwards.
    pub async fn close(&self) -> Result<(), ShardError> {
        let mut progress = self.inner.shared.watch();
        self.inner.readers.close();
        self.inner.shared.close();
        let ended = progress.wait_for(|p| p.failed.is_some() || p.is_closed).await;
        match ended.ok().and_then(|p| p.failed.clone()) {
            Some(why) => Err(ShardError::Stopped(why.to_string())),
            None => Ok(()),
        }
    }
}

/// Tells people of damage in the tables, if an error is that.
fn tell_damage(shard: ShardId, error: Option<&ShardError>) {
    match error {
        Some(error @ ShardError::DamagedRow { table, key, .. }) => {
            tracing::error!(%shard, table, key, %error, "damage in the tables");
        }
        Some(error @ ShardError::Damaged(_)) => {
            tracing::error!(%shard, %error, "damage in the tables");
        }
        Some(_) | None => return,
    }
    metrics::counter!("opcode_corruption_total", "shard" => shard.to_string()).increment(1);
}

/// The writer thread: opens, says so, and works.
fn write(
    options: StoreOptions,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    opened: oneshot::Sender<Result<(), ShardError>>,
) {
    let opening =
        copy::finish(&options).and_then(|()| schema::open_for_writing(&options)).and_then(Applier::new);
    let (answer, writer) = match opening {
        Ok(applier) => (Ok(()), Some(Writer::new(applier, shared, readers, options))),
        Err(error) => (Err(error), None),
    };
    // Nobody waits any more when the opening was given up; then there is nothing to write either.
    if opened.send(answer).is_ok()
        && let Some(writer) = writer
    {
        writer.run();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.abandon();
        // Waited for, so that whoever opens the file next is its only writer.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the tables' writer had panicked");
        }
    }
}

impl Tables for Store {
    fn applied(&self) -> Applied {
        self.inner.shared.opened()
    }
    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        if let Some(last) = entries.last() {
            *self.inner.told.lock() = last.batch.position();
        }
        if self.inner.committed.receiver_count() > 0 {
            for entry in &entries {
                // No receiver left in between is no error.
                let _ = self.inner.committed.send(entry.batch.clone());
            }
        }
        self.inner.shared.enqueue(entries);
    }
    fn backlog(&self) -> usize {
        self.inner.shared.backlog()
    }
    fn copy(&self, to: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        #[cfg(feature = "sim")]
        if let Some(tables) = &self.inner.simulated {
            return Box::pin(std::future::ready(tables.copy(&to)));
        }
        let readers = Arc::clone(&self.inner.readers);
        Box::pin(async move {
            let written = readers.read_apart(move |mut connection| copy::write(&mut connection, &to)).await;
            written.map(|standing| standing.applied)
        })
    }
    fn check(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        #[cfg(feature = "sim")]
        if self.inner.simulated.is_some() {
            return Box::pin(std::future::ready(simulated::check(&from)));
        }
        let options = self.inner.options.clone();
        Box::pin(async move {
            let checked = tokio::task::spawn_blocking(move || copy::check(&from, &options)).await;
            let checked = checked.map_err(|error| ShardError::Stopped(error.to_string()))?;
            checked.map(|standing| standing.applied)
        })
    }
    fn install(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.install(from, reply);
        Box::pin(async move {
            answer.await.map_err(|_| ShardError::Stopped("the tables take no copy any more".into()))?
        })
    }
    fn checkpointed(&self) -> Option<Applied> {
        self.inner.shared.checkpointed()
    }
}

//! The writer: one thread that owns the only connection that writes, and does every checkpoint.
//!
//! It is lazy: alone it applies at once, under load it gathers, since large sorted transactions
//! are what makes applying cheap. It never skips an entry: what it cannot apply stops it for
//! good, and the shard with it.

mod mending;
mod rolling;
#[cfg(feature = "sim")]
mod simulated;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use opcode_engine::ids::ShardId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

pub(super) use self::mending::Damaged;
use self::mending::Mending;
use super::apply::{Applier, Standing};
use super::connection::{Checkpoint, CheckpointMode};
use super::reader::Readers;
use super::schema::{self, PAGE_BYTES};
use super::turns::Turn;
use super::{StoreOptions, copy};
use crate::batch::Position;
use crate::crash;
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry};
use crate::record::Record;
use crate::replica::feed::Feed;

#[cfg(feature = "sim")]
pub(super) use simulated::WorkNow;

/// Records that make a transaction worth it; more wait for the next one.
const RECORDS_MAX: usize = 20_000;
/// Bytes of records that do so.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait of an entry that nobody asks for. One that comes this long after the last commit
/// finds the writer idle, and is applied at once.
const AGE_MAX: Duration = Duration::from_millis(250);
/// Quiet time after which the WAL is moved into the main file, so that the log can be purged.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);
/// Longest time that a commit stays in the WAL alone, when there is ever a moment to move it.
const CHECKPOINT_AGE_MAX: Duration = Duration::from_secs(10);
/// WAL frames after which it is moved also under load: 64 MiB.
const CHECKPOINT_FRAMES: u32 = (64 * 1024 * 1024 / PAGE_BYTES) as u32;
/// A WAL of this size is kept for the next writes: 4 MiB.
const WAL_KEPT_FRAMES: u32 = (4 * 1024 * 1024 / PAGE_BYTES) as u32;
/// From this many times that on, readers are waited for.
const RESTART_FACTOR: u32 = 4;
/// How long they are waited for.
const RESTART_TIMEOUT: Duration = Duration::from_millis(100);
/// The same in other cases, where only people's tools could hold a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the writer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Applied and committed.
    pub(super) position: Option<Position>,
    /// Why it has stopped for good.
    pub(super) failed: Option<Arc<str>>,
    /// It was closed and the connection is gone.
    pub(super) is_closed: bool,
}

/// What the writer thread shares with the handles.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: watch::Sender<Progress>,
    backlog: AtomicUsize,
    /// How far the tables had come when they were opened, or a copy took their place.
    opened: Mutex<Applied>,
    checkpointed: Mutex<Option<Applied>>,
    commits: AtomicU64,
    /// For those who copy the tables frame by frame.
    feed: Arc<Feed>,
}

/// Entries that wait. Its bound is the log's: a group slows down when [`Shared::backlog`] grows.
#[derive(Default)]
struct Queue {
    entries: VecDeque<Waiting>,
    records: usize,
    bytes: usize,
    /// Somebody waits for this position.
    wanted: Option<Position>,
    install: Option<Install>,
    mendings: Vec<Mending>,
    /// Somebody copies frames and waits for the writer.
    feed: bool,
    stop: Option<Stop>,
    /// The writer has ended: nothing is taken any more.
    has_ended: bool,
}

struct Waiting {
    entry: CommittedEntry,
    bytes: usize,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Apply all, checkpoint, end.
    Close,
    /// End after the current transaction: the handles are gone.
    Abandon,
}

/// A copy to install, and who waits for it.
type Install = (PathBuf, oneshot::Sender<Result<Applied, ShardError>>);

/// What came of it.
enum Installed {
    /// What the tables hold now.
    Done(Applied),
    /// The copy is no good; nothing was changed.
    Refused(ShardError),
}

enum Work {
    Apply,
    Install(PathBuf, oneshot::Sender<Result<Applied, ShardError>>),
    Mend(Mending),
    Checkpoint,
    Feed,
    Stop(Stop),
}

impl Shared {
    pub(super) fn new(tables: PathBuf) -> Self {
        Self {
            feed: Arc::new(Feed::new(tables)),
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: watch::Sender::default(),
            backlog: AtomicUsize::new(0),
            opened: Mutex::default(),
            checkpointed: Mutex::new(None),
            commits: AtomicU64::new(0),
        }
    }

    /// Puts entries in the queue. They are let go when the writer has stopped for good, which
    /// the shard learns from [`Progress`]; the log has them.
    pub(super) fn enqueue(&self, entries: Vec<CommittedEntry>) {
        let has_stopped = |progress: &Progress| progress.failed.is_some() || progress.is_closed;
        if has_stopped(&self.progress.borrow()) {
            return;
        }
        let since = Instant::now();
        let mut queue = self.queue.lock();
        let was_empty = queue.entries.is_empty();
        for entry in entries {
            let records = entry.batch.records().len();
            let bytes = entry.batch.records().iter().map(Record::size_bytes).sum();
            queue.records += records;
            queue.bytes += bytes;
            self.backlog.fetch_add(records, Ordering::Relaxed);
            queue.entries.push_back(Waiting { entry, bytes, since });
        }
        // More of them make nothing due earlier but when they are many.
        if was_empty || queue.is_enough() {
            self.wake.notify_one();
        }
    }

    /// Records that wait or are being applied.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// What is synced in the main file.
    pub(super) fn checkpointed(&self) -> Option<Applied> {
        self.checkpointed.lock().clone()
    }

    /// Transactions committed since the start.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// A look at the progress, and news of it.
    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Asks the writer not to wait before `position` is applied.
    pub(super) fn hurry(&self, position: Position) {
        let mut queue = self.queue.lock();
        queue.wanted = queue.wanted.max(Some(position));
        self.wake.notify_one();
    }

    /// Asks the writer to put a copy in the tables' place; the last one asked for counts. The
    /// reply is dropped when the writer has ended, or is stopping.
    pub(super) fn install(&self, from: PathBuf, reply: oneshot::Sender<Result<Applied, ShardError>>) {
        let mut queue = self.queue.lock();
        if queue.has_ended || queue.stop.is_some() {
            return;
        }
        queue.install = Some((from, reply));
        self.wake.notify_one();
    }

    /// How far the tables had come when they were opened, or a copy took their place.
    pub(super) fn opened(&self) -> Applied {
        self.opened.lock().clone()
    }

    /// The frames of the tables.
    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Asks the writer to look what those who copy frames want.
    pub(super) fn look_at_feed(&self) {
        self.queue.lock().feed = true;
        self.wake.notify_one();
    }

    /// Asks the writer to apply all, checkpoint and end.
    pub(super) fn close(&self) {
        self.stop(Stop::Close);
    }

    /// Asks the writer to end after the current transaction.
    pub(super) fn abandon(&self) {
        self.stop(Stop::Abandon);
    }

    /// The tables begin here, after an opening or a copy.
    pub(super) fn begin_at(&self, standing: Option<&Standing>) {
        *self.opened.lock() = standing.map(|s| s.applied.clone()).unwrap_or_default();
        let position = standing.map(|s| s.position);
        self.progress.send_modify(|progress| progress.position = position);
    }

    fn stop(&self, stop: Stop) {
        let mut queue = self.queue.lock();
        queue.stop = Some(stop);
        (queue.install, queue.mendings) = (None, Vec::new());
        self.wake.notify_one();
    }

    /// Takes nothing more: the writer ends.
    fn end(&self) {
        let mut queue = self.queue.lock();
        queue.has_ended = true;
        (queue.install, queue.mendings) = (None, Vec::new());
    }

    pub(super) fn fail(&self, why: &str) {
        tracing::error!(why, "the tables have stopped: nothing more is applied");
        self.progress.send_modify(|progress| {
            progress.failed.get_or_insert_with(|| why.into());
        });
        let mut queue = self.queue.lock();
        queue.has_ended = true;
        (queue.install, queue.mendings) = (None, Vec::new());
        queue.entries.clear();
        queue.records = 0;
        queue.bytes = 0;
        self.backlog.store(0, Ordering::Relaxed);
    }

    /// Waits until there is something to do. `last_commit` is when the last transaction ended,
    /// `checkpoint_at` when the WAL is to be moved if nothing comes.
    fn next_work(
        &self,
        applied: Option<Position>,
        last_commit: Instant,
        checkpoint_at: Option<Instant>,
    ) -> Work {
        let mut queue = self.queue.lock();
        loop {
            if queue.stop == Some(Stop::Abandon) {
                return Work::Stop(Stop::Abandon);
            }
            if let Some((from, reply)) = queue.install.take() {
                return Work::Install(from, reply);
            }
            if let Some(mending) = queue.mendings.pop() {
                return Work::Mend(mending);
            }
            if std::mem::take(&mut queue.feed) && queue.stop.is_none() {
                return Work::Feed;
            }
            let now = Instant::now();
            let wake_at = match (queue.ready_at(applied, last_commit), queue.stop) {
                (Some(ready_at), _) if ready_at <= now => return Work::Apply,
                (Some(ready_at), _) => Some(ready_at),
                (None, Some(stop)) => return Work::Stop(stop),
                (None, None) => match checkpoint_at {
                    Some(at) if at <= now => return Work::Checkpoint,
                    at => at,
                },
            };
            match wake_at {
                Some(at) => {
                    self.wake.wait_until(&mut queue, at);
                }
                None => self.wake.wait(&mut queue),
            }
        }
    }
}

impl Queue {
    /// Whether what waits is worth a transaction however young it is.
    fn is_enough(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// When the entries that wait are worth a transaction; `None` when there are none.
    fn ready_at(&self, applied: Option<Position>, last_commit: Instant) -> Option<Instant> {
        let oldest = self.entries.front()?.since;
        let is_urgent = self.stop.is_some() || self.wanted > applied;
        if is_urgent || self.is_enough() {
            return Some(oldest);
        }
        let is_idle = oldest >= last_commit + AGE_MAX;
        Some(if is_idle { oldest } else { oldest + AGE_MAX })
    }

    /// Entries for one transaction: at least one.
    fn take(&mut self) -> Vec<CommittedEntry> {
        let (mut records, mut bytes, mut taken) = (0, 0, Vec::new());
        while records < RECORDS_MAX
            && bytes < BYTES_MAX
            && let Some(waiting) = self.entries.pop_front()
        {
            records += waiting.entry.batch.records().len();
            bytes += waiting.bytes;
            taken.push(waiting.entry);
        }
        self.records -= records;
        self.bytes -= bytes;
        taken
    }
}

/// Stops the tables when the thread ends by a panic.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer panicked");
        }
    }
}

/// What the writer tells of itself.
struct Meters {
    records: metrics::Counter,
    backlog: metrics::Gauge,
    commit_seconds: metrics::Histogram,
    checkpoint_seconds: metrics::Histogram,
}

impl Meters {
    fn new(shard: ShardId) -> Self {
        let shard = shard.to_string();
        Self {
            records: metrics::counter!("opcode_tables_records_total", "shard" => shard.clone()),
            backlog: metrics::gauge!("opcode_tables_backlog_records", "shard" => shard.clone()),
            commit_seconds: metrics::histogram!("opcode_tables_commit_seconds", "shard" => shard.clone()),
            checkpoint_seconds: metrics::histogram!("opcode_tables_checkpoint_seconds", "shard" => shard),
        }
    }
}

/// The writer's side.
pub(super) struct Writer {
    meters: Meters,
    turn: Turn,
    /// Gone only while a copy takes the tables' place.
    applier: Option<Applier>,
    options: StoreOptions,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    last_commit: Instant,
    /// When to checkpoint if nothing comes; none when all is in the main file.
    checkpoint_at: Option<Instant>,
    /// The end of the first transaction that is not all in the main file.
    dirty_since: Option<Instant>,
    /// WAL frames at which to checkpoint under load.
    checkpoint_frames: u32,
    /// When to try again what a reader kept the writer from, for those who copy frames.
    roll_after: Option<Instant>,
}

impl Writer {
    /// Takes over the applier. What a former process applied counts as checkpointed only once
    /// this one has moved it.
    pub(super) fn new(
        applier: Applier,
        shared: Arc<Shared>,
        readers: Arc<Readers>,
        options: StoreOptions,
    ) -> Self {
        let now = Instant::now();
        let position = applier.standing().map(|s| s.position);
        shared.begin_at(applier.standing());
        Self {
            meters: Meters::new(options.shard),
            turn: Turn::deal(),
            applier: Some(applier),
            options,
            shared,
            readers,
            last_commit: now.checked_sub(AGE_MAX).unwrap_or(now),
            checkpoint_at: position.map(|_| now + CHECKPOINT_AFTER),
            dirty_since: position.map(|_| now),
            checkpoint_frames: CHECKPOINT_FRAMES,
            roll_after: None,
        }
    }

    fn applier(&mut self) -> &mut Applier {
        self.applier.as_mut().expect("a copy has taken its place or ended the writer")
    }

    /// Puts a copy in the tables' place, if it is further than they are. An error leaves it to the
    /// next opening to end its way.
    fn install(&mut self, from: &Path) -> Result<Installed, ShardError> {
        let copy = match copy::may_take_place(from, &self.options) {
            Ok(copy) => copy,
            Err(error) => return Ok(Installed::Refused(error)),
        };
        if let Some(standing) = self.applier().standing()
            && standing.position.index >= copy.position.index
        {
            return Ok(Installed::Done(standing.applied.clone()));
        }
        let readers = Arc::clone(&self.readers);
        let Some(applier) = readers.exclusively(|| self.put(from)) else {
            return Ok(Installed::Refused(ShardError::Stopped("the tables are closed".into())));
        };
        let applier = applier?;
        // Before any reader comes again, and whether or not anybody still waits for the copy.
        self.shared.begin_at(applier.standing());
        // All of it is in the main file, and synced.
        *self.shared.checkpointed.lock() = Some(self.shared.opened());
        self.applier = Some(applier);
        let now = Instant::now();
        (self.checkpoint_at, self.dirty_since) = (Some(now + CHECKPOINT_AFTER), Some(now));
        self.checkpoint_frames = CHECKPOINT_FRAMES;
        Ok(Installed::Done(self.shared.opened()))
    }

    /// Closes the tables, puts the copy there, and opens them again.
    fn put(&mut self, from: &Path) -> Result<Applier, ShardError> {
        self.applier = None;
        self.shared.feed.let_go();
        copy::send_off(from, &self.options.path)?;
        copy::finish(&self.options)?;
        Applier::new(schema::open_for_writing(&self.options)?)
    }

    /// Works until it is stopped or fails.
    pub(super) fn run(mut self) {
        let guard = FailOnPanic(Arc::clone(&self.shared));
        let result = self.work();
        let shared = Arc::clone(&self.shared);
        drop(self);
        shared.feed.let_go();
        match result {
            Ok(()) => {
                shared.end();
                shared.progress.send_modify(|progress| progress.is_closed = true);
            }
            Err(error) => shared.fail(&error.to_string()),
        }
        drop(guard);
    }

    fn work(&mut self) -> Result<(), ShardError> {
        loop {
            let applied = self.applier().standing().map(|s| s.position);
            match self.shared.next_work(applied, self.last_commit, self.checkpoint_at) {
                Work::Apply => self.apply()?,
                Work::Install(from, reply) => {
                    let answer = match self.install(&from)? {
                        Installed::Done(applied) => Ok(applied),
                        Installed::Refused(error) => Err(error),
                    };
                    // Nobody may wait for it any more; the tables hold it all the same.
                    let _ = reply.send(answer);
                }
                Work::Mend(mending) => self.mend(mending),
                Work::Checkpoint if self.shared.feed.is_on() => self.tend_feed()?,
                Work::Checkpoint => {
                    if !self.checkpoint_at_rest()?.is_whole() {
                        let now = Instant::now();
                        (self.checkpoint_at, self.dirty_since) = (Some(now + CHECKPOINT_AFTER), Some(now));
                    }
                }
                Work::Feed => self.tend_feed()?,
                Work::Stop(Stop::Abandon) => return Ok(()),
                Work::Stop(Stop::Close) => {
                    // It lets go of the main file only when that is closed here too.
                    self.shared.feed.end();
                    return self.checkpoint_beside_readers(CheckpointMode::Truncate).map(drop);
                }
            }
        }
    }

    /// After a quiet time a large WAL gives its space back.
    fn checkpoint_at_rest(&mut self) -> Result<Checkpoint, ShardError> {
        let is_quiet = self.last_commit.elapsed() >= CHECKPOINT_AFTER;
        if is_quiet && self.applier().connection().wal_frames() >= WAL_KEPT_FRAMES {
            self.checkpoint_beside_readers(CheckpointMode::Truncate)
        } else {
            self.checkpoint(CheckpointMode::Passive)
        }
    }

    /// One that waits a little for readers.
    fn checkpoint_beside_readers(&mut self, mode: CheckpointMode) -> Result<Checkpoint, ShardError> {
        self.applier().connection().busy_timeout(RESTART_TIMEOUT);
        let checkpoint = self.checkpoint(mode);
        self.applier().connection().busy_timeout(LOCK_TIMEOUT);
        checkpoint
    }

    fn apply(&mut self) -> Result<(), ShardError> {
        let turn = self.turn.take();
        let entries = self.shared.queue.lock().take();
        let started = Instant::now();
        let records = entries.iter().map(|entry| entry.batch.records().len()).sum::<usize>();
        let has_committed = self.apply_mending(&entries)?;
        drop(turn);
        self.shared.backlog.fetch_sub(records, Ordering::Relaxed);
        self.last_commit = Instant::now();
        if !has_committed {
            return Ok(());
        }
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.meters.records.increment(records as u64);
        self.meters.backlog.set(self.shared.backlog() as f64);
        self.meters.commit_seconds.record(started.elapsed());
        // Before the position: who waits for that finds its frames.
        self.tell_feed();
        let position = self.applier().standing().map(|s| s.position);
        self.shared.progress.send_modify(|progress| progress.position = position);
        let dirty_since = *self.dirty_since.get_or_insert(self.last_commit);
        self.checkpoint_at =
            Some((self.last_commit + CHECKPOINT_AFTER).min(dirty_since + CHECKPOINT_AGE_MAX));
        if self.shared.feed.is_on() { self.tend_feed() } else { self.checkpoint_under_load() }
    }

    fn checkpoint_under_load(&mut self) -> Result<(), ShardError> {
        let frames = self.applier().connection().wal_frames();
        if frames < CHECKPOINT_FRAMES {
            // The WAL has started over.
            self.checkpoint_frames = CHECKPOINT_FRAMES;
        }
        if frames < self.checkpoint_frames {
            return Ok(());
        }
        let is_whole = if frames < CHECKPOINT_FRAMES * RESTART_FACTOR {
            self.checkpoint(CheckpointMode::Passive)?.is_whole()
        } else {
            self.checkpoint_beside_readers(CheckpointMode::Restart)?.is_whole()
        };
        let step = if is_whole { CHECKPOINT_FRAMES } else { CHECKPOINT_FRAMES / 4 };
        self.checkpoint_frames = frames.saturating_add(step);
        Ok(())
    }

    /// Moves the WAL into the main file; how far it got. libSQL syncs the WAL before and,
    /// with `synchronous = NORMAL`, the main file after it has moved everything, so the standing
    /// is then on stable storage there.
    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpoint, ShardError> {
        crash::point("tables.checkpoint.before");
        let started = Instant::now();
        let checkpoint = self.applier().connection().checkpoint(mode)?;
        crash::point("tables.checkpoint.after");
        self.meters.checkpoint_seconds.record(started.elapsed());
        if checkpoint.is_whole() {
            *self.shared.checkpointed.lock() = self.applier().standing().map(|s| s.applied.clone());
            (self.checkpoint_at, self.dirty_since) = (None, None);
        } else {
            tracing::debug!(?checkpoint, "a reader keeps part of the WAL");
        }
        Ok(checkpoint)
    }
}

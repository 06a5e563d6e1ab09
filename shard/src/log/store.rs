//! The node-wide log store: one stream of frames for all groups, one sync for all of them.
//!
//! Whatever waits when the writer looks is written with one write and made durable with one
//! `fdatasync`, votes and truncations in the same order as entries. The first error of a write or
//! a sync is the last thing this store does: nothing is retried, nothing after it is acknowledged,
//! and by default the process stops, since after a failed sync nobody knows what the disk holds.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opcode_engine::ids::ShardId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::LogOptions;
use super::frame::{EntryId, Kind, parse_at};
use super::index::{GroupState, Index, Place, StoredVote};
use super::recovery::{Recovered, recover};
use super::segment::{Folder, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Segment, failed};
use super::writer::{self, Writer};
use crate::disk::{self, Disk, Opening, OsDisk};
use crate::error::ShardError;

/// Called with an operation's outcome once it is on stable storage, from the writer's thread.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What a group wants written.
pub(super) enum Change {
    /// Entries at the end of its log.
    Append(Vec<(EntryId, Bytes)>),
    /// Its vote.
    Vote(StoredVote),
    /// Entries from `from` on are gone; `last` is the last one then.
    Truncate { from: u64, last: Option<EntryId> },
    /// Entries up to and with this one are not needed any more.
    Purge(EntryId),
    /// This node has given the group away.
    Remove,
}

/// A change on its way to the writer.
pub(super) struct Op {
    pub(super) group: u32,
    pub(super) change: Change,
    pub(super) done: Option<Done>,
}

/// What waits for the writer. Bounded by the groups: openraft has one append, vote or truncation
/// of a group in flight at a time.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) ops: Vec<Op>,
    /// Commit positions: only a hint, so they ride along with the next write.
    pub(super) committed: BTreeMap<u32, EntryId>,
    /// Old segments are to be looked at.
    pub(super) tidy: bool,
    stopping: bool,
    failed: bool,
}

impl Queue {
    /// Whether nothing more is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.stopping || self.failed
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && !self.tidy && !self.is_closed()
    }
}

/// What is in the log and where.
pub(super) struct View {
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u64, Segment>,
}

/// Files that may become segments.
#[derive(Default)]
pub(super) struct Spares {
    pub(super) files: Vec<(u64, PathBuf)>,
    pub(super) wanted: bool,
    pub(super) stopping: bool,
}

/// What the writer and the groups share.
pub(super) struct Shared {
    pub(super) folder: Folder,
    pub(super) queue: Mutex<Queue>,
    pub(super) queued: Condvar,
    /// The same, for a writer that is a task.
    pub(super) queued_for_task: Notify,
    pub(super) view: Mutex<View>,
    pub(super) spares: Mutex<Spares>,
    pub(super) spares_changed: Condvar,
    /// Whether the disk has no more room than what is kept for work that was accepted.
    is_short: AtomicBool,
    failure: OnceLock<String>,
    on_failure: OnFailure,
    #[cfg(test)]
    pub(super) fail_syncs: AtomicBool,
}

/// What to do when the log cannot be written any more, with the reason.
pub type OnFailure = Box<dyn Fn(&str) + Send + Sync>;

/// All groups' logs on one node.
pub struct LogStore {
    pub(super) shared: Arc<Shared>,
    /// The writer; none when it is a task.
    pub(super) writer: Option<Arc<Mutex<Writer>>>,
    groups: Mutex<std::collections::BTreeSet<u32>>,
    given_back: Notify,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Keeps other processes away.
    _lock: Option<File>,
}

fn stop_the_process(why: &str) {
    tracing::error!(why, "the log cannot be written any more: stopping");
    eprintln!("opcode: {why}: stopping, since nothing after this could be acknowledged");
    std::process::abort();
}

impl LogStore {
    /// Opens or makes the store: recovers, refuses a store of another format, one in use, or one
    /// that is damaged. When it fails to write later, the process is aborted.
    pub fn open(options: LogOptions) -> Result<Arc<Self>, ShardError> {
        Self::open_with(options, stop_the_process)
    }

    /// The same, with something else than the end of the process for when it fails.
    pub fn open_with(
        options: LogOptions,
        on_failure: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, ShardError> {
        std::fs::create_dir_all(&options.dir).map_err(failed(format!("making {}", options.dir.display())))?;
        let lock = lock(&options.dir)?;
        let mut store = Self::open_on(Arc::new(OsDisk), options, Box::new(on_failure))?;
        store._lock = Some(lock);
        Ok(Arc::new(store))
    }

    /// The same on any disk, which nobody else uses.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        on_failure: OnFailure,
    ) -> Result<Self, ShardError> {
        let LogOptions { dir, segment_bytes } = options;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(ShardError::Refused(format!(
                "log segments of {segment_bytes} bytes: {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} will do"
            )));
        }
        disk.make_dir(&dir).map_err(failed(format!("making {}", dir.display())))?;
        let Recovered { segments, index, log_id, tail, free } = recover(disk.as_ref(), &dir)?;
        let segment_bytes = u32::try_from(segment_bytes.next_multiple_of(4096)).expect("checked above");
        let folder = Folder { disk, dir, segment_bytes, log_id: log_id.unwrap_or_else(rand::random) };
        let view = View { index, segments: segments.iter().map(|s| (s.number, s.clone())).collect() };
        let shared = Arc::new(Shared {
            spares: Mutex::new(usable_spares(&folder, free)),
            folder,
            queue: Mutex::default(),
            queued: Condvar::new(),
            queued_for_task: Notify::new(),
            view: Mutex::new(view),
            spares_changed: Condvar::new(),
            is_short: AtomicBool::new(false),
            failure: OnceLock::new(),
            on_failure,
            #[cfg(test)]
            fail_syncs: AtomicBool::new(false),
        });
        shared.look_at_room();
        let dir = shared.folder.dir.display().to_string();
        let writer = Writer::open(shared.clone(), segments.last().cloned(), tail)
            .map_err(failed(format!("writing the log in {dir}")))?;
        let (groups, given_back, threads) = (Mutex::default(), Notify::new(), Mutex::default());
        let mut store = Self { shared, writer: None, groups, given_back, threads, _lock: None };
        store.start_writing(writer)?;
        Ok(store)
    }

    /// Starts what writes: two threads, or a task over a disk that is simulated.
    fn start_writing(&mut self, writer: Writer) -> Result<(), ShardError> {
        if self.shared.folder.disk.simulated_pause().is_some() {
            tokio::spawn(writer.run_as_task());
            return Ok(());
        }
        let writer = Arc::new(Mutex::new(writer));
        self.writer = Some(writer.clone());
        let (shared, spares) = (self.shared.clone(), self.shared.clone());
        let threads = self.threads.get_mut();
        threads.push(spawn("log-writer", move || writer::run(&writer, &shared))?);
        threads.push(spawn("log-spares", move || writer::keep_spares(&spares))?);
        Ok(())
    }

    /// Writes a change on this thread, if that holds nobody up, or has the writer's thread do it;
    /// `done` is called in any case.
    pub(super) fn submit_here(&self, op: Op) {
        let writer = self.writer.as_ref().and_then(|writer| writer.try_lock());
        let left = match writer {
            Some(mut writer) => writer.write_here(op),
            None => Some(op),
        };
        if let Some(op) = left {
            self.shared.submit(op);
        }
    }

    /// Takes the log of a group; each only once, until [`LogStore::give_back`].
    pub(super) fn take_group(&self, group: u32) -> Result<GroupState, ShardError> {
        self.claim(group)?;
        let view = self.shared.view.lock();
        Ok(view.index.groups.get(&group).map(|group| group.state).unwrap_or_default())
    }

    /// Gives the log of a group back.
    pub(super) fn give_back(&self, group: u32) {
        self.groups.lock().remove(&group);
        self.given_back.notify_waiters();
    }

    /// Lets go of a group that this node has given away: its entries are not needed any more. Its
    /// vote stays, and how far it had come, should the node be given the group again. Durable on
    /// return; removing what is not there is fine. Refused when the group stays in use.
    pub async fn remove_group(&self, group: ShardId) -> Result<(), ShardError> {
        let _held = self.claim_soon(group.0).await?;
        let is_known = self.shared.view.lock().index.groups.contains_key(&group.0);
        if !is_known {
            return Ok(());
        }
        let (synced, outcome) = oneshot::channel();
        let done: Done = Box::new(move |result| {
            // Whoever stopped waiting finds it done, or does it again.
            let _ = synced.send(result);
        });
        self.shared.submit(Op { group: group.0, change: Change::Remove, done: Some(done) });
        let outcome = outcome.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")));
        outcome.map_err(failed(format!("removing group {group} from the log")))
    }

    fn claim(&self, group: u32) -> Result<(), ShardError> {
        match self.groups.lock().insert(group) {
            true => Ok(()),
            false => Err(ShardError::Refused(format!("the log of group {group} is in use already"))),
        }
    }

    /// The same when whoever has it is about to let it go, as openraft's tasks are after their end.
    async fn claim_soon(&self, group: u32) -> Result<Held<'_>, ShardError> {
        let deadline = tokio::time::Instant::now() + GIVEN_BACK_MAX;
        loop {
            let given_back = self.given_back.notified();
            match self.claim(group) {
                Ok(()) => return Ok(Held { store: self, group }),
                Err(error) => {
                    tokio::time::timeout_at(deadline, given_back).await.map_err(|_| error)?;
                }
            }
        }
    }

    /// The first of a group's last entries that are at most `entries_max` and take at most
    /// `bytes_max` on disk; `None` when not even the last is so small, or there is none.
    pub(super) fn first_of_last(&self, group: u32, entries_max: u64, bytes_max: u64) -> Option<u64> {
        let view = self.shared.view.lock();
        let places = &view.index.groups.get(&group)?.places;
        let count = usize::try_from(entries_max).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let last = places.iter().rev().take(count).take_while(|(_, place)| {
            bytes += u64::from(place.bytes);
            bytes <= bytes_max
        });
        last.last().map(|(index, _)| *index)
    }

    /// Whether there is room on the disk for new work; what was accepted has room kept for it.
    pub fn has_room(&self) -> bool {
        !self.shared.is_short.load(Ordering::Relaxed)
    }

    /// Bytes of the files that are part of the log.
    pub fn bytes(&self) -> u64 {
        self.shared.view.lock().segments.values().map(|segment| u64::from(segment.bytes)).sum()
    }
}

/// A group's log while somebody has it.
struct Held<'a> {
    store: &'a LogStore,
    group: u32,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.store.give_back(self.group);
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake_writer();
        self.shared.spares.lock().stopping = true;
        self.shared.spares_changed.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Longest wait for a group's log to be let go by tasks that are ending.
const GIVEN_BACK_MAX: Duration = Duration::from_secs(10);

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ShardError> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed("starting the log's threads"))
}

/// Longest wait for the lock: a process that a step has forked holds a copy of every open file
/// until it runs its program, and with them the lock of a store that was closed meanwhile.
const LOCK_MAX: Duration = Duration::from_millis(500);
/// How often it is tried.
const LOCK_EVERY: Duration = Duration::from_millis(5);

fn lock(dir: &std::path::Path) -> Result<File, ShardError> {
    let path = dir.join("LOCK");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed(format!("opening {}", path.display())))?;
    let deadline = Instant::now() + LOCK_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_EVERY),
            Err(TryLockError::WouldBlock) => {
                let why = format!("the log in {} is in use by another process", dir.display());
                return Err(ShardError::Refused(why));
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(format!("locking {}", path.display()))(error));
            }
        }
    }
}

/// Free files of the right size; others (half made, of another size) are removed.
fn usable_spares(folder: &Folder, free: Vec<(u64, PathBuf)>) -> Spares {
    let (files, useless): (Vec<_>, Vec<_>) = free.into_iter().partition(|(_, path)| {
        let file = folder.disk.open(path, Opening::Existing);
        file.and_then(|file| file.bytes()).is_ok_and(|bytes| bytes == u64::from(folder.segment_bytes))
    });
    for (_, path) in useless {
        // One that cannot be removed only takes space.
        let _ = folder.disk.remove(&path);
    }
    Spares { files, ..Spares::default() }
}

impl Shared {
    /// Hands a change to the writer; `done` is called in any case.
    pub(super) fn submit(&self, op: Op) {
        let mut queue = self.queue.lock();
        if queue.is_closed() {
            drop(queue);
            if let Some(done) = op.done {
                done(Err(self.refusal()));
            }
            return;
        }
        queue.ops.push(op);
        drop(queue);
        self.wake_writer();
    }

    pub(super) fn wake_writer(&self) {
        match self.folder.disk.simulated_pause() {
            None => {
                self.queued.notify_one();
            }
            Some(_) => self.queued_for_task.notify_one(),
        }
    }

    /// Notes a commit position; it is written with whatever is written next.
    pub(super) fn note_committed(&self, group: u32, id: EntryId) {
        self.queue.lock().committed.insert(group, id);
    }

    /// Whether the store has failed, with the reason.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.failure.get() {
            Some(_) => Err(self.refusal()),
            None => Ok(()),
        }
    }

    fn refusal(&self) -> io::Error {
        io::Error::other(self.failure.get().map_or("the log is closed", String::as_str))
    }

    /// The end: nothing is acknowledged from here on.
    pub(super) fn fail(&self, error: &io::Error, waiting: Vec<Done>) {
        let what = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full",
            _ => "the disk failed",
        };
        let why = format!("writing the log in {}: {what}: {error}", self.folder.dir.display());
        let why = self.failure.get_or_init(|| why);
        let ops = {
            let mut queue = self.queue.lock();
            queue.failed = true;
            std::mem::take(&mut queue.ops)
        };
        (self.on_failure)(why);
        for done in waiting.into_iter().chain(ops.into_iter().filter_map(|op| op.done)) {
            done(Err(self.refusal()));
        }
    }

    /// Looks how much room the disk has, and says so when that turns.
    pub(super) fn look_at_room(&self) {
        let Ok(free) = disk::free_bytes(&self.folder.dir) else { return };
        let is_short = free < disk::SPARE_BYTES;
        if self.is_short.swap(is_short, Ordering::Relaxed) != is_short {
            let dir = self.folder.dir.display().to_string();
            match is_short {
                true => tracing::error!(dir, free, kept = disk::SPARE_BYTES, "the disk is full: no new work"),
                false => tracing::warn!(dir, free, "the disk has room again"),
            }
        }
    }

    /// Stops for a reason outside the log that makes going on as unsafe as a failed disk.
    pub(super) fn give_up(&self, why: &str) {
        (self.on_failure)(why);
    }

    /// Reads entries of a group from `from` on, to below `to`, until their bytes pass `bytes_max`;
    /// at least one if there is one. Blocks on the disk.
    pub(super) fn read(
        &self,
        group: u32,
        (from, to): (u64, u64),
        bytes_max: usize,
    ) -> io::Result<Vec<(EntryId, Bytes)>> {
        /// An entry may be moved, and its segment used again, while it is read; and one that is
        /// being moved is in the index a moment before its bytes are in the file. Then it is
        /// looked up once more, after a pause from the second time on: a second in all.
        const TRIES_MAX: usize = 1_000;
        self.check()?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        'entries: while next < to && (entries.is_empty() || bytes < bytes_max) {
            for attempt in 0..TRIES_MAX {
                if attempt > 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let Some((place, segment)) = self.locate(group, next) else { break 'entries };
                if let Some(entry) = read_entry(&segment, place, group, next)? {
                    bytes += entry.1.len();
                    entries.push(entry);
                    next += 1;
                    continue 'entries;
                }
            }
            let Some((place, segment)) = self.locate(group, next) else { break };
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{}: entry {next} of group {group} is broken at offset {}",
                    segment.path.display(),
                    place.offset
                ),
            ));
        }
        Ok(entries)
    }

    fn locate(&self, group: u32, index: u64) -> Option<(Place, Segment)> {
        let view = self.view.lock();
        let place = *view.index.groups.get(&group)?.places.get(&index)?;
        Some((place, view.segments.get(&place.segment).expect("a live entry's segment is kept").clone()))
    }
}

/// Reads one entry; `None` when something else stands there.
pub(super) fn read_entry(
    segment: &Segment,
    place: Place,
    group: u32,
    index: u64,
) -> io::Result<Option<(EntryId, Bytes)>> {
    let bytes = Bytes::from(segment.read(place.offset, place.bytes)?);
    let Some(parsed) = parse_at(&bytes, place.offset as usize, segment.seed) else { return Ok(None) };
    let frame = parsed.frame;
    let entry = matches!(frame.kind, Kind::Entry | Kind::Moved);
    Ok((entry && frame.group == group && frame.id.index == index)
        .then(|| (frame.id, bytes.slice_ref(frame.body))))
}

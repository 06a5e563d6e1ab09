//! One group's view of the log store, in openraft's terms, with its recent entries in memory.
//!
//! Entries are readable as soon as `append` returns; openraft hears of their flush from the
//! writer's thread. A vote is durable on return. After a restart a vote counts as uncommitted:
//! a leader that lost entries it had not synced must not go on in its old term, where it could
//! give other data the same log id; it is elected again, in a new one.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{LogId, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::index::{GroupState, StoredVote};
use super::store::{Change, LogStore, Op};
use super::type_config::{Entry, TypeConfig, decode_entry, encode_payload, entry_id, log_id};
use crate::batch::Position;
use crate::error::ShardError;

/// Recent entries a group holds in memory, in bytes; what is not synced yet comes on top.
const CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that one read gives at most, if they are more than one entry: what one message to a
/// follower carries.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

type Result<T> = std::result::Result<T, StorageError<u64>>;

/// A group's log; clones are readers of the same.
#[derive(Clone)]
pub(super) struct GroupLog {
    inner: Arc<Inner>,
}

struct Inner {
    group: u32,
    store: Arc<LogStore>,
    memory: Mutex<Memory>,
    /// Appends that are not synced.
    unsynced: Arc<AtomicUsize>,
    /// Whether nobody else has this log: then its owner has nothing to do while it is written.
    is_alone: AtomicBool,
    /// How far the tables have been given the log.
    handed_over: watch::Receiver<Position>,
}

/// The end of the group's log, as openraft has asked for it, ahead of the disk.
struct Memory {
    state: GroupState,
    recent: VecDeque<(Entry, usize)>,
    recent_bytes: usize,
}

impl Memory {
    /// The last index, and the first; none when empty.
    fn bounds(&self) -> Option<(u64, u64)> {
        let last = self.state.last?.index;
        let first = match self.state.purged {
            Some(purged) => purged.index + 1,
            None => self.state.first?,
        };
        (first <= last).then_some((first, last))
    }

    fn first_recent(&self) -> Option<u64> {
        self.recent.front().map(|(entry, _)| entry.log_id.index)
    }

    fn push(&mut self, entry: Entry, bytes: usize) {
        let id = entry_id(entry.log_id);
        if self.state.last.is_none() {
            self.state.first = Some(id.index);
        }
        self.state.last = Some(id);
        self.recent.push_back((entry, bytes));
        self.recent_bytes += bytes;
    }

    fn pop_first(&mut self) {
        if let Some((_, bytes)) = self.recent.pop_front() {
            self.recent_bytes -= bytes;
        }
    }
}

impl GroupLog {
    /// Takes a group's log.
    pub(super) fn open(
        store: Arc<LogStore>,
        group: u32,
        handed_over: watch::Receiver<Position>,
    ) -> std::result::Result<Self, ShardError> {
        let mut state = store.take_group(group)?;
        if let Some(vote) = &mut state.vote {
            vote.committed = false;
        }
        // A commit position that outlived the entries it names is of no use.
        state.committed = state.committed.filter(|id| state.last.is_some_and(|last| id.index <= last.index));
        let memory = Memory { state, recent: VecDeque::new(), recent_bytes: 0 };
        let inner = Inner {
            group,
            store,
            memory: Mutex::new(memory),
            unsynced: Arc::default(),
            is_alone: AtomicBool::new(false),
            handed_over,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says whether this node is the only one that has this log.
    pub(super) fn set_alone(&self, is_alone: bool) {
        self.inner.is_alone.store(is_alone, Ordering::Relaxed);
    }

    /// What the group's log holds.
    pub(super) fn state(&self) -> GroupState {
        self.inner.memory.lock().state
    }

    fn submit(&self, change: Change, done: Option<super::store::Done>) {
        self.inner.store.shared.submit(Op { group: self.inner.group, change, done });
    }

    /// The id of the entry at `index`, from memory or disk.
    async fn id_at(&self, index: u64) -> Result<Option<LogId<u64>>> {
        Ok(self.read(index, index + 1, 0).await?.first().map(|entry| entry.log_id))
    }

    /// Entries from `from` to below `to`, without a gap, until their bytes pass `bytes_max`.
    pub(super) async fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        // Each turn gives an entry or ends. Memory may let entries go between two turns, so the
        // rest of what was asked for is looked up anew.
        loop {
            let stored_to = {
                let memory = self.inner.memory.lock();
                let Some((first, last)) = memory.bounds() else { return Ok(entries) };
                if entries.is_empty() {
                    next = next.max(first);
                }
                let to = to.min(last + 1);
                if next >= to || next < first || (bytes >= bytes_max && !entries.is_empty()) {
                    return Ok(entries);
                }
                let first_recent = memory.first_recent().unwrap_or(last + 1);
                if first_recent <= next {
                    copy_recent(&memory, next, to, (&mut entries, &mut bytes), bytes_max);
                    return Ok(entries);
                }
                first_recent.min(to)
            };
            let (store, group, left) =
                (self.inner.store.clone(), self.inner.group, bytes_max.saturating_sub(bytes));
            let read = move || store.shared.read(group, (next, stored_to), left);
            let stored = crate::simulation::blocking(read)
                .await
                .map_err(|error| StorageIOError::read_logs(&error))?
                .map_err(|error| StorageIOError::read_logs(&error))?;
            if stored.is_empty() {
                return Ok(entries);
            }
            for (id, payload) in stored {
                bytes = bytes.saturating_add(payload.len());
                next = id.index + 1;
                let entry = decode_entry(id, payload)
                    .map_err(|what| StorageIOError::read_log_entry(log_id(id), &io::Error::other(what)))?;
                entries.push(entry);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.store.give_back(self.group);
    }
}

/// Copies entries from memory, in order, until `bytes` pass `bytes_max`.
fn copy_recent(
    memory: &Memory,
    from: u64,
    to: u64,
    (entries, bytes): (&mut Vec<Entry>, &mut usize),
    bytes_max: usize,
) {
    let first = memory.first_recent().expect("the caller saw it");
    let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
    let take = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    for (entry, size) in memory.recent.iter().skip(skip).take(take) {
        if !entries.is_empty() && *bytes >= bytes_max {
            return;
        }
        *bytes += size;
        entries.push(entry.clone());
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>> {
        let GroupState { purged, last, .. } = self.state();
        Ok(LogState { last_purged_log_id: purged.map(log_id), last_log_id: last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<()> {
        let stored = StoredVote {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.is_committed(),
        };
        let (synced, outcome) = oneshot::channel();
        let done = Box::new(move |result| {
            // openraft stopped waiting: the vote is durable all the same.
            let _ = synced.send(result);
        });
        self.submit(Change::Vote(stored), Some(done));
        let outcome = outcome.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")));
        outcome.map_err(|error| StorageIOError::write_vote(&error))?;
        self.inner.memory.lock().state.vote = Some(stored);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>> {
        Ok(self.state().vote.map(|vote| match vote.committed {
            true => Vote::new_committed(vote.term, vote.node),
            false => Vote::new(vote.term, vote.node),
        }))
    }

    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<()> {
        if let Some(id) = committed {
            self.inner.memory.lock().state.committed = Some(entry_id(id));
            self.inner.store.shared.note_committed(self.inner.group, entry_id(id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>> {
        Ok(self.state().committed.map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.inner.store.shared.check().map_err(|error| StorageIOError::write_logs(&error))?;
        let mut bodies = Vec::new();
        {
            let mut memory = self.inner.memory.lock();
            if self.inner.unsynced.load(Ordering::Acquire) == 0 {
                while memory.recent_bytes > CACHE_BYTES_MAX {
                    memory.pop_first();
                }
            }
            let purged = memory.state.purged.map(|id| id.index);
            for entry in entries {
                if Some(entry.log_id.index) <= purged {
                    // The tables have it on stable storage.
                    continue;
                }
                let body = encode_payload(&entry.payload);
                bodies.push((entry_id(entry.log_id), body.clone()));
                memory.push(entry, body.len() + size_of::<Entry>());
            }
        }
        self.inner.unsynced.fetch_add(1, Ordering::AcqRel);
        let unsynced = self.inner.unsynced.clone();
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                unsynced.fetch_sub(1, Ordering::AcqRel);
            }
            callback.log_io_completed(result);
        });
        let op = Op { group: self.inner.group, change: Change::Append(bodies), done: Some(done) };
        match self.inner.is_alone.load(Ordering::Relaxed) {
            true => self.inner.store.submit_here(op),
            // Others are sent it meanwhile.
            false => self.inner.store.shared.submit(op),
        }
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<()> {
        let from = from.index;
        let before = match from.checked_sub(1) {
            Some(index) => self.id_at(index).await?.map(entry_id),
            None => None,
        };
        let last = {
            let mut memory = self.inner.memory.lock();
            while memory.recent.back().is_some_and(|(entry, _)| entry.log_id.index >= from) {
                if let Some((_, bytes)) = memory.recent.pop_back() {
                    memory.recent_bytes -= bytes;
                }
            }
            memory.state.last = before.or(memory.state.purged);
            memory.state.last
        };
        self.submit(Change::Truncate { from, last }, None);
        Ok(())
    }

    /// Waits for the tables, which openraft does not when it installs a copy of them: were the log
    /// cut before the copy is in its place, a crash in between would leave neither.
    async fn purge(&mut self, upto: LogId<u64>) -> Result<()> {
        let mut handed_over = self.inner.handed_over.clone();
        if let Err(gone) = handed_over.wait_for(|position| position.index >= upto.index).await {
            return Err(StorageIOError::write_logs(&io::Error::other(gone)).into());
        }
        let upto = entry_id(upto);
        {
            let mut memory = self.inner.memory.lock();
            while memory.first_recent().is_some_and(|first| first <= upto.index) {
                memory.pop_first();
            }
            memory.state.purged = Some(upto);
            if memory.state.last.is_none_or(|last| last.index < upto.index) {
                memory.state.last = Some(upto);
            }
        }
        self.submit(Change::Purge(upto), None);
        Ok(())
    }
}

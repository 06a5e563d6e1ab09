//! The one writer: takes everything queued, writes it at once, syncs once, and tells all who wait.
//! Rolls to the next segment when one is full, and frees the oldest ones.
//!
//! It has a thread of its own. While that has nothing to do and the disk is quick, whoever has
//! something to write does so himself, which saves two wake-ups of a thread per commit.
//!
//! Only the oldest segment is ever freed, so what is left is always an unbroken run of numbers.
//! Votes and positions of all groups are summed up at the start of each segment; a few entries
//! of a quiet group are written again at the end. So no group can pin an old segment for ever.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::frame::{self, EntryId, Frame, Kind, frame_bytes};
use super::index::{Place, encode_id};
use super::recovery::Tail;
use super::segment::{FORMAT, HEADER_BYTES, Segment};
use super::store::{Change, Done, Op, Shared, read_entry};
use crate::{crash, planted};

/// Written out, unsynced, when a batch grows past this, which bounds the writer's memory.
const BUFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time between two syncs while several groups write: what comes meanwhile shares the next one, and
/// groups that wait for it gather larger batches. One that writes alone does not wait.
const PACE: Duration = Duration::from_millis(1);
/// A disk whose syncs take less is quick: so long may a thread be held up that has other things to do.
const QUICK: Duration = Duration::from_micros(500);
/// Nobody has written for so long: what comes now most likely comes alone.
const QUIET: Duration = Duration::from_micros(100);
/// Entries moved in one go, between two syncs for others.
const MOVED_BYTES_MAX: u64 = 1024 * 1024;
/// With fewer segments than this, nothing is moved out of the oldest one.
const SEGMENTS_MOVE_MIN: usize = 4;
/// Free files kept for the segments to come.
const SPARES_MAX: usize = 2;
/// Marks the numbers of free files that were never segments.
const NEVER_USED: u64 = 1 << 63;

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    /// Offset in the segment that the buffer starts at: everything before is written.
    written: u32,
    /// Offset up to which the segment is synced.
    synced: u32,
    /// Checksum of the last frame.
    previous: u32,
    buffer: Vec<u8>,
    /// Whom to tell after the next sync.
    waiting: Vec<Done>,
    /// Whether the oldest segment should be looked at.
    tidy: bool,
    /// When the last sync was begun that several groups shared.
    shared_at: Option<Instant>,
    /// When the last sync ended, and what one has taken lately.
    synced_at: Instant,
    sync_time: Duration,
}

impl Writer {
    /// Goes on where recovery ended: marks the place, sums every group up, syncs.
    pub(super) fn open(shared: Arc<Shared>, last: Option<Segment>, tail: Tail) -> io::Result<Self> {
        let fresh = last.is_none();
        let segment = match last {
            Some(segment) => segment,
            None => first_segment(&shared)?,
        };
        let (written, previous) =
            if fresh { (HEADER_BYTES, segment.seed) } else { (tail.offset, tail.previous) };
        let mut writer = Self {
            shared,
            segment,
            written,
            // What was read back may be in the page cache only; the sync below makes it durable.
            synced: HEADER_BYTES,
            previous,
            buffer: Vec::new(),
            waiting: Vec::new(),
            tidy: true,
            shared_at: None,
            synced_at: Instant::now(),
            // Not known yet.
            sync_time: QUICK,
        };
        if tail.sealed {
            writer.next_segment(0)?;
        } else if writer.segment.format < FORMAT {
            // What an older build has begun it must be able to read, or refuse.
            writer.roll(0)?;
        }
        // A number that no process before had here: what a torn write left behind this place can
        // never join onto what follows.
        writer.push(&Frame {
            kind: Kind::Opened,
            flag: false,
            group: 0,
            id: EntryId { term: rand::random(), node: rand::random(), index: rand::random() },
            body: &[],
        })?;
        writer.sum_up()?;
        writer.sync()?;
        writer.shared.queue.lock().tidy = true;
        Ok(writer)
    }

    /// Writes one thing here and now, if nothing else waits and nobody is held up by it; gives it back
    /// if not.
    pub(super) fn write_here(&mut self, op: Op) -> Option<Op> {
        let is_free = self.sync_time < QUICK && self.shared_at.is_none() && self.synced_at.elapsed() >= QUIET;
        let committed = {
            let mut queue = self.shared.queue.lock();
            if !is_free || !queue.ops.is_empty() || queue.is_closed() {
                return Some(op);
            }
            std::mem::take(&mut queue.committed)
        };
        self.commit_or_fail(vec![op], committed);
        if self.tidy {
            self.shared.queue.lock().tidy = true;
            self.shared.wake_writer();
        }
        None
    }

    /// The same as a task, over a disk that is simulated.
    pub(super) async fn run_as_task(mut self) {
        let (shared, mut made) = (self.shared.clone(), 0);
        loop {
            if shared.queue.lock().is_empty() {
                shared.queued_for_task.notified().await;
                continue;
            }
            tokio::time::sleep(shared.folder.disk.simulated_pause().unwrap_or_default()).await;
            if !wait(&shared) || !self.turn() {
                return;
            }
            if shared.spares.lock().wanted {
                made += 1;
                make_spare(&shared, made);
            }
        }
    }

    /// Writes what waits, and tidies up; `false` when the disk fails.
    fn turn(&mut self) -> bool {
        let (ops, committed) = {
            let mut queue = self.shared.queue.lock();
            queue.tidy = false;
            (std::mem::take(&mut queue.ops), std::mem::take(&mut queue.committed))
        };
        self.shared_at = (ops.len() > 1).then(Instant::now);
        self.commit_or_fail(ops, committed) && self.tidy_or_fail()
    }

    fn commit_or_fail(&mut self, ops: Vec<Op>, committed: BTreeMap<u32, EntryId>) -> bool {
        let committed = self.commit(ops, committed);
        self.or_fail(committed)
    }

    fn tidy_or_fail(&mut self) -> bool {
        if !std::mem::take(&mut self.tidy) {
            return true;
        }
        let tidied = self.tidy_up();
        self.tidy = matches!(tidied, Ok(true));
        self.shared.queue.lock().tidy |= self.tidy;
        self.or_fail(tidied.map(drop))
    }

    fn or_fail(&mut self, result: io::Result<()>) -> bool {
        if let Err(error) = &result {
            let waiting = std::mem::take(&mut self.waiting);
            self.shared.fail(error, waiting);
        }
        result.is_ok()
    }

    /// Writes, syncs, tells.
    fn commit(&mut self, ops: Vec<Op>, mut committed: BTreeMap<u32, EntryId>) -> io::Result<()> {
        if !ops.is_empty() {
            metrics::histogram!("opcode_log_batch_ops").record(ops.len() as f64);
        }
        let (mut voted, mut removed) = (false, false);
        // Taken over first, so that an error in the middle reaches everybody.
        let mut changes = Vec::with_capacity(ops.len());
        for Op { group, change, done } in ops {
            voted |= matches!(change, Change::Vote(_));
            if matches!(change, Change::Remove) {
                // What it had committed is of entries that go.
                committed.remove(&group);
                removed = true;
            }
            self.waiting.extend(done);
            changes.push((group, change));
        }
        for (group, change) in changes {
            self.push_change(group, change)?;
        }
        for (group, id) in committed {
            self.push(&Frame { kind: Kind::Committed, flag: false, group, id, body: &[] })?;
        }
        if planted::is("acknowledge-before-sync") && rand::random_ratio(3, 4) {
            self.write()?;
        } else {
            self.sync()?;
        }
        if voted {
            crash::point("log.vote.synced");
        }
        if removed {
            crash::point("log.removed");
        }
        for done in self.waiting.drain(..) {
            done(Ok(()));
        }
        self.want_spare();
        Ok(())
    }

    fn push_change(&mut self, group: u32, change: Change) -> io::Result<()> {
        fn frame(kind: Kind, group: u32, id: EntryId, body: &[u8]) -> Frame<'_> {
            Frame { kind, flag: false, group, id, body }
        }
        let at = |index| EntryId { index, ..EntryId::default() };
        match change {
            Change::Append(entries) => {
                for (id, body) in entries {
                    self.push(&frame(Kind::Entry, group, id, &body))?;
                }
                Ok(())
            }
            Change::Vote(vote) => {
                let id = EntryId { term: vote.term, node: vote.node, index: 0 };
                self.push(&Frame { flag: vote.committed, ..frame(Kind::Vote, group, id, &[]) })
            }
            Change::Truncate { from, last } => {
                self.push(&frame(Kind::Truncate, group, at(from), &encode_id(last)))
            }
            Change::Remove => {
                self.tidy = true;
                self.push(&frame(Kind::Removed, group, EntryId::default(), &[]))
            }
            Change::Purge(id) => {
                crash::point("log.purge.before");
                self.tidy = true;
                self.push(&frame(Kind::Purge, group, id, &[]))
            }
        }
    }

    /// Where the next frame will stand.
    fn end(&self) -> u32 {
        self.written + u32::try_from(self.buffer.len()).expect("a segment is under 4 GiB")
    }

    /// Adds a frame to the buffer and the index, in the next segment if this one is full.
    fn push(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let bytes = frame_bytes(frame.body.len());
        if !self.segment.fits(self.end(), bytes) {
            self.roll(bytes)?;
        }
        self.put(frame)?;
        if self.buffer.len() > BUFFER_BYTES_MAX {
            self.write()?;
        }
        Ok(())
    }

    fn put(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let offset = self.end();
        let seeds = (self.segment.seed, self.previous);
        self.previous = frame::push(&mut self.buffer, frame, (offset, self.synced), seeds);
        let place = Place { segment: self.segment.number, offset, bytes: self.end() - offset };
        let mut view = self.shared.view.lock();
        // What a group asks for contradicts what it asked for before: a fault of ours, and
        // nothing of it may reach the disk.
        view.index.apply(frame, place).map_err(io::Error::other)
    }

    fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        crash::point("log.append.before");
        if cfg!(feature = "crash-points") {
            let half = self.buffer.len() / 2;
            self.segment.file.write_all_at(&self.buffer[..half], self.written.into())?;
            crash::point("log.append.torn");
        }
        self.segment.file.write_all_at(&self.buffer, self.written.into())?;
        crash::point("log.append.written");
        self.written = self.end();
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.write()?;
        if self.synced == self.written {
            return Ok(());
        }
        #[cfg(test)]
        if self.shared.fail_syncs.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(io::Error::other("a sync that a test made fail"));
        }
        let start = Instant::now();
        self.segment.file.sync_data()?;
        self.synced_at = Instant::now();
        let took = self.synced_at.saturating_duration_since(start);
        self.sync_time = (self.sync_time * 7 + took) / 8;
        metrics::histogram!("opcode_log_sync_seconds").record(took.as_secs_f64());
        metrics::counter!("opcode_log_bytes_total").increment(u64::from(self.written - self.synced));
        crash::point("log.sync.after");
        self.synced = self.written;
        Ok(())
    }

    /// Seals this segment, synced, and goes on in the next, which will hold a frame of `bytes`.
    fn roll(&mut self, bytes: usize) -> io::Result<()> {
        self.put(&Frame { kind: Kind::Seal, flag: false, group: 0, id: EntryId::default(), body: &[] })?;
        self.sync()?;
        self.next_segment(bytes)?;
        self.sum_up()
    }

    fn next_segment(&mut self, frame: usize) -> io::Result<()> {
        let number = self.segment.number + 1;
        let summary = self.shared.view.lock().index.groups.len() * frame_bytes(super::GroupState::BYTES);
        let segment = make_segment(&self.shared, number, summary + frame)?;
        self.shared.view.lock().segments.insert(number, segment.clone());
        self.previous = segment.seed;
        self.segment = segment;
        self.written = HEADER_BYTES;
        self.synced = HEADER_BYTES;
        self.tidy = true;
        Ok(())
    }

    /// Writes every group's state, so that no earlier segment is needed for it.
    fn sum_up(&mut self) -> io::Result<()> {
        let states: Vec<_> = {
            let view = self.shared.view.lock();
            view.index.groups.iter().map(|(number, group)| (*number, group.state.encode())).collect()
        };
        for (group, state) in states {
            let id = EntryId::default();
            self.push(&Frame { kind: Kind::State, flag: false, group, id, body: &state })?;
        }
        Ok(())
    }

    /// Frees segments from the oldest on; moves entries out of one that is nearly empty. Returns
    /// whether there is more to do. Everything pushed must be synced.
    fn tidy_up(&mut self) -> io::Result<bool> {
        loop {
            let (oldest, count, live) = {
                let view = self.shared.view.lock();
                let (_, oldest) = view.segments.first_key_value().expect("the writer's own is there");
                let live: Vec<_> = view.index.live_in(oldest.number).collect();
                (oldest.clone(), view.segments.len(), live)
            };
            if oldest.number == self.segment.number {
                return Ok(false);
            }
            if live.is_empty() {
                self.release(&oldest)?;
                continue;
            }
            let live_bytes: u64 = live.iter().map(|(_, _, place)| u64::from(place.bytes)).sum();
            if count < SEGMENTS_MOVE_MIN || live_bytes > u64::from(oldest.bytes / 2) {
                return Ok(false);
            }
            self.move_entries(&oldest, &live)?;
            return Ok(true);
        }
    }

    fn move_entries(&mut self, from: &Segment, live: &[(u32, u64, Place)]) -> io::Result<()> {
        let mut moved_bytes = 0;
        for (group, index, place) in live {
            if moved_bytes > MOVED_BYTES_MAX {
                break;
            }
            let Some((id, body)) = read_entry(from, *place, *group, *index)? else {
                let what = format!("{}: a broken entry at offset {}", from.path.display(), place.offset);
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            self.push(&Frame { kind: Kind::Moved, flag: false, group: *group, id, body: &body })?;
            moved_bytes += u64::from(place.bytes);
        }
        self.sync()
    }

    fn release(&mut self, segment: &Segment) -> io::Result<()> {
        let keep = self.shared.spares.lock().files.len() < SPARES_MAX;
        self.shared.view.lock().segments.remove(&segment.number);
        let kept = self.shared.folder.release(segment, keep)?;
        crash::point("log.purge.after");
        self.shared.spares.lock().files.extend(kept);
        Ok(())
    }

    /// Asks for a free file once this segment is half full.
    fn want_spare(&self) {
        if self.written > self.segment.bytes / 2 {
            let mut spares = self.shared.spares.lock();
            if spares.files.is_empty() && !spares.wanted {
                spares.wanted = true;
                self.shared.spares_changed.notify_one();
            }
        }
    }
}

/// The writer's thread: until the store is closed or the disk fails.
pub(super) fn run(writer: &Mutex<Writer>, shared: &Shared) {
    while wait(shared) {
        let mut writer = writer.lock();
        if let Some(due) = writer.shared_at.map(|at| at + PACE) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if !writer.turn() {
            return;
        }
    }
}

/// Waits until there is something to do; `false` when the store is closed.
fn wait(shared: &Shared) -> bool {
    let mut queue = shared.queue.lock();
    while queue.is_empty() {
        shared.queued.wait(&mut queue);
    }
    !(queue.ops.is_empty() && queue.is_closed())
}

fn first_segment(shared: &Shared) -> io::Result<Segment> {
    let segment = make_segment(shared, 1, 0)?;
    shared.view.lock().segments.insert(1, segment.clone());
    Ok(segment)
}

/// A segment that can hold frames of `bytes`: of a free file, or of a new one.
fn make_segment(shared: &Shared, number: u64, bytes: usize) -> io::Result<Segment> {
    let folder = &shared.folder;
    let needed = folder.bytes_for(bytes)?;
    let spare = if needed == folder.segment_bytes { shared.spares.lock().files.pop() } else { None };
    let path = match spare {
        Some((_, path)) => path,
        None => folder.make_free(NEVER_USED | number << 1, needed)?,
    };
    folder.take_free(&path, number)
}

/// How often the room on the disk is looked at.
const LOOK_AT_ROOM_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Makes free files ahead of need, on a thread of its own: writing one takes long.
pub(super) fn keep_spares(shared: &Shared) {
    let mut made = 0_u64;
    loop {
        {
            let mut spares = shared.spares.lock();
            while !spares.wanted && !spares.stopping {
                shared.spares_changed.wait_for(&mut spares, LOOK_AT_ROOM_EVERY);
                shared.look_at_room();
            }
            if spares.stopping {
                return;
            }
        }
        made += 1;
        make_spare(shared, made);
    }
}

fn make_spare(shared: &Shared, made: u64) {
    let number = NEVER_USED | made << 1 | 1;
    let file = shared.folder.make_free(number, shared.folder.segment_bytes);
    let mut spares = shared.spares.lock();
    spares.wanted = false;
    match file {
        Ok(path) => spares.files.push((number, path)),
        // The writer makes its own when it must, and then an error is the end.
        Err(error) => tracing::warn!(%error, "no log segment could be made ahead of need"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::LogOptions;
    use super::super::segment::SEGMENT_BYTES_MIN;
    use super::super::store::LogStore;
    use super::*;

    #[test]
    fn what_comes_alone_is_written_where_it_comes_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { dir: dir.path().to_owned(), segment_bytes: SEGMENT_BYTES_MIN };
        let store = LogStore::open(options).unwrap();
        let (told, written) = mpsc::channel();
        let mut index = 0;
        let mut op = || {
            index += 1;
            let told = told.clone();
            let done: Done = Box::new(move |result| {
                result.unwrap();
                told.send(thread::current().id()).unwrap();
            });
            let entry = (EntryId { term: 1, node: 1, index }, b"entry".as_slice().into());
            Op { group: 1, change: Change::Append(vec![entry]), done: Some(done) }
        };
        let mut writer = store.writer.as_ref().unwrap().lock();
        let is_taken = |writer: &mut Writer, op: Op| {
            let left = writer.write_here(op);
            left.is_none_or(|op| {
                store.shared.submit(op);
                false
            })
        };
        writer.sync_time = Duration::ZERO;
        thread::sleep(QUIET);
        assert!(is_taken(&mut writer, op()));
        assert_eq!(written.try_recv(), Ok(thread::current().id()));
        assert!(!is_taken(&mut writer, op()), "somebody wrote a moment ago");
        thread::sleep(QUIET);
        assert!(!is_taken(&mut writer, op()), "something waits already");
        assert_eq!(written.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(writer);
        let own = [written.recv().unwrap(), written.recv().unwrap()];
        assert!(own.iter().all(|thread| *thread != thread::current().id()));
        let mut writer = store.writer.as_ref().unwrap().lock();
        (writer.shared_at, writer.sync_time) = (None, QUICK);
        thread::sleep(QUIET);
        assert!(!is_taken(&mut writer, op()), "the disk is slow");
    }
}

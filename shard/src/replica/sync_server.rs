//! Answers those who hold an embedded replica of this node's copy of a shard, leader or not. It
//! only reads: what a client would push is refused at the HTTP edge.
//!
//! A generation here is a number, a base, and the frames from there on. It is *open* as long as
//! its base is: until the next roll. After that those who have its base go on in it, up to an end
//! that comes when its frames are as many as the base's, so that clients may empty their WALs;
//! everybody else goes on to the next open one. See the [module](super) for why that is safe.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::feed::{Base, FRAME_BYTES, PAGE_BYTES, View};
use super::numbers::Numbers;
use crate::error::ShardError;
use crate::peer::NodeId;
use crate::store::Store;

/// Frames of one answer, whatever was asked for: 1 MiB. Stock clients ask for half of it.
const FRAMES_MAX: u32 = 256;
/// Answers of frames that are made at a time for one shard; each holds its bytes.
const PULLS_MAX: usize = 16;
/// Frames after which a generation ends: 256 MiB, less where tests want to get there. One of a
/// larger base goes on until it has as many.
const GENERATION_FRAMES: u64 = if cfg!(test) { 64 } else { 65_536 };
/// Generations that are served at a time.
const LIVE_MAX: usize = 64;
/// Gone ones that are remembered.
const DEAD_MAX: usize = 256;
/// Longest time that a client takes from one answer to its next question, in one transaction.
const CALM: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// A newcomer's base is no older than this where that can be had.
const FRESH: Duration = Duration::from_secs(2);
/// Longest wait for the writer to begin the stream, and for a base.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// How often the writer is reminded meanwhile.
const REMIND_EVERY: Duration = Duration::from_millis(250);
/// Bases that are tried for one newcomer: each may go while its number is written down.
const OPENINGS_MAX: usize = 4;

/// Serves the replicas of one shard.
pub struct SyncServer {
    store: Store,
    node: NodeId,
    /// Where the numbers given out are written down.
    path: PathBuf,
    numbers: Arc<Mutex<Option<Numbers>>>,
    live: Mutex<Live>,
    /// One number at a time is given out.
    opening: tokio::sync::Mutex<()>,
    pulls: Semaphore,
}

#[derive(Default)]
struct Live {
    generations: Vec<Generation>,
    /// Numbers that are served no more, and when somebody asked in them last.
    dead: VecDeque<(u32, Instant)>,
}

struct Generation {
    number: u32,
    stream: u64,
    base: Base,
    /// The position it ends at, once that is known.
    end: Option<u64>,
    /// Somebody has asked for frames of it.
    is_used: bool,
    asked: Instant,
}

/// What a client gets for a range of frames.
#[derive(Debug, PartialEq, Eq)]
pub enum Pull {
    /// The frames from the first asked for on, one after the other.
    Frames(Bytes),
    /// There is nothing after what the client has in its generation; it goes on with this one, or
    /// has everything when that is its own.
    End(u32),
}

/// Why a client gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Not a range of frames.
    #[error("{0}")]
    Invalid(&'static str),
    /// The transaction that the client is in cannot be ended: it drops it and syncs again.
    #[error("the frames of this transaction are gone: sync again")]
    Gone,
    /// For the moment.
    #[error("{0}")]
    Unavailable(String),
    /// The client can never be brought further from where it is.
    #[error("{0}; delete the copy and sync it anew")]
    Refused(String),
}

/// What to do about a question.
enum Step {
    Read(Range),
    CaughtUp,
    Onward,
    Gone,
}

/// Where frames are to be read.
enum Range {
    /// Those that carry the base, from the one of this number on.
    Base(Base, u32),
    /// Those of the stream from a position on, so many at most.
    Stream { from: u64, left: u64 },
}

impl SyncServer {
    /// A server of this node's copy; `path` is where it writes down which numbers are used.
    pub fn new(store: Store, node: NodeId, path: PathBuf) -> Self {
        Self {
            store,
            node,
            path,
            numbers: Arc::default(),
            live: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            pulls: Semaphore::new(PULLS_MAX),
        }
    }

    /// The generation that a new client begins with.
    pub async fn info(&self) -> Result<u32, SyncError> {
        self.open_after(0).await
    }

    /// The file that every generation starts from: an empty database.
    pub fn export() -> [u8; PAGE_BYTES] {
        empty_database()
    }

    /// Frames `start..end` of a generation, or what comes after it.
    pub async fn pull(&self, generation: u32, start: u32, end: u32) -> Result<Pull, SyncError> {
        if generation == 0 || start == 0 {
            return Err(SyncError::Invalid("generations and frames are counted from 1"));
        }
        let count = end.saturating_sub(start).min(FRAMES_MAX);
        if count == 0 {
            return Err(SyncError::Invalid("the range of frames is empty"));
        }
        let view = self.view().await?;
        let feed = Arc::clone(self.store.feed());
        let range = match self.step(&view, generation, start) {
            Step::Read(range) => range,
            Step::CaughtUp => return Ok(Pull::End(generation)),
            Step::Onward => return self.open_after(generation).await.map(Pull::End),
            Step::Gone => return Err(SyncError::Gone),
        };
        let _permit = in_time(self.pulls.acquire()).await?.expect("it is never closed");
        let read = match range {
            Range::Base(base, first) => blocking(move || feed.read_base(&base, first, count)).await?,
            Range::Stream { from, left } => {
                let count = count.min(u32::try_from(left).unwrap_or(u32::MAX));
                blocking(move || feed.read(view.stream, from, count)).await?
            }
        };
        // Gone between the look and the read: the next question finds out where to go from here.
        let bytes = read.ok_or(SyncError::Gone)?;
        metrics::counter!("opcode_sync_frames_total").increment((bytes.len() / FRAME_BYTES) as u64);
        Ok(Pull::Frames(bytes.into()))
    }

    /// What there is to read; has the writer begin the stream if nobody has synced for a while.
    async fn view(&self) -> Result<View, SyncError> {
        let feed = self.store.feed();
        let mut changes = feed.watch();
        let deadline = Instant::now() + BEGIN_MAX;
        while Instant::now() < deadline {
            changes.borrow_and_update();
            if feed.ask() {
                self.store.look_at_feed();
            }
            if let Some(view) = feed.view() {
                return Ok(view);
            }
            // Either way it looks again.
            let _ = tokio::time::timeout(REMIND_EVERY, changes.changed()).await;
        }
        Err(SyncError::Unavailable("the tables cannot be copied now: a long read is in the way".into()))
    }

    fn step(&self, view: &View, number: u32, start: u32) -> Step {
        let mut live = self.live.lock();
        live.bury(view.stream);
        let Some(generation) = live.generations.iter_mut().find(|one| one.number == number) else {
            // A client that is in a transaction asks again soon; it must not be told to go on.
            let was_here = |(dead, asked): &(u32, Instant)| *dead == number && asked.elapsed() < CALM;
            return if start > 1 && live.dead.iter().any(was_here) { Step::Gone } else { Step::Onward };
        };
        (generation.asked, generation.is_used) = (Instant::now(), true);
        generation.end_at_a_roll(view);
        let base = generation.base;
        if start <= base.frames {
            let open = view.base.filter(|now| now.id == base.id);
            let is_calm = view.base.is_some_and(|now| now.since.elapsed() >= CALM);
            return match open {
                Some(_) => Step::Read(Range::Base(base, start)),
                // Nobody has part of a base.
                None if start == 1 || is_calm => Step::Onward,
                None => Step::Gone,
            };
        }
        let from = base.at + u64::from(start - base.frames - 1);
        let end = generation.end.unwrap_or(view.end);
        if from > end {
            return Step::Onward;
        }
        if from == end {
            return if generation.end.is_some() { Step::Onward } else { Step::CaughtUp };
        }
        if from < view.oldest {
            let since = self.store.feed().gone_since(view.stream, from);
            return if since.is_some_and(|since| since.elapsed() < CALM) { Step::Gone } else { Step::Onward };
        }
        Step::Read(Range::Stream { from, left: end - from })
    }

    /// A generation after `after` that begins with the tables as they are now.
    async fn open_after(&self, after: u32) -> Result<u32, SyncError> {
        let _one_at_a_time = in_time(self.opening.lock()).await?;
        for _ in 0..OPENINGS_MAX {
            let view = self.view().await?;
            if let Some(number) = self.open_one(&view, after) {
                return Ok(number);
            }
            let (stream, base) = self.base().await?;
            let number = self.give_out(after).await?;
            let is_there =
                self.store.feed().view().is_some_and(|view| view.base.is_some_and(|now| now.id == base.id));
            if is_there {
                let mut live = self.live.lock();
                live.make_room()?;
                let asked = Instant::now();
                live.generations.push(Generation { number, stream, base, end: None, is_used: false, asked });
                return Ok(number);
            }
        }
        Err(SyncError::Unavailable("the tables change too fast to begin a copy of them".into()))
    }

    /// An open generation that a client at `after` gets to in a few steps.
    fn open_one(&self, view: &View, after: u32) -> Option<u32> {
        let base = view.base?;
        // Not much further than a new one would be.
        let near = match (after, self.numbers.lock().as_ref()) {
            (1.., Some(numbers)) => {
                numbers.free_after(after).map_or(u32::MAX, |free| free.saturating_add(numbers.stride()))
            }
            _ => u32::MAX,
        };
        let mut live = self.live.lock();
        let open = live.generations.iter_mut().filter(|one| {
            one.base.id == base.id && one.end.is_none() && one.number > after && one.number <= near
        });
        let first = open.min_by_key(|one| one.number)?;
        first.asked = Instant::now();
        Some(first.number)
    }

    /// A base, a new one if the writer can make it.
    async fn base(&self) -> Result<(u64, Base), SyncError> {
        let feed = self.store.feed();
        let mut changes = feed.watch();
        let deadline = Instant::now() + BEGIN_MAX;
        let mut asked = false;
        loop {
            changes.borrow_and_update();
            let view = self.view().await?;
            let is_late = Instant::now() >= deadline;
            match view.base {
                Some(base) if base.since.elapsed() < FRESH || base.at == view.end || asked => {
                    return Ok((view.stream, base));
                }
                _ if is_late => {
                    let why = "the tables cannot be copied now: a long read is in the way";
                    return Err(SyncError::Unavailable(why.into()));
                }
                _ => {}
            }
            feed.want_base();
            self.store.look_at_feed();
            // After one such wait an older base is good enough.
            asked = tokio::time::timeout(2 * REMIND_EVERY, changes.changed()).await.is_err();
        }
    }

    async fn give_out(&self, after: u32) -> Result<u32, SyncError> {
        let (numbers, path, node) = (Arc::clone(&self.numbers), self.path.clone(), self.node);
        let given = tokio::task::spawn_blocking(move || {
            let mut numbers = numbers.lock();
            let numbers = match &mut *numbers {
                Some(numbers) => numbers,
                none => none.insert(Numbers::open(path, node)?),
            };
            numbers.next_after(after)
        });
        match given.await {
            Ok(Ok(number)) => Ok(number),
            Ok(Err(ShardError::Refused(why))) => Err(SyncError::Refused(why)),
            Ok(Err(error)) => Err(SyncError::Unavailable(error.to_string())),
            Err(error) => Err(SyncError::Unavailable(error.to_string())),
        }
    }
}

/// A place in a line, unless it takes too long to come.
async fn in_time<T>(place: impl Future<Output = T>) -> Result<T, SyncError> {
    let busy = |_| SyncError::Unavailable("too many copies of this shard ask at a time".into());
    tokio::time::timeout(BEGIN_MAX, place).await.map_err(busy)
}

/// Reads files off the runtime's threads.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, SyncError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(SyncError::Unavailable(format!("the frames cannot be read: {error}"))),
        Err(error) => Err(SyncError::Unavailable(error.to_string())),
    }
}

impl Generation {
    /// Ends it at the last roll when it is long enough by then. At a roll, since the next one's
    /// base then has exactly what this one had; and before anybody was given frames of after it,
    /// since every question comes by here.
    fn end_at_a_roll(&mut self, view: &View) {
        let Some(base) = view.base.filter(|_| self.end.is_none()) else { return };
        let frames = base.at.saturating_sub(self.base.at);
        if frames >= GENERATION_FRAMES.max(u64::from(self.base.frames)) {
            self.end = Some(base.at);
        }
    }
}

impl Live {
    /// Lets those of other streams go.
    fn bury(&mut self, stream: u64) {
        let dead = &mut self.dead;
        self.generations.retain(|one| {
            let stays = one.stream == stream;
            if !stays {
                dead.push_back((one.number, one.asked));
            }
            stays
        });
        while self.dead.len() > DEAD_MAX {
            self.dead.pop_front();
        }
    }

    /// Room for one more. One that nobody came to goes, else the one that was not asked for longest
    /// and in which nobody can be in the middle of something.
    fn make_room(&mut self) -> Result<(), SyncError> {
        if self.generations.len() < LIVE_MAX {
            return Ok(());
        }
        let oldest = (0..self.generations.len())
            .min_by_key(|at| (self.generations[*at].is_used, self.generations[*at].asked));
        let may_go = |one: &Generation| !one.is_used || one.asked.elapsed() >= CALM;
        match oldest.filter(|at| may_go(&self.generations[*at])) {
            Some(at) => {
                let gone = self.generations.swap_remove(at);
                self.dead.push_back((gone.number, gone.asked));
                Ok(())
            }
            None => Err(SyncError::Unavailable("copies in too many states ask at a time; try again".into())),
        }
    }
}

/// One page: the header of a database in WAL mode, and a schema without entries. The format is
/// SQLite's, <https://sqlite.org/fileformat2.html>.
fn empty_database() -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..18].copy_from_slice(&(PAGE_BYTES as u16).to_be_bytes());
    // Written and read with a WAL; no bytes are left free at a page's end; fractions as ever.
    page[18..24].copy_from_slice(&[2, 2, 0, 64, 32, 32]);
    // Changed once, and one page long as of that change.
    for at in [24, 28, 92] {
        page[at + 3] = 1;
    }
    // Format of the schema, and UTF-8.
    (page[47], page[59]) = (4, 1);
    page[96..100].copy_from_slice(&3_047_000_u32.to_be_bytes());
    // A leaf of a table, without cells, whose content would begin at the page's end.
    page[100] = 13;
    page[105..107].copy_from_slice(&(PAGE_BYTES as u16).to_be_bytes());
    page
}

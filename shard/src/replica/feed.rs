//! The frames of a shard's tables, for those who copy them: what the tables' writer and the server
//! of replicas share.
//!
//! While somebody syncs, the writer does not checkpoint as it goes; it *rolls*: copies the WAL to
//! the kept frames, moves all of it into the main file, and starts the WAL over. Between two rolls
//! the main file does not change, so it is a *base* to start from, and the WAL only grows. Frames
//! have positions in one stream, from the moment that it began, whatever file they are in.
//!
//! Readers never hold the writer up: they look where things are under a lock, read without it, and
//! look again whether it was so until then. When nobody asks any more, the stream ends, and the
//! writer is as it was before. Nothing of it is on disk under a name, so nothing is left by a crash.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Bytes of a page, and of the header of its frame.
pub(super) const PAGE_BYTES: usize = 4096;
const HEADER_BYTES: usize = 24;
/// Bytes of a frame.
pub(super) const FRAME_BYTES: usize = HEADER_BYTES + PAGE_BYTES;
/// Bytes before the first frame of a WAL, and where its salt is.
const WAL_HEADER_BYTES: u64 = 32;
const SALT_AT: u64 = 16;
/// The page that holds no data: the bytes of it are where files are locked.
const LOCK_PAGE: u32 = (0x4000_0000 / PAGE_BYTES) as u32 + 1;

/// How long the stream goes on after somebody asked last.
const ASKED_MAX: Duration = Duration::from_secs(300);
/// Frames in the WAL at which it is rolled: 32 MiB. A kept file has up to as many, or twice.
const ROLL_FRAMES: u32 = if cfg!(test) { 32 } else { 8_192 };
/// The same while somebody reads the base, which a roll takes away: 256 MiB, less where tests want
/// to get there. However slowly they read, more than that is not waited for.
pub(crate) const ROLL_FRAMES_MAX: u32 = if cfg!(test) { 128 } else { 65_536 };
/// Frames in the WAL at which the stream ends because a reader of the tables has been in the way of
/// every roll: what is kept twice is bounded.
pub(crate) const STUCK_FRAMES_MAX: u32 = 4 * ROLL_FRAMES_MAX;
/// Age of the WAL's first frame at which it is rolled; the log is purged only behind rolls.
const ROLL_AGE: Duration = Duration::from_secs(10);
/// The same while somebody reads the base.
const ROLL_AGE_MAX: Duration = Duration::from_secs(60);
/// The base is being read when it was so this lately.
const BASE_READ_FOR: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2_000 });
/// Frames kept of WALs that were rolled: 256 MiB, less where tests want to get there.
const KEPT_FRAMES_MAX: u64 = if cfg!(test) { 128 } else { 65_536 };
/// Frames that are copied at a time.
const COPY_FRAMES: u32 = 256;
/// Times that a position is looked up again because a roll came between.
const LOOKS_MAX: u32 = 4;
/// Ends of frames gone by, remembered with their times.
const GONE_MAX: usize = 256;

/// Where the writer and the server meet.
pub(crate) struct Feed {
    tables: PathBuf,
    state: Mutex<State>,
    /// Grows with every roll, begin and end.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    asked: Option<Instant>,
    /// Somebody waits for a base that is new.
    wants_base: bool,
    /// The main file, held open: closing it would let go of the locks that libSQL has on it.
    main: Option<Arc<File>>,
    streams: u64,
    bases: u64,
    stream: Option<Stream>,
}

struct Stream {
    id: u64,
    kept: VecDeque<Kept>,
    gone: VecDeque<(u64, Instant)>,
    wal: Arc<File>,
    /// The position of the WAL's first frame.
    wal_first: u64,
    /// Frames of it that are committed.
    wal_frames: u32,
    salt: Option<[u8; 8]>,
    /// How many of them are behind the last kept file's frames already.
    copied: u32,
    /// When the first of them was committed.
    since: Option<Instant>,
    base: Option<Base>,
    base_read: Option<Instant>,
}

/// Frames of WALs that were rolled, in a file without a name.
struct Kept {
    file: Arc<File>,
    first: u64,
    frames: u32,
}

/// The main file as it is between two rolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// No other base has it.
    pub(super) id: u64,
    /// Frames that carry it.
    pub(super) frames: u32,
    /// Pages of it.
    pages: u32,
    /// The position of the first frame that is not in it.
    pub(super) at: u64,
    /// When it came to be.
    pub(super) since: Instant,
}

/// What there is to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Positions of another stream mean nothing in this one.
    pub(super) stream: u64,
    /// The first position that is there.
    pub(super) oldest: u64,
    /// The position after the last committed frame.
    pub(super) end: u64,
    pub(super) base: Option<Base>,
}

/// What the writer shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nobody syncs: checkpoint as ever.
    Rest,
    /// Roll now.
    Roll,
    /// Look again at this time, or after the next commit.
    At(Instant),
    /// Nobody has synced for a while: end the stream.
    End,
}

impl Feed {
    pub(crate) fn new(tables: PathBuf) -> Self {
        Self { tables, state: Mutex::default(), changes: watch::Sender::default() }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.tables.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// The server's side.
impl Feed {
    /// Notes that somebody syncs; whether the writer must be woken for it.
    pub(super) fn ask(&self) -> bool {
        let mut state = self.state.lock();
        state.asked = Some(Instant::now());
        state.stream.is_none()
    }

    /// Asks for a base that is no older than now.
    pub(super) fn want_base(&self) {
        self.state.lock().wants_base = true;
    }

    /// News of rolls.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn view(&self) -> Option<View> {
        let state = self.state.lock();
        let stream = state.stream.as_ref()?;
        Some(View {
            stream: stream.id,
            oldest: stream.kept.front().map_or(stream.wal_first, |kept| kept.first),
            end: stream.wal_first + u64::from(stream.wal_frames),
            base: stream.base,
        })
    }

    /// Since when a position is gone; none when it is not, or was never here.
    pub(super) fn gone_since(&self, id: u64, position: u64) -> Option<Instant> {
        let state = self.state.lock();
        let stream = state.stream.as_ref().filter(|stream| stream.id == id)?;
        stream.gone.iter().find(|(end, _)| position < *end).map(|(_, since)| *since)
    }

    /// Up to `count` frames from a position on: at least one. None when they are gone.
    pub(super) fn read(&self, id: u64, from: u64, count: u32) -> io::Result<Option<Vec<u8>>> {
        for _ in 0..LOOKS_MAX {
            let Some(place) = self.find(id, from) else { return Ok(None) };
            let frames = place.frames.min(count);
            let mut bytes = vec![0; frames as usize * FRAME_BYTES];
            let read = place.file.read_exact_at(&mut bytes, place.offset);
            let Some(salt) = place.salt else { return read.map(|()| Some(bytes)) };
            // A roll that has begun since may have begun to write over what was read.
            if self.find(id, from).is_some_and(|now| now.salt == Some(salt)) {
                read?;
                let is_whole = bytes.chunks_exact(FRAME_BYTES).all(|frame| frame[8..16] == salt);
                return if is_whole { Ok(Some(bytes)) } else { Err(foreign_frame()) };
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the frames are being moved"))
    }

    fn find(&self, id: u64, position: u64) -> Option<Place> {
        let state = self.state.lock();
        let stream = state.stream.as_ref().filter(|stream| stream.id == id)?;
        let within = |first: u64, frames: u32| {
            let at = position.checked_sub(first)?;
            let left = u64::from(frames).checked_sub(at).filter(|left| *left > 0)?;
            Some((at, u32::try_from(left).expect("no more than there are")))
        };
        let kept = stream.kept.iter().rev().enumerate().find_map(|(age, kept)| {
            // What is copied already is read from the last one: the WAL may be being emptied.
            let copied = if age == 0 { stream.copied } else { 0 };
            let (at, frames) = within(kept.first, kept.frames + copied)?;
            let offset = at * FRAME_BYTES as u64;
            Some(Place { file: Arc::clone(&kept.file), offset, frames, salt: None })
        });
        kept.or_else(|| {
            let (at, frames) = within(stream.wal_first, stream.wal_frames)?;
            let offset = WAL_HEADER_BYTES + at * FRAME_BYTES as u64;
            Some(Place { file: Arc::clone(&stream.wal), offset, frames, salt: stream.salt })
        })
    }

    /// Frames `first..first + count` of those that carry a base, numbered from 1: one transaction,
    /// without checksums, which clients make anew. None when the base is gone.
    pub(super) fn read_base(&self, base: &Base, first: u32, count: u32) -> io::Result<Option<Vec<u8>>> {
        let is_there = |stream: &Stream| stream.base.is_some_and(|now| now.id == base.id);
        let file = {
            let mut state = self.state.lock();
            let main = state.main.clone();
            let Some(stream) = state.stream.as_mut().filter(|stream| is_there(stream)) else {
                return Ok(None);
            };
            stream.base_read = Some(Instant::now());
            main.expect("a base is a main file that is open")
        };
        let count = count.min(base.frames.saturating_sub(first - 1));
        let mut bytes = vec![0; count as usize * FRAME_BYTES];
        let mut read = Ok(());
        for (number, frame) in (first..).zip(bytes.chunks_exact_mut(FRAME_BYTES)) {
            let page = if number < LOCK_PAGE { number } else { number + 1 };
            frame[..4].copy_from_slice(&page.to_be_bytes());
            if number == base.frames {
                frame[4..8].copy_from_slice(&base.pages.to_be_bytes());
            }
            let offset = u64::from(page - 1) * PAGE_BYTES as u64;
            read = read.and_then(|()| file.read_exact_at(&mut frame[HEADER_BYTES..], offset));
        }
        // A roll says that the base goes before it changes a byte of it.
        let is_still_there = self.state.lock().stream.as_ref().is_some_and(is_there);
        if is_still_there { read.map(|()| Some(bytes)) } else { Ok(None) }
    }
}

/// Where frames are.
struct Place {
    file: Arc<File>,
    offset: u64,
    /// How many are there in a row.
    frames: u32,
    /// The salt of a WAL in use.
    salt: Option<[u8; 8]>,
}

fn foreign_frame() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame of another WAL is among those of this one")
}

/// The writer's side.
impl Feed {
    pub(crate) fn is_on(&self) -> bool {
        self.state.lock().stream.is_some()
    }

    /// What the writer shall do at `now`.
    pub(crate) fn wish(&self, now: Instant) -> Wish {
        let state = self.state.lock();
        let ends = state.asked.map(|asked| asked + ASKED_MAX);
        let Some(stream) = &state.stream else {
            return if ends.is_some_and(|ends| now < ends) { Wish::Roll } else { Wish::Rest };
        };
        let Some(ends) = ends.filter(|ends| now < *ends) else { return Wish::End };
        let read_until = stream.base_read.map(|read| read + BASE_READ_FOR).filter(|until| now < *until);
        let (frames, age) = match read_until {
            Some(_) => (ROLL_FRAMES_MAX, ROLL_AGE_MAX),
            None => (ROLL_FRAMES, ROLL_AGE),
        };
        let due = stream.since.map(|since| since + age);
        let is_due = due.is_some_and(|due| due <= now) || stream.wal_frames >= frames;
        let is_wanted = (stream.base.is_none() || state.wants_base) && read_until.is_none();
        if is_due || is_wanted {
            return Wish::Roll;
        }
        Wish::At([due, read_until].into_iter().flatten().fold(ends, Instant::min))
    }

    /// Tells that a transaction was committed: how many frames the WAL has now.
    pub(crate) fn committed(&self, frames: u32) -> io::Result<()> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(stream) = &mut state.stream else { return Ok(()) };
        let mut salt = [0; 8];
        stream.wal.read_exact_at(&mut salt, SALT_AT)?;
        if stream.salt.is_some_and(|known| known != salt) {
            // The last roll could not have the WAL start over, for a reader; this commit did.
            if stream.copied != stream.wal_frames {
                return Err(io::Error::other("the WAL started over before it was copied"));
            }
            state.bases += 1;
            stream.start_over(state.main.as_deref(), state.bases)?;
        }
        stream.salt = Some(salt);
        stream.wal_frames = frames;
        stream.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Copies what the WAL has to the kept frames, and takes the base away: the checkpoint of a
    /// roll comes next. The lock is not held meanwhile: only the writer adds frames.
    pub(crate) fn before_roll(&self) -> io::Result<()> {
        loop {
            let (wal, salt, from, count, to, offset) = {
                let mut state = self.state.lock();
                let Some(stream) = &mut state.stream else { return Ok(()) };
                let left = stream.wal_frames - stream.copied;
                let (Some(salt), true) = (stream.salt, left > 0) else {
                    stream.base = None;
                    return Ok(());
                };
                if stream.kept.back().is_none_or(|last| last.frames >= ROLL_FRAMES) {
                    let file = Arc::new(nameless(&self.beside("-frames"))?);
                    stream.kept.push_back(Kept { file, first: stream.wal_first, frames: 0 });
                }
                let kept = stream.kept.back().expect("one was just made");
                let offset = u64::from(kept.frames + stream.copied) * FRAME_BYTES as u64;
                let from = WAL_HEADER_BYTES + u64::from(stream.copied) * FRAME_BYTES as u64;
                let wal = Arc::clone(&stream.wal);
                (wal, salt, from, left.min(COPY_FRAMES), Arc::clone(&kept.file), offset)
            };
            let mut bytes = vec![0; count as usize * FRAME_BYTES];
            wal.read_exact_at(&mut bytes, from)?;
            if bytes.chunks_exact(FRAME_BYTES).any(|frame| frame[8..16] != salt) {
                return Err(foreign_frame());
            }
            to.write_all_at(&bytes, offset)?;
            if let Some(stream) = &mut self.state.lock().stream {
                stream.copied += count;
            }
        }
    }

    /// Tells that the checkpoint of a roll moved everything and emptied the WAL. Without a stream,
    /// one begins here.
    pub(crate) fn rolled(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.wants_base = false;
        state.bases += 1;
        if state.main.is_none() {
            state.main = Some(Arc::new(File::open(&self.tables)?));
        }
        if state.stream.is_none() {
            state.streams += 1;
            let wal = Arc::new(File::open(self.beside("-wal"))?);
            state.stream = Some(Stream::new(state.streams, wal));
        }
        let stream = state.stream.as_mut().expect("there is one now");
        stream.start_over(state.main.as_deref(), state.bases)?;
        self.changed();
        Ok(())
    }

    /// Ends the stream; the next one has nothing to do with it.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.stream = None;
        state.wants_base = false;
        self.changed();
    }

    /// The same, and lets go of the main file: another takes its place, or nobody has it open.
    pub(crate) fn let_go(&self) {
        self.end();
        self.state.lock().main = None;
    }
}

impl Stream {
    fn new(id: u64, wal: Arc<File>) -> Self {
        Self {
            id,
            kept: VecDeque::new(),
            gone: VecDeque::new(),
            wal,
            wal_first: 0,
            wal_frames: 0,
            salt: None,
            copied: 0,
            since: None,
            base: None,
            base_read: None,
        }
    }

    /// What the WAL had is kept and in the main file; the WAL begins anew.
    fn start_over(&mut self, main: Option<&File>, base: u64) -> io::Result<()> {
        let now = Instant::now();
        if let Some(last) = self.kept.back_mut().filter(|_| self.wal_frames > 0) {
            last.frames += self.wal_frames;
        }
        self.wal_first += u64::from(self.wal_frames);
        (self.wal_frames, self.copied, self.salt, self.since) = (0, 0, None, None);
        let mut kept: u64 = self.kept.iter().map(|kept| u64::from(kept.frames)).sum();
        while kept > KEPT_FRAMES_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            kept -= u64::from(oldest.frames);
            self.gone.push_back((oldest.first + u64::from(oldest.frames), now));
        }
        while self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
        let bytes = main.map_or(Ok(0), |main| main.metadata().map(|metadata| metadata.len()))?;
        let pages = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        self.base_read = None;
        self.base = (pages > 0 && bytes.is_multiple_of(PAGE_BYTES as u64)).then_some(Base {
            id: base,
            frames: if pages >= LOCK_PAGE { pages - 1 } else { pages },
            pages,
            at: self.wal_first,
            since: now,
        });
        Ok(())
    }
}

/// A new file that has lost its name at once: it goes when it is closed, whatever happens.
fn nameless(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

//! The files: segments that are named by the number of their first entry, of which the last one is
//! appended to.
//!
//! What is not whole is cut off: a line without its end when the log is opened or a write fails. A
//! segment that cannot be put right is left as it is, and another one begun; whoever reads passes over
//! what is no entry.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use opcode_engine::ids::Timestamp;
use opcode_router::audit::{Call, Entry, NotRecorded};
use parking_lot::Mutex;

use super::AuditOptions;

/// How segments are named, behind the number.
const ENDING: &str = ".jsonl";
/// Digits of the number, so that names sort as numbers do.
const DIGITS: usize = 20;

/// The times of a segment's entries, the earliest and the latest.
pub(super) type Times = (Timestamp, Timestamp);

/// What is known of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The number of its first entry.
    pub(super) first: u64,
    pub(super) bytes: u64,
    /// Of all of its entries; none while that is not known.
    pub(super) times: Option<Times>,
}

/// Which segments there are, the newest last.
pub(super) struct Directory {
    dir: PathBuf,
    segments: Mutex<Vec<Segment>>,
}

impl Directory {
    pub(super) fn path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:0DIGITS$}{ENDING}"))
    }

    /// The segments now, the newest last.
    pub(super) fn segments(&self) -> Vec<Segment> {
        self.segments.lock().clone()
    }

    /// Keeps the times of a segment that nobody writes to any more.
    pub(super) fn note_times(&self, first: u64, times: Times) {
        let mut segments = self.segments.lock();
        let older = segments.len().saturating_sub(1);
        if let Some(segment) = segments[..older].iter_mut().find(|segment| segment.first == first) {
            segment.times = Some(times);
        }
    }
}

/// Takes one more time in.
pub(super) fn and(times: Option<Times>, at: Timestamp) -> Times {
    times.map_or((at, at), |(first, last)| (first.min(at), last.max(at)))
}

/// What could not be written.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: io::Error,
    pub(super) lost: NotRecorded,
}

/// Lines of one write.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
    times: Option<Times>,
}

/// The log as its writer has it.
pub(super) struct Segments {
    directory: Arc<Directory>,
    node_id: String,
    options: AuditOptions,
    /// The last segment; none before there is one, and after it went wrong.
    file: Option<File>,
    /// The number of the next entry.
    next: u64,
    /// Whether the times of the last segment are those of all of its entries.
    knows_times: bool,
    is_dirty: bool,
}

impl Segments {
    pub(super) fn open(dir: &Path, node_id: String, options: AuditOptions) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(first) = name.to_str().and_then(number_of) {
                segments.push(Segment { first, bytes: entry.metadata()?.len(), times: None });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.first);
        let directory = Directory { dir: dir.to_path_buf(), segments: Mutex::new(segments) };
        let mut log = Self {
            directory: Arc::new(directory),
            node_id,
            options,
            file: None,
            next: 1,
            knows_times: false,
            is_dirty: false,
        };
        log.open_last()?;
        Ok(log)
    }

    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// Goes on with the last segment, without a line that has no end.
    fn open_last(&mut self) -> io::Result<()> {
        let Some(last) = self.directory.segments().pop() else { return Ok(()) };
        let path = self.directory.path(last.first);
        let text = std::fs::read(&path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().append(true).open(&path)?;
        if whole < text.len() {
            tracing::info!(path = %path.display(), bytes = text.len() - whole, "an unfinished line is cut off");
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let newest = text[..whole].rsplit(|byte| *byte == b'\n').find_map(Entry::read_line);
        self.next = newest.map_or(last.first, |entry| entry.seq.max(last.first) + 1);
        self.file = Some(file);
        if let Some(last) = self.directory.segments.lock().last_mut() {
            last.bytes = whole as u64;
        }
        Ok(())
    }

    /// Writes entries and syncs them.
    pub(super) fn append(
        &mut self,
        calls: Vec<Call>,
        not_recorded: NotRecorded,
        now: Timestamp,
    ) -> Result<(), Failed> {
        let (before, calls_count) = (self.next, calls.len() as u64);
        let has_missing = not_recorded != NotRecorded::default();
        let appended = self.append_all(calls, has_missing.then_some(not_recorded), now);
        appended.and_then(|()| self.sync()).map_err(|error| {
            let mut lost = NotRecorded { refused: 0, lost: calls_count + u64::from(has_missing) };
            lost.lost -= self.next - before;
            if has_missing && self.next == before {
                lost.lost = lost.lost - 1 + not_recorded.lost;
                lost.refused = not_recorded.refused;
            }
            Failed { error, lost }
        })
    }

    fn append_all(
        &mut self,
        calls: Vec<Call>,
        missing: Option<NotRecorded>,
        now: Timestamp,
    ) -> io::Result<()> {
        let mut lines = Lines::default();
        if let Some(missing) = missing {
            let entry = Entry::of_missing(self.next, &self.node_id, now, missing);
            self.add(&mut lines, &entry)?;
        }
        for call in calls {
            let entry = call.into_entry(self.next + lines.count, &self.node_id);
            self.add(&mut lines, &entry)?;
        }
        self.write(&lines)
    }

    /// Adds a line, in another segment when this one has no room for it.
    fn add(&mut self, lines: &mut Lines, entry: &Entry) -> io::Result<()> {
        let mut line = Vec::with_capacity(512);
        entry.write_line(&mut line);
        let there = self.directory.segments.lock().last().map_or(0, |last| last.bytes);
        let before = there + lines.text.len() as u64;
        if before > 0 && before + line.len() as u64 > self.options.segment_bytes {
            self.write(&std::mem::take(lines))?;
            self.begin()?;
        }
        lines.text.append(&mut line);
        lines.count += 1;
        lines.times = Some(and(lines.times, entry.at));
        Ok(())
    }

    /// Appends lines, or nothing of them.
    fn write(&mut self, lines: &Lines) -> io::Result<()> {
        if lines.count == 0 {
            return Ok(());
        }
        if self.file.is_none() {
            self.begin()?;
        }
        self.make_room(lines.text.len() as u64);
        let there = self.directory.segments.lock().last().map_or(0, |last| last.bytes);
        let file = self.file.as_mut().expect("a segment has been begun");
        self.is_dirty = true;
        if let Err(error) = file.write_all(&lines.text) {
            if file.set_len(there).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        self.next += lines.count;
        if let Some(last) = self.directory.segments.lock().last_mut() {
            last.bytes += lines.text.len() as u64;
            if let (true, Some((first, newest))) = (self.knows_times, lines.times) {
                last.times = Some(and(Some(and(last.times, first)), newest));
            }
        }
        Ok(())
    }

    /// Begins a segment with the next entry.
    fn begin(&mut self) -> io::Result<()> {
        self.sync()?;
        let path = self.directory.path(self.next);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // One of this name has no entry in it.
        file.set_len(0)?;
        File::open(&self.directory.dir)?.sync_all()?;
        let segment = Segment { first: self.next, bytes: 0, times: None };
        let mut segments = self.directory.segments.lock();
        segments.retain(|other| other.first != self.next);
        segments.push(segment);
        drop(segments);
        (self.file, self.knows_times) = (Some(file), true);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        self.is_dirty = false;
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data().inspect_err(|_| {
            // What it has of the file's end is not known any more.
            self.file = None;
        })
    }

    /// Removes the oldest segments until there is room for so many bytes, but never the last.
    fn make_room(&self, bytes: u64) {
        let mut segments = self.directory.segments.lock();
        while segments.len() > 1 {
            let all: u64 = segments.iter().map(|segment| segment.bytes).sum();
            if all + bytes <= self.options.bytes_max {
                return;
            }
            let oldest = segments.remove(0);
            let path = self.directory.path(oldest.first);
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an old segment of the audit log is still there");
                return;
            }
        }
    }
}

/// The number of a segment's first entry, by its name.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    let is_number = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

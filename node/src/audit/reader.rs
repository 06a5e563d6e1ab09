//! Pages of entries, from the newest back, out of the files as they are.

use std::io;

use opcode_router::audit::Entry;
use opcode_router::audit::query::{AuditPage, PageQuery};

use super::segments::{Directory, Segment, and};

/// Bytes that one page reads, and what of the last segment is over them.
const READ_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whether a segment may have entries that are asked for.
fn may_have(segment: &Segment, query: &PageQuery) -> bool {
    segment.times.is_none_or(|(first, last)| {
        query.filter.may_take(first, last) && query.at_most.is_none_or(|at_most| first <= at_most)
    })
}

/// The newest entries that are asked for.
pub(super) fn page(directory: &Directory, query: &PageQuery) -> io::Result<AuditPage> {
    let mut page = AuditPage::default();
    let mut read = 0;
    for segment in directory.segments().iter().rev() {
        if query.before.is_some_and(|before| before <= segment.first) || query.limit == 0 {
            continue;
        }
        if may_have(segment, query) {
            if read >= READ_BYTES_MAX {
                return Ok(page);
            }
            let text = match std::fs::read(directory.path(segment.first)) {
                Ok(text) => text,
                // It was the oldest, and has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            read += text.len() as u64;
            if !look_through(&text, query, &mut page, |times| directory.note_times(segment.first, times)) {
                return Ok(page);
            }
        }
        page.more_before = Some(segment.first);
    }
    page.more_before = None;
    Ok(page)
}

/// Adds what a segment has; false when the page is full before all has been looked at.
fn look_through(
    text: &[u8],
    query: &PageQuery,
    page: &mut AuditPage,
    all_seen: impl FnOnce(super::segments::Times),
) -> bool {
    // What is behind the last end of a line is being written, or was never finished.
    let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return true };
    let (mut times, mut damaged) = (None, 0_u32);
    for line in text[..end].rsplit(|byte| *byte == b'\n') {
        let Some(entry) = Entry::read_line(line) else {
            damaged += 1;
            continue;
        };
        times = Some(and(times, entry.at));
        if query.before.is_some_and(|before| before <= entry.seq) {
            continue;
        }
        page.more_before = Some(entry.seq);
        if query.takes(&entry) {
            page.entries.push(entry);
            if page.entries.len() >= query.limit {
                return false;
            }
        }
    }
    if damaged > 0 {
        tracing::warn!(lines = damaged, "lines of the audit log are damaged and passed over");
    }
    if let Some(times) = times {
        all_seen(times);
    }
    true
}

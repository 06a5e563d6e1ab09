//! The part of the log that is kept for those who follow it, though the tables no longer need it:
//! within bounds of entries and bytes, and only while the disk has room.

use std::sync::atomic::Ordering;

use super::Group;

/// Entries that are held at most.
const HELD_ENTRIES_MAX: u64 = 50_000;
/// Bytes of log that they take at most.
const HELD_BYTES_MAX: u64 = 32 * 1024 * 1024;

impl Group {
    /// Asks that entries from this one on be kept; `u64::MAX` asks for none. Nothing is until then.
    pub fn hold(&self, from: u64) {
        self.held_from.store(from, Ordering::Relaxed);
    }

    /// The place before which the log has let go of its entries: what comes after it is there.
    pub fn purged(&self) -> u64 {
        self.raft.metrics().borrow().purged.map_or(0, |id| id.index)
    }

    /// The first entry that is held, in a log that ends at `last`.
    pub(super) fn held(&self, last: u64) -> u64 {
        let wanted = self.held_from.load(Ordering::Relaxed);
        if wanted > last || !self.store.has_room() {
            return u64::MAX;
        }
        // Without an entry that is small enough nothing can be held.
        let first = self.store.first_of_last(self.id, HELD_ENTRIES_MAX, HELD_BYTES_MAX);
        first.map_or(u64::MAX, |first| first.max(wanted))
    }
}

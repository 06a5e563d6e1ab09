//! The catalogue in the system shard's memory: what is decided there is ahead of the disk, like
//! everything in the loop.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use opcode_engine::ids::Timestamp;
use opcode_engine::{Code, Rejected};

use crate::catalogue::{
    CatalogueEntry, Changed, ENTRIES_MAX, EntryChange, EntryKind, EntryPage, KIND_BYTES_MAX, PAGE_BYTES,
};

/// All entries.
#[derive(Default)]
pub(super) struct Catalogue {
    kinds: BTreeMap<EntryKind, Entries>,
    /// The last change of all.
    last_revision: u64,
}

/// Those of one kind.
#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Arc<str>, CatalogueEntry>,
    bytes: usize,
}

impl Catalogue {
    /// From the tables, which have the last change even when it deleted its entry.
    pub(super) fn load(entries: Vec<CatalogueEntry>) -> Self {
        let mut catalogue = Self::default();
        entries.into_iter().for_each(|entry| catalogue.put(entry));
        catalogue
    }

    fn put(&mut self, entry: CatalogueEntry) {
        self.last_revision = self.last_revision.max(entry.revision);
        let entries = self.kinds.entry(entry.kind).or_default();
        let (key, added) = (entry.key.clone(), entry.size_bytes());
        let before = if entry.body.is_some() {
            entries.bytes += added;
            entries.by_key.insert(key, entry)
        } else {
            entries.by_key.remove(&key)
        };
        entries.bytes -= before.map_or(0, |before| before.size_bytes());
    }

    /// Decides a change; what was made is to be recorded.
    pub(super) fn change(&mut self, change: EntryChange, now: Timestamp) -> Result<Changed, Rejected> {
        change.check()?;
        let current = self.get(change.kind, &change.key);
        if current.as_ref().and_then(|entry| entry.body.as_ref()) == change.body.as_ref() {
            return Ok(Changed::Already(current));
        }
        if current.as_ref().map(|entry| entry.revision) != change.after {
            return Ok(Changed::Stale(current));
        }
        let EntryChange { kind, key, body, .. } = change;
        let entry = CatalogueEntry { kind, key, revision: self.last_revision + 1, body, at: now };
        if entry.body.is_some() {
            self.has_room(&entry, current.as_ref())?;
        }
        self.put(entry.clone());
        Ok(Changed::Made(entry))
    }

    fn has_room(&self, entry: &CatalogueEntry, current: Option<&CatalogueEntry>) -> Result<(), Rejected> {
        let Some(entries) = self.kinds.get(&entry.kind) else { return Ok(()) };
        let count = entries.by_key.len() + usize::from(current.is_none());
        let bytes = entries.bytes + entry.size_bytes() - current.map_or(0, CatalogueEntry::size_bytes);
        if count <= ENTRIES_MAX && bytes <= KIND_BYTES_MAX {
            return Ok(());
        }
        let message = format!(
            "there is room for {ENTRIES_MAX} entries and {KIND_BYTES_MAX} bytes of the kind {}, and no more",
            entry.kind.as_str()
        );
        Err(Rejected::new(Code::ValidationError, message))
    }

    pub(super) fn get(&self, kind: EntryKind, key: &str) -> Option<CatalogueEntry> {
        self.kinds.get(&kind)?.by_key.get(key).cloned()
    }

    /// At most `limit` entries after a key, in the order of their keys.
    pub(super) fn page(&self, kind: EntryKind, after: Option<&str>, limit: usize) -> EntryPage {
        let mut page = EntryPage::default();
        let Some(entries) = self.kinds.get(&kind) else { return page };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        for entry in entries.by_key.range::<str, _>((from, Bound::Unbounded)).map(|(_, entry)| entry) {
            if page.entries.len() >= limit || bytes >= PAGE_BYTES {
                page.has_more = true;
                break;
            }
            bytes += entry.size_bytes();
            page.entries.push(entry.clone());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn change(key: &str, after: Option<u64>, body: Option<&str>) -> EntryChange {
        EntryChange { kind: EntryKind::Schedule, key: key.into(), after, body: body.map(Arc::from) }
    }

    fn made(changed: Result<Changed, Rejected>) -> CatalogueEntry {
        match changed {
            Ok(Changed::Made(entry)) => entry,
            other => panic!("{other:?} is not made"),
        }
    }

    #[test]
    fn a_change_is_made_once_on_the_revision_that_it_names() {
        let mut catalogue = Catalogue::default();
        let first = made(catalogue.change(change("a", None, Some("1")), NOW));
        assert_eq!((first.revision, first.at), (1, NOW));
        let again = catalogue.change(change("a", None, Some("1")), NOW);
        assert_eq!(again, Ok(Changed::Already(Some(first.clone()))));
        let other = catalogue.change(change("a", None, Some("2")), NOW);
        assert_eq!(other, Ok(Changed::Stale(Some(first))));
        let second = made(catalogue.change(change("a", Some(1), Some("2")), NOW));
        let late = catalogue.change(change("a", Some(1), None), NOW);
        assert_eq!(late, Ok(Changed::Stale(Some(second))));
    }

    #[test]
    fn an_entry_made_anew_has_no_old_revision() {
        let mut catalogue = Catalogue::default();
        made(catalogue.change(change("a", None, Some("1")), NOW));
        let deleted = made(catalogue.change(change("a", Some(1), None), NOW));
        assert_eq!((deleted.revision, &deleted.body), (2, &None));
        assert_eq!(catalogue.change(change("a", Some(1), None), NOW), Ok(Changed::Already(None)));
        assert_eq!(catalogue.change(change("a", Some(1), Some("x")), NOW), Ok(Changed::Stale(None)));
        // Also after a start: the tables still have the change that deleted it.
        let mut catalogue = Catalogue::load(vec![deleted]);
        assert_eq!(made(catalogue.change(change("a", None, Some("1")), NOW)).revision, 3);
    }

    #[test]
    fn pages_are_ordered_and_end_at_their_bytes_too() {
        let mut catalogue = Catalogue::default();
        let large = "x".repeat(crate::catalogue::BODY_BYTES_MAX);
        for key in ["c", "a", "b"] {
            made(catalogue.change(change(key, None, Some("1")), NOW));
        }
        let keys = |page: EntryPage| {
            let keys: Vec<String> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
            (keys.join(""), page.has_more)
        };
        assert_eq!(keys(catalogue.page(EntryKind::Schedule, None, 2)), ("ab".into(), true));
        assert_eq!(keys(catalogue.page(EntryKind::Schedule, Some("b"), 2)), ("c".into(), false));
        assert_eq!(keys(catalogue.page(EntryKind::Agent, None, 2)), (String::new(), false));
        for n in 0..100 {
            made(catalogue.change(change(&format!("z{n:03}"), None, Some(&large)), NOW));
        }
        let page = catalogue.page(EntryKind::Schedule, Some("c"), 1_000);
        assert_eq!((page.entries.len(), page.has_more), (PAGE_BYTES.div_ceil(large.len()), true));
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let mut catalogue = Catalogue::default();
        let refused = |changed: Result<Changed, Rejected>| changed.expect_err("refused").message;
        let too_large = "x".repeat(crate::catalogue::BODY_BYTES_MAX + 1);
        let message = refused(catalogue.change(change("a", None, Some(&too_large)), NOW));
        assert!(message.contains("at most 65536"), "{message}");
        assert!(refused(catalogue.change(change("", None, Some("1")), NOW)).contains("key"));
        let body = &too_large[..8_000];
        let mut count = 0;
        let message = loop {
            match catalogue.change(change(&format!("{count}"), None, Some(body)), NOW) {
                Ok(_) => count += 1,
                Err(rejected) => break rejected.message,
            }
        };
        assert!(message.contains("room for 10000 entries"), "{message}");
        assert!((8_000..=ENTRIES_MAX).contains(&count), "{count}");
        // What is there may be made smaller, and goes.
        made(catalogue.change(change("0", Some(1), Some("1")), NOW));
        made(catalogue.change(change("1", Some(2), None), NOW));
        made(catalogue.change(change("new", None, Some("1")), NOW));
    }
}

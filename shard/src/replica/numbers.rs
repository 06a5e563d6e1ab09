//! Numbers of generations: unique over all nodes and for all time, and close to each other.
//!
//! Unique, because a client's generation is all that says what it holds. Close, because a client
//! gets from one to another in steps of one. So each node has numbers of its own among all: those
//! whose last nibbles spell the node's number, three bits each, the fourth saying that more follow.
//! Of any 16 numbers in a row, one is that of node 5, and of any 256 one that of node 60; no
//! number is of two nodes. Which of them have been given out is on disk before one is used.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::ShardError;
use crate::peer::NodeId;

/// Format of the file.
const FORMAT: u32 = 1;
/// Ranges of used numbers that are kept apart. Numbers are given out next to used ones where
/// possible, so only clients that make numbers up come near it.
const RANGES_MAX: usize = 1_024;
/// Bits of a number that may spell the node: the rest must leave room for many generations.
const NODE_BITS_MAX: u32 = 20;

/// The numbers of one node, for one shard.
pub(super) struct Numbers {
    path: PathBuf,
    node: NodeId,
    /// Every so many numbers, one is this node's.
    stride: u32,
    /// Which one.
    offset: u32,
    /// Ranges of those that were given out, counted in strides; in order, apart, ends included.
    used: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    node: NodeId,
    used: Vec<(u32, u32)>,
}

impl Numbers {
    /// Reads which numbers were used. A damaged file is an error: it cannot be told from it.
    pub(super) fn open(path: PathBuf, node: NodeId) -> Result<Self, ShardError> {
        let (stride, offset) = spell(node).ok_or_else(|| {
            ShardError::Refused(format!("node {node} has too high a number to serve replicas"))
        })?;
        let damaged = |why: &str| ShardError::Damaged(format!("{}: {why}", path.display()));
        let used = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(failed("reading", &path)(source)),
            Ok(bytes) => {
                let stored: Stored =
                    serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
                if stored.format != FORMAT {
                    return Err(damaged("it has a format that this release does not know"));
                }
                let is_in_order = stored.used.iter().all(|(first, last)| first <= last)
                    && stored.used.windows(2).all(|two| two[0].1 < two[1].0);
                if !is_in_order {
                    return Err(damaged("its ranges are not in order"));
                }
                // Another node's numbers are not this one's.
                if stored.node == node { stored.used } else { Vec::new() }
            }
        };
        Ok(Self { path, node, stride, offset, used })
    }

    /// How many steps it takes at most from any number to one of this node.
    pub(super) fn stride(&self) -> u32 {
        self.stride
    }

    /// The first number after `after` that was never given out, if there is one.
    pub(super) fn free_after(&self, after: u32) -> Option<u32> {
        // The lowest turn whose number is higher.
        let mut turn = after.saturating_add(1).saturating_sub(self.offset).div_ceil(self.stride);
        if turn == 0 && self.offset == 0 {
            turn = 1;
        }
        let at = self.used.partition_point(|(_, last)| *last < turn);
        if let Some((first, last)) = self.used.get(at)
            && *first <= turn
        {
            turn = last.checked_add(1)?;
        }
        // The last number stays free: clients count one further.
        turn.checked_mul(self.stride)?.checked_add(self.offset).filter(|number| *number < u32::MAX)
    }

    /// The same; it is given out from now on.
    pub(super) fn next_after(&mut self, after: u32) -> Result<u32, ShardError> {
        let full = || ShardError::Refused("there is no generation left after this one".into());
        let number = self.free_after(after).ok_or_else(full)?;
        let before = self.used.clone();
        self.mark(number / self.stride);
        if self.used.len() > RANGES_MAX {
            self.used = before;
            return Err(ShardError::Refused(
                "too many generations far from each other were asked for".into(),
            ));
        }
        if let Err(error) = self.store() {
            self.used = before;
            return Err(error);
        }
        Ok(number)
    }

    fn mark(&mut self, turn: u32) {
        let at = self.used.partition_point(|(_, last)| *last < turn);
        self.used.insert(at, (turn, turn));
        // With its neighbours, where they touch.
        if self.used.get(at + 1).is_some_and(|(first, _)| *first == turn + 1) {
            self.used[at].1 = self.used.remove(at + 1).1;
        }
        if at > 0 && self.used[at - 1].1 + 1 == turn {
            self.used[at - 1].1 = self.used.remove(at).1;
        }
    }

    fn store(&self) -> Result<(), ShardError> {
        let stored = Stored { format: FORMAT, node: self.node, used: self.used.clone() };
        let bytes = serde_json::to_vec(&stored).expect("numbers are JSON");
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let new = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(failed("writing", &self.path))
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

/// A node's stride and offset; none for a node whose number takes too many bits.
fn spell(node: NodeId) -> Option<(u32, u32)> {
    let (mut rest, mut offset, mut bits) = (node, 0, 0);
    loop {
        if bits >= NODE_BITS_MAX {
            return None;
        }
        let more = u32::from(rest > 7) << 3;
        offset |= (u32::try_from(rest & 7).expect("three bits") | more) << bits;
        bits += 4;
        rest >>= 3;
        if rest == 0 {
            return Some((1 << bits, offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn no_number_is_of_two_nodes() {
        let nodes: Vec<_> = (1..=700).map(|node| (node, spell(node).unwrap())).collect();
        let mut owners: BTreeMap<u32, NodeId> = BTreeMap::new();
        for (node, (stride, offset)) in nodes {
            assert!(offset < stride, "node {node}");
            for number in (offset..40_000).step_by(stride as usize) {
                if let Some(other) = owners.insert(number, node) {
                    panic!("{number} is of node {node} and of node {other}");
                }
            }
        }
        assert_eq!(spell(5).unwrap().0, 16);
        assert_eq!(spell(60).unwrap().0, 256);
        assert_eq!(spell(u64::MAX), None);
    }

    #[test]
    fn a_number_is_given_out_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sync").join("3.json");
        let mut given = std::collections::BTreeSet::new();
        for after in [0, 0, 17, 0, 500_000, 16, 500_000, 3, 0] {
            let mut numbers = Numbers::open(path.clone(), 5).unwrap();
            let number = numbers.next_after(after).unwrap();
            assert!(number > after, "{number} after {after}");
            assert!(number - after <= 16 * 10, "{number} is far from {after}");
            assert!(given.insert(number), "{number} was given out before");
        }
        let other = Numbers::open(path, 6).unwrap();
        assert!(other.used.is_empty(), "another node's numbers are not this one's");
    }

    #[test]
    fn numbers_end_before_clients_overflow() {
        let dir = tempfile::tempdir().unwrap();
        let mut numbers = Numbers::open(dir.path().join("n.json"), 1).unwrap();
        for after in [u32::MAX - 1, u32::MAX - 7] {
            assert!(matches!(numbers.next_after(after), Err(ShardError::Refused(_))), "{after}");
        }
        for n in 0..RANGES_MAX as u32 {
            numbers.mark(n * 10);
        }
        assert!(matches!(numbers.next_after(1_000_000), Err(ShardError::Refused(_))));
        numbers.next_after(0).unwrap();
    }

    #[test]
    fn a_damaged_file_gives_no_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.json");
        for text in
            ["", "{}", r#"{"format":1,"node":1,"used":[[5,3]]}"#, r#"{"format":2,"node":1,"used":[]}"#]
        {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(Numbers::open(path.clone(), 1), Err(ShardError::Damaged(_))), "{text}");
        }
    }
}

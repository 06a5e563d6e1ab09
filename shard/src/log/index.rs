//! What the log holds of each group, and where: built by recovery, kept by the writer, one fold
//! for both, so that what is read back after a crash is what the process before had in memory.
//!
//! It holds places, never the entries themselves.

use std::collections::BTreeMap;

use super::frame::{EntryId, Frame, Kind};

/// A vote as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredVote {
    /// The term voted in.
    pub term: u64,
    /// The node voted for.
    pub node: u64,
    /// Whether that node leads by a quorum.
    pub committed: bool,
}

/// A group's state apart from its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Where the group's log began: its first entry as long as nothing is purged.
    pub first: Option<u64>,
    /// The last vote given.
    pub vote: Option<StoredVote>,
    /// The last entry known to be committed.
    pub committed: Option<EntryId>,
    /// The last entry purged.
    pub purged: Option<EntryId>,
    /// The last entry; the purged one when there is none after it.
    pub last: Option<EntryId>,
    /// The last entry that this node ever had before it gave the group away. It may have been
    /// counted on for that entry: see [`Group::answer`](super::Group::answer).
    pub floor: Option<EntryId>,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The segment's number.
    pub(super) segment: u64,
    /// Offset of its frame.
    pub(super) offset: u32,
    /// Bytes of its frame.
    pub(super) bytes: u32,
}

/// One group's state and the places of its entries, all of them: no gap after the first.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupIndex {
    pub(super) state: GroupState,
    pub(super) places: BTreeMap<u64, Place>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) groups: BTreeMap<u32, GroupIndex>,
}

impl GroupState {
    /// Bytes of a state's encoding.
    pub(super) const BYTES: usize = 6 * 25;
    /// The same in format 1, which knew no floor.
    const BYTES_1: usize = 5 * 25;

    /// What is left of a group that this node has given away: the vote, and how far it had come.
    pub(super) fn removed(&self) -> Self {
        let floor = [self.floor, self.last].into_iter().flatten().max_by_key(EntryId::order);
        Self { vote: self.vote, floor, ..Self::default() }
    }

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let vote = self.vote.map(|v| EntryId { term: v.term, node: v.node, index: v.committed.into() });
        let mut bytes = [0; Self::BYTES];
        let first = self.first.map(|index| EntryId { index, ..EntryId::default() });
        let parts = [first, vote, self.committed, self.purged, self.last, self.floor];
        for (part, id) in bytes.chunks_exact_mut(25).zip(parts) {
            part.copy_from_slice(&encode_id(id));
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() != Self::BYTES && bytes.len() != Self::BYTES_1 {
            return Err(format!("a group's state of {} bytes", bytes.len()));
        }
        let mut ids = bytes.chunks_exact(25).map(decode_id);
        // What an older format lacks is none.
        let mut next = || ids.next().unwrap_or(Ok(None));
        let first = next()?.map(|id| id.index);
        let vote = next()?.map(|id| StoredVote { term: id.term, node: id.node, committed: id.index != 0 });
        Ok(Self { first, vote, committed: next()?, purged: next()?, last: next()?, floor: next()? })
    }
}

/// An optional id as 25 bytes.
pub(super) fn encode_id(id: Option<EntryId>) -> [u8; 25] {
    let mut bytes = [0; 25];
    if let Some(id) = id {
        bytes[0] = 1;
        bytes[1..9].copy_from_slice(&id.term.to_le_bytes());
        bytes[9..17].copy_from_slice(&id.node.to_le_bytes());
        bytes[17..].copy_from_slice(&id.index.to_le_bytes());
    }
    bytes
}

fn decode_id(bytes: &[u8]) -> Result<Option<EntryId>, String> {
    let bytes: &[u8; 25] = bytes.try_into().map_err(|_| format!("an id of {} bytes", bytes.len()))?;
    let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("25 bytes hold it"));
    match bytes[0] {
        0 => Ok(None),
        1 => Ok(Some(EntryId { term: number(1), node: number(9), index: number(17) })),
        other => Err(format!("an id with the mark {other}")),
    }
}

impl Index {
    /// Folds a frame that stands at `place` in. The error says what it contradicts; the index is
    /// of no use then.
    pub(super) fn apply(&mut self, frame: &Frame<'_>, place: Place) -> Result<(), String> {
        if matches!(frame.kind, Kind::Opened | Kind::Seal) {
            return Ok(());
        }
        let known = self.groups.contains_key(&frame.group);
        let group = self.groups.entry(frame.group).or_default();
        let EntryId { index, .. } = frame.id;
        match frame.kind {
            Kind::Opened | Kind::Seal => {}
            Kind::Entry => {
                if group.state.last.is_some_and(|last| last.index.checked_add(1) != Some(index)) {
                    return Err(format!(
                        "entry {index} of group {} follows {:?}",
                        frame.group, group.state.last
                    ));
                }
                group.places.insert(index, place);
                if group.state.last.is_none() {
                    group.state.first = Some(index);
                }
                group.state.last = Some(frame.id);
            }
            Kind::Moved => {
                group.places.insert(index, place);
            }
            Kind::Vote => {
                let EntryId { term, node, .. } = frame.id;
                group.state.vote = Some(StoredVote { term, node, committed: frame.flag });
            }
            Kind::Committed => group.state.committed = Some(frame.id),
            Kind::Truncate => {
                group.places.split_off(&index);
                group.state.last = decode_id(frame.body)?;
            }
            Kind::Purge => {
                group.places = group.places.split_off(&index.saturating_add(1));
                group.state.purged = Some(frame.id);
                if group.state.last.is_none_or(|last| last.index < index) {
                    group.state.last = Some(frame.id);
                }
            }
            Kind::Removed => {
                group.places.clear();
                group.state = group.state.removed();
            }
            Kind::State => {
                let state = GroupState::decode(frame.body)?;
                if known && state != group.state {
                    return Err(format!(
                        "group {} is {:?} by its frames and {state:?} by its summary",
                        frame.group, group.state
                    ));
                }
                group.state = state;
            }
        }
        Ok(())
    }

    /// Checks that no group misses an entry: the end of a recovery.
    pub(super) fn check_whole(&self) -> Result<(), String> {
        for (number, group) in &self.groups {
            let GroupState { purged, last, .. } = group.state;
            let first = group.places.keys().next().copied();
            let wanted = purged.map_or(group.state.first, |purged| purged.index.checked_add(1));
            let count = match (wanted, last) {
                (Some(wanted), Some(last)) => (last.index + 1).saturating_sub(wanted),
                (_, None) => 0,
                (None, Some(_)) => 1,
            };
            let present = group.places.len() as u64;
            let starts = present == 0 || first == wanted;
            let ends = present == 0 || group.places.keys().next_back().copied() == last.map(|id| id.index);
            if count != present || !starts || !ends {
                return Err(format!(
                    "group {number} has {present} of {count} entries from {wanted:?} to {last:?}"
                ));
            }
        }
        Ok(())
    }

    /// Live entries that stand in `segment`.
    pub(super) fn live_in(&self, segment: u64) -> impl Iterator<Item = (u32, u64, Place)> + '_ {
        self.groups.iter().flat_map(move |(number, group)| {
            let places = group.places.iter().filter(move |(_, place)| place.segment == segment);
            places.map(move |(index, place)| (*number, *index, *place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> EntryId {
        EntryId { term: 2, node: 1, index }
    }

    fn frame(kind: Kind, index: u64, body: &[u8]) -> Frame<'_> {
        Frame { kind, flag: true, group: 7, id: id(index), body }
    }

    const PLACE: Place = Place { segment: 1, offset: 64, bytes: 64 };

    #[test]
    fn entries_follow_one_another_or_are_refused() {
        let mut index = Index::default();
        for n in 0..5 {
            index.apply(&frame(Kind::Entry, n, b""), PLACE).unwrap();
        }
        index.clone().apply(&frame(Kind::Entry, 4, b""), PLACE).unwrap_err();
        index.clone().apply(&frame(Kind::Entry, 6, b""), PLACE).unwrap_err();
        index.apply(&frame(Kind::Truncate, 3, &encode_id(Some(id(2)))), PLACE).unwrap();
        index.apply(&frame(Kind::Entry, 3, b""), PLACE).unwrap();
        index.apply(&frame(Kind::Purge, 1, b""), PLACE).unwrap();
        index.check_whole().unwrap();
        assert_eq!(index.groups[&7].places.keys().copied().collect::<Vec<_>>(), [2, 3]);
        index.groups.get_mut(&7).unwrap().places.remove(&2);
        index.check_whole().unwrap_err();
    }

    #[test]
    fn a_summary_stands_for_frames_that_are_gone_and_must_agree_with_those_that_are_not() {
        let state = GroupState {
            first: Some(0),
            vote: Some(StoredVote { term: 2, node: 1, committed: true }),
            committed: None,
            purged: Some(id(3)),
            last: Some(id(5)),
            floor: None,
        };
        let mut index = Index::default();
        index.apply(&frame(Kind::State, 0, &state.encode()), PLACE).unwrap();
        index.check_whole().unwrap_err();
        for moved in [5, 4] {
            index.apply(&frame(Kind::Moved, moved, b""), PLACE).unwrap();
        }
        index.check_whole().unwrap();
        assert_eq!(index.groups[&7].state, state);
        index.apply(&frame(Kind::State, 0, &state.encode()), PLACE).unwrap();
        index.apply(&frame(Kind::State, 0, &GroupState::default().encode()), PLACE).unwrap_err();
    }

    #[test]
    fn a_group_given_away_leaves_its_vote_and_how_far_it_came() {
        let mut index = Index::default();
        for n in 0..5 {
            index.apply(&frame(Kind::Entry, n, b""), PLACE).unwrap();
        }
        index.apply(&frame(Kind::Vote, 0, b""), PLACE).unwrap();
        let vote = index.groups[&7].state.vote;
        let left = GroupState { vote, floor: Some(id(4)), ..GroupState::default() };
        for _ in 0..2 {
            index.apply(&frame(Kind::Removed, 0, b""), PLACE).unwrap();
            index.check_whole().unwrap();
            assert_eq!(index.groups[&7].state, left);
            assert_eq!(index.live_in(1).count(), 0);
        }
        // It begins anew, anywhere, and keeps the floor until it is given away again.
        index.apply(&frame(Kind::Purge, 2, b""), PLACE).unwrap();
        index.apply(&frame(Kind::Entry, 3, b""), PLACE).unwrap();
        index.check_whole().unwrap();
        assert_eq!(index.groups[&7].state.floor, Some(id(4)));
        index.apply(&frame(Kind::Removed, 0, b""), PLACE).unwrap();
        assert_eq!(index.groups[&7].state, left);
        assert_eq!(GroupState::decode(&left.encode()), Ok(left));
        assert_eq!(GroupState::decode(&left.encode()[..125]), Ok(GroupState { floor: None, ..left }));
    }

    #[test]
    fn purging_past_the_end_moves_the_end() {
        let mut index = Index::default();
        index.apply(&frame(Kind::Entry, 0, b""), PLACE).unwrap();
        index.apply(&frame(Kind::Purge, 20, b""), PLACE).unwrap();
        index.check_whole().unwrap();
        assert_eq!(index.groups[&7].state.last, Some(id(20)));
    }
}

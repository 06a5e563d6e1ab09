//! Frames of the log: what is written is read back, at its place and with its seed, and with any bit
//! flipped, anything cut off, or anywhere else it is refused. Bytes that are no frame never panic.

use opcode_shard::log::EntryId;
use opcode_shard::log::fuzz::{Written, read_frame, write_frame};

use crate::choices::Choices;

/// Runs one input: its first bytes choose the head, the rest is the body.
pub fn frames(data: &[u8]) {
    let (head, body) = data.split_at(data.len().min(32));
    let _ = read_frame(data, 0, 0);
    let mut choices = Choices::new(head);
    let mut number = || (0..4).fold(0_u32, |number, _| number << 8 | choices.below(256) as u32);
    let (group, previous, synced, seed) = (number(), number(), number(), number());
    let id = EntryId { term: number().into(), node: number().into(), index: number().into() };
    let last = number();
    // Offsets are multiples of eight.
    let offset = last & 0x00ff_fff8;
    let is_entry = last & 1 == 1;
    let written = Written { is_entry, flag: last & 2 == 2, group, id, body: body.to_vec(), previous, synced };
    let mut bytes = write_frame(&written, offset, seed);
    let at = offset as usize;
    assert_eq!(read_frame(&bytes, at, seed), Some((written.clone(), at + bytes.len())));
    assert_eq!(read_frame(&bytes, at, seed ^ 1), None, "another use of the file");
    assert_eq!(read_frame(&bytes, at + 8, seed), None, "another place");
    let cut = last as usize % bytes.len();
    assert_eq!(read_frame(&bytes[..cut], at, seed), None, "cut at {cut}");
    // Every bit of a short frame; of a long one as many, spread.
    let bits = bytes.len() * 8;
    for bit in (0..bits).step_by(bits.div_ceil(1_024)) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read_frame(&bytes, at, seed), None, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.extend(body);
    assert_eq!(read_frame(&bytes, at, seed).map(|(frame, _)| frame), Some(written), "whatever follows");
}

//! What fuzz targets see of frames and messages, as plain bytes and numbers. Only with the feature
//! `fuzz`.

use bytes::Bytes;

use super::frame::{self, EntryId, Frame, Kind};
use super::type_config::{decode_entry, encode_payload};
use super::wire;

/// A frame as it stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Written {
    /// An entry, or else a vote.
    pub is_entry: bool,
    pub flag: bool,
    pub group: u32,
    pub id: EntryId,
    pub body: Vec<u8>,
    /// Checksum of the frame before.
    pub previous: u32,
    /// Offset up to which the segment was synced.
    pub synced: u32,
}

/// Bytes of a frame that stands at `offset` of a segment with this seed.
pub fn write_frame(written: &Written, offset: u32, seed: u32) -> Vec<u8> {
    let kind = if written.is_entry { Kind::Entry } else { Kind::Vote };
    let Written { flag, group, id, body, previous, synced, .. } = written;
    let frame = Frame { kind, flag: *flag, group: *group, id: *id, body };
    let mut bytes = Vec::new();
    frame::push(&mut bytes, &frame, (offset, *synced), (seed, *previous));
    bytes
}

/// The frame at `offset`, and where it ends, if `bytes`, which were read from there, hold one.
pub fn read_frame(bytes: &[u8], offset: usize, seed: u32) -> Option<(Written, usize)> {
    let parsed = frame::parse_at(bytes, offset, seed)?;
    let Frame { kind, flag, group, id, body } = parsed.frame;
    let is_entry = kind == Kind::Entry;
    let (previous, synced) = (parsed.previous, parsed.synced);
    Some((Written { is_entry, flag, group, id, body: body.to_vec(), previous, synced }, parsed.end))
}

/// A member's request, decoded and encoded again.
pub fn request_again(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let request = wire::decode_request(&Bytes::copy_from_slice(bytes))?;
    wire::encode_request(&request).map(Into::into)
}

/// A member's answer, decoded and encoded again.
pub fn answer_again(bytes: &[u8]) -> Result<Vec<u8>, String> {
    wire::encode_answer(&wire::decode_answer(bytes)?).map(Into::into)
}

/// The payload of an entry, decoded and encoded again.
pub fn payload_again(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let id = EntryId { term: 1, node: 1, index: 1 };
    let entry = decode_entry(id, Bytes::copy_from_slice(bytes))?;
    Ok(encode_payload(&entry.payload).into())
}

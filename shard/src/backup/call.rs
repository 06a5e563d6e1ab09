//! What a node asks the leader of a shard for a backup, and what it answers, as bytes: a version, the
//! length of a JSON head, the head, and behind it what it is about.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::batch::Position;
use crate::error::CallError;
use crate::peer::NodeId;

/// The version that is written.
const VERSION: u8 = 1;
/// Bytes before the head.
const START_BYTES: usize = 5;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupCall {
    /// A copy of the tables, with all that was acknowledged before; none named: a new one. Asked again
    /// while it is being made.
    Copy(Option<u64>),
    /// Bytes of a copy from an offset on.
    Piece(u64, u64),
    /// A copy is not needed any more.
    Done(u64),
    /// Entries of the log after this one.
    Log(Position),
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BackupReply {
    /// The copy of this number is being made.
    Making(u64),
    /// It can be fetched.
    Made(CopyMade),
    /// Bytes of a copy; none behind its end.
    Piece(Bytes),
    /// Entries, as [`crate::log::read_archive`] reads them, and the last of them.
    Log(Bytes, Position),
    /// The copy, or the entry asked for, is not there any more.
    Gone,
    /// Another leads, perhaps this one.
    NotLeader(Option<NodeId>),
    /// Too many copies are being fetched.
    Busy,
    /// The disk of who leads has no room for a copy.
    Full,
    /// Something went wrong, in words for an operator.
    Failed(String),
}

/// A copy of a shard's tables that can be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CopyMade {
    pub copy: u64,
    pub bytes: u64,
    /// XXH3, 64 bits, of all of it.
    pub checksum: u64,
    /// The last entry of the log that it holds.
    pub position: Position,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Head {
    Making(u64),
    Made(CopyMade),
    Piece,
    Log(Position),
    Gone,
    NotLeader(Option<NodeId>),
    Busy,
    Full,
    Failed(String),
}

impl BackupCall {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        encode(self, &[])
    }

    /// Reads them back; the error says what is broken.
    pub fn decode(bytes: &Bytes) -> Result<Self, String> {
        match decode(bytes)? {
            (call, rest) if rest.is_empty() => Ok(call),
            (_, rest) => Err(format!("a call with {} bytes too many", rest.len())),
        }
    }
}

impl BackupReply {
    /// Its bytes.
    pub fn encode(self) -> Bytes {
        let nothing = Bytes::new();
        let (head, rest) = match self {
            Self::Making(copy) => (Head::Making(copy), nothing),
            Self::Made(made) => (Head::Made(made), nothing),
            Self::Piece(bytes) => (Head::Piece, bytes),
            Self::Log(bytes, last) => (Head::Log(last), bytes),
            Self::Gone => (Head::Gone, nothing),
            Self::NotLeader(leader) => (Head::NotLeader(leader), nothing),
            Self::Busy => (Head::Busy, nothing),
            Self::Full => (Head::Full, nothing),
            Self::Failed(why) => (Head::Failed(why), nothing),
        };
        encode(&head, &rest)
    }

    /// Reads them back; the error says what is broken.
    pub fn decode(bytes: &Bytes) -> Result<Self, String> {
        let (head, rest) = decode::<Head>(bytes)?;
        let reply = match head {
            Head::Piece => return Ok(Self::Piece(rest)),
            Head::Log(last) => return Ok(Self::Log(rest, last)),
            Head::Making(copy) => Self::Making(copy),
            Head::Made(made) => Self::Made(made),
            Head::Gone => Self::Gone,
            Head::NotLeader(leader) => Self::NotLeader(leader),
            Head::Busy => Self::Busy,
            Head::Full => Self::Full,
            Head::Failed(why) => Self::Failed(why),
        };
        match rest.len() {
            0 => Ok(reply),
            many => Err(format!("an answer with {many} bytes too many")),
        }
    }
}

impl From<CallError> for BackupReply {
    fn from(error: CallError) -> Self {
        match error {
            CallError::NotLeader { leader, .. } => Self::NotLeader(leader),
            CallError::Overloaded => Self::Busy,
            CallError::StorageFull => Self::Full,
            other @ (CallError::Rejected(_) | CallError::NotFound(_) | CallError::Unavailable { .. }) => {
                Self::Failed(other.to_string())
            }
        }
    }
}

fn encode(head: &impl Serialize, rest: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("a head is JSON");
    let mut bytes = BytesMut::with_capacity(START_BYTES + head.len() + rest.len());
    bytes.put_u8(VERSION);
    bytes.put_u32_le(u32::try_from(head.len()).expect("a head is small"));
    bytes.put_slice(&head);
    bytes.put_slice(rest);
    bytes.freeze()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &Bytes) -> Result<(T, Bytes), String> {
    let Some((start, _)) = bytes.split_first_chunk::<START_BYTES>() else {
        return Err(format!("{} bytes of a backup's message", bytes.len()));
    };
    if start[0] != VERSION {
        return Err(format!("a backup's message of version {}, this build knows {VERSION}", start[0]));
    }
    let length = u32::from_le_bytes([start[1], start[2], start[3], start[4]]) as usize;
    let end = START_BYTES.checked_add(length).filter(|end| *end <= bytes.len());
    let end = end.ok_or("a backup's message that ends too early")?;
    let head = serde_json::from_slice(&bytes[START_BYTES..end]).map_err(|error| error.to_string())?;
    Ok((head, bytes.slice(end..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_answers_come_back_as_they_were() {
        let position = Position { term: 3, index: u64::MAX };
        for call in [
            BackupCall::Copy(None),
            BackupCall::Copy(Some(u64::MAX)),
            BackupCall::Piece(7, 1 << 40),
            BackupCall::Done(7),
            BackupCall::Log(position),
        ] {
            assert_eq!(BackupCall::decode(&call.encode()), Ok(call));
        }
        let bytes = Bytes::from_static(b"any {bytes}");
        for reply in [
            BackupReply::Making(7),
            BackupReply::Made(CopyMade { copy: 7, bytes: 4096, checksum: u64::MAX, position }),
            BackupReply::Piece(bytes.clone()),
            BackupReply::Log(bytes, position),
            BackupReply::Gone,
            BackupReply::NotLeader(Some(2)),
            BackupReply::Busy,
            BackupReply::Full,
            BackupReply::Failed("why".into()),
        ] {
            assert_eq!(BackupReply::decode(&reply.clone().encode()), Ok(reply));
        }
        for broken in [&b""[..], b"\x01\0\0", b"\x02\0\0\0\0", b"\x01\xff\xff\xff\xff{}", b"\x01\x02\0\0\0{}"]
        {
            BackupCall::decode(&Bytes::from_static(broken)).unwrap_err();
            BackupReply::decode(&Bytes::from_static(broken)).unwrap_err();
        }
    }
}

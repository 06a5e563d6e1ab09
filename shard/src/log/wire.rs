//! Messages between the members of a group, as bytes: a version, then one frozen struct for each
//! message, in bincode's format. Whatever the bytes are, reading them ends in a message or an error.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{LogId, SnapshotMeta, Vote};
use wincode::{SchemaRead, SchemaWrite};

use super::codec::Standard;
use super::frame::EntryId;
use super::type_config::{
    LogIdV1, TypeConfig, decode_entry, decode_membership, encode_membership, encode_payload, entry_id,
};

/// The version that is written.
const VERSION: u8 = 1;

/// Frozen.
#[derive(Clone, Copy, SchemaRead, SchemaWrite)]
struct VoteV1 {
    term: u64,
    node: u64,
    committed: bool,
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
struct EntryV1<'a> {
    term: u64,
    node: u64,
    index: u64,
    payload: &'a [u8],
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum RequestV1<'a> {
    Append {
        vote: VoteV1,
        prev: Option<LogIdV1>,
        entries: Vec<EntryV1<'a>>,
        commit: Option<LogIdV1>,
    },
    Vote {
        vote: VoteV1,
        last: Option<LogIdV1>,
    },
    /// Asks the receiver to become the leader, if it follows that of `term` and has no entry after
    /// `last`.
    Lead {
        term: u64,
        last: u64,
    },
    Piece {
        vote: VoteV1,
        last: Option<LogIdV1>,
        membership: &'a [u8],
        copy: u64,
        whole: u64,
        checksum: u64,
        offset: u64,
        piece: &'a [u8],
    },
    Poll {
        last: Option<LogIdV1>,
    },
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
enum AnswerV1 {
    Appended,
    AppendedTo { last: Option<LogIdV1> },
    Conflict,
    HigherVote { vote: VoteV1 },
    Voted { vote: VoteV1, granted: bool, last: Option<LogIdV1> },
    Leading,
    Received { next: u64 },
    Installed { vote: VoteV1 },
    Polled { would_vote: bool },
}

/// A piece of a copy of the tables.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) vote: Vote<u64>,
    /// What the copy holds at least.
    pub(super) meta: SnapshotMeta<u64, openraft::BasicNode>,
    /// Tells copies apart.
    pub(super) copy: u64,
    /// Bytes of the whole.
    pub(super) total: u64,
    /// XXH3 of the whole.
    pub(super) checksum: u64,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What one member asks of another.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<u64>),
    /// To stand for election, for the leader of `term`, whose last entry is `last`.
    Lead {
        term: u64,
        last: u64,
    },
    Piece(Piece),
    /// Whether it would vote for this member, whose log ends at `last`; nothing changes by it.
    Poll {
        last: Option<LogId<u64>>,
    },
}

/// What it is answered.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Appended(AppendEntriesResponse<u64>),
    Voted(VoteResponse<u64>),
    Leading,
    /// The piece is here; the next one starts at this byte.
    Received(u64),
    Installed(SnapshotResponse<u64>),
    Polled {
        would_vote: bool,
    },
}

impl From<Vote<u64>> for VoteV1 {
    fn from(vote: Vote<u64>) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteV1> for Vote<u64> {
    fn from(vote: VoteV1) -> Self {
        match vote.committed {
            true => Vote::new_committed(vote.term, vote.node),
            false => Vote::new(vote.term, vote.node),
        }
    }
}

fn write<T: SchemaWrite<Standard, Src = T>>(value: &T) -> Result<Bytes, String> {
    let mut bytes = vec![VERSION];
    wincode::config::serialize_into(&mut bytes, value, Standard::new())
        .map_err(|error| format!("a message cannot be encoded: {error}"))?;
    Ok(bytes.into())
}

fn read<'a, T: SchemaRead<'a, Standard, Dst = T>>(bytes: &'a [u8]) -> Result<T, String> {
    let rest = match bytes {
        [VERSION, rest @ ..] => rest,
        [version, ..] => return Err(format!("a message of version {version}, this build knows {VERSION}")),
        [] => return Err("an empty message".into()),
    };
    wincode::config::deserialize_exact(rest, Standard::new())
        .map_err(|error| format!("a broken message: {error}"))
}

/// A request as bytes; the error says which bound it breaks.
pub(super) fn encode_request(request: &Request) -> Result<Bytes, String> {
    match request {
        Request::Append(append) => {
            let payloads: Vec<(EntryId, Bytes)> = append
                .entries
                .iter()
                .map(|entry| (entry_id(entry.log_id), encode_payload(&entry.payload)))
                .collect();
            let entries = payloads
                .iter()
                .map(|(id, payload)| EntryV1 { term: id.term, node: id.node, index: id.index, payload })
                .collect();
            write(&RequestV1::Append {
                vote: append.vote.into(),
                prev: append.prev_log_id.map(Into::into),
                entries,
                commit: append.leader_commit.map(Into::into),
            })
        }
        Request::Vote(vote) => {
            write(&RequestV1::Vote { vote: vote.vote.into(), last: vote.last_log_id.map(Into::into) })
        }
        Request::Lead { term, last } => write(&RequestV1::Lead { term: *term, last: *last }),
        Request::Poll { last } => write(&RequestV1::Poll { last: last.map(LogIdV1::from) }),
        Request::Piece(piece) => write(&RequestV1::Piece {
            vote: piece.vote.into(),
            last: piece.meta.last_log_id.map(Into::into),
            membership: &encode_membership(&piece.meta.last_membership),
            copy: piece.copy,
            whole: piece.total,
            checksum: piece.checksum,
            offset: piece.offset,
            piece: &piece.bytes,
        }),
    }
}

/// Reads a request.
pub(super) fn decode_request(bytes: &Bytes) -> Result<Request, String> {
    Ok(match read::<RequestV1<'_>>(bytes)? {
        RequestV1::Append { vote, prev, entries, commit } => {
            let entry = |entry: EntryV1<'_>| {
                let id = EntryId { term: entry.term, node: entry.node, index: entry.index };
                decode_entry(id, bytes.slice_ref(entry.payload))
            };
            Request::Append(AppendEntriesRequest {
                vote: vote.into(),
                prev_log_id: prev.map(Into::into),
                entries: entries.into_iter().map(entry).collect::<Result<_, _>>()?,
                leader_commit: commit.map(Into::into),
            })
        }
        RequestV1::Vote { vote, last } => {
            Request::Vote(VoteRequest { vote: vote.into(), last_log_id: last.map(Into::into) })
        }
        RequestV1::Lead { term, last } => Request::Lead { term, last },
        RequestV1::Poll { last } => Request::Poll { last: last.map(LogId::from) },
        RequestV1::Piece { vote, last, membership, copy, whole: total, checksum, offset, piece } => {
            let meta = SnapshotMeta {
                last_log_id: last.map(Into::into),
                last_membership: decode_membership(membership)?,
                snapshot_id: copy.to_string(),
            };
            let bytes = bytes.slice_ref(piece);
            Request::Piece(Piece { vote: vote.into(), meta, copy, total, checksum, offset, bytes })
        }
    })
}

/// An answer as bytes.
pub(super) fn encode_answer(answer: &Answer) -> Result<Bytes, String> {
    write(&match answer {
        Answer::Appended(AppendEntriesResponse::Success) => AnswerV1::Appended,
        Answer::Appended(AppendEntriesResponse::PartialSuccess(last)) => {
            AnswerV1::AppendedTo { last: last.map(Into::into) }
        }
        Answer::Appended(AppendEntriesResponse::Conflict) => AnswerV1::Conflict,
        Answer::Appended(AppendEntriesResponse::HigherVote(vote)) => {
            AnswerV1::HigherVote { vote: (*vote).into() }
        }
        Answer::Voted(voted) => AnswerV1::Voted {
            vote: voted.vote.into(),
            granted: voted.vote_granted,
            last: voted.last_log_id.map(Into::into),
        },
        Answer::Leading => AnswerV1::Leading,
        Answer::Polled { would_vote } => AnswerV1::Polled { would_vote: *would_vote },
        Answer::Received(next) => AnswerV1::Received { next: *next },
        Answer::Installed(installed) => AnswerV1::Installed { vote: installed.vote.into() },
    })
}

/// Reads an answer.
pub(super) fn decode_answer(bytes: &[u8]) -> Result<Answer, String> {
    Ok(match read::<AnswerV1>(bytes)? {
        AnswerV1::Appended => Answer::Appended(AppendEntriesResponse::Success),
        AnswerV1::AppendedTo { last } => {
            Answer::Appended(AppendEntriesResponse::PartialSuccess(last.map(Into::into)))
        }
        AnswerV1::Conflict => Answer::Appended(AppendEntriesResponse::Conflict),
        AnswerV1::HigherVote { vote } => Answer::Appended(AppendEntriesResponse::HigherVote(vote.into())),
        AnswerV1::Voted { vote, granted, last } => Answer::Voted(VoteResponse {
            vote: vote.into(),
            vote_granted: granted,
            last_log_id: last.map(Into::into),
        }),
        AnswerV1::Leading => Answer::Leading,
        AnswerV1::Polled { would_vote } => Answer::Polled { would_vote },
        AnswerV1::Received { next } => Answer::Received(next),
        AnswerV1::Installed { vote } => Answer::Installed(SnapshotResponse { vote: vote.into() }),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::super::type_config::{Entry, Proposal, log_id};
    use super::*;

    fn append() -> Request {
        let id = |index| log_id(EntryId { term: 3, node: 2, index });
        let proposal = Proposal::encode(&Arc::default(), 3).unwrap();
        Request::Append(AppendEntriesRequest {
            vote: Vote::new_committed(3, 2),
            prev_log_id: Some(id(6)),
            entries: vec![
                Entry { log_id: id(7), payload: EntryPayload::Blank },
                Entry { log_id: id(8), payload: EntryPayload::Normal(proposal) },
            ],
            leader_commit: Some(id(6)),
        })
    }

    fn piece() -> Request {
        Request::Piece(Piece {
            vote: Vote::new(4, 1),
            meta: SnapshotMeta { snapshot_id: "9".into(), ..SnapshotMeta::default() },
            copy: 9,
            total: 3,
            checksum: 5,
            offset: 0,
            bytes: Bytes::from_static(b"abc"),
        })
    }

    #[test]
    fn requests_come_back_as_they_were() {
        let vote = Request::Vote(VoteRequest::new(Vote::new(1, 2), None));
        let lead = Request::Lead { term: 3, last: 300 };
        assert_eq!(hex::encode(encode_request(&lead).unwrap()), "010203fb2c01");
        for request in [append(), vote, lead, piece()] {
            let bytes = encode_request(&request).unwrap();
            let again = decode_request(&bytes).unwrap();
            assert_eq!(encode_request(&again).unwrap(), bytes);
        }
        let vote = Request::Vote(VoteRequest::new(Vote::new(300, 2), None));
        assert_eq!(hex::encode(encode_request(&vote).unwrap()), "0101fb2c01020000");
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let last = Some(log_id(EntryId { term: 1, node: 1, index: 9 }));
        for answer in [
            Answer::Appended(AppendEntriesResponse::Success),
            Answer::Appended(AppendEntriesResponse::PartialSuccess(last)),
            Answer::Appended(AppendEntriesResponse::Conflict),
            Answer::Appended(AppendEntriesResponse::HigherVote(Vote::new(9, 1))),
            Answer::Voted(VoteResponse { vote: Vote::new(2, 3), vote_granted: true, last_log_id: last }),
            Answer::Leading,
            Answer::Polled { would_vote: true },
            Answer::Received(77),
            Answer::Installed(SnapshotResponse { vote: Vote::new_committed(2, 3) }),
        ] {
            assert_eq!(decode_answer(&encode_answer(&answer).unwrap()).unwrap(), answer);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let with_version = [&[VERSION], bytes.as_slice()].concat();
            for bytes in [bytes, with_version] {
                let _ = decode_answer(&bytes);
                let _ = decode_request(&bytes.into());
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            for request in [append(), piece()] {
                let mut bytes = encode_request(&request).unwrap().to_vec();
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                let _ = decode_request(&bytes.into());
            }
        }
    }
}

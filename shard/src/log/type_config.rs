//! openraft's types for a shard's group, and their frozen form in files.
//!
//! A log id and a membership go to the log and, opaque, to the tables; both start with a version
//! byte. What a proposal holds beside its bytes never leaves the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use openraft::{BasicNode, CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership};
use wincode::config::Configuration;
use wincode::int_encoding::{LittleEndian, VarInt};
use wincode::len::BincodeLen;
use wincode::{SchemaRead, SchemaWrite};

use super::codec;
use super::copies::Copy;
use super::frame::EntryId;
use super::runtime::Runtime;
use crate::planted;
use crate::record::Record;

openraft::declare_raft_types!(
    /// A shard's group: entries are encoded batches, there is nothing to answer.
    pub(super) TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Copy,
        AsyncRuntime = Runtime,
);

/// An entry of a group.
pub(super) type Entry = openraft::Entry<TypeConfig>;

/// A batch as proposed: its bytes, and the records themselves as long as they are at hand.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Proposal {
    bytes: Bytes,
    #[serde(skip)]
    records: Option<(u64, Arc<Vec<Record>>)>,
}

/// What an entry comes to.
pub(super) enum Content {
    /// Facts.
    Records(Arc<Vec<Record>>),
    /// Facts that a leader decided and lost its term before they were taken: they never happened.
    Deposed,
    /// A change of the membership group.
    Change(Bytes),
}

impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a batch of {} bytes", self.bytes.len())
    }
}

impl Proposal {
    /// Encodes a batch that the leader of `term` has decided, to propose it.
    pub(super) fn encode(records: &Arc<Vec<Record>>, term: u64) -> Result<Self, String> {
        Ok(Self { bytes: codec::encode(records, term)?.into(), records: Some((term, records.clone())) })
    }

    /// A change of the membership group, to propose it; the error says that it is too large.
    pub(super) fn change(change: &[u8]) -> Result<Self, String> {
        if change.len() >= codec::BATCH_BYTES_MAX {
            let (bytes, most) = (change.len(), codec::BATCH_BYTES_MAX);
            return Err(format!("a change of {bytes} bytes is over the limit of {most}"));
        }
        Ok(Self { bytes: [&[CHANGE], change].concat().into(), records: None })
    }

    /// What it holds in an entry of `term`: the records, decoded if they are not at hand, unless
    /// they were decided in another term; or a change.
    pub(super) fn content(&self, term: u64) -> Result<Content, String> {
        if let [CHANGE, ..] = self.bytes.as_ref() {
            return Ok(Content::Change(self.bytes.slice(1..)));
        }
        let (decided, records) = match &self.records {
            Some((decided, records)) => (Some(*decided), records.clone()),
            None => {
                let decoded = codec::decode(&self.bytes)?;
                (decoded.term, Arc::new(decoded.records))
            }
        };
        Ok(match decided {
            Some(decided) if decided != term && !planted::is("skip-term-check") => Content::Deposed,
            Some(_) | None => Content::Records(records),
        })
    }
}

/// The version of log ids and memberships that is written.
const VERSION: u8 = 1;
/// First byte of a membership's entry; batches start with their own version, far below.
const MEMBERSHIP: u8 = 0xff;
/// First byte of a change of the membership group.
const CHANGE: u8 = 0xfe;
/// A membership is small: what a length in it may claim.
const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;

type Small = Configuration<true, MEMBERSHIP_BYTES_MAX, BincodeLen, LittleEndian, VarInt, u32>;

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
pub(super) struct LogIdV1 {
    term: u64,
    node: u64,
    index: u64,
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
struct MembershipV1 {
    configs: Vec<Vec<u64>>,
    nodes: Vec<NodeV1>,
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
struct NodeV1 {
    id: u64,
    address: String,
}

/// Frozen.
#[derive(SchemaRead, SchemaWrite)]
struct StoredMembershipV1 {
    log_id: Option<LogIdV1>,
    membership: MembershipV1,
}

impl From<LogId<u64>> for LogIdV1 {
    fn from(id: LogId<u64>) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdV1> for LogId<u64> {
    fn from(id: LogIdV1) -> Self {
        LogId::new(CommittedLeaderId::new(id.term, id.node), id.index)
    }
}

impl From<&Membership<u64, BasicNode>> for MembershipV1 {
    fn from(membership: &Membership<u64, BasicNode>) -> Self {
        let configs = membership.get_joint_config().iter();
        let nodes = membership.nodes();
        Self {
            configs: configs.map(|config| config.iter().copied().collect()).collect(),
            nodes: nodes.map(|(id, node)| NodeV1 { id: *id, address: node.addr.clone() }).collect(),
        }
    }
}

impl From<MembershipV1> for Membership<u64, BasicNode> {
    fn from(membership: MembershipV1) -> Self {
        let configs: Vec<BTreeSet<u64>> =
            membership.configs.into_iter().map(|config| config.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, BasicNode> =
            membership.nodes.into_iter().map(|node| (node.id, BasicNode::new(node.address))).collect();
        Self::new(configs, nodes)
    }
}

fn write<T: SchemaWrite<Small, Src = T>>(start: &[u8], value: &T) -> Vec<u8> {
    let mut bytes = start.to_vec();
    wincode::config::serialize_into(&mut bytes, value, Small::new()).expect("memory takes what is written");
    bytes
}

fn read<'a, T: SchemaRead<'a, Small, Dst = T>>(
    what: &str,
    start: &[u8],
    bytes: &'a [u8],
) -> Result<T, String> {
    let rest = bytes.strip_prefix(start).ok_or_else(|| format!("a {what} of a version this build lacks"))?;
    wincode::config::deserialize_exact(rest, Small::new())
        .map_err(|error| format!("a broken {what}: {error}"))
}

/// A log id as the tables keep it.
pub(super) fn encode_log_id(id: LogId<u64>) -> Vec<u8> {
    write(&[VERSION], &LogIdV1::from(id))
}

/// Reads it back; no bytes are no log id.
pub(super) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId<u64>>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    read::<LogIdV1>("log id", &[VERSION], bytes).map(|id| Some(id.into()))
}

/// A membership as the tables keep it.
pub(super) fn encode_membership(stored: &StoredMembership<u64, BasicNode>) -> Vec<u8> {
    let log_id = stored.log_id().map(LogIdV1::from);
    write(&[VERSION], &StoredMembershipV1 { log_id, membership: stored.membership().into() })
}

/// Reads it back; no bytes are no membership.
pub(super) fn decode_membership(bytes: &[u8]) -> Result<StoredMembership<u64, BasicNode>, String> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let stored: StoredMembershipV1 = read("membership", &[VERSION], bytes)?;
    Ok(StoredMembership::new(stored.log_id.map(LogId::from), stored.membership.into()))
}

/// An entry's payload as the log keeps it: nothing for a blank, a batch as it is.
pub(super) fn encode_payload(payload: &EntryPayload<TypeConfig>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(proposal) => proposal.bytes.clone(),
        EntryPayload::Membership(membership) => {
            write(&[MEMBERSHIP, VERSION], &MembershipV1::from(membership)).into()
        }
    }
}

/// Reads it back. A batch stays undecoded.
pub(super) fn decode_entry(id: EntryId, payload: Bytes) -> Result<Entry, String> {
    let payload = match payload.first() {
        None => EntryPayload::Blank,
        Some(&MEMBERSHIP) => {
            let membership: MembershipV1 = read("membership", &[MEMBERSHIP, VERSION], &payload)?;
            EntryPayload::Membership(membership.into())
        }
        Some(_) => EntryPayload::Normal(Proposal { bytes: payload, records: None }),
    };
    Ok(Entry { log_id: log_id(id), payload })
}

/// openraft's form of an entry's identity.
pub(super) fn log_id(id: EntryId) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(id.term, id.node), id.index)
}

/// The log's form of it.
pub(super) fn entry_id(id: LogId<u64>) -> EntryId {
    EntryId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, node: u64, index: u64) -> LogId<u64> {
        log_id(EntryId { term, node, index })
    }

    fn membership() -> Membership<u64, BasicNode> {
        let nodes = [(1, BasicNode::new("a:1")), (300, BasicNode::new(""))];
        Membership::new(vec![BTreeSet::from([1, 300])], BTreeMap::from(nodes))
    }

    #[test]
    fn the_bytes_of_version_1_never_change() {
        let log_id = id(3, 1, 70_000);
        assert_eq!(hex::encode(encode_log_id(log_id)), "010301fc70110100");
        assert_eq!(decode_log_id(&encode_log_id(log_id)), Ok(Some(log_id)));
        assert_eq!(decode_log_id(&[]), Ok(None));
        let stored = StoredMembership::new(Some(id(1, 1, 0)), membership());
        let bytes = encode_membership(&stored);
        assert_eq!(hex::encode(&bytes), "0101010100010201fb2c0102010361 3a31fb2c0100".replace(' ', ""));
        assert_eq!(decode_membership(&bytes), Ok(stored));
        assert_eq!(decode_membership(&[]), Ok(StoredMembership::default()));
    }

    #[test]
    fn payloads_come_back_as_they_were() {
        let at = EntryId { term: 1, node: 2, index: 3 };
        let proposal = Proposal::encode(&Arc::default(), 1).unwrap();
        let payloads =
            [EntryPayload::Blank, EntryPayload::Membership(membership()), EntryPayload::Normal(proposal)];
        for payload in payloads {
            let bytes = encode_payload(&payload);
            let entry = decode_entry(at, bytes.clone()).unwrap();
            assert_eq!(entry.log_id, log_id(at));
            assert_eq!(encode_payload(&entry.payload), bytes);
        }
        decode_entry(at, Bytes::from_static(&[MEMBERSHIP, 9])).unwrap_err();
        decode_entry(at, Bytes::from_static(&[MEMBERSHIP, VERSION, 251, 255, 255])).unwrap_err();
    }
}

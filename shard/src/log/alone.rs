//! A last resort, on a stopped node: makes it the only member of a group whose majority is gone
//! for good. What only the others had is lost, and nothing here can know what that was.
//!
//! It writes what a leader would have: a membership of this node alone at the end of the group's
//! log, in a term of its own that is newer than any this node knows. At its next start the node is
//! the only voter, leads, and commits what its log holds, be it acknowledged or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use opcode_engine::ids::ShardId;
use openraft::{BasicNode, EntryPayload, Membership};
use tokio::sync::oneshot;

use super::frame::EntryId;
use super::index::StoredVote;
use super::segment::failed;
use super::state_machine::decode_applied;
use super::store::{Change, LogStore, Op};
use super::type_config::{Proposal, TypeConfig, encode_payload, entry_id, log_id};
use super::{Applied, Tables};
use crate::batch::Position;
use crate::error::ShardError;
use crate::peer::NodeId;
use crate::store::Store;

/// What this node has of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The last entry of its log; none when it has nothing of the group.
    pub last: Option<Position>,
    /// The newest term it knows of.
    pub term: u64,
}

impl LogStore {
    /// What this node has of a group.
    pub fn held(&self, group: ShardId) -> Result<Held, ShardError> {
        let state = self.take_group(group.0)?;
        self.give_back(group.0);
        let last = state.last.map(|id| Position { term: id.term, index: id.index });
        let voted = state.vote.map_or(0, |vote| vote.term);
        Ok(Held { last, term: voted.max(last.map_or(0, |last| last.term)) })
    }

    /// Makes `node` the only member of a group, and has `change` be its next entry. A group of which
    /// this node has nothing begins anew, empty. Durable on return; after a crash, to be done again.
    /// Refused, with nothing changed, when the group is in use or its tables, which are `applied`,
    /// are ahead of its log.
    pub async fn make_alone(
        &self,
        group: ShardId,
        node: NodeId,
        applied: &Applied,
        change: Option<&[u8]>,
    ) -> Result<(), ShardError> {
        let held = self.held(group)?;
        let (applied, _) = decode_applied(applied).map_err(ShardError::Damaged)?;
        let last = self.take_group(group.0)?.last;
        self.give_back(group.0);
        if applied > last.map(log_id) {
            return Err(ShardError::Refused(format!(
                "the tables of shard {group} are ahead of its log: start the node once, stop it, and try again"
            )));
        }
        let term = held.term + 1;
        let mut payloads = vec![encode_payload(&alone(node))];
        if let Some(change) = change {
            let proposal = Proposal::change(change).map_err(ShardError::Refused)?;
            payloads.push(encode_payload(&EntryPayload::Normal(proposal)));
        }
        let first = last.map_or(0, |last| last.index + 1);
        let entries: Vec<(EntryId, Bytes)> = (first..)
            .zip(payloads)
            .map(|(index, payload)| (EntryId { term, node, index }, payload))
            .collect();
        // First the vote: entries of a term that was not voted in must not be.
        let vote = StoredVote { term, node, committed: false };
        self.write_now(group, Change::Vote(vote)).await?;
        self.write_now(group, Change::Append(entries)).await
    }

    /// Begins a group of which this node has nothing, behind tables that come from a backup and are
    /// `applied`: `node` is its only member, and all that the tables hold counts as purged, so that
    /// whoever joins is sent a copy of them. Durable on return. Refused, with nothing changed, when the
    /// node has something of the group.
    pub async fn begin_behind(
        &self,
        group: ShardId,
        node: NodeId,
        applied: &Applied,
    ) -> Result<(), ShardError> {
        if self.held(group)? != (Held { last: None, term: 0 }) {
            return Err(ShardError::Refused(format!("the log here has entries of shard {group} already")));
        }
        let (applied, _) = decode_applied(applied).map_err(ShardError::Damaged)?;
        let applied = applied.map(entry_id).ok_or_else(|| {
            ShardError::Damaged(format!("the tables of shard {group} hold nothing applied"))
        })?;
        let term = applied.term + 1;
        let vote = StoredVote { term, node, committed: false };
        self.write_now(group, Change::Vote(vote)).await?;
        self.write_now(group, Change::Purge(applied)).await?;
        let id = EntryId { term, node, index: applied.index + 1 };
        self.write_now(group, Change::Append(vec![(id, encode_payload(&alone(node)))])).await
    }

    async fn write_now(&self, group: ShardId, change: Change) -> Result<(), ShardError> {
        let (synced, outcome) = oneshot::channel();
        let done = Box::new(move |result: io::Result<()>| {
            // Whoever stopped waiting does it again.
            let _ = synced.send(result);
        });
        self.shared.submit(Op { group: group.0, change, done: Some(done) });
        let outcome = outcome.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")));
        outcome.map_err(failed(format!("writing the log of group {group}")))
    }
}

/// The entry by which a node is the only member of a group.
fn alone(node: NodeId) -> EntryPayload<TypeConfig> {
    let nodes = BTreeMap::from([(node, BasicNode::default())]);
    EntryPayload::Membership(Membership::new(vec![BTreeSet::from([node])], nodes))
}

/// How far a stopped node's tables have come, by opening them.
pub async fn applied_by(store: Store) -> Result<Applied, ShardError> {
    let store = Arc::new(store);
    let applied = store.applied();
    store.close().await?;
    Ok(applied)
}

//! A planned change of leader, which openraft 0.9 has not.
//!
//! It has no trial vote either: whoever stands for election deposes the leader, won or lost. So a
//! successor stands once, when it is sure to win, and until then the leader leads on:
//!
//! 1. the leader has led for as long as its own lease, so that it would vote for another at once;
//! 2. nothing new is written, and the leader commits an empty entry, which is the log's last;
//! 3. the successor has that entry;
//! 4. these two make a majority, or else the leader is silent until the others' leases are over,
//!    so that they would vote at once too;
//! 5. the successor is asked to stand, and does if it still follows this leader and has no other
//!    entry.
//!
//! Writes that come meanwhile wait, and go on or find that this node leads no more: they are
//! never in the log of a leader that has given the lead away.

use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, Raft, RaftMetrics, ServerState, Vote};
use tokio::time::Instant;

use super::elections::LEASE;
use super::group::{Group, HEARTBEAT_MS, Role, stopped};
use super::type_config::{Proposal, TypeConfig};
use super::wire::{Answer, Request};
use crate::batch::Position;
use crate::error::ShardError;
use crate::peer::{NodeId, Service};

/// Longest wait for the writes under way to end.
const WRITES_END_MAX: Duration = Duration::from_millis(500);
/// Longest wait for the successor to have the whole log.
const CATCH_UP_MAX: Duration = Duration::from_millis(500);
/// On top of a lease, for a heartbeat that is still on its way.
const LEASE_MARGIN: Duration = Duration::from_millis(50);
/// Longest wait for the election: a successor that has not won by then may yet do so, or another.
const STAND_MAX: Duration = Duration::from_millis(800);

/// Has the leader send no heartbeats while it exists.
struct Silence<'a>(&'a Raft<TypeConfig>);

impl<'a> Silence<'a> {
    fn keep(raft: &'a Raft<TypeConfig>) -> Self {
        raft.runtime_config().heartbeat(false);
        Self(raft)
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.runtime_config().heartbeat(true);
    }
}

impl Group {
    /// Gives the lead to `to`, a voter that has almost all of the log; on success it leads. On
    /// [`ShardError::Refused`] nothing has changed and this node leads on. On
    /// [`ShardError::Unknown`] too, unless the successor stood and lost: then the voters elect
    /// somebody by themselves. Takes at most about two seconds; dropped halfway it leaves a leader
    /// that leads, or an election under way.
    pub async fn hand_over(&self, to: NodeId) -> Result<(), ShardError> {
        let term = self.leading_term().ok_or(ShardError::NotLeader)?;
        let members = self.members();
        if to == self.node_id || !members.voters.contains(&to) {
            return Err(ShardError::Refused(format!("node {to} cannot take over: it is no other voter")));
        }
        if members.changing_to.is_some() {
            return Err(ShardError::Refused(
                "its members are changing: the lead stays until they have".into(),
            ));
        }
        // A leader elected a moment ago votes for nobody yet; writes go on until it would.
        tokio::time::sleep(self.own_lease().await?).await;
        let closed = tokio::time::timeout(WRITES_END_MAX, self.writes.write()).await;
        let _closed = closed.map_err(|_| ShardError::Refused("writes under way do not end".into()))?;
        let last = self.last_entry(term).await?;
        let Position { index, .. } = last;
        let has_all = |metrics: &RaftMetrics<u64, BasicNode>| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&to).copied().flatten());
            metrics.current_term != term || matched.is_some_and(|id| id.index >= index)
        };
        let caught_up =
            self.raft.wait(Some(CATCH_UP_MAX)).metrics(has_all, "the successor has the log").await;
        caught_up
            .map_err(|_| ShardError::Refused(format!("node {to} does not have the whole log in time")))?;

        let needs_others = members.voters.len() / 2 + 1 > 2;
        let _silence = needs_others.then(|| Silence::keep(&self.raft));
        if needs_others {
            tokio::time::sleep(LEASE + LEASE_MARGIN).await;
        }
        let request = Request::Lead { term, last: index };
        match self.network.ask(to, Service::Raft, &request, STAND_MAX).await {
            Ok(Answer::Leading) => {
                // Writes that wait must find that they came too late, and not be in doubt.
                let leads_no_more = |metrics: &RaftMetrics<u64, BasicNode>| {
                    metrics.current_term != term || metrics.state != ServerState::Leader
                };
                let noted = self.raft.wait(Some(STAND_MAX)).metrics(leads_no_more, "it leads no more").await;
                noted.map(|_| ()).map_err(|error| ShardError::Unknown(error.to_string()))
            }
            Ok(other) => Err(ShardError::Unknown(format!("node {to} answered with {other:?}"))),
            Err(error) => Err(ShardError::Unknown(format!("node {to} has not taken over: {error}"))),
        }
    }

    /// Commits an empty entry while nothing else is written, and gives its position.
    async fn last_entry(&self, term: u64) -> Result<Position, ShardError> {
        let empty = Proposal::encode(&Arc::default(), term).map_err(ShardError::Refused)?;
        let last = self.write_at_once(empty, CATCH_UP_MAX).await?;
        if last.term == term { Ok(last) } else { Err(ShardError::NotLeader) }
    }

    /// How long this node, as leader, votes for nobody else yet.
    async fn own_lease(&self) -> Result<Duration, ShardError> {
        let since = self.raft.with_raft_state(|state| state.vote_last_modified()).await.map_err(stopped)?;
        let ends = since.map(|since| since + LEASE);
        Ok(ends.map_or(Duration::ZERO, |ends| ends.saturating_duration_since(Instant::now())))
    }

    /// Stands for election once, for the leader that asks for it. An error is a refusal, or says
    /// that nobody has won yet.
    pub(super) async fn take_over(&self, from: NodeId, term: u64, last: u64) -> Result<Answer, String> {
        self.heed_floor(None)?;
        let node = self.node_id;
        let follows = self.raft.with_raft_state(move |state| {
            *state.vote_ref() == Vote::new_committed(term, from)
                && state.membership_state.effective().voter_ids().any(|voter| voter == node)
        });
        if !follows.await.map_err(|error| error.to_string())? {
            return Err(format!("this node does not follow node {from} in term {term} as a voter"));
        }
        let has = self.raft.metrics().borrow().last_log_index;
        if has != Some(last) {
            return Err(format!("its log ends at {has:?}, not at {last}"));
        }
        let mut role = self.role();
        self.raft.trigger().elect().await.map_err(|error| error.to_string())?;
        let decided = role.wait_for(|role| match role {
            Role::Leader { .. } => true,
            Role::Follower { leader } => leader.is_some_and(|leader| leader != from),
        });
        match tokio::time::timeout(STAND_MAX, decided).await {
            Ok(Ok(role)) if matches!(*role, Role::Leader { .. }) => Ok(Answer::Leading),
            Ok(Ok(_)) => Err("another was elected".into()),
            Ok(Err(_)) => Err("the group has ended".into()),
            Err(_) => Err("nobody was elected yet".into()),
        }
    }
}

// A voter must not come to stand by itself while the leader is silent for a successor's sake.
const _: () = assert!(HEARTBEAT_MS < 500, "leases are longer than the time between two heartbeats");

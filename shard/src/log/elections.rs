//! When a member stands for election. openraft's own timer looks every tick only, and gives voters
//! leases of different length, so that whoever stands first is refused; here all leases are equal,
//! and a member stands soon after its own has run out, each in its turn.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::error::Fatal;
use openraft::metrics::RaftServerMetrics;
use openraft::{BasicNode, LogId, Raft, RaftState, ServerState};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::floor::Floor;
use super::group::{Group, TICK};
use super::heard::Heard;
use super::network::Network;
use super::storage::GroupLog;
use super::type_config::{TypeConfig, log_id};
use super::wire::{Answer, Request};
use crate::peer::{NodeId, Service};
use crate::ticks;

/// A voter that has heard its leader votes for no other for so long.
pub(super) const LEASE: Duration = Duration::from_millis(500);
/// How long after the lease the first one stands: a planned change of leader takes place before.
const MARGIN: Duration = Duration::from_millis(250);
/// Between one voter's turn to stand and the next one's: time enough for an election.
const TURN: Duration = Duration::from_millis(150);
/// Those who stand do so at common moments, some of which are ticks, so that one look serves all
/// groups of a node.
const LOOK_EVERY: Duration = TICK.checked_div(3).expect("three is not zero");
/// Longest wait for those that are asked whether they would vote.
const POLL_MAX: Duration = Duration::from_millis(400);
/// How often a member looks that does not vote.
const IDLE: Duration = Duration::from_secs(1);

/// How long a voter waits without a sign of a leader; `None` for one that does not vote. The one
/// that led last, as far as is known, has no turn.
fn patience(metrics: &RaftServerMetrics<u64, BasicNode>, me: NodeId) -> Option<Duration> {
    let gone = metrics.current_leader.filter(|leader| *leader != me);
    let mut voters = metrics.membership_config.voter_ids().filter(|voter| Some(*voter) != gone);
    let turn = voters.position(|voter| voter == me)?;
    Some(LEASE + MARGIN + TURN * u32::try_from(turn).unwrap_or(u32::MAX))
}

/// What an election needs of its group.
pub(super) struct Electorate {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) log: GroupLog,
    pub(super) me: NodeId,
    pub(super) network: Network,
    pub(super) heard: Arc<Mutex<Heard>>,
    pub(super) floor: Floor,
    pub(super) stopping: Arc<AtomicBool>,
}

impl Electorate {
    /// Whether a majority would vote for this member, which counts itself.
    async fn would_win(&self) -> Result<bool, Fatal<u64>> {
        let last = self.log.state().last.map(log_id);
        let membership = |state: &RaftState<u64, BasicNode, Instant>| {
            state.membership_state.effective().membership().get_joint_config().clone()
        };
        let configs = self.raft.with_raft_state(membership).await?;
        let others: BTreeSet<NodeId> =
            configs.iter().flatten().copied().filter(|id| *id != self.me).collect();
        let mut asked: FuturesUnordered<_> = others
            .into_iter()
            .map(|other| async move {
                let request = Request::Poll { last };
                let answer = self.network.ask(other, Service::Raft, &request, POLL_MAX).await;
                matches!(answer, Ok(Answer::Polled { would_vote: true })).then_some(other)
            })
            .collect();
        let mut votes = BTreeSet::from([self.me]);
        let wins = |votes: &BTreeSet<NodeId>| {
            configs.iter().all(|config| config.intersection(votes).count() > config.len() / 2)
        };
        // One that does not answer is not waited for when the others are enough.
        while !wins(&votes) {
            match asked.next().await {
                Some(vote) => votes.extend(vote),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Has this node stand for election whenever it is its turn and it would win, until the group ends.
pub(super) async fn stand_in_turn(electorate: Electorate) {
    let Electorate { raft, me, heard, floor, stopping, .. } = &electorate;
    let me = *me;
    // Those of the server alone change when somebody's part does, not with every entry.
    let mut metrics = raft.server_metrics();
    // The last sign of a leader, or of an election.
    let mut last = Instant::now();
    while !stopping.load(Ordering::Acquire) {
        let leads = metrics.borrow().state == ServerState::Leader;
        if leads {
            if metrics.wait_for(|metrics| metrics.state != ServerState::Leader).await.is_err() {
                return;
            }
            last = Instant::now();
        }
        let patience = patience(&metrics.borrow(), me).filter(|_| floor.lock().is_none());
        let Some(patience) = patience else {
            tokio::time::sleep_until(ticks::next(IDLE)).await;
            last = Instant::now();
            continue;
        };
        last = heard.lock().alive().map_or(last, |alive| alive.max(last));
        let due = last + patience;
        if Instant::now() < due {
            tokio::time::sleep_until(ticks::nearest(due + LOOK_EVERY / 2, LOOK_EVERY)).await;
            continue;
        }
        // What openraft has heard counts too, such as that another stands.
        let Ok(changed) = raft.with_raft_state(|state| state.vote_last_modified()).await else { return };
        if let Some(changed) = changed.filter(|changed| *changed + patience > Instant::now()) {
            last = last.max(changed);
            continue;
        }
        match electorate.would_win().await {
            Ok(true) => {
                last = Instant::now();
                if raft.trigger().elect().await.is_err() {
                    return;
                }
            }
            // Others may have heard the leader a little later, or soon hear one.
            Ok(false) => last = Instant::now().checked_sub(patience).map_or(last, |then| then + TURN),
            Err(_) => return,
        }
    }
}

impl Group {
    /// Whether this member would vote for one whose log ends at `last`: it hears no leader, is none
    /// itself, and has nothing that the other lacks.
    pub(super) async fn would_vote(&self, last: Option<LogId<u64>>) -> Result<Answer, String> {
        self.heed_floor(last)?;
        let state = |state: &RaftState<u64, BasicNode, Instant>| {
            let leads = state.server_state == ServerState::Leader;
            (leads, state.vote_last_modified(), state.vote_ref().is_committed())
        };
        let (leads, changed, hears) =
            self.raft.with_raft_state(state).await.map_err(|error| error.to_string())?;
        let own = self.log.state().last.map(log_id);
        let follows = hears && changed.is_some_and(|changed| changed.elapsed() < LEASE);
        let has_leader = if leads { self.has_quorum() } else { follows };
        Ok(Answer::Polled { would_vote: !has_leader && last >= own })
    }
}

#[cfg(test)]
mod tests {
    use openraft::{Membership, StoredMembership};

    use super::*;

    #[test]
    fn voters_stand_one_after_another_and_none_before_the_leases_are_over() {
        let mut metrics = RaftServerMetrics::<u64, BasicNode> { id: 1, ..RaftServerMetrics::default() };
        let voters = BTreeSet::from([3, 5, 9]);
        let membership = Membership::new(vec![voters.clone()], voters);
        metrics.membership_config = Arc::new(StoredMembership::new(None, membership));
        let of = |metrics: &RaftServerMetrics<u64, BasicNode>, node| patience(metrics, node);
        assert_eq!(of(&metrics, 3), Some(LEASE + MARGIN));
        assert_eq!(of(&metrics, 5), Some(LEASE + MARGIN + TURN));
        assert_eq!(of(&metrics, 9), Some(LEASE + MARGIN + TURN * 2));
        assert_eq!(of(&metrics, 4), None, "it does not vote");
        metrics.current_leader = Some(3);
        assert_eq!(of(&metrics, 5), Some(LEASE + MARGIN), "nobody waits for the one that is gone");
        assert_eq!(of(&metrics, 9), Some(LEASE + MARGIN + TURN));
    }
}

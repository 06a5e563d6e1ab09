//! For the shards that this node leads: brings each group's members to the nodes of the map, and
//! the lead to the node that should have it. Each shard has one piece of work under way at most,
//! in a task of its own, so that a group that takes its time holds up no other; after one that
//! failed it is left in peace for a while.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{ShardEntry, ShardMap};
use opcode_shard::ShardHandle;
use opcode_shard::log::Members;
use opcode_shard::peer::NodeId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::Membership;
use super::change::Change;
use super::step::{self, Step, Wanted};
use crate::transport::Transport;

/// How long this node has led a shard before it gives the lead to the node that should have it.
const STABLE_FOR: Duration = Duration::from_secs(5);
/// How long a shard is left in peace after work on it has failed.
const PEACE: Duration = Duration::from_secs(2);
/// Shards whose lead this node gives away at a time, so that few of them pause at once.
const HAND_OVERS_MAX: usize = 4;
/// Longest wait for work under way, and for the lead of one shard to go over, when the node stops.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// What is to be done for a shard.
#[derive(Debug)]
enum Work {
    Step(Step),
    /// Its members are as the map of this epoch wants them, and the map shall know.
    Settle {
        epoch: u64,
    },
    /// The lead goes to the node that should have it.
    GiveBack(NodeId),
}

/// A shard that this node leads.
struct Lead {
    since: Instant,
    not_before: Instant,
    work: Option<JoinHandle<Result<(), ()>>>,
}

/// The shards that this node leads.
pub(super) struct Leads {
    membership: Arc<Membership>,
    transport: Arc<Transport>,
    shards: HashMap<ShardId, Lead>,
    hand_overs: Arc<Semaphore>,
}

impl Leads {
    pub(super) fn new(membership: Arc<Membership>, transport: Arc<Transport>) -> Self {
        let hand_overs = Arc::new(Semaphore::new(HAND_OVERS_MAX));
        Self { membership, transport, shards: HashMap::new(), hand_overs }
    }

    /// Begins what is to be done now, for each of the node's replicas that leads.
    pub(super) fn look(&mut self, map: &ShardMap, replicas: Vec<ShardHandle>, now: Instant) {
        for handle in replicas {
            let id = handle.id();
            let Some(entry) = map.shard(id).filter(|_| handle.serves()) else {
                // Work under way ends by itself: it finds that this node leads no more.
                self.shards.remove(&id);
                continue;
            };
            let lead = self.shards.entry(id).or_insert(Lead { since: now, not_before: now, work: None });
            if let Some(work) = lead.work.take_if(|work| work.is_finished()) {
                // It is there at once; one that panicked has failed too.
                let went_well = matches!(work.now_or_never(), Some(Ok(Ok(()))));
                lead.not_before = if went_well { now } else { now + PEACE };
            }
            if lead.work.is_some() || now < lead.not_before {
                continue;
            }
            let is_stable = now.saturating_duration_since(lead.since) >= STABLE_FOR;
            let me = self.membership.node_id;
            let is_alive = |node: NodeId| map.nodes.contains_key(&node) && self.transport.is_alive(node);
            let (work, doing) = next(&handle.group().members(), entry, me, &is_alive, is_stable);
            handle.tell(doing);
            if let Some(work) = work {
                tracing::info!(shard = %id, ?work, "bringing a shard in line with the map");
                let (membership, hand_overs) = (self.membership.clone(), self.hand_overs.clone());
                lead.work = Some(tokio::spawn(async move {
                    work.run(&handle, &membership, &hand_overs).await.map_err(|error| {
                        tracing::warn!(shard = %id, error = format!("{error:#}"), "will try again");
                    })
                }));
            }
        }
    }

    /// Forgets a shard whose replica goes; what is under way for it stops where it is.
    pub(super) fn forget(&mut self, shard: ShardId) {
        if let Some(work) = self.shards.remove(&shard).and_then(|lead| lead.work) {
            work.abort();
        }
    }

    /// Begins nothing more, and waits for what is under way.
    pub(super) async fn end(&self) {
        let is_over = || self.shards.values().flat_map(|lead| &lead.work).all(JoinHandle::is_finished);
        let deadline = Instant::now() + LEAVE_MAX;
        while !is_over() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What is to be done for a shard now, and what its members are being changed to in words.
fn next(
    members: &Members,
    entry: &ShardEntry,
    me: NodeId,
    is_alive: &dyn Fn(NodeId) -> bool,
    is_stable: bool,
) -> (Option<Work>, Option<String>) {
    let voters: BTreeSet<NodeId> = entry.replicas.iter().copied().collect();
    let wanted = Wanted { me, voters: &voters, learners: &BTreeSet::new(), is_alive };
    let step = step::next(members, &wanted);
    match &step {
        Step::Settled => {}
        Step::Wait(_) => return (None, Some(step.to_string())),
        Step::Add(_) | Step::SetVoters(_) | Step::HandOver(_) | Step::Remove(_) => {
            let doing = step.to_string();
            return (Some(Work::Step(step)), Some(doing));
        }
    }
    if !entry.retiring.is_empty() {
        return (Some(Work::Settle { epoch: entry.epoch }), None);
    }
    let preferred = entry.replicas.first().copied().filter(|node| *node != me && is_stable);
    let able = preferred.filter(|node| is_alive(*node) && step::has_log(members, *node));
    (able.map(Work::GiveBack), None)
}

impl Work {
    async fn run(
        self,
        handle: &ShardHandle,
        membership: &Membership,
        hand_overs: &Semaphore,
    ) -> anyhow::Result<()> {
        let group = handle.group();
        match self {
            Self::Step(Step::Add(node)) => Ok(group.add_learner(node).await?),
            Self::Step(Step::SetVoters(voters)) => Ok(group.set_voters(voters).await?),
            Self::Step(Step::Remove(nodes)) => Ok(group.remove(nodes).await?),
            Self::Step(Step::HandOver(node)) | Self::GiveBack(node) => {
                let _place = hand_overs.acquire().await?;
                let begun = Instant::now();
                group.hand_over(node).await?;
                tracing::info!(shard = %handle.id(), to = node, took = ?begun.elapsed(), "the lead went over");
                Ok(())
            }
            Self::Step(Step::Wait(_) | Step::Settled) => Ok(()),
            Self::Settle { epoch } => {
                let settled = Change::Settled { shard: handle.id(), epoch };
                membership.submit(settled).await?.map(|_| ()).map_err(anyhow::Error::msg)
            }
        }
    }
}

/// Hands the lead of one shard over, if somebody can take it.
pub(super) async fn leave(handle: ShardHandle, transport: &Transport) {
    let group = handle.group();
    if group.leading_term().is_none() {
        return;
    }
    let members = group.members();
    let is_alive = |node| transport.is_alive(node);
    let successors = step::successors(&members, &members.voters, group.node_id(), &is_alive);
    let Some(node) = successors.first() else { return };
    match tokio::time::timeout(LEAVE_MAX, group.hand_over(*node)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(shard = %handle.id(), %error, "the lead was not handed over"),
        Err(_) => tracing::warn!(shard = %handle.id(), "nobody took the lead in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(replicas: &[NodeId], retiring: &[NodeId]) -> ShardEntry {
        let (replicas, retiring) = (replicas.to_vec(), retiring.to_vec());
        ShardEntry { shard: ShardId(0), first_hash: 0, replicas, retiring, epoch: 7 }
    }

    fn of(voters: &[NodeId]) -> Members {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let matched = voters.iter().map(|node| (*node, 10)).collect();
        Members { voters, matched, last_index: 10, ..Members::default() }
    }

    #[track_caller]
    fn check(entry: &ShardEntry, members: &Members, alive: bool, is_stable: bool, expect: &str) {
        let (work, doing) = next(members, entry, 1, &|_| alive, is_stable);
        let work = work.map_or_else(|| "nothing".to_owned(), |work| format!("{work:?}"));
        let doing = doing.map_or_else(String::new, |doing| format!(": {doing}"));
        assert_eq!(format!("{work}{doing}"), expect);
    }

    #[test]
    fn members_come_first_then_the_map_then_the_lead() {
        let (two, three) = (of(&[1, 2]), of(&[1, 2, 3]));
        let doing = "Step(Add(3)): adding 3 (learner)";
        check(&entry(&[2, 1, 3], &[]), &two, true, true, doing);
        check(&entry(&[2, 1], &[3]), &two, true, true, "Settle { epoch: 7 }");
        check(
            &entry(&[2, 1], &[3]),
            &three,
            false,
            true,
            "nothing: waiting for node 2: only 1 of the 2 voters would be alive",
        );
        check(&entry(&[2, 1], &[]), &two, true, true, "GiveBack(2)");
        check(&entry(&[1, 2], &[]), &two, true, true, "nothing");
    }

    #[test]
    fn the_lead_goes_back_only_from_a_steady_leader_to_one_that_can_take_it() {
        let (shard, members) = (entry(&[2, 1], &[]), of(&[1, 2]));
        check(&shard, &members, true, false, "nothing");
        check(&shard, &members, false, true, "nothing");
        let behind = Members { last_index: 5_000, ..members };
        check(&shard, &behind, true, true, "nothing");
    }
}

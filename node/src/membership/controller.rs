//! Where the membership group is led: brings voters and places in line with the nodes there are,
//! and takes nodes out that are to go and hold nothing any more. Each look takes one step and may
//! be taken again: what is left to do is all in the map.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{NodeState, ShardMap};
use opcode_shard::peer::NodeId;

use super::change::{Change, Refusal};
use super::step::{self, Step, Wanted};
use super::{Membership, placement};
use crate::transport::Transport;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Most voters of the membership group.
const VOTERS_MAX: usize = 5;
/// The system shard is on so many nodes at most.
const SYSTEM_REPLICAS_MAX: usize = 5;

/// Looks for ever; acts where the group is led.
pub(crate) async fn run(membership: Arc<Membership>, transport: Arc<Transport>) {
    let mut look = opcode_shard::ticks::every(LOOK_EVERY);
    loop {
        look.tick().await;
        // Its few entries would keep whole segments of the node's log otherwise.
        if let Err(error) = membership.group.purge().await {
            tracing::warn!(%error, "the membership group's log could not be purged");
        }
        if !membership.leads() {
            continue;
        }
        let Some(map) = membership.map() else { continue };
        if let Err(error) = step(&membership, &transport, &map).await {
            tracing::warn!(error = format!("{error:#}"), "a step of the membership group failed");
        }
    }
}

async fn step(membership: &Membership, transport: &Transport, map: &ShardMap) -> anyhow::Result<()> {
    // Members that wait for a node hold up nothing else.
    if members(membership, transport, map).await? {
        return Ok(());
    }
    let voters = membership.group.members().voters;
    let Some(change) = noted(map, &voters).or_else(|| placed(map)).or_else(|| emptied(map, &voters)) else {
        return Ok(());
    };
    tracing::info!(version = map.version, ?change, "changing the map");
    match membership.submit(change).await? {
        Ok(_) => {}
        Err(why @ Refusal::Stale { .. }) => tracing::info!(%why, "the map was changed meanwhile"),
        Err(Refusal::Impossible(why)) => tracing::warn!(why, "a change of the map was refused"),
    }
    Ok(())
}

/// Brings the group's own members in line; whether that took a step.
async fn members(membership: &Membership, transport: &Transport, map: &ShardMap) -> anyhow::Result<bool> {
    let (group, next) = (&membership.group, next_of_members(membership, transport, map));
    match &next {
        Step::Wait(_) | Step::Settled => tracing::debug!(%next, "the membership group's own members"),
        _ => tracing::info!(%next, "bringing the membership group in line"),
    }
    match next {
        Step::Add(node) => group.add_learner(node).await?,
        Step::SetVoters(voters) => group.set_voters(voters).await?,
        Step::HandOver(node) => group.hand_over(node).await?,
        Step::Remove(nodes) => group.remove(nodes).await?,
        Step::Wait(_) | Step::Settled => return Ok(false),
    }
    Ok(true)
}

fn next_of_members(membership: &Membership, transport: &Transport, map: &ShardMap) -> Step {
    let (me, members) = (membership.node_id, membership.group.members());
    let is_alive = |node: NodeId| node == me || transport.is_alive(node);
    let voters = voters(map, me, &members.voters, is_alive, |node| step::has_log(&members, node));
    let learners: BTreeSet<NodeId> = map.nodes.keys().copied().filter(|n| !voters.contains(n)).collect();
    step::next(&members, &Wanted { me, voters: &voters, learners: &learners, is_alive: &is_alive })
}

/// Who should vote: an odd number of nodes, as many as there are at most. Those that stay come
/// first; one that is drained votes on until another can in its place, or until it is removed.
/// Then those that vote already, then those that live and have the log; with one too many, one
/// that is away goes rather than one that lives, and the leader last.
fn voters(
    map: &ShardMap,
    me: NodeId,
    now: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
    has_log: impl Fn(NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let votes = |node: NodeId| now.contains(&node);
    let fits = |node: NodeId| match map.nodes[&node].state {
        NodeState::Active => votes(node) || (is_alive(node) && has_log(node)),
        NodeState::Draining => votes(node),
        NodeState::Removing => false,
    };
    let mut fitting: Vec<NodeId> = map.nodes.keys().copied().filter(|node| fits(*node)).collect();
    let count = match fitting.len().min(VOTERS_MAX) {
        0 => return now.clone(),
        even if even % 2 == 0 => even - 1,
        odd => odd,
    };
    let is_drained = |node: NodeId| map.nodes[&node].state != NodeState::Active;
    fitting.sort_by_key(|n| (is_drained(*n), !votes(*n), !is_alive(*n), *n != me, *n));
    fitting.into_iter().take(count).collect()
}

/// The change that notes in the map who votes, if it says otherwise.
fn noted(map: &ShardMap, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let told: BTreeSet<NodeId> = map.nodes.iter().filter(|(_, n)| n.voter).map(|(id, _)| *id).collect();
    let are_known = voters.iter().all(|voter| map.nodes.contains_key(voter));
    (told != *voters && are_known).then(|| Change::SetVoters { voters: voters.iter().copied().collect() })
}

/// The change that takes out a node that is to go, once it holds no shard and votes no more.
fn emptied(map: &ShardMap, voters: &BTreeSet<NodeId>) -> Option<Change> {
    let holds = |node: NodeId| map.all_shards().any(|entry| entry.holders().any(|holder| holder == node));
    let leaving = map.nodes.iter().filter(|(_, entry)| entry.state == NodeState::Removing);
    let mut empty = leaving.map(|(node, _)| *node).filter(|node| !voters.contains(node) && !holds(*node));
    let change = Box::new(Change::Remove { node: empty.next()? });
    Some(Change::If { version: map.version, change })
}

/// The change that places shards for the nodes that are there, if they are others than before.
fn placed(map: &ShardMap) -> Option<Change> {
    let active = active(map);
    (active != map.placed_for && !active.is_empty()).then(|| place_all(map))
}

fn active(map: &ShardMap) -> Vec<NodeId> {
    map.nodes.iter().filter(|(_, node)| node.state == NodeState::Active).map(|(id, _)| *id).collect()
}

/// Every shard placed as the ring says, for the nodes there are.
pub(crate) fn place_all(map: &ShardMap) -> Change {
    let nodes = active(map);
    let factor = usize::try_from(map.replication_factor).unwrap_or(usize::MAX);
    let shards = placement::place(&nodes, map.shards.len(), factor);
    let mut places: Vec<_> = map.shards.iter().map(|entry| entry.shard).zip(shards).collect();
    let system = nodes.iter().copied().take(SYSTEM_REPLICAS_MAX).collect();
    places.push((ShardId::SYSTEM, system));
    Change::Place { version: map.version, places, placed_for: nodes }
}

#[cfg(test)]
mod tests {
    use opcode_router::shard_map::NodeEntry;

    use super::*;

    fn map(nodes: u64) -> ShardMap {
        let entry =
            NodeEntry { addr: "a:1".into(), peer_addr: "a:2".into(), state: NodeState::Active, voter: false };
        let mut map = ShardMap::of_one("c".into(), 1, entry.clone(), 4);
        map.nodes = (1..=nodes).map(|node| (node, entry.clone())).collect();
        map
    }

    #[test]
    fn voters_are_odd_and_stay() {
        let now = BTreeSet::from([1]);
        let all = |_| true;
        let voters = |map: &ShardMap, now: &BTreeSet<NodeId>, has_log: &dyn Fn(NodeId) -> bool| {
            voters(map, 1, now, all, has_log)
        };
        assert_eq!(voters(&map(1), &now, &all), BTreeSet::from([1]));
        assert_eq!(voters(&map(2), &now, &all), BTreeSet::from([1]));
        assert_eq!(voters(&map(3), &now, &all), BTreeSet::from([1, 2, 3]));
        assert_eq!(voters(&map(3), &now, &|node| node != 2), BTreeSet::from([1]));
        assert_eq!(voters(&map(9), &BTreeSet::from([7, 8, 9]), &all), BTreeSet::from([1, 2, 7, 8, 9]));
        let mut draining = map(4);
        draining.nodes.get_mut(&1).unwrap().state = NodeState::Draining;
        assert_eq!(voters(&draining, &BTreeSet::from([1, 2, 3]), &all), BTreeSet::from([2, 3, 4]));
        draining.nodes.remove(&4);
        assert_eq!(voters(&draining, &BTreeSet::from([1, 2, 3]), &all), BTreeSet::from([1, 2, 3]));
        draining.nodes.get_mut(&1).unwrap().state = NodeState::Removing;
        assert_eq!(voters(&draining, &BTreeSet::from([1, 2, 3]), &all), BTreeSet::from([2]));
        assert_eq!(voters(&map(3), &now, &|_| false), now);
    }

    #[test]
    fn voters_that_are_away_go_first_and_never_come() {
        let three = BTreeSet::from([1, 2, 3]);
        let all = |_| true;
        // One of three has left the map: of the two that stay, the one that lives votes alone.
        let mut two = map(3);
        two.nodes.remove(&3);
        assert_eq!(voters(&two, 2, &three, |node| node != 1, all), BTreeSet::from([2]));
        assert_eq!(voters(&two, 2, &three, all, all), BTreeSet::from([2]));
        // One that is away for a while stays, and one that joined and never came does not vote.
        assert_eq!(voters(&map(4), 1, &three, |node| node != 2, all), three);
        assert_eq!(voters(&map(3), 1, &BTreeSet::from([1]), |node| node != 3, all), BTreeSet::from([1]));
    }

    #[test]
    fn a_node_leaves_once_it_holds_nothing_and_votes_no_more() {
        let mut map = map(3);
        let voters = BTreeSet::from([2, 3]);
        assert_eq!(emptied(&map, &voters), None);
        map.nodes.get_mut(&1).unwrap().state = NodeState::Removing;
        assert_eq!(emptied(&map, &voters), None, "it holds shards");
        for entry in map.shards.iter_mut().chain([&mut map.system]) {
            (entry.replicas, entry.retiring) = (vec![2], vec![1]);
        }
        assert_eq!(emptied(&map, &voters), None, "it holds shards still");
        map.shards.iter_mut().chain([&mut map.system]).for_each(|entry| entry.retiring.clear());
        assert_eq!(emptied(&map, &BTreeSet::from([1])), None, "it votes");
        let change = Box::new(Change::Remove { node: 1 });
        assert_eq!(emptied(&map, &voters), Some(Change::If { version: map.version, change }));
    }

    #[test]
    fn shards_are_placed_anew_only_for_other_nodes() {
        let mut map = map(3);
        let Some(Change::Place { places, placed_for, .. }) = placed(&map) else { panic!("not placed") };
        assert_eq!(placed_for, [1, 2, 3]);
        assert_eq!(places.len(), 5);
        assert!(places.iter().all(|(_, nodes)| nodes.len() == 3));
        map.placed_for = placed_for;
        assert_eq!(placed(&map), None);
    }
}

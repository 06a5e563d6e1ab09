//! Where the membership group is led: brings voters and places in line with the nodes there are.
//! Each look takes one step and may be taken again: what is left to do is all in the map.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{NodeState, ShardMap};
use opcode_shard::peer::NodeId;

use super::change::Change;
use super::{Membership, placement};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Most voters of the membership group.
const VOTERS_MAX: usize = 5;
/// The system shard is on so many nodes at most.
const SYSTEM_REPLICAS_MAX: usize = 5;
/// Entries that a follower may be behind before it is made a voter.
const BEHIND_MAX: u64 = 100;

/// Looks for ever; acts where the group is led.
pub(crate) async fn run(membership: Arc<Membership>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
        if let Err(error) = step(&membership, &map).await {
            tracing::warn!(error = format!("{error:#}"), "a step of the membership group failed");
        }
    }
}

async fn step(membership: &Membership, map: &ShardMap) -> anyhow::Result<()> {
    if members(membership, map).await? {
        return Ok(());
    }
    if let Some(change) = placed(map) {
        tracing::info!(version = map.version, "placing shards anew");
        match membership.submit(change).await? {
            Ok(_) => {}
            Err(why) => tracing::info!(why, "the places were not taken"),
        }
    }
    Ok(())
}

/// Brings the group's own members in line; whether that took a step.
async fn members(membership: &Membership, map: &ShardMap) -> anyhow::Result<bool> {
    let group = &membership.group;
    let members = group.members();
    if members.is_changing {
        return Ok(true);
    }
    let known: BTreeSet<NodeId> = members.voters.union(&members.learners).copied().collect();
    if let Some(new) = map.nodes.keys().find(|node| !known.contains(node)) {
        group.add_learner(*new).await?;
        tracing::info!(node = new, "a node follows the membership group");
        return Ok(true);
    }
    let wanted = voters(map, &members.voters, |node| {
        members.voters.contains(&node)
            || members.matched.get(&node).is_some_and(|at| at + BEHIND_MAX >= members.last_index)
    });
    if wanted != members.voters {
        tracing::info!(?wanted, "changing who votes in the membership group");
        group.set_voters(wanted).await?;
        return Ok(true);
    }
    let gone: BTreeSet<NodeId> =
        members.learners.iter().copied().filter(|node| !map.nodes.contains_key(node)).collect();
    if !gone.is_empty() {
        group.remove(gone).await?;
        return Ok(true);
    }
    let told: BTreeSet<NodeId> = map.nodes.iter().filter(|(_, n)| n.voter).map(|(id, _)| *id).collect();
    if told != members.voters {
        let voters = members.voters.iter().copied().collect();
        if let Err(why) = membership.submit(Change::SetVoters { voters }).await? {
            tracing::info!(why, "the voters were not noted");
        }
        return Ok(true);
    }
    Ok(false)
}

/// Who should vote: an odd number, those that vote already first, those that are ready.
fn voters(map: &ShardMap, now: &BTreeSet<NodeId>, is_ready: impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
    let stays = |node: &&NodeId| {
        map.nodes.get(node).is_some_and(|entry| entry.state == NodeState::Active) && is_ready(**node)
    };
    let fitting: Vec<NodeId> = map.nodes.keys().filter(stays).copied().collect();
    let count = match fitting.len().min(VOTERS_MAX) {
        0 => return now.clone(),
        even if even % 2 == 0 => even - 1,
        odd => odd,
    };
    let (old, new): (Vec<NodeId>, Vec<NodeId>) = fitting.iter().partition(|node| now.contains(node));
    old.into_iter().chain(new).take(count).collect()
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
        assert_eq!(voters(&map(1), &now, all), BTreeSet::from([1]));
        assert_eq!(voters(&map(2), &now, all), BTreeSet::from([1]));
        assert_eq!(voters(&map(3), &now, all), BTreeSet::from([1, 2, 3]));
        assert_eq!(voters(&map(3), &now, |node| node != 2), BTreeSet::from([1]));
        assert_eq!(voters(&map(9), &BTreeSet::from([7, 8, 9]), all), BTreeSet::from([1, 2, 7, 8, 9]));
        let mut draining = map(4);
        draining.nodes.get_mut(&1).unwrap().state = NodeState::Draining;
        assert_eq!(voters(&draining, &BTreeSet::from([1, 2, 3]), all), BTreeSet::from([2, 3, 4]));
        assert_eq!(voters(&map(3), &now, |_| false), now);
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

//! Changes of the shard map, and what each comes to: pure, the same on every member.

use std::collections::VecDeque;
use std::fmt;

use opcode_engine::ids::ShardId;
use opcode_router::shard_map::{NodeEntry, NodeState, Recovery, ShardMap};
use opcode_shard::peer::NodeId;
use serde::{Deserialize, Serialize};

/// Requests to join that are remembered, so that one sent twice joins once.
const JOINS_MAX: usize = 1_000;
/// Longest address.
const ADDRESS_BYTES_MAX: usize = 256;
/// Most nodes of a cluster.
const NODES_MAX: usize = 1_000;
/// Recoveries that are remembered: the last ones.
const RECOVERIES_MAX: usize = 16;
/// Most replicas of a shard: with seven, three may fail at once.
const REPLICATION_FACTOR_MAX: u32 = 7;

/// A change as it stands in the log. Variants are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// The first: the map of a new cluster.
    Found(Box<ShardMap>),
    /// A node asks to join; gets a number. The same request again gets the same.
    Join { request: String, addr: String, peer_addr: String },
    /// A node is at other addresses now.
    Move { node: NodeId, addr: String, peer_addr: String },
    /// A node is to give its shards away, or to have some again.
    SetState { node: NodeId, state: NodeState },
    /// A node that holds nothing, or is gone for good, leaves.
    Remove { node: NodeId },
    /// Nodes that vote in the membership group.
    SetVoters { voters: Vec<NodeId> },
    /// Shards get other nodes, unless the map has changed since `version`.
    Place { version: u64, places: Vec<(ShardId, Vec<NodeId>)>, placed_for: Vec<NodeId> },
    /// A shard's group is as its entry of this epoch wants it.
    Settled { shard: ShardId, epoch: u64 },
    /// Another change, unless the map has changed since `version`.
    If { version: u64, change: Box<Change> },
    /// So many replicas a shard shall have, when there are nodes enough.
    SetReplicationFactor { factor: u32 },
    /// An operator gave up on a lost majority: all other nodes are gone for good, every shard is on
    /// `node` alone, and of those named it had nothing.
    Recover { node: NodeId, begun_anew: Vec<ShardId> },
}

/// Why a change was not made; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// It was decided on a map that is no more; the map has this version now.
    Stale { version: u64 },
    /// It cannot be.
    Impossible(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { version } => {
                write!(f, "the map has changed since, to version {version}: look again")
            }
            Self::Impossible(why) => f.write_str(why),
        }
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Impossible(why)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Impossible(why.to_owned())
    }
}

/// What a change came to: a node's number, or the map's version.
pub(crate) type Outcome = Result<u64, Refusal>;

/// Everything that changes decide.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) map: Option<ShardMap>,
    joins: VecDeque<(String, NodeId)>,
}

impl Change {
    /// Whether another node may ask for it: all but those that only stand in a log.
    pub(crate) fn may_be_asked_for(&self) -> bool {
        match self {
            Self::Found(_) | Self::Recover { .. } => false,
            Self::If { change, .. } => change.may_be_asked_for(),
            Self::Join { .. }
            | Self::Move { .. }
            | Self::SetState { .. }
            | Self::Remove { .. }
            | Self::SetVoters { .. }
            | Self::Place { .. }
            | Self::Settled { .. }
            | Self::SetReplicationFactor { .. } => true,
        }
    }
}

impl State {
    /// Applies a change; a refused one changes nothing.
    pub(crate) fn apply(&mut self, change: Change) -> Outcome {
        if let Change::Found(found) = change {
            if self.map.is_some() {
                return Err("the cluster has been founded".into());
            }
            let version = found.version;
            self.map = Some(*found);
            return Ok(version);
        }
        let change = match change {
            Change::If { version, change } => {
                let now = self.map.as_ref().map_or(0, |map| map.version);
                if version != now {
                    return Err(Refusal::Stale { version: now });
                }
                *change
            }
            other => other,
        };
        let map = self.map.as_mut().ok_or("the cluster has not been founded")?;
        let joined = match change {
            Change::Join { request, addr, peer_addr } => {
                if let Some((_, node)) = self.joins.iter().find(|(known, _)| *known == request) {
                    return Ok(*node);
                }
                let node = join(map, addr, peer_addr)?;
                self.joins.push_back((request, node));
                if self.joins.len() > JOINS_MAX {
                    self.joins.pop_front();
                }
                Some(node)
            }
            other => {
                change_map(map, other)?;
                None
            }
        };
        map.version += 1;
        Ok(joined.unwrap_or(map.version))
    }
}

/// Everything but the first change and joins; the version is the caller's affair.
fn change_map(map: &mut ShardMap, change: Change) -> Result<(), Refusal> {
    match change {
        Change::Found(_) | Change::If { .. } | Change::Join { .. } => {
            return Err("a change that stands alone, on a condition".into());
        }
        Change::Move { node, addr, peer_addr } => {
            check_addresses(&addr, &peer_addr)?;
            let entry = known(map, node)?;
            (entry.addr, entry.peer_addr) = (addr, peer_addr);
        }
        Change::SetState { node, state } => set_state(map, node, state)?,
        Change::SetReplicationFactor { factor } => {
            if !(1..=REPLICATION_FACTOR_MAX).contains(&factor) {
                return Err(format!("a shard has 1 to {REPLICATION_FACTOR_MAX} replicas").into());
            }
            map.replication_factor = factor;
            // Whatever it was placed for, it was for another number.
            map.placed_for.clear();
        }
        Change::Remove { node } => remove(map, node)?,
        Change::SetVoters { voters } => {
            if voters.is_empty() || voters.iter().any(|voter| !map.nodes.contains_key(voter)) {
                return Err("voters must be nodes of the cluster".into());
            }
            for (node, entry) in &mut map.nodes {
                entry.voter = voters.contains(node);
            }
        }
        Change::Place { version, places, placed_for } => place(map, version, places, placed_for)?,
        Change::Recover { node, begun_anew } => recover(map, node, begun_anew)?,
        Change::Settled { shard, epoch } => {
            let entry = match shard {
                ShardId::SYSTEM => &mut map.system,
                ShardId(n) => map.shards.get_mut(n as usize).ok_or("there is no such shard")?,
            };
            if entry.epoch != epoch {
                return Err("the shard's entry has changed since".into());
            }
            entry.retiring.clear();
        }
    }
    Ok(())
}

fn known(map: &mut ShardMap, node: NodeId) -> Result<&mut NodeEntry, String> {
    map.nodes.get_mut(&node).ok_or_else(|| format!("there is no node {node}"))
}

fn set_state(map: &mut ShardMap, node: NodeId, state: NodeState) -> Result<(), String> {
    let before = known(map, node)?.state;
    if before == NodeState::Removing && state != NodeState::Removing {
        return Err(format!("node {node} is being removed: have it join again as a new node"));
    }
    let others = map.nodes.iter().filter(|(other, _)| **other != node);
    let is_last = others.filter(|(_, entry)| entry.state == NodeState::Active).count() == 0;
    if is_last && state != NodeState::Active {
        return Err(format!("node {node} is the last that holds shards: add another first"));
    }
    known(map, node)?.state = state;
    Ok(())
}

fn check_addresses(addr: &str, peer_addr: &str) -> Result<(), String> {
    for (what, text) in [("addr", addr), ("peer_addr", peer_addr)] {
        let port = text.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty() && text.len() <= ADDRESS_BYTES_MAX).then(|| port.parse::<u16>().ok())?
        });
        if port.is_none_or(|port| port == 0) {
            return Err(format!("`{what}` must be host:port, as others reach it"));
        }
    }
    Ok(())
}

fn join(map: &mut ShardMap, addr: String, peer_addr: String) -> Result<NodeId, String> {
    check_addresses(&addr, &peer_addr)?;
    if map.nodes.len() >= NODES_MAX {
        return Err(format!("a cluster may have {NODES_MAX} nodes"));
    }
    if let Some((node, entry)) = map.nodes.iter_mut().find(|(_, entry)| entry.peer_addr == peer_addr) {
        if entry.state != NodeState::Removing {
            return Err(format!(
                "node {node} is at {peer_addr}: if it is gone for good, remove it first \
                 (`opcode cluster remove {node}`)"
            ));
        }
        // A machine whose disk was lost comes back as a new node while the old one still leaves.
        entry.peer_addr.clear();
    }
    map.last_node_id += 1;
    let entry = NodeEntry { addr, peer_addr, state: NodeState::Active, voter: false };
    map.nodes.insert(map.last_node_id, entry);
    Ok(map.last_node_id)
}

fn remove(map: &mut ShardMap, node: NodeId) -> Result<(), String> {
    known(map, node)?;
    let others: Vec<NodeId> = map.nodes.keys().copied().filter(|other| *other != node).collect();
    if others.is_empty() {
        return Err("it is the only node".into());
    }
    let alone = map.all_shards().find(|entry| entry.replicas.iter().all(|holder| *holder == node));
    if let Some(entry) = alone {
        return Err(format!("node {node} alone holds shard {}: drain it first", entry.shard));
    }
    map.nodes.remove(&node);
    for entry in map.shards.iter_mut().chain([&mut map.system]) {
        if entry.holders().any(|holder| holder == node) {
            entry.replicas.retain(|holder| *holder != node);
            entry.retiring.retain(|holder| *holder != node);
            entry.epoch += 1;
        }
    }
    Ok(())
}

fn recover(map: &mut ShardMap, node: NodeId, begun_anew: Vec<ShardId>) -> Result<(), String> {
    let entry = known(map, node)?;
    (entry.state, entry.voter) = (NodeState::Active, true);
    let lost_nodes = map.nodes.keys().copied().filter(|other| *other != node).collect();
    map.nodes.retain(|other, _| *other == node);
    for entry in map.shards.iter_mut().chain([&mut map.system]) {
        (entry.replicas, entry.retiring) = (vec![node], Vec::new());
        entry.epoch += 1;
    }
    map.placed_for = vec![node];
    map.recoveries.push(Recovery { map_version: map.version + 1, node, lost_nodes, begun_anew });
    let too_many = map.recoveries.len().saturating_sub(RECOVERIES_MAX);
    map.recoveries.drain(..too_many);
    Ok(())
}

fn place(
    map: &mut ShardMap,
    version: u64,
    places: Vec<(ShardId, Vec<NodeId>)>,
    placed_for: Vec<NodeId>,
) -> Result<(), Refusal> {
    if version != map.version {
        return Err(Refusal::Stale { version: map.version });
    }
    for (shard, replicas) in &places {
        if map.shard(*shard).is_none() {
            return Err(format!("there is no shard {shard}").into());
        }
        let mut distinct = replicas.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if replicas.is_empty() || distinct.len() != replicas.len() {
            return Err(format!("shard {shard} needs distinct nodes").into());
        }
        if let Some(node) = replicas.iter().find(|node| !map.nodes.contains_key(node)) {
            return Err(format!("there is no node {node}").into());
        }
    }
    for (shard, replicas) in places {
        let entry = match shard {
            ShardId::SYSTEM => &mut map.system,
            ShardId(n) => &mut map.shards[n as usize],
        };
        if entry.replicas == replicas {
            continue;
        }
        let before: Vec<NodeId> = entry.holders().collect();
        entry.retiring = before.into_iter().filter(|node| !replicas.contains(node)).collect();
        entry.retiring.sort_unstable();
        entry.retiring.dedup();
        entry.replicas = replicas;
        entry.epoch += 1;
    }
    map.placed_for = placed_for;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founded() -> State {
        let entry =
            NodeEntry { addr: "a:1".into(), peer_addr: "a:2".into(), state: NodeState::Active, voter: true };
        let mut state = State::default();
        state.apply(Change::Found(Box::new(ShardMap::of_one("c".into(), 1, entry, 4)))).unwrap();
        state
    }

    fn join(state: &mut State, request: &str, port: u16) -> Outcome {
        let (addr, peer_addr) = (format!("b:{port}"), format!("b:{}", port + 1));
        state.apply(Change::Join { request: request.into(), addr, peer_addr })
    }

    #[test]
    fn a_node_joins_once_and_numbers_are_never_given_twice() {
        let mut state = founded();
        assert_eq!(join(&mut state, "x", 10), Ok(2));
        assert_eq!(join(&mut state, "x", 10), Ok(2));
        assert!(join(&mut state, "y", 10).unwrap_err().to_string().contains("remove it first"));
        assert_eq!(join(&mut state, "z", 20), Ok(3));
        let version = state.map.as_ref().unwrap().version;
        assert_eq!(state.apply(Change::Remove { node: 3 }), Ok(version + 1));
        assert_eq!(join(&mut state, "w", 20), Ok(4));
        for wrong in ["", "b", "b:0", ":1", "b:99999"] {
            let change = Change::Join { request: "v".into(), addr: wrong.into(), peer_addr: "c:1".into() };
            assert!(state.apply(change).is_err(), "{wrong}");
        }
        assert!(state.apply(Change::Found(Box::new(founded().map.unwrap()))).is_err());
    }

    #[test]
    fn shards_move_from_map_to_map_and_a_stale_view_changes_nothing() {
        let mut state = founded();
        join(&mut state, "x", 10).unwrap();
        let version = state.map.as_ref().unwrap().version;
        let places = vec![(ShardId(0), vec![2]), (ShardId::SYSTEM, vec![1, 2])];
        let place = |version| Change::Place { version, places: places.clone(), placed_for: vec![1, 2] };
        let before = state.clone();
        assert!(state.apply(place(version - 1)).unwrap_err().to_string().contains("look again"));
        assert_eq!(state, before);
        state.apply(place(version)).unwrap();
        let map = state.map.as_ref().unwrap();
        assert_eq!((&map.shards[0].replicas, &map.shards[0].retiring), (&vec![2], &vec![1]));
        assert_eq!(map.shards[0].epoch, 2);
        assert!(state.apply(Change::Remove { node: 2 }).unwrap_err().to_string().contains("drain it first"));
        assert!(state.apply(Change::Settled { shard: ShardId(0), epoch: 1 }).is_err());
        state.apply(Change::Settled { shard: ShardId(0), epoch: 2 }).unwrap();
        assert!(state.map.as_ref().unwrap().shards[0].retiring.is_empty());
        let unknown = Change::Place {
            version: state.map.as_ref().unwrap().version,
            places: vec![(ShardId(0), vec![9])],
            placed_for: Vec::new(),
        };
        assert!(state.apply(unknown).unwrap_err().to_string().contains("no node 9"));
    }

    #[test]
    fn the_last_node_with_shards_stays() {
        let mut state = founded();
        let drain = |node| Change::SetState { node, state: NodeState::Draining };
        assert!(state.apply(drain(1)).unwrap_err().to_string().contains("add another first"));
        assert_eq!(state.map.as_ref().unwrap().nodes[&1].state, NodeState::Active);
        join(&mut state, "x", 10).unwrap();
        state.apply(drain(1)).unwrap();
        assert!(state.apply(drain(2)).unwrap_err().to_string().contains("add another first"));
        assert!(state.apply(Change::SetVoters { voters: vec![7] }).is_err());
    }

    #[test]
    fn a_change_on_a_condition_is_made_on_that_map_alone() {
        let mut state = founded();
        let version = state.map.as_ref().unwrap().version;
        let set = |factor| Box::new(Change::SetReplicationFactor { factor });
        let before = state.clone();
        for (version, change) in
            [(version + 1, set(5)), (version - 1, set(5)), (version, set(0)), (version, set(8))]
        {
            state.apply(Change::If { version, change }).unwrap_err();
        }
        let found = Box::new(Change::Found(Box::new(before.map.clone().unwrap())));
        assert!(!Change::If { version, change: found.clone() }.may_be_asked_for());
        for within in [found, Box::new(Change::If { version, change: set(5) })] {
            state.apply(Change::If { version, change: within }).unwrap_err();
        }
        assert_eq!(state, before);
        assert_eq!(state.apply(Change::If { version, change: set(5) }), Ok(version + 1));
        let stale = state.apply(Change::If { version, change: set(3) });
        assert_eq!(stale, Err(Refusal::Stale { version: version + 1 }));
        let map = state.map.as_ref().unwrap();
        assert_eq!((map.replication_factor, map.placed_for.len()), (5, 0), "shards are placed anew");
    }

    #[test]
    fn a_node_that_leaves_gives_its_address_to_a_new_one_and_never_comes_back() {
        let mut state = founded();
        join(&mut state, "x", 10).unwrap();
        let remove = Change::SetState { node: 2, state: NodeState::Removing };
        state.apply(remove.clone()).unwrap();
        state.apply(remove).unwrap();
        let back = Change::SetState { node: 2, state: NodeState::Draining };
        assert!(state.apply(back).unwrap_err().to_string().contains("as a new node"));
        assert_eq!(join(&mut state, "wiped", 10), Ok(3));
        let map = state.map.as_ref().unwrap();
        let expected = [(1, "a:2".to_owned()), (3, "b:11".to_owned())];
        assert_eq!(map.peer_addresses(), expected.into());
        assert!(!map.is_removed(2) && !map.is_removed(4));
        state.apply(Change::Remove { node: 2 }).unwrap();
        let map = state.map.as_ref().unwrap();
        assert!(map.is_removed(2) && !map.is_removed(3) && !map.is_removed(4));
    }

    #[test]
    fn a_recovery_leaves_one_node_with_everything_and_is_remembered() {
        let mut state = founded();
        join(&mut state, "x", 10).unwrap();
        join(&mut state, "y", 20).unwrap();
        let version = state.map.as_ref().unwrap().version;
        let places = vec![(ShardId(0), vec![2, 3, 1]), (ShardId(1), vec![2])];
        state.apply(Change::Place { version, places, placed_for: vec![1, 2, 3] }).unwrap();
        assert!(state.apply(Change::Recover { node: 9, begun_anew: Vec::new() }).is_err());
        state.apply(Change::Recover { node: 1, begun_anew: vec![ShardId(1)] }).unwrap();
        let map = state.map.as_ref().unwrap();
        assert!(map.all_shards().all(|entry| entry.holders().eq([1])));
        assert!(map.is_removed(2) && map.is_removed(3) && map.nodes[&1].voter);
        let [Recovery { node: 1, lost_nodes, begun_anew, .. }] = map.recoveries.as_slice() else {
            panic!("{:?}", map.recoveries)
        };
        assert_eq!((lost_nodes.as_slice(), begun_anew.as_slice()), (&[2, 3][..], &[ShardId(1)][..]));
    }
}

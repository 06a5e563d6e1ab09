//! Which nodes hold which shards: a consistent-hash ring with bounded load gives each shard its
//! nodes, then leaders are spread evenly. Pure: the same nodes give the same places everywhere,
//! and a node more or less moves few shards.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use consistent_hash::{Node, RingHash, StaticHashRing};
use opcode_shard::peer::NodeId;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// Points of each node on the ring.
const VIRTUAL_NODES: usize = 256;
/// A node holds at most this many percent of the mean.
const LOAD_PERCENT_MAX: usize = 125;

/// Hashes explicit bytes, so that the ring is the same on every machine and for every build.
struct Xxh3;

struct Bytes(Xxh3Default);

impl Hasher for Bytes {
    fn finish(&self) -> u64 {
        self.0.digest()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl RingHash for Xxh3 {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut hasher = Bytes(Xxh3Default::new());
        item.hash(&mut hasher);
        hasher.finish()
    }

    fn hash_vnode<K: Hash>(&self, node_key: &K, vnode_seq: usize) -> u64 {
        let node = self.hash_item(node_key).to_le_bytes();
        xxh3_64(&[&node[..], &(vnode_seq as u64).to_le_bytes()].concat())
    }
}

/// The nodes of each of `shards` shards, in order of the shards: `min(factor, nodes)` of them,
/// the one that should lead first. No node: no places.
pub(crate) fn place(nodes: &[NodeId], shards: usize, factor: usize) -> Vec<Vec<NodeId>> {
    let replicas = factor.min(nodes.len());
    if replicas == 0 {
        return vec![Vec::new(); shards];
    }
    let ring = StaticHashRing::new(
        Xxh3,
        nodes.iter().map(|node| Node::new(node.to_string()).quantity(VIRTUAL_NODES)),
    );
    let most = (shards * replicas * LOAD_PERCENT_MAX).div_ceil(nodes.len() * 100).max(1);
    let mut held: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    let mut places = Vec::with_capacity(shards);
    for shard in 0..shards {
        let preferred: Vec<NodeId> = ring
            .calc_candidates(&format!("shard {shard}"))
            .map(|node| node.key.parse().expect("the keys of the ring are numbers"))
            .collect();
        let mut chosen: Vec<NodeId> =
            preferred.iter().copied().filter(|node| held[node] < most).take(replicas).collect();
        // With everybody full, those that are least so.
        while chosen.len() < replicas {
            let rest = preferred.iter().filter(|node| !chosen.contains(node));
            let least = rest.min_by_key(|node| held[*node]).expect("there are more nodes than replicas");
            chosen.push(*least);
        }
        for node in &chosen {
            *held.get_mut(node).expect("chosen from these") += 1;
        }
        places.push(chosen);
    }
    spread_leaders(nodes, &mut places);
    places
}

/// Puts first, in each place, the node that leads: each as many as the others, almost.
fn spread_leaders(nodes: &[NodeId], places: &mut [Vec<NodeId>]) {
    let mut leads: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for place in places {
        let lightest = (0..place.len()).min_by_key(|at| (leads[&place[*at]], *at)).unwrap_or(0);
        let leader = place.remove(lightest);
        place.insert(0, leader);
        *leads.get_mut(&leader).expect("one of these") += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_pinned() {
        let golden = vec![vec![3, 1, 2], vec![1, 2, 3], vec![2, 3, 1], vec![1, 2, 3]];
        let placed = place(&[1, 2, 3], 4, 3);
        let sets = |places: &[Vec<NodeId>]| -> Vec<Vec<NodeId>> {
            places
                .iter()
                .map(|p| {
                    let mut p = p.clone();
                    p.sort_unstable();
                    p
                })
                .collect()
        };
        assert_eq!(sets(&placed), sets(&golden));
        assert_eq!(place(&[1, 2, 3, 4, 5], 6, 3), GOLDEN_OF_5);
        assert_eq!(place(&[], 2, 3), vec![Vec::<NodeId>::new(), Vec::new()]);
        assert_eq!(place(&[7], 2, 3), vec![vec![7], vec![7]]);
    }

    const GOLDEN_OF_5: [[NodeId; 3]; 6] = [[3, 5, 1], [1, 3, 4], [2, 1, 3], [4, 3, 5], [5, 3, 1], [4, 5, 1]];

    #[test]
    fn every_shard_has_its_replicas_and_the_load_is_bounded() {
        for count in 1..=9 {
            let nodes: Vec<NodeId> = (1..=count).collect();
            for shards in [1, 4, 8, 16, 64] {
                for factor in [1, 3, 5] {
                    let places = place(&nodes, shards, factor);
                    let replicas = factor.min(nodes.len());
                    let mut held = BTreeMap::new();
                    let mut leads = BTreeMap::new();
                    for place in &places {
                        let mut distinct = place.clone();
                        distinct.sort_unstable();
                        distinct.dedup();
                        assert_eq!(distinct.len(), replicas, "{nodes:?} {shards} {factor}");
                        *leads.entry(place[0]).or_insert(0_usize) += 1;
                        place.iter().for_each(|node| *held.entry(*node).or_insert(0_usize) += 1);
                    }
                    let most = (shards * replicas * LOAD_PERCENT_MAX).div_ceil(nodes.len() * 100) + 1;
                    assert!(held.values().all(|held| *held <= most), "{held:?} > {most}");
                    if replicas > 1 && shards >= nodes.len() {
                        let least = nodes.iter().map(|n| leads.get(n).copied().unwrap_or(0)).min();
                        let most = leads.values().max().copied().unwrap_or(0);
                        assert!(most <= least.unwrap_or(0) + 3, "{nodes:?} {shards} {factor}: {leads:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_node_more_moves_few_replicas() {
        let before = place(&[1, 2, 3, 4, 5], 64, 3);
        let after = place(&[1, 2, 3, 4, 5, 6], 64, 3);
        let moved: usize = before
            .iter()
            .zip(&after)
            .map(|(before, after)| after.iter().filter(|node| !before.contains(node)).count())
            .sum();
        // The new node takes a sixth of all; the bound on the load may move some more.
        assert!(moved <= 64 * 3 / 3, "{moved} of {} replicas moved", 64 * 3);
    }
}

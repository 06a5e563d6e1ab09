//! The graph of a definition's top level: order, cycles, reachability. Nodes are positions in
//! [`crate::definition::Definition::root`].
//!
//! Nothing here recurses: a chain of ten thousand steps must not cost ten thousand stack frames.

use std::collections::{BTreeMap, VecDeque};

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::{DiGraph, NodeIndex};

/// Which step depends on which.
#[derive(Debug)]
pub struct Dag {
    /// An edge leads from a dependency to its dependent.
    graph: DiGraph<(), ()>,
}

/// The order of an acyclic graph.
#[derive(Debug)]
pub struct Order {
    /// Nodes by level of Kahn's sort, ascending within a level.
    pub levels: Vec<Vec<usize>>,
    /// Level of each node.
    pub level_of: Vec<usize>,
}

impl Dag {
    /// A graph of `nodes` nodes; each edge is (dependency, dependent).
    pub fn new(nodes: usize, edges: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut graph = DiGraph::with_capacity(nodes, 0);
        (0..nodes).for_each(|_| {
            graph.add_node(());
        });
        for (from, to) in edges {
            graph.add_edge(NodeIndex::new(from), NodeIndex::new(to), ());
        }
        Self { graph }
    }

    /// Kahn's sort: a node's level is one more than the highest of its dependencies. `None` when
    /// there is a cycle.
    pub fn order(&self) -> Option<Order> {
        let count = self.graph.node_count();
        let mut waits_for: Vec<usize> =
            self.graph.node_indices().map(|n| self.graph.neighbors_directed(n, Incoming).count()).collect();
        let mut level_of = vec![0; count];
        let mut levels: Vec<Vec<usize>> = Vec::new();
        let mut ready: Vec<usize> = (0..count).filter(|n| waits_for[*n] == 0).collect();
        let mut placed = 0;
        while !ready.is_empty() {
            placed += ready.len();
            let mut next = Vec::new();
            for &node in &ready {
                level_of[node] = levels.len();
                for dependent in self.graph.neighbors_directed(NodeIndex::new(node), Outgoing) {
                    waits_for[dependent.index()] -= 1;
                    if waits_for[dependent.index()] == 0 {
                        next.push(dependent.index());
                    }
                }
            }
            next.sort_unstable();
            levels.push(std::mem::replace(&mut ready, next));
        }
        (placed == count).then_some(Order { levels, level_of })
    }

    /// One shortest cycle of each strongly connected component, each starting at its lowest
    /// node and in the direction of execution; the first node is not repeated at the end.
    pub fn cycles(&self) -> Vec<Vec<usize>> {
        // Kosaraju's algorithm, since petgraph's Tarjan recurses once per node.
        let components = petgraph::algo::kosaraju_scc(&self.graph);
        let mut component_of = vec![0; self.graph.node_count()];
        for (number, component) in components.iter().enumerate() {
            component.iter().for_each(|n| component_of[n.index()] = number);
        }
        let mut cycles: Vec<Vec<usize>> = components
            .iter()
            .filter(|component| component.len() > 1)
            .filter_map(|component| {
                let start = component.iter().map(|n| n.index()).min()?;
                self.cycle_through(start, &component_of)
            })
            .collect();
        cycles.sort();
        cycles
    }

    /// The shortest cycle through `start`, by breadth first search within its component.
    fn cycle_through(&self, start: usize, component_of: &[usize]) -> Option<Vec<usize>> {
        let mut came_from = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            let dependents = self.graph.neighbors_directed(NodeIndex::new(node), Outgoing);
            let mut dependents: Vec<usize> = dependents.map(NodeIndex::index).collect();
            dependents.sort_unstable();
            for next in dependents {
                if next == start {
                    let mut path = vec![node];
                    while path[path.len() - 1] != start {
                        path.push(came_from[&path[path.len() - 1]]);
                    }
                    path.reverse();
                    return Some(path);
                }
                if component_of[next] == component_of[start] && !came_from.contains_key(&next) {
                    came_from.insert(next, node);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Who runs after whom, transitively.
    pub fn reach(&self, order: &Order) -> Reach {
        let count = self.graph.node_count();
        let words = count.div_ceil(64);
        let mut bits = vec![0_u64; words * count];
        for &node in order.levels.iter().rev().flatten() {
            for dependent in self.graph.neighbors_directed(NodeIndex::new(node), Outgoing) {
                let dependent = dependent.index();
                bits[node * words + dependent / 64] |= 1 << (dependent % 64);
                let (of_node, of_dependent) = disjoint_rows(&mut bits, words, node, dependent);
                of_node.iter_mut().zip(of_dependent).for_each(|(a, b)| *a |= *b);
            }
        }
        Reach { words, bits }
    }
}

fn disjoint_rows(bits: &mut [u64], words: usize, a: usize, b: usize) -> (&mut [u64], &[u64]) {
    assert!(a != b, "an acyclic graph has no edge from a node to itself");
    if a < b {
        let (low, high) = bits.split_at_mut(b * words);
        (&mut low[a * words..(a + 1) * words], &high[..words])
    } else {
        let (low, high) = bits.split_at_mut(a * words);
        (&mut high[..words], &low[b * words..(b + 1) * words])
    }
}

/// Reachability, one bit per pair of nodes: 12.5 MB for ten thousand nodes.
#[derive(Debug)]
pub struct Reach {
    words: usize,
    bits: Vec<u64>,
}

impl Reach {
    /// Whether `later` depends on `earlier`, directly or not.
    pub fn is_before(&self, earlier: usize, later: usize) -> bool {
        self.bits[earlier * self.words + later / 64] & (1 << (later % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::Dag;

    #[test]
    fn a_diamond_has_three_levels() {
        let dag = Dag::new(5, [(0, 1), (0, 2), (1, 3), (2, 3)]);
        let order = dag.order().unwrap();
        assert_eq!(order.levels, [vec![0, 4], vec![1, 2], vec![3]]);
        assert_eq!(order.level_of, [0, 1, 1, 2, 0]);
        let reach = dag.reach(&order);
        assert!(reach.is_before(0, 3) && reach.is_before(2, 3));
        assert!(!reach.is_before(3, 0) && !reach.is_before(1, 2) && !reach.is_before(4, 3));
        assert!(dag.cycles().is_empty());
    }

    #[test]
    fn each_knot_gives_its_shortest_cycle() {
        let dag = Dag::new(7, [(0, 1), (1, 2), (2, 0), (2, 3), (4, 5), (5, 4), (5, 6)]);
        assert!(dag.order().is_none());
        assert_eq!(dag.cycles(), [vec![0, 1, 2], vec![4, 5]]);
        let chord = Dag::new(4, [(0, 1), (1, 2), (2, 3), (3, 0), (1, 0)]);
        assert_eq!(chord.cycles(), [vec![0, 1]]);
    }

    #[test]
    fn a_ring_of_ten_thousand_needs_no_stack() {
        let ring = Dag::new(10_000, (0..10_000).map(|n| (n, (n + 1) % 10_000)));
        assert_eq!(ring.cycles().remove(0).len(), 10_000);
        let chain = Dag::new(10_000, (1..10_000).map(|n| (n - 1, n)));
        let order = chain.order().unwrap();
        assert_eq!(order.levels.len(), 10_000);
        assert!(chain.reach(&order).is_before(0, 9_999));
    }
}

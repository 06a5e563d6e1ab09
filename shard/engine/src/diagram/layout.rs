//! A layered layout: rows from top to bottom, each node below all that it depends on.
//!
//! Long edges bend in the rows that they pass, and those with a common end share their bends. The
//! order within a row, and then its places, follow from the middle of what a node is tied to, up and
//! down in turns; places are the nearest to what is wanted at which no two nodes touch.

use std::collections::{BTreeMap, BTreeSet};

/// Least space between two neighbours of a row, in pixels; bends need less.
const GAP_X: f64 = 28.0;
const BEND_GAP_X: f64 = 10.0;
/// Space between two rows, in pixels.
const GAP_Y: f64 = 46.0;
/// Most nodes of a level that stand side by side; a wider one is folded, to about a square.
const COLUMNS_MAX: usize = 10;
/// Most bends of one picture; further long edges are straight lines.
const BENDS_MAX: usize = 20_000;
/// Places nearer to each other than this are the same, in pixels.
const SAME: f64 = 1.0;
/// How often order and places are gone through.
const SWEEPS: usize = 8;

/// What is placed: its size in pixels, and the nodes of lower levels that it depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) depends_on: Vec<usize>,
}

/// A line from the bottom of something to the top of something, by way of a row's end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) from: (f64, f64),
    /// Down to here it is straight.
    pub(super) straight_to: f64,
    pub(super) to: (f64, f64),
    /// It ends at a node, and not in a bend.
    pub(super) arrives: bool,
}

/// Where everything is, in pixels from the upper left.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Upper left corner of each node.
    pub(super) corners: Vec<(f64, f64)>,
    pub(super) lines: Vec<Line>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// The end that edges share, by whose bends they go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    From(usize),
    To(usize),
}

/// A node, or the bend of a long edge.
struct Place {
    /// None for a bend.
    node: Option<usize>,
    row: usize,
    width: f64,
    above: Vec<usize>,
    below: Vec<usize>,
    /// Its middle.
    x: f64,
}

/// Lays out nodes that stand in levels.
pub(super) fn layered(nodes: &[Node], levels: &[Vec<usize>]) -> Layout {
    let mut graph = Graph::of(nodes, levels);
    graph.spread();
    for sweep in 0..SWEEPS {
        graph.sweep(sweep % 2 == 0);
    }
    graph.drawn(nodes)
}

struct Graph {
    places: Vec<Place>,
    /// Places by row, from left to right.
    rows: Vec<Vec<usize>>,
    /// Edges that got no bends.
    straight: Vec<(usize, usize)>,
}

impl Graph {
    fn of(nodes: &[Node], levels: &[Vec<usize>]) -> Self {
        let mut graph = Self { places: Vec::new(), rows: Vec::new(), straight: Vec::new() };
        let mut place_of = vec![0; nodes.len()];
        for level in levels {
            let mut columns = COLUMNS_MAX;
            while columns * columns < level.len() {
                columns += 1;
            }
            for row in level.chunks(columns) {
                graph.rows.push(Vec::new());
                for &node in row {
                    place_of[node] = graph.add(graph.rows.len() - 1, Some(node), nodes[node].width);
                }
            }
        }
        graph.tie(nodes, &place_of);
        graph
    }

    fn add(&mut self, row: usize, node: Option<usize>, width: f64) -> usize {
        let place = self.places.len();
        self.places.push(Place { node, row, width, above: Vec::new(), below: Vec::new(), x: 0.0 });
        self.rows[row].push(place);
        place
    }

    /// Ties every node to what it depends on, by bends in the rows between.
    fn tie(&mut self, nodes: &[Node], place_of: &[usize]) {
        let mut dependents = vec![0; nodes.len()];
        nodes.iter().flat_map(|node| &node.depends_on).for_each(|&from| dependents[from] += 1);
        let mut bends: BTreeMap<(Shared, usize), usize> = BTreeMap::new();
        let mut ties: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (to, node) in nodes.iter().enumerate() {
            for &from in &node.depends_on {
                let (first, last) = (place_of[from], place_of[to]);
                let (top, bottom) = (self.places[first].row, self.places[last].row);
                if bends.len() + (bottom - top) > BENDS_MAX {
                    self.straight.push((first, last));
                    continue;
                }
                let has_more = dependents[from] >= node.depends_on.len();
                let shared = if has_more { Shared::From(from) } else { Shared::To(to) };
                let mut before = first;
                for row in top + 1..bottom {
                    let bend = *bends.entry((shared, row)).or_insert_with(|| self.add(row, None, 0.0));
                    ties.insert((before, bend));
                    before = bend;
                }
                ties.insert((before, last));
            }
        }
        for (above, below) in ties {
            self.places[above].below.push(below);
            self.places[below].above.push(above);
        }
    }

    /// Puts every row side by side, around one middle.
    fn spread(&mut self) {
        for row in 0..self.rows.len() {
            let wanted = vec![0.0; self.rows[row].len()];
            self.settle(row, &wanted);
        }
    }

    /// Goes through all rows, down or up: each is put in order, and in place, by what is before it.
    fn sweep(&mut self, down: bool) {
        let count = self.rows.len();
        for step in 1..count {
            let row = if down { step } else { count - 1 - step };
            let middle = |place: usize| {
                let place = &self.places[place];
                let tied = if down { &place.above } else { &place.below };
                let sum: f64 = tied.iter().map(|&other| self.places[other].x).sum();
                if tied.is_empty() { place.x } else { sum / tied.len() as f64 }
            };
            let mut order: Vec<(f64, usize)> =
                self.rows[row].iter().map(|&place| (middle(place), place)).collect();
            order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            let is_bend = |place: usize| self.places[place].node.is_none();
            order =
                order.chunk_by(|(a, _), (b, _)| b - a < SAME).flat_map(|run| around(run, is_bend)).collect();
            let wanted: Vec<f64> = order.iter().map(|(x, _)| *x).collect();
            self.rows[row] = order.into_iter().map(|(_, place)| place).collect();
            self.settle(row, &wanted);
        }
    }

    fn settle(&mut self, row: usize, wanted: &[f64]) {
        let places = &self.rows[row];
        let mut offsets = Vec::with_capacity(places.len());
        let mut offset = 0.0;
        for (index, &place) in places.iter().enumerate() {
            if let Some(&before) = index.checked_sub(1).and_then(|before| places.get(before)) {
                let (a, b) = (&self.places[before], &self.places[place]);
                let gap = if a.node.is_some() && b.node.is_some() { GAP_X } else { BEND_GAP_X };
                offset += f64::midpoint(a.width, b.width) + gap;
            }
            offsets.push(offset);
        }
        for (&place, x) in places.iter().zip(nearest(wanted, &offsets)) {
            self.places[place].x = x;
        }
    }

    /// The rows' heights added up, and everything moved to the upper left.
    fn drawn(&self, nodes: &[Node]) -> Layout {
        let height = |place: &Place| place.node.map_or(0.0, |node| nodes[node].height);
        let lefts = self.places.iter().map(|place| place.x - place.width / 2.0);
        let left = lefts.fold(f64::INFINITY, f64::min);
        let mut layout = Layout { corners: vec![(0.0, 0.0); nodes.len()], ..Layout::default() };
        let (mut tops, mut ends) = (Vec::new(), Vec::new());
        for row in &self.rows {
            let tallest = row.iter().map(|&place| height(&self.places[place])).fold(0.0, f64::max);
            let top = ends.last().map_or(0.0, |end: &f64| end + GAP_Y);
            tops.push(top);
            ends.push(top + tallest);
        }
        layout.height = ends.last().copied().unwrap_or(0.0);
        for place in &self.places {
            layout.width = layout.width.max(place.x + place.width / 2.0 - left);
            if let Some(node) = place.node {
                layout.corners[node] = (place.x - place.width / 2.0 - left, tops[place.row]);
            }
        }
        let line = |above: &Place, below: &Place| {
            let end = ends[above.row];
            let start = if above.node.is_some() { tops[above.row] + height(above) } else { end };
            Line {
                from: (above.x - left, start),
                straight_to: end,
                to: (below.x - left, tops[below.row]),
                arrives: below.node.is_some(),
            }
        };
        for above in &self.places {
            if above.node.is_none() {
                // Through its own row.
                let (x, top) = (above.x - left, tops[above.row]);
                let to = (x, ends[above.row]);
                layout.lines.push(Line { from: (x, top), straight_to: to.1, to, arrives: false });
            }
            layout.lines.extend(above.below.iter().map(|&below| line(above, &self.places[below])));
        }
        let straight = self.straight.iter();
        layout.lines.extend(straight.map(|&(a, b)| line(&self.places[a], &self.places[b])));
        layout
    }
}

/// Those of a row that want the same place: bends go in the middle, or what hangs on them in the next row
/// would stand further aside than this row does, and so on.
fn around(run: &[(f64, usize)], is_bend: impl Fn(usize) -> bool) -> Vec<(f64, usize)> {
    let (bends, mut nodes): (Vec<_>, Vec<_>) = run.iter().partition(|(_, place)| is_bend(*place));
    let half = nodes.len() / 2;
    nodes.splice(half..half, bends);
    nodes
}

/// Places in order that lie `offsets` apart at least, nearest to those that are wanted by the least
/// squares: neighbours that would touch are pooled.
fn nearest(wanted: &[f64], offsets: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (wanted, offset) in wanted.iter().zip(offsets) {
        let (mut sum, mut count) = (wanted - offset, 1);
        while let Some(&(before, n)) = pools.last()
            && before / n as f64 > sum / count as f64
        {
            sum += before;
            count += n;
            pools.pop();
        }
        pools.push((sum, count));
    }
    let middles = pools.into_iter().flat_map(|(sum, count)| std::iter::repeat_n(sum / count as f64, count));
    middles.zip(offsets).map(|(middle, offset)| middle + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(depends_on: &[usize]) -> Node {
        Node { width: 100.0, height: 40.0, depends_on: depends_on.to_vec() }
    }

    /// No two nodes touch, each is below what it depends on, and all lie inside.
    fn check(nodes: &[Node], layout: &Layout) {
        for (index, (x, y)) in layout.corners.iter().enumerate() {
            let node = &nodes[index];
            assert!(*x >= -0.01 && x + node.width <= layout.width + 0.01, "{index} at {x}");
            assert!(*y >= 0.0 && y + node.height <= layout.height + 0.01, "{index} at {y}");
            for (other_x, other_y) in &layout.corners[..index] {
                let beside = (x - other_x).abs() >= node.width - 0.01;
                assert!(beside || (y - other_y).abs() >= node.height, "{index} touches another");
            }
            for &before in &node.depends_on {
                assert!(layout.corners[before].1 < *y, "{index} is above what it depends on");
            }
        }
    }

    #[test]
    fn a_diamond_stands_around_its_middle() {
        let nodes = [node(&[]), node(&[0]), node(&[0]), node(&[1, 2])];
        let layout = layered(&nodes, &[vec![0], vec![1, 2], vec![3]]);
        check(&nodes, &layout);
        let middle = |n: usize| layout.corners[n].0 + 50.0;
        assert!((middle(0) - middle(3)).abs() < 0.01);
        assert!((middle(1) + middle(2) - 2.0 * middle(0)).abs() < 0.01);
        assert_eq!(layout.lines.iter().filter(|line| line.arrives).count(), 4);
    }

    #[test]
    fn long_edges_bend_around_what_is_between() {
        let nodes = [node(&[]), node(&[0]), node(&[1]), node(&[0, 2])];
        let layout = layered(&nodes, &[vec![0], vec![1], vec![2], vec![3]]);
        check(&nodes, &layout);
        for line in &layout.lines {
            let through = layout.corners.iter().any(|(x, y)| {
                let is_inside = |at: f64| at > x + 1.0 && at < x + 99.0;
                is_inside(line.from.0) && line.from.1 < y + 20.0 && line.straight_to > y + 20.0
            });
            assert!(!through, "{line:?} goes through a node");
        }
    }

    #[test]
    fn a_wide_level_is_folded_and_every_size_has_a_picture() {
        let mut nodes = vec![node(&[])];
        nodes.extend((0..500).map(|_| node(&[0])));
        nodes.push(node(&(1..=500).collect::<Vec<_>>()));
        let layout = layered(&nodes, &[vec![0], (1..=500).collect(), vec![501]]);
        check(&nodes, &layout);
        assert!(layout.width < 8_000.0 && layout.height < 8_000.0, "{}×{}", layout.width, layout.height);
        assert_eq!(layered(&[], &[]).lines, []);
    }

    #[test]
    fn places_are_pooled_where_they_would_touch() {
        assert_eq!(nearest(&[5.0, 5.0], &[0.0, 10.0]), [0.0, 10.0]);
        assert_eq!(nearest(&[0.0, 50.0], &[0.0, 10.0]), [0.0, 50.0]);
        assert_eq!(nearest(&[9.0, 0.0, 60.0], &[0.0, 10.0, 20.0]), [-0.5, 9.5, 60.0]);
    }
}

//! What goes wrong: a plan of faults by the seed, with an intensity of its own for each seed.

use std::sync::atomic::Ordering;

use crate::disk::Ills;
use crate::node::Node;
use crate::world::{CLIENTS, Weather, World};

/// Longest pause between two faults at the highest intensity.
const PAUSE_MS_MAX: u64 = 1_500;
/// Longest time that a node is down or stopped, and that an illness lasts.
const DOWN_MS_MAX: u64 = 4_000;
/// How far a clock jumps.
const JUMP_MS_MAX: u64 = 5_000;

/// Makes trouble until it is told that all shall be well.
pub struct Faults {
    /// 0: nothing ever goes wrong; 4: much does.
    intensity: u64,
    is_over: bool,
    next_ms: u64,
    /// When what has gone wrong is put right: node by node, and the network.
    right_ms: Vec<u64>,
    network_right_ms: u64,
    pub count: u64,
}

impl Faults {
    /// Faults for one seed; a tenth of the seeds has none.
    pub fn new(world: &World, nodes: usize) -> Self {
        let intensity = if world.one_in(10) { 0 } else { 1 + world.below(4) };
        Self {
            intensity,
            is_over: false,
            next_ms: 0,
            right_ms: vec![0; nodes],
            network_right_ms: 0,
            count: 0,
        }
    }

    pub fn intensity(&self) -> u64 {
        self.intensity
    }

    /// A millisecond goes by.
    pub fn tick(&mut self, world: &World, nodes: &mut [Node]) {
        let now_ms = world.now_ms();
        for (node, right_ms) in nodes.iter_mut().zip(&mut self.right_ms) {
            if now_ms >= *right_ms && (!node.is_up() || node.is_stopped || is_ill(node)) {
                put_right(world, node);
            }
        }
        if now_ms == self.network_right_ms {
            world.note("the network is well");
            world.mend();
            world.set_weather(Weather::FAIR);
        }
        if self.is_over || self.intensity == 0 || now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + 50 + world.below(PAUSE_MS_MAX * 2 / self.intensity);
        self.count += 1;
        let which = usize::try_from(world.below(nodes.len() as u64)).unwrap_or_default();
        self.strike(world, nodes, which);
    }

    /// A node that could not go on is down for a while.
    pub fn fell(&mut self, world: &World, which: usize) {
        self.right_ms[which] = world.now_ms() + 1 + world.below(DOWN_MS_MAX / 4);
    }

    fn strike(&mut self, world: &World, nodes: &mut [Node], which: usize) {
        let now_ms = world.now_ms();
        let lasts_ms = 50 + world.below(DOWN_MS_MAX);
        let node = &mut nodes[which];
        let id = node.plan.id;
        let say = |what: &str| world.note(&format!("node {id}: {what}"));
        let disk = &node.plan.disk;
        match world.below(12) {
            0 | 1 if node.is_up() => {
                say("crashes");
                node.crash();
                self.right_ms[which] = now_ms + lasts_ms;
            }
            2 if node.is_up() => {
                let after = u32::try_from(world.below(30)).unwrap_or_default();
                say(&format!("its power fails after {after} writes"));
                disk.set_ills(Ills { power_fails_after: Some(after), ..disk.ills() });
            }
            3 if node.is_up() => {
                let after = u32::try_from(world.below(10)).unwrap_or_default();
                say(&format!("a sync fails after {after}"));
                disk.set_ills(Ills { sync_fails_after: Some(after), ..disk.ills() });
            }
            4 => {
                say("its disk is full");
                disk.set_ills(Ills { is_full: true, ..disk.ills() });
                self.right_ms[which] = now_ms + lasts_ms;
            }
            5 => {
                say("its disk is slow");
                disk.set_ills(Ills { pause_ms_max: 1 + world.below(300), ..disk.ills() });
                self.right_ms[which] = now_ms + lasts_ms;
            }
            6 | 7 if node.is_up() => {
                say("is stopped");
                node.is_stopped = true;
                self.right_ms[which] = now_ms + lasts_ms;
            }
            8 => {
                let jump = i64::try_from(world.below(2 * JUMP_MS_MAX)).unwrap_or_default();
                let jump = jump - i64::try_from(JUMP_MS_MAX).unwrap_or_default();
                say(&format!("its clock jumps by {jump} ms"));
                node.plan.wall_ms.fetch_add(jump, Ordering::Relaxed);
            }
            9 | 10 => {
                self.network_right_ms = now_ms + lasts_ms;
                let ids: Vec<u64> = nodes.iter().map(|node| node.plan.id).collect();
                partition(world, &ids, which);
            }
            _ => {
                self.network_right_ms = now_ms + lasts_ms;
                let weather = Weather {
                    loss: world.below(20) as f64 / 100.0,
                    doubling: world.below(10) as f64 / 100.0,
                    straggling: world.below(5) as f64 / 100.0,
                    delay_ms_max: 1 + world.below(60),
                };
                world.note(&format!("the weather is bad: {weather:?}"));
                world.set_weather(weather);
            }
        }
    }

    /// All shall be well from here on.
    pub fn heal(&mut self, world: &World, nodes: &mut [Node]) {
        self.is_over = true;
        world.note("all heals");
        world.mend();
        world.set_weather(Weather::FAIR);
        self.right_ms.fill(0);
        // Forwards only: a clock that is set back would hold up every timer that is set.
        let wall_ms = nodes.iter().map(|node| node.plan.wall_ms.load(Ordering::Relaxed)).max();
        for node in nodes {
            node.plan.wall_ms.store(wall_ms.unwrap_or_default(), Ordering::Relaxed);
            node.plan.disk.set_ills(Ills::default());
        }
    }
}

fn is_ill(node: &Node) -> bool {
    let Ills { is_full, pause_ms_max, .. } = node.plan.disk.ills();
    is_full || pause_ms_max > 0
}

fn put_right(world: &World, node: &mut Node) {
    let ills = node.plan.disk.ills();
    node.plan.disk.set_ills(Ills { is_full: false, pause_ms_max: 0, ..ills });
    node.is_stopped = false;
    if !node.is_up() {
        world.note(&format!("node {} starts", node.plan.id));
        node.start();
    }
}

/// Cuts links: one node from all, in both directions or in one, or the nodes into two parts.
fn partition(world: &World, ids: &[u64], which: usize) {
    let alone = ids[which];
    let shape = world.below(5);
    let mask = world.below(1 << ids.len());
    let sides = |a: u64, b: u64| {
        let side = |id: u64| ids.iter().position(|other| *other == id).is_some_and(|at| mask >> at & 1 == 1);
        side(a) != side(b)
    };
    for a in ids {
        for b in ids.iter().filter(|b| *b != a) {
            let is_cut = match shape {
                0 => *a == alone,
                1 => *b == alone,
                2 => *a == alone || *b == alone,
                _ => sides(*a, *b),
            };
            if is_cut {
                world.cut(*a, *b);
            }
        }
    }
    // Sometimes clients cannot reach it either.
    if world.one_in(2) {
        world.cut(CLIENTS, alone);
    }
    world.note(&format!("the network parts: shape {shape}, node {alone}, mask {mask:b}"));
}

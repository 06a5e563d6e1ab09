//! What goes wrong: faults by the seed, with an intensity and a theme of its own for each seed.
//!
//! Faults that are all equally likely seldom meet. What breaks a cluster is several of one kind in a
//! row, or one that strikes just whoever leads; so a seed has a theme, which says what strikes most,
//! whom, and for how long.

use std::sync::atomic::Ordering;

use opcode_engine::ids::ShardId;

use crate::disk::Ills;
use crate::node::{Node, shard_ids};
use crate::world::{CLIENTS, Weather, World};

/// Longest pause between two faults at the highest intensity.
const PAUSE_MS_MAX: u64 = 1_500;
/// Longest time that a node is down or stopped, and that an illness lasts.
const DOWN_MS_MAX: u64 = 4_000;
/// How far a clock jumps.
const JUMP_MS_MAX: u64 = 5_000;
/// Longest pause between two changes of leader while leads go round.
const ROUND_MS_MAX: u64 = 150;

/// One kind of fault.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The power goes at once.
    Crash,
    /// The power goes in the middle of a write to come.
    PowerFails,
    SyncFails,
    DiskIsFull,
    DiskIsSlow,
    /// The process stands still, as under `SIGSTOP`.
    Stop,
    ClockJumps,
    Partition,
    BadWeather,
    /// Leads are handed over again and again for a while.
    LeadsGoRound,
}

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Theme {
    /// Of everything something.
    Mixed,
    /// Whoever leads is cut off, under load.
    LeadersCutOff,
    /// Whoever leads stands still, and goes on.
    LeadersStopped,
    /// Nodes go down one after another, and all at once.
    Crashes,
    Disks,
    /// One node is away for long, and the log goes on without it.
    OneAway,
    /// The network is bad and leads go round.
    LeadsGoRound,
}

impl Theme {
    const ALL: [Self; 7] = [
        Self::Mixed,
        Self::LeadersCutOff,
        Self::LeadersStopped,
        Self::Crashes,
        Self::Disks,
        Self::OneAway,
        Self::LeadsGoRound,
    ];

    /// How often each fault strikes.
    fn weights(self) -> &'static [(u64, Fault)] {
        use Fault::*;
        match self {
            Self::Mixed => &[
                (4, Crash),
                (2, PowerFails),
                (2, SyncFails),
                (2, DiskIsFull),
                (2, DiskIsSlow),
                (4, Stop),
                (2, ClockJumps),
                (4, Partition),
                (3, BadWeather),
                (1, LeadsGoRound),
            ],
            Self::LeadersCutOff => &[(6, Partition), (1, BadWeather), (1, DiskIsSlow), (1, ClockJumps)],
            Self::LeadersStopped => &[(6, Stop), (1, BadWeather), (1, Partition), (1, ClockJumps)],
            Self::Crashes => &[(5, Crash), (3, PowerFails), (1, SyncFails), (1, BadWeather)],
            Self::Disks => {
                &[(2, PowerFails), (2, SyncFails), (3, DiskIsFull), (3, DiskIsSlow), (1, LeadsGoRound)]
            }
            Self::OneAway => &[(3, Crash), (3, Partition), (2, Stop), (1, DiskIsSlow), (1, LeadsGoRound)],
            Self::LeadsGoRound => &[(3, LeadsGoRound), (3, BadWeather), (1, DiskIsSlow), (1, Partition)],
        }
    }

    fn strikes_leaders(self) -> bool {
        matches!(self, Self::LeadersCutOff | Self::LeadersStopped)
    }
}

/// Makes trouble until it is told that all shall be well.
pub struct Faults {
    /// 0: nothing ever goes wrong; 4: much does.
    intensity: u64,
    theme: Theme,
    shards: u32,
    /// The one that is away, where one is.
    away: usize,
    is_over: bool,
    next_ms: u64,
    /// When what has gone wrong is put right: node by node, and the network.
    right_ms: Vec<u64>,
    network_right_ms: Option<u64>,
    /// Until when leads go round, and when the next one does.
    round_until_ms: u64,
    round_ms: u64,
    pub count: u64,
}

impl Faults {
    /// Faults for one seed; a tenth of the seeds has none, unless there is to be a theme.
    pub fn new(world: &World, nodes: usize, shards: u32, theme: Option<Theme>) -> Self {
        let is_calm = world.one_in(10) && theme.is_none();
        let intensity = if is_calm { 0 } else { 1 + world.below(4) };
        let pick = |count: usize| usize::try_from(world.below(count as u64)).unwrap_or_default();
        let any = Theme::ALL[pick(Theme::ALL.len())];
        Self {
            intensity,
            theme: theme.unwrap_or(any),
            shards,
            away: pick(nodes),
            is_over: false,
            next_ms: 0,
            right_ms: vec![0; nodes],
            network_right_ms: None,
            round_until_ms: 0,
            round_ms: 0,
            count: 0,
        }
    }

    /// What this seed's faults are like.
    pub fn plan(&self) -> String {
        match self.intensity {
            0 => "no faults".to_owned(),
            intensity => format!("{:?} at intensity {intensity}", self.theme),
        }
    }

    /// A moment goes by.
    pub fn tick(&mut self, world: &World, nodes: &mut [Node]) {
        let now_ms = world.now_ms();
        for (node, right_ms) in nodes.iter_mut().zip(&mut self.right_ms) {
            if now_ms >= *right_ms && (!node.is_up() || node.is_stopped() || is_ill(node)) {
                put_right(world, node);
            }
        }
        if self.network_right_ms.is_some_and(|right_ms| now_ms >= right_ms) {
            self.network_right_ms = None;
            world.note("the network is well");
            world.mend();
            world.set_weather(Weather::FAIR);
        }
        if self.is_over {
            return;
        }
        if now_ms < self.round_until_ms && now_ms >= self.round_ms {
            self.round_ms = now_ms + 1 + world.below(ROUND_MS_MAX);
            self.hand_over(world, nodes);
        }
        if self.intensity > 0 && now_ms >= self.next_ms {
            self.next_ms = now_ms + 50 + world.below(PAUSE_MS_MAX * 2 / self.intensity);
            self.count += 1;
            let which = self.whom(world, nodes);
            let fault = pick(world, self.theme.weights());
            self.strike(world, nodes, which, fault);
        }
    }

    /// A node that could not go on is down for a while.
    pub fn fell(&mut self, world: &World, which: usize) {
        self.right_ms[which] = world.now_ms() + 1 + world.below(DOWN_MS_MAX / 4);
    }

    /// Whom the next fault strikes.
    fn whom(&self, world: &World, nodes: &[Node]) -> usize {
        let anybody = usize::try_from(world.below(nodes.len() as u64)).unwrap_or_default();
        if self.theme == Theme::OneAway {
            return self.away;
        }
        if !self.theme.strikes_leaders() || world.one_in(4) {
            return anybody;
        }
        let shard = self.shard(world);
        nodes.iter().position(|node| node.leads(shard)).unwrap_or(anybody)
    }

    fn shard(&self, world: &World) -> ShardId {
        let which = usize::try_from(world.below(u64::from(self.shards) + 1)).unwrap_or_default();
        shard_ids(self.shards).nth(which).unwrap_or(ShardId::SYSTEM)
    }

    /// A shard's lead goes on to another node.
    fn hand_over(&self, world: &World, nodes: &[Node]) {
        let shard = self.shard(world);
        let to = &nodes[usize::try_from(world.below(nodes.len() as u64)).unwrap_or_default()];
        for leader in nodes.iter().filter(|node| node.leads(shard) && node.plan.id != to.plan.id) {
            leader.hand_over(shard, to.plan.id);
        }
    }

    fn strike(&mut self, world: &World, nodes: &mut [Node], which: usize, fault: Fault) {
        let now_ms = world.now_ms();
        let lasts_ms = match self.theme {
            Theme::OneAway => 1_500 + world.below(DOWN_MS_MAX),
            _ => 50 + world.below(DOWN_MS_MAX),
        };
        match fault {
            Fault::Partition => {
                self.network_right_ms = Some(now_ms + lasts_ms);
                let ids: Vec<u64> = nodes.iter().map(|node| node.plan.id).collect();
                partition(world, &ids, which, self.theme);
            }
            Fault::BadWeather => {
                self.network_right_ms = Some(now_ms + lasts_ms);
                // So that elections that a leader asked for fail too.
                let loss_max = if self.theme == Theme::LeadsGoRound { 50 } else { 20 };
                let weather = Weather {
                    loss: world.below(loss_max) as f64 / 100.0,
                    doubling: world.below(10) as f64 / 100.0,
                    straggling: world.below(10) as f64 / 100.0,
                    delay_ms_max: 1 + world.below(60),
                };
                world.note(&format!("the weather is bad: {weather:?}"));
                world.set_weather(weather);
            }
            Fault::LeadsGoRound => {
                world.note("leads go round");
                self.round_until_ms = now_ms + lasts_ms;
            }
            _ if strike_node(world, &mut nodes[which], fault) => self.right_ms[which] = now_ms + lasts_ms,
            _ => {}
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

/// One of these, by its weight.
fn pick(world: &World, weights: &[(u64, Fault)]) -> Fault {
    let mut left = world.below(weights.iter().map(|(weight, _)| weight).sum());
    for (weight, fault) in weights {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return *fault,
        }
    }
    Fault::BadWeather
}

/// What strikes one node; whether it is to be put right after a while.
fn strike_node(world: &World, node: &mut Node, fault: Fault) -> bool {
    let id = node.plan.id;
    let say = |what: &str| world.note(&format!("node {id}: {what}"));
    let disk = node.plan.disk.clone();
    if !node.is_up() && !matches!(fault, Fault::DiskIsFull | Fault::DiskIsSlow | Fault::ClockJumps) {
        return false;
    }
    match fault {
        Fault::Crash => {
            say("crashes");
            node.crash();
            true
        }
        Fault::PowerFails => {
            let after = u32::try_from(world.below(30)).unwrap_or_default();
            say(&format!("its power fails after {after} writes"));
            disk.set_ills(Ills { power_fails_after: Some(after), ..disk.ills() });
            false
        }
        Fault::SyncFails => {
            let after = u32::try_from(world.below(10)).unwrap_or_default();
            say(&format!("a sync fails after {after}"));
            disk.set_ills(Ills { sync_fails_after: Some(after), ..disk.ills() });
            false
        }
        Fault::DiskIsFull => {
            say("its disk is full");
            disk.set_ills(Ills { is_full: true, ..disk.ills() });
            true
        }
        Fault::DiskIsSlow => {
            say("its disk is slow");
            disk.set_ills(Ills { pause_ms_max: 1 + world.below(300), ..disk.ills() });
            true
        }
        Fault::Stop => {
            say("is stopped");
            node.stop();
            true
        }
        Fault::ClockJumps => {
            let jump = world.below(2 * JUMP_MS_MAX).cast_signed() - JUMP_MS_MAX.cast_signed();
            say(&format!("its clock jumps by {jump} ms"));
            node.plan.wall_ms.fetch_add(jump, Ordering::Relaxed);
            false
        }
        // Those of the network strike no single node.
        Fault::Partition | Fault::BadWeather | Fault::LeadsGoRound => false,
    }
}

fn is_ill(node: &Node) -> bool {
    let Ills { is_full, pause_ms_max, .. } = node.plan.disk.ills();
    is_full || pause_ms_max > 0
}

fn put_right(world: &World, node: &mut Node) {
    let ills = node.plan.disk.ills();
    node.plan.disk.set_ills(Ills { is_full: false, pause_ms_max: 0, ..ills });
    node.go_on();
    if !node.is_up() {
        world.note(&format!("node {} starts", node.plan.id));
        node.start();
    }
}

/// Cuts links: one node from all, in both directions or in one, or the nodes into two parts.
fn partition(world: &World, ids: &[u64], which: usize, theme: Theme) {
    let alone = ids[which];
    let shape = world.below(if matches!(theme, Theme::LeadersCutOff | Theme::OneAway) { 3 } else { 5 });
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

//! The nemesis: what it can do to a cluster, and how each harm is healed.

mod damage;
pub(crate) mod files;
pub(crate) mod random;
pub(crate) mod shim;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;

use crate::cluster::{Cluster, LOOK_EVERY, WHOLE_MAX};
use crate::proxy::{Hold, Weather};

use damage::{Damage, Files};

/// Replicas of a shard: with no more nodes than these, every node has every shard.
const REPLICAS: usize = 3;
/// How long a partition that flaps is there, or away.
const FLAP_MS: std::ops::Range<u64> = 50..1_500;
/// How many such times before they repeat.
const FLAPS: usize = 32;
/// How far a clock is off.
const SKEW_MS: std::ops::RangeInclusive<i64> = -5_000..=5_000;
/// How long a slow disk takes for a sync.
const SLOW_SYNC_MS: std::ops::Range<u32> = 20..800;
/// A node whose disk fails to sync stops within this time, under load.
const STOPS_MAX: Duration = Duration::from_secs(20);
/// Shards that are moved at a time.
const MOVES_MAX: usize = 2;

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// `kill -9` of the node that leads most shards.
    Kill,
    /// `kill -9` of the node that leads fewest.
    KillFollower,
    /// SIGSTOP of the node that leads most, for 0.1 to 30 s.
    Pause,
    /// That node and the others cannot hear each other.
    Partition,
    /// The others do not hear that node.
    OneWayOut,
    /// That node does not hear the others.
    OneWayIn,
    /// Two halves cannot hear each other; one node between them hears both.
    Bridge,
    /// A partition of that node that comes and goes.
    Flap,
    /// All that is sent to and from that node is late by up to 0.3 s.
    Delay,
    /// Of all that nodes send each other some is lost and sent again, and connections break.
    Loss,
    /// `kill -9` of the node that leads the membership group.
    KillMeta,
    /// `kill -9` of a majority.
    KillTwo,
    /// `kill -9` of all.
    KillAll,
    /// Every node is stopped in order and started again, one after the other.
    Roll,
    /// The node that leads most shards is killed and loses its disk, and comes back as a new one.
    Wipe,
    /// A node joins, and the one that leads most shards is drained and taken out.
    Replace,
    /// Shards that the node leads that leads most are moved to others; needs more than three nodes.
    Move,
    /// A node is killed or stopped, and a bit of its log flips.
    FlipLog,
    /// A node is killed or stopped, and a file of its log loses its end.
    CutLog,
    /// A node is killed or stopped, and a bit of its tables flips, and it is told to read all of them.
    FlipTables,
    /// A node is killed or stopped, and its tables lose their end.
    CutTables,
    /// Every sync of a node takes up to 0.8 s.
    SlowSync,
    /// Syncs of a node fail: it must stop by itself.
    FailSync,
    /// Writes of a node fail: it must stop by itself.
    FailWrite,
    /// A node's disk is full.
    DiskFull,
    /// A node's clock is off by up to 5 s.
    ClockSkew,
}

/// What harm was done, until it is healed.
pub(crate) struct Harmed {
    pub(crate) fault: Fault,
    pub(crate) victims: Vec<usize>,
    /// More about it, for people.
    pub(crate) detail: String,
    /// What is wrong with the network as long as this lives.
    hold: Option<Hold>,
}

impl Fault {
    /// Those that a cluster of so many nodes can be done.
    pub(crate) fn of(nodes: usize, has_shim: bool) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        match nodes {
            1 => vec![Self::Kill, Self::Kill, Self::Kill, Self::Pause, Self::Roll],
            _ => all
                .filter(|fault| has_shim || !fault.needs_shim())
                .filter(|fault| nodes > REPLICAS || *fault != Self::Move)
                .collect(),
        }
    }

    /// Whether a majority goes with it: nothing is acknowledged until it is healed.
    pub(crate) fn takes_majority(self) -> bool {
        matches!(self, Self::KillTwo | Self::KillAll)
    }

    /// Whether it is for the disk and the clock that a node sees.
    pub(crate) fn needs_shim(self) -> bool {
        matches!(self, Self::SlowSync | Self::FailSync | Self::FailWrite | Self::DiskFull | Self::ClockSkew)
    }

    /// Whether it can be there beside others. What waits for the cluster to be whole cannot, nor
    /// what takes a disk away: with another fault, that may be the only one that has something.
    pub(crate) fn may_be_one_of_many(self) -> bool {
        match self {
            Self::Kill
            | Self::KillFollower
            | Self::KillMeta
            | Self::KillTwo
            | Self::KillAll
            | Self::Pause => true,
            Self::Partition | Self::OneWayOut | Self::OneWayIn | Self::Bridge | Self::Flap => true,
            Self::Delay | Self::Loss | Self::SlowSync | Self::ClockSkew => true,
            Self::Roll | Self::Wipe | Self::Replace | Self::Move | Self::FailSync | Self::DiskFull => false,
            Self::FailWrite | Self::FlipLog | Self::CutLog | Self::FlipTables | Self::CutTables => false,
        }
    }

    /// What is healed first when several are: what others need to start comes before them.
    fn turn_to_heal(self) -> u8 {
        match self {
            Self::Kill | Self::KillFollower | Self::KillMeta | Self::KillTwo | Self::KillAll => 1,
            _ => 0,
        }
    }

    fn damage(self) -> Option<(Files, Damage)> {
        match self {
            Self::FlipLog => Some((Files::Log, Damage::Flip)),
            Self::CutLog => Some((Files::Log, Damage::Truncate)),
            Self::FlipTables => Some((Files::Tables, Damage::Flip)),
            Self::CutTables => Some((Files::Tables, Damage::Truncate)),
            _ => None,
        }
    }
}

/// The nodes a fault is for, by their places.
pub(crate) async fn victims(cluster: &Cluster, fault: Fault) -> Result<Vec<usize>> {
    let status = cluster.status().await?;
    let leads = cluster.leads(&status);
    let mut places: Vec<usize> = (0..cluster.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(leads.get(place).map_or(0, |shards| shards.len())));
    Ok(match fault {
        Fault::KillFollower => places.into_iter().rev().take(1).collect(),
        Fault::KillMeta => vec![cluster.meta_leader(&status)?],
        Fault::KillTwo => places.into_iter().take(cluster.len() / 2 + 1).collect(),
        // The bridge's node between comes first.
        Fault::KillAll | Fault::Roll | Fault::Bridge | Fault::Loss => places,
        _ => vec![places[0]],
    })
}

/// Does the harm. What waits for the cluster to be whole is over when this returns; all else lasts
/// until [`heal`].
pub(crate) async fn harm(
    cluster: &Cluster,
    fault: Fault,
    victims: &[usize],
    rng: &mut StdRng,
) -> Result<Harmed> {
    let mut harmed = Harmed { fault, victims: victims.to_vec(), detail: String::new(), hold: None };
    let Some(first) = victims.first().copied() else { bail!("{fault:?} of nobody") };
    match fault {
        Fault::Kill
        | Fault::KillFollower
        | Fault::KillMeta
        | Fault::KillTwo
        | Fault::KillAll
        | Fault::Wipe => {
            tokio::task::block_in_place(|| victims.iter().try_for_each(|place| cluster.node(*place).kill()))?;
        }
        Fault::Pause => victims.iter().try_for_each(|place| cluster.node(*place).pause())?,
        Fault::Partition
        | Fault::OneWayOut
        | Fault::OneWayIn
        | Fault::Bridge
        | Fault::Flap
        | Fault::Delay
        | Fault::Loss => {
            let (hold, detail) = disturb(cluster, fault, victims, rng);
            (harmed.hold, harmed.detail) = (Some(hold), detail);
        }
        Fault::Roll => roll(cluster, victims).await?,
        Fault::Replace => {
            cluster.add().await?;
            let took = cluster.take_out(first).await?;
            harmed.detail = format!("given away in {} ms", took.as_millis());
        }
        Fault::Move => harmed.detail = move_shards(cluster, first).await?,
        Fault::FlipLog | Fault::CutLog | Fault::FlipTables | Fault::CutTables => {
            let (files, damage) = fault.damage().context("this fault is for files")?;
            harmed.detail = files::damage(cluster, first, files, damage, rng)?;
        }
        Fault::SlowSync | Fault::FailSync | Fault::FailWrite | Fault::DiskFull | Fault::ClockSkew => {
            harmed.detail = mislead(cluster, fault, first, rng).await?;
        }
    }
    Ok(harmed)
}

/// Harm to the network, with what is to be said of it.
fn disturb(cluster: &Cluster, fault: Fault, victims: &[usize], rng: &mut StdRng) -> (Hold, String) {
    let (network, first) = (&cluster.network, victims[0]);
    match fault {
        Fault::OneWayOut => (network.cut(cluster.one_way_out(first)), String::new()),
        Fault::OneWayIn => (network.cut(cluster.one_way_in(first)), String::new()),
        Fault::Bridge => {
            let (one, other) = victims[1..].split_at((victims.len() - 1) / 2);
            (network.cut(cluster.between(one, other)), format!("{one:?} and {other:?}"))
        }
        Fault::Flap => {
            let times = (0..FLAPS).map(|_| Duration::from_millis(rng.random_range(FLAP_MS))).collect();
            (network.flap(cluster.both_ways(first), times), String::new())
        }
        Fault::Delay => {
            let delay = Duration::from_millis(rng.random_range(5..200));
            let weather = Weather { delay, jitter: delay / 2, ..Weather::default() };
            (network.set(cluster.both_ways(first), weather), format!("{delay:?}"))
        }
        Fault::Loss => {
            let loss_percent = rng.random_range(1..15);
            let weather = Weather { loss_percent, ..Weather::default() };
            (network.set(cluster.between(victims, victims), weather), format!("{loss_percent} %"))
        }
        _ => (network.cut(cluster.both_ways(first)), String::new()),
    }
}

async fn roll(cluster: &Cluster, victims: &[usize]) -> Result<()> {
    for place in victims {
        tokio::task::block_in_place(|| {
            cluster.node(*place).stop()?;
            cluster.node(*place).start_again()
        })?;
        if cluster.len() > 1 {
            cluster.whole().await?;
        }
    }
    Ok(())
}

/// Moves shards that a node leads to nodes that have none of it; returns when all is whole again.
async fn move_shards(cluster: &Cluster, from: usize) -> Result<String> {
    let (status, mut moved) = (cluster.status().await?, Vec::new());
    let leads = cluster.leads(&status).remove(&from).unwrap_or_default();
    for shard in status["shards"].as_array().into_iter().flatten() {
        let (Some(number), Some(placed)) = (shard["shard"].as_u64(), shard["placed"].as_array()) else {
            continue;
        };
        let is_free = |place: &usize| !placed.iter().any(|id| id == cluster.id(*place).to_string().as_str());
        let to = (0..cluster.len()).find(is_free);
        let (true, Some(to)) = (leads.contains(&number) && moved.len() < MOVES_MAX, to) else { continue };
        let body = serde_json::json!({"from": cluster.id(from), "to": cluster.id(to)});
        match cluster.post_to_any(&format!("/v1/cluster/shards/{number}/move"), &body).await? {
            202 => moved.push(number),
            // The map has changed meanwhile, or nobody leads the membership group just now.
            409 | 503 => {}
            other => bail!("a move of shard {number} was answered {other}"),
        }
    }
    cluster.whole().await?;
    Ok(format!("shards {moved:?}"))
}

/// Has a node's disk or clock be wrong.
async fn mislead(cluster: &Cluster, fault: Fault, victim: usize, rng: &mut StdRng) -> Result<String> {
    let node = cluster.node(victim);
    let control = node.control()?;
    match fault {
        Fault::ClockSkew => {
            let ms = rng.random_range(SKEW_MS);
            cluster.note_skew(ms.abs());
            control.shift_clock(ms)?;
            return Ok(format!("{ms} ms"));
        }
        Fault::SlowSync => {
            let sync_delay_ms = rng.random_range(SLOW_SYNC_MS);
            control.set(shim::Wrong { sync_delay_ms, ..shim::Wrong::default() })?;
            return Ok(format!("{sync_delay_ms} ms"));
        }
        Fault::DiskFull => {
            node.set_may_end(true);
            control.set(shim::Wrong { is_full: true, ..shim::Wrong::default() })?;
            return Ok(String::new());
        }
        _ => {}
    }
    node.set_may_end(true);
    let before = control.felt()?;
    control.set(match fault {
        Fault::FailWrite => shim::Wrong { write_errno: shim::EIO, ..shim::Wrong::default() },
        _ => shim::Wrong { sync_errno: shim::EIO, ..shim::Wrong::default() },
    })?;
    let begun = std::time::Instant::now();
    while !node.has_ended() {
        if begun.elapsed() > STOPS_MAX {
            let felt = control.felt()?;
            let syncs = felt.syncs_failed - before.syncs_failed;
            let writes = felt.writes_failed - before.writes_failed;
            bail!("a node goes on after {syncs} of its syncs and {writes} of its writes failed");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(format!("it stopped after {} ms", begun.elapsed().as_millis()))
}

/// Undoes it; every node runs and hears every other. What came of it, for people.
pub(crate) async fn heal(cluster: &Cluster, harmed: Harmed) -> Result<String> {
    let Harmed { fault, victims, hold, .. } = harmed;
    drop(hold);
    match fault {
        Fault::Kill | Fault::KillFollower | Fault::KillMeta | Fault::KillTwo | Fault::KillAll => {
            cluster.start_again(&victims)?;
        }
        Fault::Wipe => {
            for place in &victims {
                files::begin_anew(cluster, *place).await?;
            }
        }
        Fault::Pause => victims.iter().try_for_each(|place| cluster.resume(*place))?,
        Fault::Partition | Fault::OneWayOut | Fault::OneWayIn | Fault::Bridge | Fault::Flap => {}
        Fault::Delay | Fault::Loss | Fault::Roll | Fault::Replace | Fault::Move => {}
        Fault::FlipLog | Fault::CutLog | Fault::FlipTables | Fault::CutTables => {
            return files::come_back(cluster, victims[0], fault == Fault::FlipTables).await;
        }
        Fault::ClockSkew => cluster.node(victims[0]).control()?.shift_clock(0)?,
        Fault::SlowSync | Fault::FailSync | Fault::FailWrite | Fault::DiskFull => {
            let node = cluster.node(victims[0]);
            node.control()?.set(shim::Wrong::default())?;
            let felt = node.control()?.felt()?;
            let is_felt = match fault {
                Fault::SlowSync => felt.syncs_delayed > 0,
                Fault::FailSync => felt.syncs_failed > 0,
                _ => felt.writes_failed > 0,
            };
            let has_ended = node.pid().is_none() || node.has_ended();
            cluster.start_again(&victims)?;
            node.set_may_end(false);
            let felt = if is_felt { "felt" } else { "not felt" };
            return Ok(format!("{felt}; {}", if has_ended { "it had stopped" } else { "it ran on" }));
        }
    }
    Ok(String::new())
}

/// Heals all of them.
pub(crate) async fn heal_all(cluster: &Cluster, mut all: Vec<Harmed>) -> Result<()> {
    all.sort_by_key(|harmed| harmed.fault.turn_to_heal());
    for harmed in all {
        heal(cluster, harmed).await?;
    }
    Ok(())
}

/// Waits until the cluster is whole, or a node has ended.
async fn is_whole_or_without(cluster: &Cluster, place: usize) -> Result<bool> {
    let begun = std::time::Instant::now();
    loop {
        if cluster.node(place).has_ended() {
            return Ok(false);
        }
        if cluster.status().await.is_ok_and(|status| cluster.is_whole(&status)) {
            return Ok(true);
        }
        ensure!(begun.elapsed() < WHOLE_MAX, "a damaged node neither ended nor came back in {WHOLE_MAX:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

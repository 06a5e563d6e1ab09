//! Timed trials: one fault again and again under load, each time from a cluster that is whole, with
//! how long every shard took to acknowledge writes again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::history::History;
use crate::nemesis::{self, Fault};

/// How long there is calm before each trial.
const CALM: Duration = Duration::from_secs(2);
/// How long a fault lasts, but for those that heal themselves.
const LASTS: Duration = Duration::from_secs(10);
/// How long a fault lasts that takes nothing but time when it is longer.
const KILL_LASTS: Duration = Duration::from_secs(4);

/// What a trial showed.
pub(crate) struct Trial {
    /// From the fault (of a majority: from its healing) to the first acknowledgement of the last
    /// shard, of something asked after it.
    pub(crate) writes_again: Duration,
    /// The longest time in which a shard acknowledged nothing, over the whole trial.
    pub(crate) longest_gap: Duration,
    /// From healing to every replica being in sync.
    pub(crate) whole_again: Duration,
}

/// Runs `count` trials of a fault, which lasts as it does, but not longer than `most`; nor does the
/// calm before and after it.
pub(crate) async fn run(
    cluster: &Cluster,
    history: &History,
    fault: Fault,
    count: usize,
    most: Duration,
    rng: &mut StdRng,
) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    let calm_lasts = CALM.min(most);
    for number in 1..=count {
        cluster.whole().await?;
        tokio::time::sleep(calm_lasts).await;
        let calm = Instant::now();
        let victims = nemesis::victims(cluster, fault).await?;
        let before = history.answers().await;
        let harmed = Instant::now();
        let noted = history.harmed(format!("{fault:?} of {victims:?}")).await;
        let harmful = nemesis::harm(cluster, fault, &victims, rng).await?;
        history.detailed(noted, &harmful.detail).await;
        tokio::time::sleep(lasts(fault).min(most)).await;
        let healed = Instant::now();
        let detail = harmful.detail.clone();
        let came = nemesis::heal(cluster, harmful).await?;
        history.healed(noted, &came).await;
        let whole_again = cluster.whole().await?;
        tokio::time::sleep(calm_lasts).await;
        let from = if fault.takes_majority() { healed } else { harmed };
        let first = history.first_after(from).await;
        let shards = cluster.status().await?["shards"].as_array().map_or(0, Vec::len);
        ensure!(first.len() == shards, "only {} of {shards} shards acknowledged anything", first.len());
        let gaps = history.longest_gaps(calm, Instant::now()).await;
        let trial = Trial {
            writes_again: first.values().max().copied().unwrap_or_default(),
            longest_gap: gaps.values().max().copied().unwrap_or_default(),
            whole_again,
        };
        println!(
            "trial {number:2}: {fault:?} of {victims:?} {detail}{}{came}: writes again after {} ms, longest gap {} ms, whole {} ms after healing{}",
            if came.is_empty() { "" } else { "; " },
            trial.writes_again.as_millis(),
            trial.longest_gap.as_millis(),
            trial.whole_again.as_millis(),
            told(&before, &history.answers().await),
        );
        trials.push(trial);
    }
    Ok(trials)
}

fn lasts(fault: Fault) -> Duration {
    match fault {
        Fault::Roll | Fault::Replace | Fault::Move | Fault::FailSync | Fault::FailWrite => Duration::ZERO,
        Fault::Kill | Fault::KillFollower | Fault::KillMeta | Fault::KillTwo | Fault::KillAll => KILL_LASTS,
        Fault::Wipe | Fault::FlipLog | Fault::CutLog | Fault::FlipTables | Fault::CutTables => KILL_LASTS,
        Fault::Pause | Fault::Partition | Fault::OneWayOut | Fault::OneWayIn | Fault::Bridge => LASTS,
        Fault::Flap | Fault::Delay | Fault::Loss | Fault::SlowSync | Fault::DiskFull | Fault::ClockSkew => {
            LASTS
        }
    }
}

/// Nodes that a cluster grows to, and shrinks back to, one after the other.
const SIZES: [usize; 4] = [3, 5, 3, 1];

/// Grows the cluster from one node to five and shrinks it back, the oldest nodes going first.
pub(crate) async fn grow_and_shrink(cluster: &Cluster, history: &History) -> Result<()> {
    for size in SIZES {
        let (begun, before) = (Instant::now(), history.answers().await);
        while cluster.len() < size {
            cluster.add().await?;
        }
        while cluster.len() > size {
            let took = cluster.take_out(0).await?;
            println!("a node gave away what it held in {} ms", took.as_millis());
        }
        cluster.whole().await?;
        let took = begun.elapsed();
        tokio::time::sleep(CALM).await;
        let gaps = history.longest_gaps(begun, Instant::now()).await;
        println!(
            "{size} nodes after {} ms, longest gap of a shard {} ms{}",
            took.as_millis(),
            gaps.values().max().copied().unwrap_or_default().as_millis(),
            told(&before, &history.answers().await),
        );
    }
    Ok(())
}

/// Answers other than success that clients got in between.
fn told(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> String {
    let mut text = String::new();
    for (answer, times) in after {
        let new = times - before.get(answer).copied().unwrap_or(0);
        if new > 0 {
            text.push_str(&format!("; {answer}: {new}"));
        }
    }
    text
}

/// Minimum, median and maximum, in milliseconds.
pub(crate) fn spread(mut all: Vec<Duration>) -> String {
    all.sort_unstable();
    let at = |index: usize| all.get(index).map_or(0, Duration::as_millis);
    format!("min {}, median {}, max {} ms", at(0), at(all.len() / 2), at(all.len().saturating_sub(1)))
}

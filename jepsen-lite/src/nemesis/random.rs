//! Random harm, from a seed: one fault after another, or several at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use tokio::sync::watch;

use super::{Fault, Harmed, files, harm, heal, heal_all, victims};
use crate::cluster::Cluster;
use crate::history::History;

/// How long a process stands still, at least and at most.
const PAUSE_MS: std::ops::Range<f64> = 100.0..30_000.0;

/// How often it did what.
#[derive(Debug, Default)]
pub(crate) struct Faults(BTreeMap<Fault, usize>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (fault, times)) in self.0.iter().enumerate() {
            write!(f, "{}{times} × {fault:?}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What it may do.
pub(crate) struct Plan<'a> {
    /// Only these, or all that are possible.
    pub(crate) allowed: &'a [Fault],
    /// So many at a time.
    pub(crate) at_once: usize,
    pub(crate) has_shim: bool,
    /// A fault begins so long after the one before, or as soon as that is healed; without it the
    /// calm between two is random.
    pub(crate) every: Option<Duration>,
}

impl Plan<'_> {
    fn possible(&self, nodes: usize) -> Vec<Fault> {
        let is_allowed = |fault: &Fault| self.allowed.is_empty() || self.allowed.contains(fault);
        let possible = Fault::of(nodes, self.has_shim).into_iter().filter(is_allowed);
        possible.filter(|fault| self.at_once == 1 || fault.may_be_one_of_many()).collect()
    }
}

/// Does random harm until `stop`; all is healed when it returns. It waits for the cluster to be
/// whole again only before what that needs.
pub(crate) async fn run(
    cluster: &Cluster,
    history: &History,
    mut rng: StdRng,
    mut stop: watch::Receiver<bool>,
    plan: &Plan<'_>,
) -> Result<Faults> {
    let mut faults = Faults::default();
    let calm_ms = if cluster.len() == 1 { 50..800 } else { 200..4_000 };
    let possible = plan.possible(cluster.len());
    anyhow::ensure!(!possible.is_empty(), "none of these faults can be done to {} nodes so", cluster.len());
    let mut began = Instant::now();
    while !*stop.borrow() {
        let pause = match plan.every {
            Some(every) => every.saturating_sub(began.elapsed()),
            None => Duration::from_millis(rng.random_range(calm_ms.clone())),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        began = Instant::now();
        if plan.at_once == 1 {
            let fault = possible.choose(&mut rng).copied().context("a fault is possible")?;
            *faults.0.entry(fault).or_default() += 1;
            if !fault.may_be_one_of_many() {
                // What the last fault took away may not be back yet, and two disks of three are more
                // than anything promised outlives.
                files::whole(cluster).await.with_context(|| format!("before {fault:?}"))?;
            }
            one(cluster, history, fault, &mut rng).await?;
        } else {
            let together = possible.iter().copied().choose_multiple(&mut rng, plan.at_once);
            together.iter().for_each(|fault| *faults.0.entry(*fault).or_default() += 1);
            many(cluster, history, &together, &mut rng).await?;
        }
    }
    Ok(faults)
}

/// Harms, waits and heals; told to the history.
async fn one(cluster: &Cluster, history: &History, fault: Fault, rng: &mut StdRng) -> Result<()> {
    let (number, harmed) = begin(cluster, history, fault, &[], rng).await?;
    let lasts = Duration::from_millis(lasts_ms(fault, cluster.len(), rng));
    tokio::time::sleep(lasts).await;
    let came = heal(cluster, harmed).await.with_context(|| format!("healing {fault:?}"))?;
    history.healed(number, &came).await;
    Ok(())
}

/// Harms nodes that are not harmed already, if there are others.
async fn begin(
    cluster: &Cluster,
    history: &History,
    fault: Fault,
    taken: &[usize],
    rng: &mut StdRng,
) -> Result<(usize, Harmed)> {
    let any = rng.random_range(0..cluster.len());
    let free = (0..cluster.len()).filter(|place| !taken.contains(place)).choose(rng).unwrap_or(any);
    let victims = match victims(cluster, fault).await {
        Ok(victims) if victims.len() == 1 && taken.contains(&victims[0]) => vec![free],
        Ok(victims) => victims,
        // Without a leader that says who leads, any will do; what is for all needs all of them.
        Err(_) if matches!(fault, Fault::Bridge | Fault::Loss | Fault::KillAll | Fault::Roll) => {
            (0..cluster.len()).collect()
        }
        Err(_) => vec![free],
    };
    let number = history.harmed(format!("{fault:?} of {victims:?}")).await;
    let harmed =
        harm(cluster, fault, &victims, rng).await.with_context(|| format!("{fault:?} of {victims:?}"))?;
    history.detailed(number, &harmed.detail).await;
    Ok((number, harmed))
}

/// Harms in several ways, one soon after the other, and heals all at the end.
async fn many(cluster: &Cluster, history: &History, faults: &[Fault], rng: &mut StdRng) -> Result<()> {
    let (mut all, mut numbers, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for fault in faults {
        let (number, harmed) = begin(cluster, history, *fault, &taken, rng).await?;
        if harmed.victims.len() < cluster.len() {
            taken.extend(&harmed.victims);
        }
        numbers.push(number);
        all.push(harmed);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(100..6_000))).await;
    heal_all(cluster, all).await.with_context(|| format!("healing {faults:?}"))?;
    for number in numbers {
        history.healed(number, "").await;
    }
    Ok(())
}

fn lasts_ms(fault: Fault, nodes: usize, rng: &mut StdRng) -> u64 {
    match (fault, nodes) {
        (Fault::Roll | Fault::Replace | Fault::Move | Fault::FailSync | Fault::FailWrite, _)
        | (Fault::Kill, 1) => 0,
        (_, 1) => rng.random_range(100..1_500),
        // As often short as long: what a time-out of some hundred ms sees, and what one of seconds.
        (Fault::Pause, _) => {
            let exponent = rng.random_range(PAUSE_MS.start.ln()..PAUSE_MS.end.ln());
            Duration::from_secs_f64(exponent.exp() / 1_000.0).as_millis().try_into().unwrap_or(u64::MAX)
        }
        (_, _) => rng.random_range(100..6_000),
    }
}

//! The nemesis: what it can do to a cluster, and the random choice of it, from a seed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::proxy::Cuts;

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// `kill -9` of the node that leads most shards.
    Kill,
    /// SIGSTOP of that node.
    Pause,
    /// That node and the others cannot hear each other.
    Partition,
    /// The others do not hear that node.
    OneWayOut,
    /// That node does not hear the others.
    OneWayIn,
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
}

impl Fault {
    /// Those that a cluster of so many nodes can be done.
    fn of(nodes: usize) -> Vec<Self> {
        let all = Self::value_variants().iter().copied();
        match nodes {
            1 => vec![Self::Kill, Self::Kill, Self::Kill, Self::Pause, Self::Roll],
            _ => all.collect(),
        }
    }

    /// Whether a majority goes with it: nothing is acknowledged until it is healed.
    pub(crate) fn takes_majority(self) -> bool {
        matches!(self, Self::KillTwo | Self::KillAll)
    }
}

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

/// The nodes a fault is for, by their places.
pub(crate) async fn victims(cluster: &Cluster, fault: Fault) -> Result<Vec<usize>> {
    let status = cluster.status().await?;
    let leads = cluster.leads(&status);
    let mut places: Vec<usize> = (0..cluster.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(leads.get(place).map_or(0, |shards| shards.len())));
    Ok(match fault {
        Fault::Kill | Fault::Wipe | Fault::Pause | Fault::Partition | Fault::OneWayOut | Fault::OneWayIn => {
            vec![places[0]]
        }
        Fault::KillMeta => vec![cluster.meta_leader(&status)?],
        Fault::KillTwo => places.into_iter().take(cluster.len() / 2 + 1).collect(),
        Fault::KillAll | Fault::Roll => places,
    })
}

/// Does the harm. A rolling restart is over when this returns; all else lasts until [`heal`].
pub(crate) async fn harm(cluster: &Cluster, fault: Fault, victims: &[usize]) -> Result<()> {
    match fault {
        Fault::Kill | Fault::KillMeta | Fault::KillTwo | Fault::KillAll | Fault::Wipe => {
            tokio::task::block_in_place(|| victims.iter().try_for_each(|place| cluster.node(*place).kill()))
        }
        Fault::Pause => victims.iter().try_for_each(|place| cluster.node(*place).pause()),
        Fault::Partition => {
            victims.iter().for_each(|place| cluster.isolate(*place));
            Ok(())
        }
        Fault::OneWayOut => {
            victims.iter().for_each(|place| cluster.network.cut(cluster.one_way_out(*place)));
            Ok(())
        }
        Fault::OneWayIn => {
            victims.iter().for_each(|place| cluster.network.cut(cluster.one_way_in(*place)));
            Ok(())
        }
        Fault::Roll => {
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
    }
}

/// Undoes it; every node runs and hears every other.
pub(crate) async fn heal(cluster: &Cluster, fault: Fault, victims: &[usize]) -> Result<()> {
    match fault {
        Fault::Kill | Fault::KillMeta | Fault::KillTwo | Fault::KillAll => cluster.start_again(victims),
        Fault::Wipe => {
            for place in victims {
                cluster.give_up(*place).await?;
                cluster.node(*place).wipe()?;
            }
            cluster.start_again(victims)?;
            cluster.learn_ids().await
        }
        Fault::Pause => victims.iter().try_for_each(|place| cluster.resume(*place)),
        Fault::Partition | Fault::OneWayOut | Fault::OneWayIn => {
            cluster.network.cut(Cuts::new());
            Ok(())
        }
        Fault::Roll => Ok(()),
    }
}

/// Does random harm until `stop`; all is healed when it returns. It does not wait for the cluster
/// to be whole again before it goes on.
pub(crate) async fn run(
    cluster: &Cluster,
    mut rng: StdRng,
    mut stop: watch::Receiver<bool>,
    allowed: &[Fault],
) -> Result<Faults> {
    let mut faults = Faults::default();
    let possible = Fault::of(cluster.len());
    let possible: Vec<Fault> =
        possible.into_iter().filter(|fault| allowed.is_empty() || allowed.contains(fault)).collect();
    let calm_ms = if cluster.len() == 1 { 50..800 } else { 200..4_000 };
    while !*stop.borrow() {
        let pause = Duration::from_millis(rng.random_range(calm_ms.clone()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let Some(fault) = possible.choose(&mut rng).copied() else { break };
        // Without a leader that says who leads, any node will do.
        let victims =
            victims(cluster, fault).await.unwrap_or_else(|_| vec![rng.random_range(0..cluster.len())]);
        *faults.0.entry(fault).or_default() += 1;
        harm(cluster, fault, &victims).await?;
        let lasts_ms = match (fault, cluster.len()) {
            (Fault::Roll, _) | (Fault::Kill, 1) => 0,
            (_, 1) => rng.random_range(100..1_500),
            (_, _) => rng.random_range(100..6_000),
        };
        tokio::time::sleep(Duration::from_millis(lasts_ms)).await;
        heal(cluster, fault, &victims).await?;
    }
    Ok(faults)
}

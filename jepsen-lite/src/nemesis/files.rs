//! A node whose files are damaged: it must not start, or must come back with what the others have.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;

use super::damage::{self, Damage, Files};
use super::is_whole_or_without;
use crate::cluster::{Cluster, LOOK_EVERY, WHOLE_MAX};

/// Kills a node, or stops it in order, which leaves its files in another state, and damages one of
/// them; what was done, for people.
pub(super) fn damage(
    cluster: &Cluster,
    victim: usize,
    files: Files,
    damage: Damage,
    rng: &mut StdRng,
) -> Result<String> {
    let node = cluster.node(victim);
    let is_killed = rng.random_bool(0.5);
    tokio::task::block_in_place(|| if is_killed { node.kill() } else { node.stop() })?;
    node.set_may_end(true);
    let done = damage::damage(&node.data(), files, damage, rng)?;
    Ok(format!("{}: {done}", if is_killed { "killed" } else { "stopped" }))
}

/// A node that lost its disk is given up and joins as a new one.
pub(super) async fn begin_anew(cluster: &Cluster, place: usize) -> Result<()> {
    cluster.give_up(place).await?;
    // Those it joined once may be gone, and a founder must not found another cluster.
    let others = (0..cluster.len()).filter(|other| *other != place);
    let others: Vec<String> = others.map(|other| cluster.node(other).address()).collect();
    cluster.node(place).joins_from_now_on(&others);
    cluster.node(place).wipe()?;
    cluster.start_again(&[place])?;
    cluster.learn_ids().await
}

/// Starts a damaged node. If it refuses, or finds the damage later and stops, it must have said
/// why, and begins anew. Damage that nobody comes upon is found by a node that reads all it stores.
pub(super) async fn come_back(cluster: &Cluster, place: usize, is_to_read_all: bool) -> Result<String> {
    let node = cluster.node(place);
    let came = match tokio::task::block_in_place(|| node.start_again()) {
        Ok(took) if is_whole_or_without(cluster, place).await? => came_back(took),
        Ok(_) => format!("it stopped: {}", node.log_end()),
        Err(why) => {
            let why = format!("{why:#}");
            ensure!(!why.contains("neither ready nor ended"), "a damaged node hangs: {why}");
            ensure!(!why.contains("panicked"), "a damaged node panics: {why}");
            format!("it did not start: {why}")
        }
    };
    if is_to_read_all && node.pid().is_some() {
        read_all(cluster, place).await?;
    }
    if node.pid().is_none() {
        begin_anew(cluster, place).await.context("a damaged node begins anew")?;
        node.set_may_end(false);
    }
    Ok(came)
}

/// Has a node read all that it stores, as an operator would; one that finds what it cannot mend stops.
async fn read_all(cluster: &Cluster, place: usize) -> Result<()> {
    let node = cluster.node(place);
    let answer = cluster.post_at(place, "/v1/cluster/scrub").await;
    let is_mended = match &answer {
        Ok((200, found)) => found["shards"]
            .as_array()
            .is_some_and(|shards| shards.iter().all(|shard| shard["damage_count"] == 0)),
        Ok(_) | Err(_) => false,
    };
    let begun = Instant::now();
    while !is_mended && node.pid().is_some() && !node.has_ended() {
        ensure!(begun.elapsed() < WHOLE_MAX, "a node with damage that it cannot mend runs on: {answer:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn came_back(took: Duration) -> String {
    format!("it came back in {} ms", took.as_millis())
}

/// Waits until the cluster is whole. Nodes that find damage only meanwhile, and stop, begin anew.
pub(crate) async fn whole(cluster: &Cluster) -> Result<()> {
    let mut begun = Instant::now();
    loop {
        if settle(cluster).await? > 0 {
            begun = Instant::now();
        }
        let status = cluster.status().await;
        if status.as_ref().is_ok_and(|status| cluster.is_whole(status)) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < WHOLE_MAX,
            "the cluster is not whole {WHOLE_MAX:?} after all was healed: {status:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn settle(cluster: &Cluster) -> Result<usize> {
    let mut count = 0;
    for place in 0..cluster.len() {
        let node = cluster.node(place);
        if node.may_end() && node.has_ended() {
            begin_anew(cluster, place).await.context("a node that found damage begins anew")?;
            node.set_may_end(false);
            count += 1;
        }
    }
    Ok(count)
}

//! Every node's own replica, asked for what it has: the same events and the same state everywhere.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::REQUESTS_AT_A_TIME;
use crate::cluster::{Cluster, LOOK_EVERY};

/// Runs that are compared, spread over all; more would take longer than the run itself.
const RUNS_MAX: usize = 600;
/// Replicas have what was committed before within this time, when all is healed.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// Compares what the nodes answer from their own replicas.
pub(super) async fn check(cluster: &Cluster, ids: &BTreeSet<String>) -> Result<String> {
    let every = ids.len().div_ceil(RUNS_MAX).max(1);
    let begun = Instant::now();
    let counts: Vec<usize> = futures::stream::iter(ids.iter().step_by(every))
        .map(|id| compare(cluster, id, begun))
        .buffer_unordered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await?;
    let events: usize = counts.iter().sum();
    ensure!(events > 0, "there is no event at all");
    Ok(format!("{events} events of {} runs, on {} nodes", counts.len(), cluster.len()))
}

/// One run: its events, which are as many as are returned, and its state.
async fn compare(cluster: &Cluster, id: &str, begun: Instant) -> Result<usize> {
    let paths = ["/events?limit=1000&consistency=eventual", "?consistency=eventual"];
    let mut count = 0;
    for path in paths.map(|path| format!("/v1/workflows/{id}{path}")) {
        // Time and again until they are the same: a replica may lag, and says so.
        let mut answers = ask_all(cluster, &path).await?;
        while answers.iter().any(|answer| answer.0 == 503 || *answer != answers[0]) {
            ensure!(begun.elapsed() < CATCH_UP_MAX, "nodes differ on {path}: {answers:?}");
            tokio::time::sleep(LOOK_EVERY).await;
            answers = ask_all(cluster, &path).await?;
        }
        count += answers[0].1["items"].as_array().map_or(0, Vec::len);
    }
    Ok(count)
}

async fn ask_all(cluster: &Cluster, path: &str) -> Result<Vec<(u16, Value)>> {
    let mut answers = Vec::new();
    for place in 0..cluster.len() {
        let (status, body) = cluster.get_at(place, path).await?;
        ensure!(matches!(status, 200 | 404 | 503), "{path} of node {place}: {status}: {body}");
        // Each refusal has an id of its own.
        answers.push((status, if status == 200 { body } else { Value::Null }));
    }
    Ok(answers)
}

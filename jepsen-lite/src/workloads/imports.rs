//! Runs that have ended elsewhere come in as history, each again and again: one that was acknowledged
//! is there from then on, with its events and their times, and never comes in a second time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Setting, Workload, events, pace};
use crate::client::{Ask, Client};
use crate::cluster::Cluster;

/// Clients, and how often each sends a line.
const CLIENTS: usize = 2;
const PACE: Duration = Duration::from_millis(200);
/// SHA-256 of the definition, as the node writes it: keys in their order, without white space.
const HASH: &str = "66c429437f5e91804ec8566cfd44de4d355da26ebaec6ba50ae952d3f015bc4a";
/// When its events happened.
const TIMES: [&str; 2] = ["2026-01-02T03:04:05.678Z", "2026-01-02T03:05:05.678Z"];

/// What was sent: whether it was acknowledged.
#[derive(Clone, Default)]
pub(crate) struct Imports {
    sent: Arc<Mutex<BTreeMap<String, bool>>>,
}

/// A run that was called off before its only step began.
fn line(id: &str) -> Value {
    let started =
        json!({"workflow_id": id, "status": "active", "definition": HASH, "params": {}, "context": {}});
    json!({"kind": "run", "workflow_id": id,
    "definitions": [{"steps": [{"config": {"signal": "go"}, "id": "w", "type": "wait"}]}],
    "events": [
        {"sequence": 1, "type": "workflow_started", "data": started, "timestamp": TIMES[0]},
        {"sequence": 2, "type": "workflow_cancelled", "data": {"reason": id}, "timestamp": TIMES[1]},
    ]})
}

impl Imports {
    pub(crate) fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        (0..CLIENTS)
            .map(|number| {
                let (client, rng) = (setting.client()?, setting.rng(Workload::Imports, number));
                Ok(tokio::spawn(self.clone().work(number, client, rng, setting.clone())))
            })
            .collect()
    }

    async fn work(self, number: usize, client: Client, mut rng: StdRng, setting: Setting) {
        let mut pace = pace(PACE);
        let mut count = 0;
        while !setting.is_over() {
            pace.tick().await;
            if count == 0 || rng.random_bool(0.7) {
                count += 1;
            }
            // The last one, or any of those before once more.
            let chosen = if rng.random_bool(0.7) { count } else { rng.random_range(1..=count) };
            let id = format!("imported-{number}-{chosen}");
            let was_there = self.sent.lock().get(&id).copied().unwrap_or(false);
            self.sent.lock().entry(id.clone()).or_default();
            let place = rng.random_range(0..usize::MAX / 2);
            let answer = client.ask(place, Ask::line("import", "/v1/import", &line(&id))).await;
            match answer.success().and_then(|body| body["results"][0]["status"].as_u64()) {
                Some(201) if was_there => {
                    setting.history.wrong(format!("{id} was acknowledged, and comes in again")).await;
                }
                Some(200 | 201) => _ = self.sent.lock().insert(id, true),
                // For now, as a shard without a leader says.
                None | Some(429 | 503) => {}
                Some(status) => setting.history.wrong(format!("{id} is refused: {status}")).await,
            }
        }
    }

    /// Looks whether all that was acknowledged is there, as it was sent.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let sent = self.sent.lock().clone();
        let mut count = 0;
        for (id, is_acknowledged) in &sent {
            let (status, run) = cluster.get_healed(&format!("/v1/workflows/{id}")).await?;
            if status == 404 && !is_acknowledged {
                continue;
            }
            ensure!(status == 200, "{id} was acknowledged, and is {status}: {run}");
            ensure!(run["status"] == "cancelled" && run["created_at"] == TIMES[0], "{id} is another: {run}");
            let all = events(cluster, id).await.with_context(|| id.clone())?;
            let times: Vec<&str> = all.iter().filter_map(|event| event["timestamp"].as_str()).collect();
            ensure!(times == TIMES, "{id} has other events: {all:?}");
            count += 1;
        }
        Ok(format!("{count} runs as they were sent"))
    }
}

//! Waits: of a time, which ends once and not early, and for a signal, which may come before its
//! wait, after it, or again, and is taken once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Setting, Workload, events, pace};
use crate::checkers::{REQUESTS_AT_A_TIME, ended, now_ms, time_ms};
use crate::client::{Ask, Client};
use crate::cluster::{Cluster, LOOK_EVERY};
use crate::history::Outcome;
use crate::sink::{Call, Sink};

/// Clients, and how often each submits.
const CLIENTS: usize = 2;
const PACE: Duration = Duration::from_millis(250);
/// How long runs wait.
const WAITS_MS: std::ops::Range<i64> = 50..3_000;
/// Longest time until a signal is taken, when all is healed.
const SIGNAL_MAX: Duration = Duration::from_secs(20);
/// Times are told in whole milliseconds, so a difference may be one too small.
const ROUNDING_MS: i64 = 1;

/// A run that waits.
#[derive(Clone, Debug)]
struct Waiting {
    outcome: Outcome,
    waits_ms: i64,
    submitted_at_ms: i64,
}

/// All of them.
#[derive(Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<BTreeMap<String, Waiting>>>);

/// A wait of a time, and one for a signal after it; each tells the sink when it is over.
fn submission(sink: &str, id: &str, waits_ms: i64) -> Value {
    let post = |n: usize, before: &str| {
        json!({"id": format!("s{n}"), "action": "http.post", "depends_on": [before],
            "params": {"url": sink, "body": {"run": "${{workflow.run_id}}", "step": format!("s{n}")}},
            "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}})
    };
    json!({"id": id, "definition": {"steps": [
        {"id": "time", "type": "wait", "config": {"duration": format!("{waits_ms}ms")}},
        post(0, "time"),
        {"id": "sign", "type": "wait", "depends_on": ["time"], "config": {"signal": "go"}},
        post(1, "sign"),
    ]}})
}

fn go(id: &str) -> Value {
    json!({"type": "data", "payload": {"name": "go"}, "signal_id": format!("{id}-go")})
}

impl Waits {
    pub(crate) fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        (0..CLIENTS)
            .map(|number| {
                let (client, rng) = (setting.client()?, setting.rng(Workload::Waits, number));
                Ok(tokio::spawn(self.clone().work(number, client, rng, setting.clone())))
            })
            .collect()
    }

    async fn work(self, number: usize, client: Client, mut rng: StdRng, setting: Setting) {
        let mut pace = pace(PACE);
        let mut unsignalled: Vec<String> = Vec::new();
        let mut count = 0;
        while !setting.is_over() {
            pace.tick().await;
            count += 1;
            let id = format!("wait-{number}-{count}");
            let waits_ms = rng.random_range(WAITS_MS);
            let submitted_at_ms = now_ms();
            let body = submission(&setting.sink, &id, waits_ms);
            let place = rng.random_range(0..usize::MAX / 2);
            let outcome = client.ask(place, Ask::post("submit", "/v1/workflows", &body)).await.outcome;
            self.0.lock().insert(id.clone(), Waiting { outcome, waits_ms, submitted_at_ms });
            if outcome == Outcome::Acknowledged {
                unsignalled.push(id);
            }
            // The newest: its wait has hardly begun. The oldest: its wait is long since over.
            let from_the_end = rng.random_bool(0.5);
            let Some(at) = (if from_the_end { unsignalled.len().checked_sub(1) } else { Some(0) }) else {
                continue;
            };
            let Some(id) = unsignalled.get(at).cloned() else { continue };
            let (path, body) = (format!("/v1/workflows/{id}/signals"), go(&id));
            let first = client.ask(place, Ask::post("signal", &path, &body)).await.outcome;
            let second = match rng.random_bool(0.3) {
                true => client.ask(place + 1, Ask::post("signal", &path, &body)).await.outcome,
                false => first,
            };
            if first == Outcome::Acknowledged || second == Outcome::Acknowledged {
                unsignalled.remove(at);
            }
        }
    }

    /// Signals every run that may not have been, and looks at how each ended.
    pub(crate) async fn check(&self, cluster: &Cluster, sink: &Sink) -> Result<String> {
        let begun = Instant::now();
        let all = self.0.lock().clone();
        let runs: Vec<Option<(&String, Value)>> = futures::stream::iter(&all)
            .map(|(id, waiting)| async move {
                let path = format!("/v1/workflows/{id}/signals");
                // Taken, taken before, or refused by a run that has ended or is not there.
                let mut told = cluster.post_to_any(&path, &go(id)).await?;
                while told == 503 && begun.elapsed() < SIGNAL_MAX {
                    tokio::time::sleep(LOOK_EVERY).await;
                    told = cluster.post_to_any(&path, &go(id)).await?;
                }
                ensure!(matches!(told, 202 | 404 | 409), "a signal for {id} was answered {told}");
                Ok(ended(cluster, id, waiting.outcome, begun).await?.map(|run| (id, run)))
            })
            .buffer_unordered(REQUESTS_AT_A_TIME)
            .try_collect()
            .await?;
        let (mut count, calls) = (0, sink.calls().await);
        for (id, run) in runs.into_iter().flatten() {
            check_run(cluster, id, &all[id], &run, &calls).await.with_context(|| id.clone())?;
            count += 1;
        }
        ensure!(count > 0, "no wait was ever acknowledged");
        Ok(format!("{count} timers and {count} signals, each taken once, no timer early"))
    }
}

async fn check_run(
    cluster: &Cluster,
    id: &str,
    waiting: &Waiting,
    run: &Value,
    calls: &[Call],
) -> Result<()> {
    ensure!(run["status"] == "completed", "it ended otherwise: {run}");
    let events = events(cluster, id).await?;
    let of = |kind: &str, step: &str| -> Vec<&Value> {
        events.iter().filter(|e| e["type"] == kind && e["step_id"] == step).collect()
    };
    let at = |event: &Value| time_ms(event["timestamp"].as_str().unwrap_or_default());
    for step in ["time", "sign"] {
        let (started, completed) = (of("wait_started", step), of("wait_completed", step));
        ensure!(
            started.len() == 1 && completed.len() == 1,
            "{step} began {} times and ended {} times",
            started.len(),
            completed.len()
        );
        if step == "time" {
            let took = at(completed[0])? - at(started[0])?;
            ensure!(
                took + ROUNDING_MS + cluster.skew_ms() >= waiting.waits_ms,
                "{took} ms of {} were waited",
                waiting.waits_ms
            );
        }
    }
    let signals = events.iter().filter(|event| event["type"] == "signal_received").count();
    ensure!(signals == 1, "the signal was taken {signals} times");
    // By the clock of this program, whatever the nodes' clocks say.
    let told = calls.iter().filter(|call| call.run == id && call.step == "s0").map(|call| call.at_ms).min();
    let told = told.context("the end of the wait was never told")?;
    let after = told - waiting.submitted_at_ms;
    ensure!(
        after + ROUNDING_MS + cluster.skew_ms() >= waiting.waits_ms,
        "it was told of {after} ms after it was submitted"
    );
    Ok(())
}

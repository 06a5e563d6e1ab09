//! Schedules that fire each second, or every other: whoever dies, each slot has one run, none is left
//! out, and none comes before its time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{PAGE, Setting, Workload, events, pace};
use crate::checkers::{now_ms, time_ms};
use crate::client::{Ask, Client};
use crate::cluster::{Cluster, LOOK_EVERY};

/// How often the schedules are made once more, and looked at.
const PACE: Duration = Duration::from_millis(500);
/// What they run.
const TEMPLATE: &str = "jepsen-slot";
/// The schedules: id, milliseconds between two slots, and what becomes of overlaps.
const SCHEDULES: [(&str, i64, &str); 2] =
    [("each-second", 1_000, "parallel"), ("each-other", 2_000, "queue")];
/// Tries to define and make what is needed.
const TRIES_MAX: usize = 20;
/// Longest time until all missed slots have their run, when all is healed.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(60);
/// How far the last slot may lie behind then.
const BEHIND_MS_MAX: i64 = 5_000;
/// Every how many runs one's events are looked at.
const LOOKED_AT_EVERY: usize = 25;

/// It keeps nothing: the schedules say what there must be.
#[derive(Clone, Default)]
pub(crate) struct Schedules;

fn template() -> Value {
    json!({"name": TEMPLATE, "definition": {"steps": [
        {"id": "a", "action": "workflow.log", "params": {"message": "${{context.slot}}"}}]}})
}

fn schedule((id, every_ms, overlap): (&str, i64, &str)) -> Value {
    json!({"id": id, "template": TEMPLATE, "interval": format!("{every_ms}ms"), "missed": "all",
        "overlap": overlap})
}

impl Schedules {
    /// Makes the schedules, and has a client make them again and again.
    pub(crate) async fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        let client = setting.client()?;
        made(&client, "define", "/v1/templates", &template()).await?;
        for wanted in SCHEDULES {
            made(&client, "schedule", "/v1/schedules", &schedule(wanted)).await?;
        }
        let rng = setting.rng(Workload::Schedules, 0);
        Ok(vec![tokio::spawn(work(client, rng, setting.clone()))])
    }

    /// Looks whether every slot has its run.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let mut count = 0;
        for wanted in SCHEDULES {
            count += check_schedule(cluster, wanted).await.with_context(|| wanted.0)?;
        }
        Ok(format!("{count} slots, each with one run, none before its time"))
    }
}

async fn made(client: &Client, name: &'static str, path: &str, body: &Value) -> Result<()> {
    let mut pace = pace(PACE);
    let mut tries = 0;
    while client.ask(tries, Ask::post(name, path, body)).await.success().is_none() {
        tries += 1;
        ensure!(tries < TRIES_MAX, "{path} takes nothing");
        pace.tick().await;
    }
    Ok(())
}

/// The same schedule again is the same schedule.
async fn work(client: Client, mut rng: StdRng, setting: Setting) {
    let mut pace = pace(PACE);
    while !setting.is_over() {
        pace.tick().await;
        let wanted = SCHEDULES[rng.random_range(0..SCHEDULES.len())];
        let (place, body) = (rng.random_range(0..usize::MAX / 2), schedule(wanted));
        client.ask(place, Ask::post("schedule", "/v1/schedules", &body)).await;
    }
}

async fn check_schedule(cluster: &Cluster, (id, every_ms, _): (&str, i64, &str)) -> Result<usize> {
    let last = caught_up(cluster, id).await?;
    let mut runs = slots(cluster, id).await?;
    runs.retain(|slot, _| *slot <= last);
    ensure!(runs.contains_key(&last), "its last slot {last} has no run");
    for (before, after) in runs.keys().zip(runs.keys().skip(1)) {
        ensure!(after - before == every_ms, "no slots have runs between {before} and {after}");
    }
    for (slot, run) in runs.iter().step_by(LOOKED_AT_EVERY) {
        let all = events(cluster, run).await?;
        let starts: Vec<&Value> = all.iter().filter(|e| e["type"] == "workflow_started").collect();
        ensure!(starts.len() == 1, "{run} was started {} times", starts.len());
        let at = time_ms(starts[0]["timestamp"].as_str().unwrap_or_default())?;
        ensure!(at + cluster.skew_ms() >= *slot, "{run} was started {} ms too early", slot - at);
    }
    Ok(runs.len())
}

/// Waits until the schedule has caught up: its last slot.
async fn caught_up(cluster: &Cluster, id: &str) -> Result<i64> {
    let begun = Instant::now();
    loop {
        let (status, schedule) = cluster.get_healed(&format!("/v1/schedules/{id}")).await?;
        ensure!(status == 200, "it is {status}: {schedule}");
        ensure!(schedule["last_error"].is_null(), "a slot was not started: {schedule}");
        if let Some(last) = schedule["last_slot"].as_str() {
            let last = time_ms(last)?;
            if schedule["waiting"] == 0 && last + BEHIND_MS_MAX + cluster.skew_ms() >= now_ms() {
                return Ok(last);
            }
        }
        ensure!(begun.elapsed() < CAUGHT_UP_MAX, "it does not catch up: {schedule}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The runs by their slots' times; a list shows each once.
async fn slots(cluster: &Cluster, id: &str) -> Result<BTreeMap<i64, String>> {
    let mut slots = BTreeMap::new();
    let mut path = format!("/v1/workflows?label=schedule:{id}&limit={PAGE}");
    loop {
        let (status, page) = cluster.get_healed(&path).await?;
        let is_whole = status == 200 && page.get("unreachable_shards").is_none();
        ensure!(is_whole, "a list: {status}: {page}");
        for run in page["items"].as_array().into_iter().flatten() {
            let run = run["workflow_id"].as_str().context("a run without an id")?;
            let time = run.strip_prefix(id).and_then(|rest| rest.strip_prefix(':'));
            let time = time.with_context(|| format!("{run} is of no slot"))?;
            let other = slots.insert(time_ms(&time.replace('Z', ".000Z"))?, run.to_owned());
            ensure!(other.is_none(), "{run} is there twice");
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return Ok(slots) };
        path = format!("/v1/workflows?label=schedule:{id}&limit={PAGE}&cursor={cursor}");
    }
}

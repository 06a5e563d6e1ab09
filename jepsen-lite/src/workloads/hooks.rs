//! A webhook and its receiver, which refuses some of what it is sent: whoever dies, the end of every
//! run is told at least once, under one id, with a signature that holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinHandle;

use super::{PAGE, Setting, Workload, pace};
use crate::client::{Ask, Client};
use crate::cluster::{Cluster, LOOK_EVERY};

/// How often a run is submitted.
const PACE: Duration = Duration::from_millis(100);
/// Tries to make the webhook.
const TRIES_MAX: usize = 40;
/// Part of the deliveries that the receiver refuses.
const REFUSED: f64 = 0.1;
/// Longest time until all is told, when all is healed.
const TOLD_MAX: Duration = Duration::from_secs(90);
/// The label of the runs.
const LABEL: &str = "hook:told";
/// What signs: `whsec_` and these bytes in base64.
const KEY: &[u8; 32] = b"jepsen-lite knows what is signed";

/// What the receiver has taken.
#[derive(Default)]
struct Taken {
    /// By delivery: the event's name and its run.
    by_id: BTreeMap<String, (String, String)>,
    wrong: Vec<String>,
    times: usize,
}

type Shared = Arc<Mutex<Taken>>;

/// The receiver, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    taken: Arc<OnceLock<Shared>>,
}

impl Hooks {
    /// Starts the receiver, has it told of every end, and has a client submit runs.
    pub(crate) async fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        let taken = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let app = Router::new().fallback(take).with_state(taken.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        ensure!(self.taken.set(taken).is_ok(), "there is a receiver already");
        let client = setting.client()?;
        let webhook = json!({"id": "ends", "url": url, "secret": format!("whsec_{}", STANDARD.encode(KEY)),
            "events": ["workflow.completed", "workflow.failed", "workflow.cancelled"],
            "filter": {"label": LABEL}});
        let mut pace = pace(PACE);
        let mut tries = 0;
        while client.ask(tries, Ask::post("hook", "/v1/webhooks", &webhook)).await.success().is_none() {
            tries += 1;
            ensure!(tries < TRIES_MAX, "no webhook can be made");
            pace.tick().await;
        }
        let rng = setting.rng(Workload::Hooks, 0);
        Ok(vec![tokio::spawn(work(client, rng, setting.clone()))])
    }

    /// Waits until every run that has ended was told of, and looks at what was told.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let taken = self.taken.get().context("there is no receiver")?;
        let ended = ended(cluster).await?;
        let begun = Instant::now();
        loop {
            let missing: Vec<String> = {
                let taken = taken.lock();
                let told: BTreeSet<&String> = taken.by_id.values().map(|(_, run)| run).collect();
                ended.keys().filter(|run| !told.contains(run)).cloned().collect()
            };
            if missing.is_empty() {
                break;
            }
            if begun.elapsed() > TOLD_MAX {
                let (_, webhook) = cluster.get_healed("/v1/webhooks/ends").await?;
                anyhow::bail!("{} runs were never told of: {missing:.400?}; {webhook}", missing.len());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let taken = taken.lock();
        ensure!(taken.wrong.is_empty(), "{:?}", taken.wrong);
        let mut told: BTreeMap<&str, &str> = BTreeMap::new();
        for (kind, run) in taken.by_id.values() {
            let wanted = ended.get(run).with_context(|| format!("{run} was told of and has not ended"))?;
            ensure!(
                kind.strip_prefix("workflow.") == Some(wanted),
                "{run} is {wanted} and was told as {kind}"
            );
            ensure!(told.insert(run, kind).is_none(), "the end of {run} was told under two ids");
        }
        Ok(format!("{} ends told, {} times", told.len(), taken.times))
    }
}

/// Every run of the label with the status that it has ended in.
async fn ended(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let mut ended = BTreeMap::new();
    let mut path = format!("/v1/workflows?label={LABEL}&limit={PAGE}");
    loop {
        let (status, page) = cluster.get_healed(&path).await?;
        let is_whole = status == 200 && page.get("unreachable_shards").is_none();
        ensure!(is_whole, "a list: {status}: {page}");
        for run in page["items"].as_array().into_iter().flatten() {
            let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
            let is_over = matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled"));
            ensure!(is_over, "{run} has not ended");
            ended.insert(text("workflow_id"), text("status"));
        }
        let Some(cursor) = page["next_cursor"].as_str() else { return Ok(ended) };
        path = format!("/v1/workflows?label={LABEL}&limit={PAGE}&cursor={cursor}");
    }
}

async fn work(client: Client, mut rng: StdRng, setting: Setting) {
    let mut pace = pace(PACE);
    let mut count = 0;
    while !setting.is_over() {
        pace.tick().await;
        // Some fail.
        let expression = if rng.random_bool(0.2) { "1 / 0" } else { "6 * 7" };
        let step = json!({"id": "a", "action": "expr.eval", "params": {"expression": expression}});
        let body = json!({"id": format!("hooked-{count}"), "labels": {"hook": "told"},
            "definition": {"steps": [step]}});
        count += 1;
        let place = rng.random_range(0..usize::MAX / 2);
        client.ask(place, Ask::post("submit", "/v1/workflows", &body)).await;
    }
}

async fn take(State(taken): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, timestamp) = (field("webhook-id"), field("webhook-timestamp"));
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(KEY).expect("a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&body);
    let signed = field("webhook-signature").strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
    let is_signed = signed.is_some_and(|signed| mac.verify_slice(&signed).is_ok());
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut taken = taken.lock();
    if !is_signed {
        taken.wrong.push(format!("{id} is not signed as it must be"));
    }
    if rand::rng().random_bool(REFUSED) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let said = (text(&said["type"]), text(&said["data"]["workflow_id"]));
    let before = taken.by_id.insert(id.to_owned(), said.clone());
    if before.as_ref().is_some_and(|before| *before != said) {
        taken.wrong.push(format!("{id} was {before:?} and then {said:?}"));
    }
    taken.times += 1;
    StatusCode::NO_CONTENT
}

//! The checkers: what was promised, against what is there when all is healed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::history::{History, Kind, Outcome, Submission};
use crate::sink::Sink;
use crate::workload::STEPS;

/// Requests of the checkers under way at a time.
const REQUESTS_AT_A_TIME: usize = 64;
/// Everything ends within this time of healing.
const END_MAX: Duration = Duration::from_secs(30);

/// Checks all promises; the summary, or the first one broken.
pub(crate) async fn check(cluster: &Cluster, sink: &Sink, history: &History) -> Result<String> {
    let healed = Instant::now();
    let submissions = history.all().await;
    let mut recorded: BTreeMap<String, i64> = BTreeMap::new();
    let mut started: BTreeSet<String> = BTreeSet::new();
    let mut ended = 0;
    let mut looked_at = futures::stream::iter(&submissions)
        .map(|(id, submission)| async move {
            let Some(run) = ended_run(cluster, id, submission, healed).await? else { return Ok(None) };
            let seen = check_run(cluster, id, submission, &run).await.with_context(|| id.clone())?;
            anyhow::Ok(Some(seen))
        })
        .buffer_unordered(REQUESTS_AT_A_TIME);
    while let Some(seen) = looked_at.next().await {
        if let Some(seen) = seen? {
            ended += 1;
            recorded.extend(seen.recorded);
            started.extend(seen.started);
        }
    }
    let calls = sink.calls().await;
    for call in &calls {
        let key = call.key.as_deref().context("a post came without a key")?;
        ensure!(
            key == format!("{}/{}", call.run, call.step),
            "{key} is not the key of {}/{}",
            call.run,
            call.step
        );
        ensure!(started.contains(key), "{key} was posted without a committed start");
        if let Some(at) = recorded.get(key) {
            let is_in_order = call.at_ms <= *at || cluster.may_be_late(call.at_ms);
            ensure!(is_in_order, "{key} was posted again after it was recorded");
        }
    }
    let seen: BTreeSet<&str> = calls.iter().filter_map(|call| call.key.as_deref()).collect();
    for key in recorded.keys() {
        ensure!(seen.contains(key.as_str()), "{key} is recorded and was never posted");
    }
    let before: Vec<Value> = outcomes(cluster, &submissions).await?;
    cluster.check_tables_over_a_restart().await?;
    let after = outcomes(cluster, &submissions).await?;
    for ((id, before), after) in submissions.keys().zip(&before).zip(&after) {
        ensure!(before == after, "{id} changed its outcome over a restart: {before} became {after}");
    }
    Ok(format!("{ended} runs ended, {} steps recorded, {} posts", recorded.len(), calls.len()))
}

/// The run, ended; `None` when it does not exist and need not.
async fn ended_run(
    cluster: &Cluster,
    id: &str,
    submission: &Submission,
    healed: Instant,
) -> Result<Option<Value>> {
    loop {
        let (status, run) = cluster.get_from(0, &format!("/v1/workflows/{id}?wait=5s")).await?;
        match (status, submission.outcome) {
            (404, Outcome::Acknowledged) => bail!("{id} was acknowledged and is lost"),
            (404, Outcome::Unknown | Outcome::Refused) => return Ok(None),
            (200, Outcome::Refused) => bail!("{id} was refused and exists"),
            (200, Outcome::Acknowledged | Outcome::Unknown) => {}
            (other, _) => bail!("{id}: {other}: {run}"),
        }
        if matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
            return Ok(Some(run));
        }
        if healed.elapsed() > END_MAX {
            bail!("{id} has not ended {END_MAX:?} after healing: {run}");
        }
    }
}

/// What the events of a run say: keys of steps with when they were recorded, and of those started.
#[derive(Default)]
struct Seen {
    recorded: BTreeMap<String, i64>,
    started: Vec<String>,
}

/// One run: completed, its log without gaps, every step recorded once, one decision that holds.
async fn check_run(cluster: &Cluster, id: &str, submission: &Submission, run: &Value) -> Result<Seen> {
    ensure!(run["status"] == "completed", "it ended otherwise: {run}");
    let (status, page) = cluster.get_from(0, &format!("/v1/workflows/{id}/events?limit=1000")).await?;
    ensure!(status == 200, "{status}: {page}");
    let events = page["items"].as_array().context("events are a list")?;
    let mut seen = Seen::default();
    let mut terminal = 0;
    let mut resolved = 0;
    let mut completed = 0;
    for (index, event) in events.iter().enumerate() {
        ensure!(event["sequence"] == index + 1, "a gap at {}", index + 1);
        let key = format!("{id}/{}", event["step_id"].as_str().unwrap_or_default());
        match event["type"].as_str().unwrap_or_default() {
            "workflow_completed" | "workflow_failed" | "workflow_cancelled" => terminal += 1,
            "decision_resolved" => resolved += 1,
            "step_started" => seen.started.push(key),
            "step_completed" if !key.ends_with("/ask") => {
                completed += 1;
                let at = time_ms(event["timestamp"].as_str().unwrap_or_default())?;
                ensure!(seen.recorded.insert(key.clone(), at).is_none(), "{key} was recorded twice");
            }
            _ => {}
        }
    }
    ensure!(terminal == 1, "{terminal} ends");
    ensure!(completed == STEPS, "{completed} of {STEPS} steps recorded");
    if submission.kind == Kind::Asks {
        ensure!(resolved == 1, "{resolved} resolutions");
        if let Some(choice) = &submission.decision {
            let kept = &run["steps"]["ask"]["output"]["choice"];
            ensure!(kept == choice, "{choice} was acknowledged and {kept} is kept");
        }
    }
    if submission.kind == Kind::Computes {
        // Nobody outside has seen these.
        return Ok(Seen::default());
    }
    Ok(seen)
}

/// Milliseconds since the epoch of `YYYY-MM-DDTHH:MM:SS.mmmZ`.
fn time_ms(text: &str) -> Result<i64> {
    let part = |range: std::ops::Range<usize>| -> Result<i64> {
        text.get(range).and_then(|t| t.parse().ok()).with_context(|| format!("not a time: {text:?}"))
    };
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    // Days since the epoch in the proleptic Gregorian calendar, with years that begin in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 + day - 1 - 719_468;
    let seconds = part(11..13)? * 3_600 + part(14..16)? * 60 + part(17..19)?;
    Ok((days * 86_400 + seconds) * 1_000 + part(20..23)?)
}

async fn outcomes(cluster: &Cluster, submissions: &BTreeMap<String, Submission>) -> Result<Vec<Value>> {
    futures::stream::iter(submissions.keys())
        .map(|id| async move {
            let (_, run) = cluster.get_from(0, &format!("/v1/workflows/{id}")).await?;
            Ok(Value::Array(vec![run["status"].clone(), run["output"].clone(), run["completed_at"].clone()]))
        })
        .buffered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::time_ms;

    #[test]
    fn times_are_read() {
        assert_eq!(time_ms("1970-01-01T00:00:00.000Z").unwrap(), 0);
        assert_eq!(time_ms("2000-02-29T12:34:56.789Z").unwrap(), 951_827_696_789);
        assert!(time_ms("soon").is_err());
    }
}

//! The checkers: what was promised, against what is there when all is healed.

pub(crate) mod bounds;
pub(crate) mod linear;
mod replicas;
pub(crate) mod run_model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::backups::Backups;
use crate::client::namespace_of;
use crate::cluster::Cluster;
use crate::history::{History, Kind, Outcome, Submission};
use crate::sink::{Call, Sink};
use crate::workloads::Workloads;
use crate::workloads::chains::STEPS;

/// Requests of the checkers under way at a time.
pub(crate) const REQUESTS_AT_A_TIME: usize = 64;
/// Everything ends within this time of healing.
const END_MAX: Duration = Duration::from_secs(30);

/// What a checker looks for, and what it found: a summary, or how the promise was broken.
pub(crate) type Verdict = (&'static str, Result<String>);

/// All that the checkers look at.
pub(crate) struct Evidence<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) sink: &'a Sink,
    pub(crate) history: &'a History,
    pub(crate) workloads: &'a Workloads,
    pub(crate) watch: &'a bounds::Watch,
    pub(crate) backups: &'a Backups,
    /// When all was healed.
    pub(crate) healed: Instant,
}

/// Verdicts, each said as soon as it is there: all of them take a while.
struct Verdicts(Vec<(String, bool, String)>);

impl Verdicts {
    fn add(&mut self, (what, verdict): Verdict) {
        let (held, text) = match verdict {
            Ok(text) => (true, text),
            Err(error) => (false, format!("{error:#}")),
        };
        println!("{}: {what}: {text}", if held { "kept" } else { "BROKEN" });
        self.0.push((what.to_owned(), held, text));
    }
}

/// Checks all promises, one after the other, also after one is broken. What each says of itself,
/// whether it held, and what was found.
pub(crate) async fn check(harmed: Result<Evidence<'_>>) -> Vec<(String, bool, String)> {
    let mut verdicts = Verdicts(Vec::new());
    let evidence = match harmed {
        Ok(evidence) => evidence,
        Err(error) => {
            verdicts.add(("faults are done and healed as they should be", Err(error)));
            return verdicts.0;
        }
    };
    let Evidence { cluster, history, healed, .. } = evidence;
    let submissions = history.all().await;
    verdicts.add(("every answer is one that may be given", answers(history).await));
    let mut seen = Seen::default();
    let chains = chains(cluster, &submissions, healed, &mut seen).await;
    verdicts.add(("nothing acknowledged is lost; one outcome, each step recorded once", chains));
    for verdict in evidence.workloads.check(cluster, evidence.sink, healed).await {
        verdicts.add(verdict);
    }
    // Only now: the check before it lets runs go on that waited for a signal.
    let calls = evidence.sink.calls().await;
    let sink = sink(cluster, &calls, seen).await;
    verdicts.add(("the sink saw each step under one key, and none without a start", sink));
    let ids: BTreeSet<String> =
        submissions.keys().cloned().chain(calls.iter().map(|call| call.run.clone())).collect();
    verdicts.add(("logs are the same on all replicas", replicas::check(cluster, &ids).await));
    verdicts.add(("no node ended by itself", deaths(cluster)));
    verdicts.add(("memory, files and disk are bounded", evidence.watch.check(cluster, ids.len()).await));
    verdicts.add(("tables equal the fold of events; outcomes stay", restart(cluster, &submissions).await));
    // The last: what is restored posts again.
    let restored = evidence.backups.check(cluster, history).await;
    verdicts.add(("what was acknowledged before a backup is in it", restored));
    verdicts.0
}

/// No client was told what it must not be told.
async fn answers(history: &History) -> Result<String> {
    let wrongs = history.wrongs().await;
    ensure!(wrongs.is_empty(), "{} answers are wrong, the first: {}", wrongs.len(), wrongs[0]);
    let answers = history.answers().await;
    let strange = answers.keys().find(|answer| answer.starts_with('5') && !answer.starts_with("503"));
    ensure!(strange.is_none(), "a client was answered {strange:?}");
    Ok(history.summary().await)
}

fn deaths(cluster: &Cluster) -> Result<String> {
    let deaths = cluster.deaths();
    ensure!(deaths.is_empty(), "{}", deaths.join("; "));
    Ok("none did, but for those whose disk was damaged or failed".into())
}

/// Every chain that was acknowledged is there and has ended as it must.
async fn chains(
    cluster: &Cluster,
    submissions: &BTreeMap<String, Submission>,
    healed: Instant,
    seen: &mut Seen,
) -> Result<String> {
    let mut count = 0;
    let mut looked_at = futures::stream::iter(submissions)
        .map(|(id, submission)| async move {
            let Some(run) = ended(cluster, id, submission.outcome, healed).await? else { return Ok(None) };
            let seen = check_run(cluster, id, submission, &run).await.with_context(|| id.clone())?;
            anyhow::Ok(Some(seen))
        })
        .buffer_unordered(REQUESTS_AT_A_TIME);
    while let Some(of_run) = looked_at.next().await {
        if let Some(of_run) = of_run? {
            count += 1;
            seen.recorded.extend(of_run.recorded);
            seen.started.extend(of_run.started);
        }
    }
    Ok(format!("{count} runs ended, {} posts recorded", seen.recorded.len()))
}

/// Every call came under its step's key, after a committed start and not after the committed end;
/// every step that is recorded was called.
async fn sink(cluster: &Cluster, calls: &[Call], mut seen: Seen) -> Result<String> {
    // Runs of other workloads than chains are known by what they posted.
    let known: BTreeSet<String> =
        seen.started.iter().filter_map(|key| key.split('/').next()).map(str::to_owned).collect();
    let others: BTreeSet<&String> =
        calls.iter().map(|call| &call.run).filter(|run| !known.contains(*run)).collect();
    let of_others: Vec<Seen> = futures::stream::iter(others)
        .map(|id| async move { Seen::of(id, &events(cluster, id).await?) })
        .buffer_unordered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await?;
    for of_run in of_others {
        seen.recorded.extend(of_run.recorded);
        seen.started.extend(of_run.started);
    }
    for call in calls {
        let shown = call.key.as_deref().context("a post came without a key")?;
        let key = &step_of(call);
        // For those who are called, runs of different namespaces have different names.
        let wanted = match namespace_of(&call.run) {
            "default" => key.clone(),
            namespace => format!("{namespace}/{key}"),
        };
        ensure!(shown == wanted, "{shown} is not the key of {wanted}");
        ensure!(seen.started.contains(key), "{key} was posted without a committed start");
        if let Some(at) = seen.recorded.get(key) {
            // The end has the time of a node, which may be off.
            let is_in_order = call.at_ms <= *at + cluster.skew_ms() || cluster.may_be_late(call.at_ms);
            ensure!(is_in_order, "{key} was posted again {} ms after it was recorded", call.at_ms - at);
        }
    }
    let called: BTreeSet<String> = calls.iter().map(step_of).collect();
    for key in seen.recorded.keys() {
        ensure!(called.contains(key), "{key} is recorded and was never posted");
    }
    Ok(format!("{} posts of {} steps, {} of them recorded", calls.len(), called.len(), seen.recorded.len()))
}

/// A call's step as the run's own namespace knows it.
fn step_of(call: &Call) -> String {
    format!("{}/{}", call.run, call.step)
}

/// Stops all nodes, compares each one's tables with the fold, starts them, and compares outcomes.
async fn restart(cluster: &Cluster, submissions: &BTreeMap<String, Submission>) -> Result<String> {
    let before: Vec<Value> = outcomes(cluster, submissions).await?;
    cluster.check_tables_over_a_restart().await?;
    let after = outcomes(cluster, submissions).await?;
    for ((id, before), after) in submissions.keys().zip(&before).zip(&after) {
        ensure!(before == after, "{id} changed its outcome over a restart: {before} became {after}");
    }
    Ok(format!("on {} nodes; {} outcomes are the same after a restart", cluster.len(), after.len()))
}

/// The run, ended; `None` when it does not exist and need not.
pub(crate) async fn ended(
    cluster: &Cluster,
    id: &str,
    outcome: Outcome,
    healed: Instant,
) -> Result<Option<Value>> {
    loop {
        let (status, run) = cluster.get_healed(&format!("/v1/workflows/{id}?wait=5s")).await?;
        match (status, outcome) {
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

/// What the events of runs say: keys of posting steps with when they were recorded, and of steps
/// that were started.
#[derive(Default)]
struct Seen {
    recorded: BTreeMap<String, i64>,
    started: BTreeSet<String>,
}

impl Seen {
    /// Of one run, whose log must be gapless and record each step once. Steps that post are those
    /// whose names begin with `s` and a digit.
    fn of(id: &str, events: &[Value]) -> Result<Self> {
        let mut seen = Self::default();
        for (index, event) in events.iter().enumerate() {
            ensure!(event["sequence"] == index + 1, "{id} has a gap at {}", index + 1);
            let step = event["step_id"].as_str().unwrap_or_default();
            let posts =
                step.strip_prefix('s').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let key = format!("{id}/{step}");
            match event["type"].as_str().unwrap_or_default() {
                "step_started" => drop(seen.started.insert(key)),
                "step_completed" if posts => {
                    let at = time_ms(event["timestamp"].as_str().unwrap_or_default())?;
                    ensure!(seen.recorded.insert(key.clone(), at).is_none(), "{key} was recorded twice");
                }
                _ => {}
            }
        }
        Ok(seen)
    }
}

/// The events of a run that has no more of them than go on a page.
async fn events(cluster: &Cluster, id: &str) -> Result<Vec<Value>> {
    let (status, page) = cluster.get_healed(&format!("/v1/workflows/{id}/events?limit=1000")).await?;
    ensure!(status == 200, "the events of {id}: {status}: {page}");
    Ok(page["items"].as_array().context("events are a list")?.clone())
}

/// One run: completed, its log without gaps, every step recorded once, one decision that holds.
async fn check_run(cluster: &Cluster, id: &str, submission: &Submission, run: &Value) -> Result<Seen> {
    ensure!(run["status"] == "completed", "it ended otherwise: {run}");
    let events = events(cluster, id).await?;
    let seen = Seen::of(id, &events)?;
    let count = |kinds: &[&str]| {
        events.iter().filter(|event| kinds.contains(&event["type"].as_str().unwrap_or_default())).count()
    };
    let ends = count(&["workflow_completed", "workflow_failed", "workflow_cancelled"]);
    ensure!(ends == 1, "{ends} ends");
    ensure!(seen.recorded.len() == STEPS, "{} of {STEPS} steps recorded", seen.recorded.len());
    if submission.kind == Kind::Asks {
        let resolved = count(&["decision_resolved"]);
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

/// Milliseconds since the epoch, by the clock of this program.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Milliseconds since the epoch of `YYYY-MM-DDTHH:MM:SS.mmmZ`.
pub(crate) fn time_ms(text: &str) -> Result<i64> {
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
            let (_, run) = cluster.get_healed(&format!("/v1/workflows/{id}")).await?;
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

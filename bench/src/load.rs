//! The two ways to offer load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::Work;
use crate::report::{Idle, Latencies, Report, ServerCost, machine};
use crate::server::Server;

/// Requests under way at most in the open loop; past it the offered rate cannot be held, and the
/// report would say less than the truth.
const REQUESTS_MAX: usize = 2_000;
/// Longest wait for the last runs to end.
const END_MAX: Duration = Duration::from_secs(120);

/// Offers `runs` at `rate` a second in requests of `batch`, whatever the answers do. Latency is
/// from the moment a request was due to its acknowledgement.
pub(crate) async fn batch(
    server: &Server,
    work: Work,
    runs: usize,
    rate: u64,
    batch: usize,
) -> Result<Report> {
    let definition = work.definition();
    let before = server.usage();
    let begun = Instant::now();
    let mut latencies = Latencies::new();
    let mut under_way = FuturesUnordered::new();
    let (mut offered, mut accepted, mut refused) = (0, 0, 0);
    while offered < runs || !under_way.is_empty() {
        let due = begun + Duration::from_secs_f64(offered as f64 / rate as f64);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()), if offered < runs => {
                if under_way.len() >= REQUESTS_MAX {
                    bail!("{REQUESTS_MAX} requests are unanswered: {rate} runs/s is more than the node takes");
                }
                let count = batch.min(runs - offered);
                let workflows = vec![json!({"definition": definition}); count];
                offered += count;
                under_way.push(submit(server, json!({"workflows": workflows}), due));
            }
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                let (taken, turned_away, latency) = done?;
                accepted += taken;
                refused += turned_away;
                latencies.record(latency);
            }
        }
    }
    let deadline = Instant::now() + END_MAX;
    while server.open_runs().await? {
        if Instant::now() > deadline {
            bail!("runs are still open {END_MAX:?} after the last submission");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if server.any_run("failed").await? {
        bail!("runs failed: the figures would be of something else");
    }
    let scenario = format!("batch {work:?}: {rate} runs/s offered, {batch} a request");
    Ok(report(
        server,
        before,
        begun,
        scenario,
        accepted,
        refused,
        work,
        "submission acknowledged",
        &latencies,
    ))
}

/// One batch request: accepted, refused, and how long after it was due it was answered.
async fn submit(server: &Server, body: Value, due: Instant) -> Result<(usize, usize, Duration)> {
    let url = format!("{}/v1/workflows/batch", server.url());
    let response = server.client.post(url).json(&body).send().await.context("a submission")?;
    let status = response.status();
    let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
    let items = answer["results"].as_array().or_else(|| answer["items"].as_array());
    let count = body["workflows"].as_array().map_or(0, Vec::len);
    let taken = items.map_or(0, |items| items.iter().filter(|item| item["workflow_id"].is_string()).count());
    if !status.is_success() && status.as_u16() != 429 {
        bail!("the node answered {status}: {answer}");
    }
    Ok((taken, count - taken, due.elapsed()))
}

/// Keeps `open` runs open; latency is from submission to result.
pub(crate) async fn closed(server: &Server, work: Work, runs: usize, open: usize) -> Result<Report> {
    let body = serde_json::to_vec(&json!({"definition": work.definition()}))?;
    let body = bytes::Bytes::from(body);
    let before = server.usage();
    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let clients = (0..open).map(|_| {
        let (next, body) = (next.clone(), body.clone());
        async move {
            let mut times = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < runs {
                let sent = Instant::now();
                let response = server
                    .client
                    .post(format!("{}/v1/workflows?wait=60s", server.url()))
                    .header("content-type", "application/json")
                    .body(body.clone())
                    .send()
                    .await?
                    .error_for_status()?;
                let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
                if answer["status"] != "completed" {
                    bail!("a run did not complete: {answer}");
                }
                times.push(sent.elapsed());
            }
            Ok(times)
        }
    });
    let mut latencies = Latencies::new();
    for times in futures::future::try_join_all(clients).await? {
        times.into_iter().for_each(|time| latencies.record(time));
    }
    let scenario = format!("closed {work:?}: {open} open");
    Ok(report(server, before, begun, scenario, runs, 0, work, "submission to result", &latencies))
}

/// Watches nodes that have nothing to do, after they have settled.
pub(crate) async fn idle(server: &Server, settle: Duration, watch: Duration) -> Result<Idle> {
    tokio::time::sleep(settle).await;
    let before = server.usage().context("only nodes of this command's own can be watched")?;
    tokio::time::sleep(watch).await;
    let after = server.usage().context("only nodes of this command's own can be watched")?;
    let seconds = watch.as_secs_f64();
    Ok(Idle {
        machine: machine(),
        seconds,
        core_percent: 100.0 * (after.cpu_s - before.cpu_s) / seconds,
        held_mb: after.held_mb,
        written_kb_per_s: 1e3 * (after.written_mb - before.written_mb) / seconds,
    })
}

#[expect(clippy::too_many_arguments, reason = "the figures of a report, put together in one place")]
fn report(
    server: &Server,
    before: Option<crate::server::Usage>,
    begun: Instant,
    scenario: String,
    runs: usize,
    refused: usize,
    work: Work,
    latency_of: &'static str,
    latencies: &Latencies,
) -> Report {
    let seconds = begun.elapsed().as_secs_f64();
    let after = server.usage();
    let steps = runs * work.steps();
    // Two events a step, and the run's first and last.
    let events = 2 * steps + 2 * runs;
    Report {
        scenario,
        machine: machine(),
        runs,
        steps,
        refused,
        seconds,
        steps_per_s: steps as f64 / seconds,
        events_per_s: events as f64 / seconds,
        latency_of,
        latency: latencies.percentiles(),
        server: before.zip(after).map(|(before, after)| ServerCost {
            cpu_us_per_step: (after.cpu_s - before.cpu_s) * 1e6 / steps.max(1) as f64,
            peak_mb: after.peak_mb,
            written_mb: after.written_mb - before.written_mb,
        }),
    }
}

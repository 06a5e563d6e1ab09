//! The ways to offer load over HTTP: open, at a rate whatever the answers do; closed, so many at a
//! time; and what wakes runs that wait.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::stream::{self, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::api::{Accepted, Api, Taken, batch_body};
use crate::latencies::Latencies;

/// Requests under way at most in the open loop; past it the offered rate cannot be held, and the
/// report would say less than the truth.
const REQUESTS_MAX: usize = 8_000;
/// Requests under way when runs are submitted for something else to be measured.
const SUBMISSIONS: usize = 8;
/// Runs in each of those.
const SUBMISSION_RUNS: usize = 500;
/// Pause before what was turned away is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Runs between two lines of progress.
const PROGRESS_RUNS: usize = 50_000;

/// What came of a load.
#[derive(Default)]
pub(crate) struct Offered {
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
    pub(crate) latencies: Vec<Duration>,
}

/// Says on stderr how far long work is.
pub(crate) fn progress(what: &str, done: usize, of: usize) {
    eprintln!("opcode-bench: {what}: {done} of {of}");
}

impl Offered {
    fn add(&mut self, accepted: usize, refused: usize, latency: Duration) {
        self.accepted += accepted;
        self.refused += refused;
        self.latencies.push(latency);
        let done = self.accepted + self.refused;
        if done % PROGRESS_RUNS < accepted + refused {
            eprintln!("opcode-bench: {done} runs answered");
        }
    }

    /// As a histogram.
    pub(crate) fn histogram(&self) -> Latencies {
        self.latencies.iter().copied().collect()
    }
}

/// Offers `runs` at `rate` a second in requests of `batch`. A latency is from the moment a request
/// was due: to the result of its run when it is of one alone, else to the acknowledgement of all.
pub(crate) async fn open(api: &Api, work: &Value, runs: usize, rate: u64, batch: usize) -> Result<Offered> {
    let begun = Instant::now();
    let (full, single) = (batch_body(work, batch), Bytes::from(work.to_string()));
    let mut under_way = FuturesUnordered::new();
    let mut offered = 0;
    let mut outcome = Offered::default();
    while offered < runs || !under_way.is_empty() {
        let due = begun + Duration::from_secs_f64(offered as f64 / rate as f64);
        tokio::select! {
            () = tokio::time::sleep_until(due.into()), if offered < runs => {
                if under_way.len() >= REQUESTS_MAX {
                    bail!("{REQUESTS_MAX} requests are unanswered: {rate} runs/s is more than the nodes take");
                }
                let count = batch.min(runs - offered);
                offered += count;
                let body = match count {
                    1 => single.clone(),
                    _ if count == batch => full.clone(),
                    _ => batch_body(work, count),
                };
                under_way.push(async move {
                    let (accepted, refused) = if count == 1 {
                        api.complete_one(body).await?;
                        (1, 0)
                    } else {
                        let Accepted { taken, refused } = api.submit(body).await?;
                        (taken.len(), refused.len())
                    };
                    anyhow::Ok((accepted, refused, due.elapsed()))
                });
            }
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                let (accepted, refused, latency) = done?;
                outcome.add(accepted, refused, latency);
            }
        }
    }
    Ok(outcome)
}

/// Keeps `open` runs open, in requests of `batch`, until `runs` have completed. A latency is from a
/// request to the end of its runs: of each when it is of one alone, else of the last of each shard.
pub(crate) async fn closed(
    api: &Api,
    work: &Value,
    runs: usize,
    open: usize,
    batch: usize,
) -> Result<Offered> {
    let batch = batch.min(open).min(runs.max(1));
    let (full, single) = (batch_body(work, batch), Bytes::from(work.to_string()));
    let requests = (0..runs).step_by(batch).map(|begun| {
        let count = batch.min(runs - begun);
        let (full, single) = (&full, &single);
        async move {
            let sent = Instant::now();
            if batch == 1 {
                api.complete_one(single.clone()).await?;
            } else {
                let body = if count == batch { full.clone() } else { batch_body(work, count) };
                let Accepted { taken, refused } = api.submit(body).await?;
                if !refused.is_empty() {
                    bail!("{} of {count} runs were turned away: fewer must be open", refused.len());
                }
                stream::iter(last_of_each_shard(&taken).map(anyhow::Ok))
                    .try_for_each_concurrent(None, |last| api.completes(&last.workflow_id))
                    .await?;
            }
            anyhow::Ok((count, sent.elapsed()))
        }
    });
    let mut outcome = Offered::default();
    let mut under_way = stream::iter(requests).buffer_unordered((open / batch).max(1));
    while let Some(done) = under_way.next().await {
        let (count, latency) = done?;
        outcome.add(count, 0, latency);
    }
    Ok(outcome)
}

fn last_of_each_shard(taken: &[Taken]) -> impl Iterator<Item = &Taken> {
    let is_last =
        move |place: usize| taken[place + 1..].iter().all(|later| later.shard != taken[place].shard);
    taken.iter().enumerate().filter(move |(place, _)| is_last(*place)).map(|(_, taken)| taken)
}

/// Submits runs as fast as the nodes take them, and waits until all are acknowledged. `submission`
/// gives each its body by its number.
pub(crate) async fn submit_all(
    api: &Api,
    runs: usize,
    submission: impl Fn(usize) -> Value,
) -> Result<Vec<Taken>> {
    let requests = (0..runs).step_by(SUBMISSION_RUNS).map(|first| {
        let mut items: Vec<String> =
            (first..runs.min(first + SUBMISSION_RUNS)).map(|n| submission(n).to_string()).collect();
        async move {
            let mut all = Vec::with_capacity(items.len());
            loop {
                let body = format!("{{\"workflows\":[{}]}}", items.join(","));
                let Accepted { taken, refused } = api.submit(body.into()).await?;
                all.extend(taken);
                if refused.is_empty() {
                    return anyhow::Ok(all);
                }
                items = refused.into_iter().map(|place| std::mem::take(&mut items[place])).collect();
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
    });
    let mut all = Vec::with_capacity(runs);
    let mut under_way = stream::iter(requests).buffer_unordered(SUBMISSIONS);
    while let Some(taken) = under_way.next().await {
        all.extend(taken?);
        if all.len() % PROGRESS_RUNS < SUBMISSION_RUNS && runs > PROGRESS_RUNS {
            progress("submitting", all.len(), runs);
        }
    }
    Ok(all)
}

/// Sends each of these runs a signal, `open` at a time; a latency is from the signal to the run's
/// end, which must be a completion.
pub(crate) async fn wake(api: &Api, runs: &[Taken], signal: &Value, open: usize) -> Result<Latencies> {
    let signal = Bytes::from(signal.to_string());
    let woken = runs.iter().map(|run| {
        let signal = signal.clone();
        async move {
            let sent = Instant::now();
            api.signal(&run.workflow_id, signal).await?;
            api.completes(&run.workflow_id).await?;
            anyhow::Ok(sent.elapsed())
        }
    });
    let mut latencies = Latencies::new();
    let mut under_way = stream::iter(woken).buffer_unordered(open.max(1));
    let mut done = 0;
    while let Some(latency) = under_way.next().await {
        latencies.record(latency?);
        done += 1;
        if done % PROGRESS_RUNS == 0 {
            progress("waking", done, runs.len());
        }
    }
    Ok(latencies)
}

//! What the overview's figures and their lines are made of: the node's own metrics and the cluster's counts,
//! looked at every few seconds and kept for half an hour. A node that was just started knows no more than
//! that; nothing is read from tables for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::gather;
use crate::state::RouterState;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// Looks that are kept.
const KEPT: usize = 360;

/// One look.
#[derive(Clone, Default)]
pub(super) struct Beat {
    /// Since the one before, in seconds.
    pub(super) seconds: f64,
    /// Of this node, a second: HTTP requests, those that it failed, batches committed.
    pub(super) requests: f64,
    pub(super) errors: f64,
    pub(super) commits: f64,
    /// The 99th percentile of commits since then, in ms; none when there were none.
    pub(super) commit_ms: Option<f64>,
    /// Of all shards that answered, a second: workflows started.
    pub(super) started: f64,
    /// Work that waits, and runs that are held in memory.
    pub(super) queued: u64,
    pub(super) in_memory: u64,
}

/// The looks of the last half hour, the oldest first.
#[derive(Default)]
pub(super) struct Pulse(Mutex<VecDeque<Beat>>);

impl Pulse {
    pub(super) fn beats(&self) -> Vec<Beat> {
        self.0.lock().iter().cloned().collect()
    }

    fn add(&self, beat: Beat) {
        let mut beats = self.0.lock();
        if beats.len() >= KEPT {
            beats.pop_front();
        }
        beats.push_back(beat);
    }
}

/// Looks until the node stops.
pub(super) async fn beat(state: RouterState, pulse: Arc<Pulse>) {
    let stopping = state.stopping();
    let work = async {
        let mut ticks = tokio::time::interval(EVERY);
        let mut before: Option<(Instant, Counts, Standing)> = None;
        loop {
            ticks.tick().await;
            let (counts, standing, now) =
                (Counts::of(&state.metrics()), Standing::of(&state).await, Instant::now());
            if let Some((at, earlier, stood)) = &before {
                pulse.add(between(now.duration_since(*at), earlier, &counts, stood, &standing));
            }
            before = Some((now, counts, standing));
        }
    };
    tokio::select! {
        () = work => {}
        () = stopping => {}
    }
}

/// Counters of this node's metrics.
#[derive(Default)]
struct Counts {
    requests: f64,
    errors: f64,
    commits: f64,
    /// Commits that took at most so many seconds, the shortest first.
    buckets: Vec<(f64, f64)>,
}

impl Counts {
    /// Reads Prometheus' text format, as this node writes it.
    fn of(metrics: &str) -> Self {
        let mut counts = Self::default();
        for line in metrics.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "opcode_http_requests_total" => {
                    counts.requests += value;
                    if labels.contains("status=\"5") {
                        counts.errors += value;
                    }
                }
                "opcode_commit_seconds_count" => counts.commits += value,
                "opcode_commit_seconds_bucket" => counts.add_bucket(labels, value),
                _ => {}
            }
        }
        counts.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        counts
    }

    fn add_bucket(&mut self, labels: &str, value: f64) {
        let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
        let Some(bound) = bound.and_then(|bound| bound.parse::<f64>().ok()) else { return };
        match self.buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, count)) => *count += value,
            None => self.buckets.push((bound, value)),
        }
    }

    /// The least bound under which 99 of 100 commits since `earlier` lie, in ms.
    fn commit_ms_since(&self, earlier: &Self) -> Option<f64> {
        let before = |bound: f64| {
            let same = earlier.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
            same.map_or(0.0, |(_, count)| *count)
        };
        let since: Vec<(f64, f64)> =
            self.buckets.iter().map(|&(bound, count)| (bound, count - before(bound))).collect();
        let all = since.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let largest = since.iter().rev().map(|(bound, _)| *bound).find(|bound| bound.is_finite())?;
        let bound = since.iter().find(|(_, count)| *count >= all * 0.99).map(|(bound, _)| *bound)?;
        Some(bound.min(largest) * 1_000.0)
    }
}

/// What the shards say of themselves.
#[derive(Default)]
struct Standing {
    /// Shards that answered, since another number of them makes no rate.
    shards: usize,
    workflows: u64,
    queued: u64,
    in_memory: u64,
}

impl Standing {
    async fn of(state: &RouterState) -> Self {
        let Ok(gathered) = gather::ask_all(state, |shard| async move { shard.info().await }).await else {
            return Self::default();
        };
        gathered.answers.iter().fold(Self::default(), |sum, (_, info)| Self {
            shards: sum.shards + 1,
            workflows: sum.workflows + info.workflows,
            queued: sum.queued + info.queue_depth as u64,
            in_memory: sum.in_memory + info.runs_in_memory as u64,
        })
    }
}

fn between(time: Duration, earlier: &Counts, counts: &Counts, stood: &Standing, stands: &Standing) -> Beat {
    let seconds = time.as_secs_f64().max(0.001);
    let rate = |now: f64, before: f64| (now - before).max(0.0) / seconds;
    let is_whole = stood.shards == stands.shards;
    let started = if is_whole { stands.workflows.saturating_sub(stood.workflows) } else { 0 };
    Beat {
        seconds,
        requests: rate(counts.requests, earlier.requests),
        errors: rate(counts.errors, earlier.errors),
        commits: rate(counts.commits, earlier.commits),
        commit_ms: counts.commit_ms_since(earlier),
        started: started as f64 / seconds,
        queued: stands.queued,
        in_memory: stands.in_memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_and_told_as_rates() {
        let first = Counts::of("# HELP x\nopcode_http_requests_total{method=\"GET\",status=\"200\"} 10\n");
        let second = Counts::of(
            "opcode_http_requests_total{method=\"GET\",status=\"200\"} 30\n\
             opcode_http_requests_total{method=\"GET\",status=\"503\"} 5\n\
             opcode_commit_seconds_bucket{shard=\"0\",le=\"0.001\"} 50\n\
             opcode_commit_seconds_bucket{shard=\"1\",le=\"0.001\"} 48\n\
             opcode_commit_seconds_bucket{shard=\"0\",le=\"0.005\"} 51\n\
             opcode_commit_seconds_bucket{shard=\"1\",le=\"0.005\"} 49\n\
             opcode_commit_seconds_bucket{shard=\"0\",le=\"+Inf\"} 51\n\
             opcode_commit_seconds_bucket{shard=\"1\",le=\"+Inf\"} 49\n\
             opcode_commit_seconds_count{shard=\"0\"} 100\n",
        );
        let standing = |workflows| Standing { shards: 1, workflows, ..Standing::default() };
        let beat = between(Duration::from_secs(5), &first, &second, &standing(10), &standing(20));
        assert_eq!((beat.requests, beat.errors, beat.commits), (5.0, 1.0, 20.0));
        assert_eq!((beat.commit_ms, beat.started), (Some(5.0), 2.0));
        assert_eq!(first.commit_ms_since(&Counts::default()), None);
    }
}

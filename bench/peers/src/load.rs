//! The closed loop: a number of runs is kept open, and each is timed from submission to result.
//!
//! After a warm-up comes the window, and runs that end in it count. The loop goes on through both
//! without a pause, so that neither a ramp nor the last runs distort the figures. Every run has to
//! complete, in the window or not; one that does not is an error.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::usage::{Tree, flushes};
use crate::work::STEPS;

/// Longest wait for one run, from submission to result.
const RUN_MAX: Duration = Duration::from_secs(120);
/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(250);

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Runs open at a time.
    pub open: usize,
    /// How long runs go uncounted first.
    pub warmup: Duration,
    /// How long they count.
    pub window: Duration,
}

/// What is watched while a load runs.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Process of the engine; its descendants count as its own.
    pub server: u32,
    /// Process that runs the steps, where that is not the engine itself.
    pub service: Option<u32>,
    /// Folder of the engine's data; the disk that holds it is watched.
    pub folder: PathBuf,
}

/// What a process and its descendants used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time, user and system, for each step that was counted.
    pub cpu_us_per_step: f64,
    /// Most memory held at once, what processes share counted once.
    pub peak_mb: f64,
}

/// The figures of one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Runs that completed in the window.
    pub runs: usize,
    /// Length of the window.
    pub seconds: f64,
    pub steps_per_s: f64,
    /// From submission to result, as the two that follow.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    pub server: Cost,
    pub service: Option<Cost>,
    /// Flushes that the disk was asked for, by everybody, for each run; `None` where the folder is
    /// on no block device.
    pub syncs_per_run: Option<f64>,
}

/// One run: when it ended, and how long it took.
type Ended = (Instant, Duration);

/// Keeps runs open and says what they took. `run` does one run, and fails unless it completed.
///
/// # Errors
/// A run failed or took too long, or none ended in the window.
pub async fn measure<F, R>(load: Load, watched: &Watched, run: F) -> Result<Measured>
where
    F: Fn() -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..load.open {
        clients.spawn(client(run.clone(), stop.clone()));
    }
    let window = tokio::select! {
        window = watch(load, watched) => window?,
        Some(ended) = clients.join_next() => {
            ended??;
            bail!("a client ended before its time");
        }
    };
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    while let Some(ended) = clients.join_next().await {
        let in_window = |(at, _): &Ended| (window.begin.at..=window.end.at).contains(at);
        took.extend(ended??.into_iter().filter(in_window).map(|(_, took)| took));
    }
    window.measured(took)
}

/// One client: a run, and when that has ended the next, until it is told to stop.
async fn client<F, R>(run: F, stop: Arc<AtomicBool>) -> Result<Vec<Ended>>
where
    F: Fn() -> R,
    R: Future<Output = Result<()>>,
{
    let mut ended = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let submitted = Instant::now();
        let done = tokio::time::timeout(RUN_MAX, run()).await;
        done.with_context(|| format!("a run took longer than {RUN_MAX:?}"))??;
        ended.push((Instant::now(), submitted.elapsed()));
    }
    Ok(ended)
}

/// What had been used at one moment.
struct Snapshot {
    at: Instant,
    server_cpu_s: f64,
    service_cpu_s: Option<f64>,
    flushes: Option<u64>,
}

impl Snapshot {
    fn take(watched: &Watched) -> Self {
        Self {
            at: Instant::now(),
            server_cpu_s: Tree::of(watched.server).cpu_s(),
            service_cpu_s: watched.service.map(|process| Tree::of(process).cpu_s()),
            flushes: flushes(&watched.folder),
        }
    }
}

/// A window, with what was used at its two ends and the peaks between.
struct Window {
    begin: Snapshot,
    end: Snapshot,
    server_peak_mb: f64,
    service_peak_mb: f64,
}

/// Waits until the window is over.
async fn watch(load: Load, watched: &Watched) -> Result<Window> {
    tokio::time::sleep(load.warmup).await;
    let begin = Snapshot::take(watched);
    let (mut server_peak_mb, mut service_peak_mb) = (0.0_f64, 0.0_f64);
    while begin.at.elapsed() < load.window {
        server_peak_mb = server_peak_mb.max(Tree::of(watched.server).memory_mb());
        if let Some(process) = watched.service {
            service_peak_mb = service_peak_mb.max(Tree::of(process).memory_mb());
        }
        tokio::time::sleep(MEMORY_EVERY.min(load.window.saturating_sub(begin.at.elapsed()))).await;
    }
    let end = Snapshot::take(watched);
    if server_peak_mb == 0.0 {
        bail!("the engine's process is gone");
    }
    Ok(Window { begin, end, server_peak_mb, service_peak_mb })
}

impl Window {
    fn measured(&self, mut took: Vec<Duration>) -> Result<Measured> {
        if took.is_empty() {
            bail!("no run completed in the window");
        }
        took.sort_unstable();
        let (runs, steps) = (took.len(), (took.len() * STEPS) as f64);
        // The nearest rank.
        let at = |q: f64| {
            let rank = (q * runs as f64).ceil() as usize;
            took[rank.clamp(1, runs) - 1].as_secs_f64() * 1e3
        };
        let seconds = (self.end.at - self.begin.at).as_secs_f64();
        let cost = |before: f64, after: f64, peak_mb: f64| Cost {
            cpu_us_per_step: (after - before) * 1e6 / steps,
            peak_mb,
        };
        let (begin, end) = (&self.begin, &self.end);
        Ok(Measured {
            runs,
            seconds,
            steps_per_s: steps / seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            server: cost(begin.server_cpu_s, end.server_cpu_s, self.server_peak_mb),
            service: begin
                .service_cpu_s
                .zip(end.service_cpu_s)
                .map(|(before, after)| cost(before, after, self.service_peak_mb)),
            syncs_per_run: begin
                .flushes
                .zip(end.flushes)
                .map(|(before, after)| after.saturating_sub(before) as f64 / runs as f64),
        })
    }
}

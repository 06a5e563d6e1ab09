//! The figures of one run, for people and as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies from 1 µs to 10 min, to three digits.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |q: f64| self.0.value_at_quantile(q) as f64 / 1000.0;
        Percentiles {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// Latencies in milliseconds.
#[derive(Serialize)]
pub(crate) struct Percentiles {
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

/// What the nodes' processes used for the load, all together.
#[derive(Debug, Serialize)]
pub(crate) struct ServerCost {
    pub(crate) cpu_us_per_step: f64,
    pub(crate) peak_mb: f64,
    pub(crate) written_mb: f64,
}

/// What one benchmark came to.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) machine: String,
    pub(crate) runs: usize,
    pub(crate) steps: usize,
    pub(crate) refused: usize,
    pub(crate) seconds: f64,
    pub(crate) steps_per_s: f64,
    pub(crate) events_per_s: f64,
    /// What `latency` is of.
    pub(crate) latency_of: &'static str,
    pub(crate) latency: Percentiles,
    /// What the nodes used; unknown for a node that somebody else started.
    pub(crate) server: Option<ServerCost>,
}

/// What nodes use that have nothing to do, all together.
#[derive(Serialize)]
pub(crate) struct Idle {
    pub(crate) machine: String,
    pub(crate) seconds: f64,
    pub(crate) core_percent: f64,
    pub(crate) held_mb: f64,
    pub(crate) written_kb_per_s: f64,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "idle for {:.0} s on {}\n  all nodes together: {:.2} % of a core, {:.0} MB held, {:.1} KB/s written",
            self.seconds, self.machine, self.core_percent, self.held_mb, self.written_kb_per_s
        )
    }
}

/// Cores and processor of this machine.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores, {}", model.unwrap_or("unknown processor"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.scenario, self.machine)?;
        writeln!(
            f,
            "  {} runs, {} steps in {:.2} s: {:.0} steps/s, {:.0} events/s; {} refused",
            self.runs, self.steps, self.seconds, self.steps_per_s, self.events_per_s, self.refused
        )?;
        let l = &self.latency;
        writeln!(
            f,
            "  {}: p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
            self.latency_of, l.p50_ms, l.p90_ms, l.p99_ms, l.p999_ms, l.max_ms
        )?;
        match &self.server {
            Some(cost) => write!(
                f,
                "  server: {:.1} µs of CPU a step, peak {:.0} MB, {:.0} MB written",
                cost.cpu_us_per_step, cost.peak_mb, cost.written_mb
            ),
            None => write!(f, "  server: not measured, since this node was started by somebody else"),
        }
    }
}

//! Latencies as an HDR histogram.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Percentiles that are reported, with the name of each.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Latencies from 1 µs to 10 min, to three digits.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.record_many(latency, 1);
    }

    /// Records `count` of the same latency.
    pub(crate) fn record_many(&mut self, latency: Duration, count: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // Saturation is this histogram's only way to meet a value out of its bounds.
        self.0.saturating_record_n(micros.max(1), count);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all latencies have the same bounds");
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds, for a quantile from 0 to 1.
    pub(crate) fn at_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Each percentile that is reported, with its name, in milliseconds.
    pub(crate) fn percentiles_ms(&self) -> impl Iterator<Item = (&'static str, f64)> {
        PERCENTILES.iter().map(|(name, quantile)| (*name, self.at_ms(*quantile)))
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(all: I) -> Self {
        let mut latencies = Self::new();
        all.into_iter().for_each(|latency| latencies.record(latency));
        latencies
    }
}

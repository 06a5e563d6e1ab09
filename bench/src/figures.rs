//! Figures: what one repetition of a scenario measures, in order.

use crate::latencies::Latencies;

/// One measured number.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Which variant it is of, `4 shards`; empty when there is only one.
    pub(crate) series: String,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

/// What one repetition has measured so far.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    series: String,
    all: Vec<Figure>,
}

impl Figures {
    /// What follows is of this variant.
    pub(crate) fn series(&mut self, name: impl Into<String>) {
        self.series = name.into();
    }

    pub(crate) fn put(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        self.all.push(Figure { series: self.series.clone(), name: name.into(), unit, value });
    }

    /// The percentiles of latencies, as `NAME p50` and so on.
    pub(crate) fn latencies(&mut self, name: &str, latencies: &Latencies) {
        for (percentile, ms) in latencies.percentiles_ms() {
            self.put(format!("{name} {percentile}"), "ms", ms);
        }
    }

    pub(crate) fn into_all(self) -> Vec<Figure> {
        self.all
    }
}

//! What a stretch of load cost: from when the meter is begun to when it is ended.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figures::Figures;
use crate::process::Usage;
use crate::server::Server;

/// Begun before the load, once the warm-up has ended.
pub(crate) struct Meter<'a> {
    server: &'a Server,
    events: u64,
    usage: Option<Usage>,
    flushes: Option<u64>,
    begun: Instant,
}

impl<'a> Meter<'a> {
    pub(crate) async fn begin(server: &'a Server) -> Result<Self> {
        let events = server.api().events().await?;
        let (usage, flushes) = (server.usage(), server.flushes());
        Ok(Self { server, events, usage, flushes, begun: Instant::now() })
    }

    /// Writes down what `runs` runs of `steps` steps each cost, which took so long. What the tables
    /// had still to apply is in the cost, not in the time.
    pub(crate) async fn end(
        self,
        figures: &mut Figures,
        runs: usize,
        steps: usize,
        took: Duration,
    ) -> Result<()> {
        let events = (self.server.api().events().await? - self.events) as f64;
        let (runs, steps, seconds) = (runs as f64, (runs * steps) as f64, took.as_secs_f64());
        figures.put("time", "s", seconds);
        figures.put("steps", "/s", steps / seconds);
        figures.put("events", "/s", events / seconds);
        if let (Some(before), Some(after)) = (self.usage, self.server.usage()) {
            let cpu_us = (after.cpu_s - before.cpu_s) * 1e6;
            figures.put("server CPU per step", "µs", cpu_us / steps);
            figures.put("server CPU per event", "µs", cpu_us / events);
            figures.put("server memory, peak", "MB", after.peak_mb);
            figures.put("written per event", "B", (after.written_mb - before.written_mb) * 1e6 / events);
        }
        if let (Some(before), Some(after)) = (self.flushes, self.server.flushes()) {
            figures.put("syncs of the device per run", "", (after - before) as f64 / runs);
        }
        Ok(())
    }

    /// Since it was begun.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

//! `decisions`: runs that wait for a decision, each resolved over HTTP.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::figures::Figures;
use crate::load;
use crate::meter::Meter;
use crate::server::{Server, Target};
use crate::work;

#[derive(Args, Clone, Debug)]
pub(crate) struct Decisions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Runs that wait for a decision
    #[arg(long, default_value_t = 10_000)]
    runs: usize,
    /// Decisions that are resolved at a time
    #[arg(long, default_value_t = 64, value_name = "N")]
    open: usize,
}

impl Decisions {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let server = Server::open(&self.target, dir, &[]).await?;
        let submission = json!({"definition": work::deciding()});
        let runs = load::submit_all(server.api(), self.runs, |_| submission.clone()).await?;
        let meter = Meter::begin(&server).await?;
        let begun = Instant::now();
        let latencies = load::wake(server.api(), &runs, &work::decision(), self.open).await?;
        let took = begun.elapsed();
        server.api().all_completed(runs.len() as u64).await?;
        meter.end(figures, runs.len(), 1, took).await?;
        figures.latencies("resolved to end", &latencies);
        Ok(())
    }
}

//! `chain10` and `fan10`: runs of ten steps over HTTP, through the router, at a rate or so many at
//! a time.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::figures::Figures;
use crate::load::{self, Offered};
use crate::meter::Meter;
use crate::server::{Server, Target};
use crate::work::{STEPS, Work};

/// How the load is offered.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Runs to submit, after the warm-up
    #[arg(long, default_value_t = 20_000)]
    pub(crate) runs: usize,
    /// Runs offered a second, whatever the answers do: waiting counts as latency
    #[arg(long, default_value_t = 4_000)]
    pub(crate) rate: u64,
    /// Keep so many runs open instead of a rate
    #[arg(long, conflicts_with = "rate", value_name = "N")]
    pub(crate) open: Option<usize>,
    /// Runs in one request; with 1, each run's latency is until its result
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) batch: usize,
    /// Runs before those that count
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub(crate) warm_up: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Chains {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    load: Load,
}

impl Chains {
    pub(crate) async fn run(&self, work: Work, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let server = Server::open(&self.target, dir, &[]).await?;
        self.load.measure(&server, &work.definition(), figures).await
    }
}

impl Load {
    /// Offers runs of ten steps of this definition and writes down what they cost.
    pub(crate) async fn measure(
        &self,
        server: &Server,
        definition: &Value,
        figures: &mut Figures,
    ) -> Result<()> {
        let api = server.api();
        let submission = json!({"definition": definition});
        let before = api.counts().await?.get("completed").copied().unwrap_or_default();
        let warm_up = self.offer(server, &submission, self.warm_up).await?;
        let completed = before + warm_up.accepted as u64;
        api.all_completed(completed).await?;
        let meter = Meter::begin(server).await?;
        let offered = self.offer(server, &submission, self.runs).await?;
        let mut took = meter.elapsed();
        api.all_completed(completed + offered.accepted as u64).await?;
        if !self.awaits_results() {
            took = meter.elapsed();
        }
        meter.end(figures, offered.accepted, STEPS, took).await?;
        figures.put("refused", "runs", offered.refused as f64);
        figures.latencies(self.latency_of(), &offered.histogram());
        Ok(())
    }

    async fn offer(&self, server: &Server, submission: &Value, runs: usize) -> Result<Offered> {
        let (api, batch) = (server.api(), self.batch.max(1));
        match self.open {
            Some(open) => load::closed(api, submission, runs, open.max(1), batch).await,
            None => load::open(api, submission, runs, self.rate.max(1), batch).await,
        }
    }

    /// Whether every run is waited for by whoever submitted it.
    fn awaits_results(&self) -> bool {
        self.batch <= 1
    }

    fn latency_of(&self) -> &'static str {
        match (self.open, self.batch) {
            (None, 0 | 1) => "due to result",
            (None, _) => "due to acknowledged",
            (Some(_), 0 | 1) => "submission to result",
            (Some(_), _) => "batch to its results",
        }
    }
}

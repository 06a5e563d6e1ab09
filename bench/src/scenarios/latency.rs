//! `latency`: one run at a time, beside the time that this machine's disk takes for one sync.
//!
//! Ten pure steps may share one commit; ten steps with a side effect each have to wait for one
//! each. The side effect is a line appended to a file, which is counted afterwards.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::figures::Figures;
use crate::folder::Folder;
use crate::latencies::Latencies;
use crate::machine;
use crate::server::{Server, Target};
use crate::work::{self, STEPS, Work};

#[derive(Args, Clone, Debug)]
pub(crate) struct Latency {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Runs of each kind, one after another
    #[arg(long, default_value_t = 300)]
    runs: usize,
    /// Runs of each kind before those that count
    #[arg(long, default_value_t = 30, value_name = "N")]
    warm_up: usize,
}

impl Latency {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let files = Folder::fresh(dir)?;
        let flags = ["--fs-root".to_owned(), files.path().display().to_string()];
        let server = Server::open(&self.target, dir, &flags).await?;
        let mut syncs = machine::sync_times(server.folder())?;
        let pure = self.one_by_one(&server, &Work::Chain10.definition()).await?;
        let file = files.path().join("effects");
        let effects = self.one_by_one(&server, &work::appending(&file)).await?;
        // Half before and half after, since a disk has its moods.
        syncs.add(&machine::sync_times(server.folder())?);
        let lines = std::fs::read_to_string(&file)?.lines().count();
        if lines != (self.runs + self.warm_up) * STEPS {
            bail!("{lines} side effects of {} runs of {STEPS} steps", self.runs + self.warm_up);
        }
        server.api().all_completed(2 * (self.runs + self.warm_up) as u64).await?;
        figures.latencies("one sync of 512 B", &syncs);
        write_down(figures, "10 pure steps", &pure, &syncs, 1);
        write_down(figures, "10 side effects", &effects, &syncs, STEPS);
        Ok(())
    }

    async fn one_by_one(&self, server: &Server, definition: &Value) -> Result<Latencies> {
        let body = bytes::Bytes::from(json!({"definition": definition}).to_string());
        let mut latencies = Latencies::new();
        for run in 0..self.warm_up + self.runs {
            let sent = Instant::now();
            server.api().complete_one(body.clone()).await?;
            if run >= self.warm_up {
                latencies.record(sent.elapsed());
            }
        }
        Ok(latencies)
    }
}

/// The latencies of runs that need so many syncs, and their median beside them.
fn write_down(figures: &mut Figures, name: &str, latencies: &Latencies, syncs: &Latencies, needed: usize) {
    let (p50, sync) = (latencies.at_ms(0.5), syncs.at_ms(0.5));
    figures.latencies(name, latencies);
    figures.put(format!("{name} p50, in syncs"), "×", p50 / sync);
    figures.put(format!("{name} p50, beyond {needed} × sync"), "ms", p50 - needed as f64 * sync);
}

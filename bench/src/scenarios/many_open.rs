//! `many-open`: very many runs that wait for the outside: what each holds, what a restart with
//! them takes, and how soon they go on when they are woken.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::api::Taken;
use crate::figures::Figures;
use crate::load;
use crate::machine;
use crate::server::{Server, Target};
use crate::work;

/// Longest wait for runs that were submitted to be suspended.
const SUSPENDED_MAX: Duration = Duration::from_secs(120);

#[derive(Args, Clone, Debug)]
pub(crate) struct ManyOpen {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Runs that wait
    #[arg(long, default_value_t = 10_000)]
    runs: usize,
    /// What for
    #[arg(long, value_enum, default_value_t = WaitsFor::Decision)]
    waits_for: WaitsFor,
    /// Seconds the node may settle before its memory and disk are looked at
    #[arg(long, default_value_t = 15)]
    settle: u64,
    /// Runs that are woken, one after another
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    sample: usize,
    /// Wake all others too, so many at a time
    #[arg(long, value_name = "N")]
    wake_all: Option<usize>,
}

/// What a run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WaitsFor {
    /// A decision between two options
    Decision,
    /// A signal
    Signal,
}

impl WaitsFor {
    fn definition(self) -> Value {
        match self {
            Self::Decision => work::deciding(),
            Self::Signal => work::listening(),
        }
    }

    fn signal(self) -> Value {
        match self {
            Self::Decision => work::decision(),
            Self::Signal => work::signal(),
        }
    }
}

impl ManyOpen {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let mut server = Server::open(&self.target, dir, &[]).await?;
        let base = self.settled(&server).await?;
        let runs = self.submit(&server, figures).await?;
        suspended(&server, runs.len() as u64).await?;
        let held = self.settled(&server).await?;
        self.put_sizes(figures, "", base, held);
        self.put_disk(&server, figures)?;
        server.kill(0)?;
        let ready = server.start_again(0)?;
        figures.put("kill -9, start to ready", "s", ready.as_secs_f64());
        suspended(&server, runs.len() as u64).await?;
        let held = self.settled(&server).await?;
        self.put_sizes(figures, " after the restart", base, held);
        self.wake(&server, &runs, figures).await
    }

    async fn submit(&self, server: &Server, figures: &mut Figures) -> Result<Vec<Taken>> {
        let submission = json!({"definition": self.waits_for.definition()});
        let begun = Instant::now();
        let runs = load::submit_all(server.api(), self.runs, |_| submission.clone()).await?;
        figures.put("submitting", "s", begun.elapsed().as_secs_f64());
        figures.put("submitting", "runs/s", runs.len() as f64 / begun.elapsed().as_secs_f64());
        Ok(runs)
    }

    /// Bytes that the nodes hold, once they have settled.
    async fn settled(&self, server: &Server) -> Result<f64> {
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        Ok(server.usage().context("this needs nodes of its own")?.held_mb * 1e6)
    }

    fn put_sizes(&self, figures: &mut Figures, when: &str, base: f64, held: f64) {
        figures.put(format!("memory held{when}"), "MB", held / 1e6);
        figures.put(format!("memory per run beyond the base{when}"), "B", (held - base) / self.runs as f64);
    }

    fn put_disk(&self, server: &Server, figures: &mut Figures) -> Result<()> {
        for (name, folder) in [("tables", "shards"), ("log", "log")] {
            let bytes = machine::disk_bytes(&server.data(0)?.join(folder))? as f64;
            figures.put(format!("disk, {name}"), "MB", bytes / 1e6);
            figures.put(format!("disk per run, {name}"), "B", bytes / self.runs as f64);
        }
        Ok(())
    }

    async fn wake(&self, server: &Server, runs: &[Taken], figures: &mut Figures) -> Result<()> {
        let signal = self.waits_for.signal();
        // From all over, and not the ones that the nodes met last.
        let sample: Vec<Taken> = runs
            .iter()
            .step_by((runs.len() / self.sample.max(1)).max(1))
            .take(self.sample)
            .cloned()
            .collect();
        figures.latencies("signal to end", &load::wake(server.api(), &sample, &signal, 1).await?);
        let Some(open) = self.wake_all else {
            return suspended(server, (runs.len() - sample.len()) as u64).await;
        };
        let woken: std::collections::HashSet<&str> =
            sample.iter().map(|run| run.workflow_id.as_str()).collect();
        let others: Vec<Taken> =
            runs.iter().filter(|run| !woken.contains(run.workflow_id.as_str())).cloned().collect();
        let begun = Instant::now();
        let latencies = load::wake(server.api(), &others, &signal, open).await?;
        figures.put("waking all", "s", begun.elapsed().as_secs_f64());
        figures.put("waking all", "runs/s", others.len() as f64 / begun.elapsed().as_secs_f64());
        figures.latencies("signal to end, all", &latencies);
        server.api().all_completed(runs.len() as u64).await
    }
}

/// Waits until so many runs are suspended, none more and none in between.
async fn suspended(server: &Server, runs: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let counts = server.api().counts().await?;
        if counts.get("suspended").copied().unwrap_or_default() == runs {
            return Ok(());
        }
        if begun.elapsed() > SUSPENDED_MAX {
            bail!("{runs} runs should be suspended, and there are {counts:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

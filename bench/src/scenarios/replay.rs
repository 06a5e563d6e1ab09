//! `replay`: how fast runs are folded from their events, in memory and from the tables of a disk.
//! One thread at a time, so events a second are those of one core.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use opcode_engine::definition::Definition;
use opcode_engine::event::Event;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, WorkflowId};
use opcode_engine::run::Run;
use opcode_shard::record::EventRecord;
use opcode_shard::store::Store;

use crate::decided;
use crate::figures::Figures;
use crate::folder::Folder;
use crate::pipeline::{self, Pipeline};
use crate::process::Usage;

/// Runs that are read at a time.
const RUNS_PER_READ: u64 = 500;
/// Records that are committed together when the tables are made.
const BATCH_RECORDS: usize = 5_000;
/// Runs whose events alternate in them.
const SIDE_BY_SIDE: u64 = 1_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct Replay {
    /// Runs, of 22 events each
    #[arg(long, default_value_t = 20_000)]
    runs: u64,
}

impl Replay {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let definition = decided::definition()?;
        self.in_memory(&definition, figures)?;
        let folder = Folder::fresh(dir)?;
        self.make_tables(folder.path()).await?;
        let begun = Instant::now();
        let store = pipeline::open_tables(folder.path()).await?;
        figures.put("opening the tables", "s", begun.elapsed().as_secs_f64());
        self.read_and_fold(&store, &definition, figures).await?;
        store.close().await?;
        Ok(())
    }

    fn in_memory(&self, definition: &Arc<Definition>, figures: &mut Figures) -> Result<()> {
        let runs = (1..=self.runs).map(|no| decided::events(no, definition)).collect::<Result<Vec<_>>>()?;
        let records: Vec<Vec<EventRecord>> = (1..)
            .zip(&runs)
            .map(|(no, events)| events.iter().map(|event| EventRecord::encode(RunNo(no), event)).collect())
            .collect();
        let events = runs.iter().map(Vec::len).sum::<usize>() as f64;
        let begun = Instant::now();
        for (no, events) in (1..).zip(runs) {
            fold(no, decided::id(no), events, definition)?;
        }
        figures.put("in memory, folding", "events/s", events / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for (no, records) in (1..).zip(&records) {
            fold(no, decided::id(no), decoded(records)?, definition)?;
        }
        figures.put("in memory, decoding and folding", "events/s", events / begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Commits and applies all runs, and closes the tables.
    async fn make_tables(&self, dir: &Path) -> Result<()> {
        let pipeline = Pipeline::found(dir).await?;
        for batch in decided::batches(self.runs, SIDE_BY_SIDE, BATCH_RECORDS)? {
            let position = pipeline.commit(batch).await?;
            pipeline.applied(position).await?;
        }
        pipeline.close().await
    }

    /// Reads every run, decodes its events and folds them.
    async fn read_and_fold(
        &self,
        store: &Store,
        definition: &Arc<Definition>,
        figures: &mut Figures,
    ) -> Result<()> {
        let (begun, usage) = (Instant::now(), Usage::own());
        let (mut events, mut runs, mut folding) = (0, 0, Duration::ZERO);
        for first in (1..=self.runs).step_by(usize::try_from(RUNS_PER_READ)?) {
            let ids = (first..=self.runs.min(first + RUNS_PER_READ - 1)).map(decided::id).collect();
            let stored = store.load_runs(ids).await?;
            let folded = Instant::now();
            for run in stored {
                events += run.events.len();
                runs += 1;
                fold(run.no.0, run.id, decoded(&run.events)?, definition)?;
            }
            folding += folded.elapsed();
        }
        if runs != self.runs {
            bail!("the tables gave {runs} of {} runs", self.runs);
        }
        let (events, seconds) = (events as f64, begun.elapsed().as_secs_f64());
        figures.put("from disk, whole runs", "events/s", events / seconds);
        figures.put("from disk, of that reading", "%", 100.0 * (1.0 - folding.as_secs_f64() / seconds));
        figures.put("from disk, CPU per event", "µs", (Usage::own().cpu_s - usage.cpu_s) * 1e6 / events);
        Ok(())
    }
}

fn decoded(records: &[EventRecord]) -> Result<Vec<Event>> {
    records.iter().map(|record| record.decode().map_err(anyhow::Error::msg)).collect()
}

/// Folds a run, which must have completed.
fn fold(no: u64, id: WorkflowId, events: Vec<Event>, definition: &Arc<Definition>) -> Result<()> {
    let run = Run::replay(RunNo(no), id, events, &mut |_| Some(Arc::clone(definition)));
    let run = run.map_err(anyhow::Error::msg)?;
    if run.status() != WorkflowStatus::Completed {
        bail!("run {no} is {:?} when it is replayed", run.status());
    }
    Ok(())
}

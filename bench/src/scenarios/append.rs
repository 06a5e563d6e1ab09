//! `append`: records through one shard's pipeline, log and tables, until they are applied; and
//! `limit` beside it in the same process, on the same disk: libSQL alone, appending the same events.
//!
//! The pipeline writes each event twice, to the log and to the tables, and the views of it besides;
//! the limit writes it once, in batches as large as it likes, each synced, and never checkpoints.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use opcode_shard::record::{EventRecord, Record};
use rusqlite::{Connection, params};

use crate::decided;
use crate::figures::Figures;
use crate::folder::Folder;
use crate::machine;
use crate::pipeline::Pipeline;
use crate::process::Usage;

/// The table of events as a shard has it, and nothing else.
const TABLE: &str = "
PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 0;
CREATE TABLE event_rows(
    row INTEGER PRIMARY KEY,
    workflow_no INTEGER NOT NULL, sequence INTEGER NOT NULL, type INTEGER NOT NULL,
    step_id TEXT, data TEXT NOT NULL, agent_id TEXT, timestamp INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (workflow_no, sequence));
";
const INSERT: &str =
    "INSERT INTO event_rows(workflow_no, sequence, type, step_id, data, agent_id, timestamp, checksum)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// How often the log is purged, as a shard does.
const PURGE_EVERY: Duration = Duration::from_secs(2);

#[derive(Args, Clone, Debug)]
pub(crate) struct Append {
    /// Runs, of 22 events each
    #[arg(long, default_value_t = 50_000)]
    runs: u64,
    /// Runs whose events alternate
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    side_by_side: u64,
    /// Records that are committed together
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    batch: usize,
    /// Events in one transaction of the limit
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    limit_batch: usize,
}

impl Append {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let batches = decided::batches(self.runs, self.side_by_side.max(1), self.batch.max(1))?;
        let events = decided::count(&batches);
        let folder = Folder::fresh(dir)?;
        // The shard opens libSQL first, since it sets it up for the whole process.
        let pipeline = Pipeline::found(folder.path()).await?;
        let cost = Cost::begin(folder.path());
        append(&pipeline, batches.clone()).await?;
        let ours = cost.end(figures, "pipeline", events);
        pipeline.close().await?;
        drop(folder);
        let folder = Folder::fresh(dir)?;
        let mut rows: Vec<EventRecord> =
            batches.into_iter().flatten().filter_map(|record| record.as_event().cloned()).collect();
        let limit = tokio::task::block_in_place(|| self.limit(folder.path(), &mut rows, figures))?;
        figures.put("share of the limit", "%", 100.0 * ours / limit);
        Ok(())
    }

    /// Events a second of libSQL alone.
    fn limit(&self, folder: &Path, rows: &mut [EventRecord], figures: &mut Figures) -> Result<f64> {
        let mut connection = Connection::open(folder.join("limit.db"))?;
        connection.execute_batch(TABLE)?;
        let cost = Cost::begin(folder);
        for batch in rows.chunks_mut(self.limit_batch.max(1)) {
            // In the order that its index likes best.
            batch.sort_unstable_by_key(|event| (event.no, event.sequence));
            insert(&mut connection, batch)?;
        }
        let rate = cost.end(figures, "limit", rows.len());
        let count: usize = connection.query_row("SELECT count(*) FROM event_rows", [], |row| row.get(0))?;
        if count != rows.len() {
            bail!("{count} of {} events are in the table", rows.len());
        }
        Ok(rate)
    }
}

/// Commits the batches one after another, and waits until the tables have all of them.
async fn append(pipeline: &Pipeline, batches: Vec<Vec<Record>>) -> Result<()> {
    let (mut last, mut purged) = (None, Instant::now());
    for batch in batches {
        last = Some(pipeline.commit(batch).await?);
        if purged.elapsed() >= PURGE_EVERY {
            pipeline.purge().await?;
            purged = Instant::now();
        }
    }
    pipeline.applied(last.context("there are no batches")?).await
}

fn insert(connection: &mut Connection, events: &[EventRecord]) -> Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for event in events {
            insert.execute(params![
                event.no.0.cast_signed(),
                event.sequence.0.cast_signed(),
                event.event_type.code(),
                event.step_id.as_deref(),
                std::str::from_utf8(&event.data)?,
                event.agent_id.as_deref(),
                event.timestamp.0,
                event.checksum().cast_signed(),
            ])?;
        }
    }
    Ok(transaction.commit()?)
}

/// What this process uses for one of the two, from its beginning on.
struct Cost {
    folder: PathBuf,
    begun: Instant,
    usage: Usage,
    flushes: Option<u64>,
}

impl Cost {
    fn begin(folder: &Path) -> Self {
        let flushes = machine::flushes(folder);
        Self { folder: folder.to_owned(), begun: Instant::now(), usage: Usage::own(), flushes }
    }

    /// Writes it down; gives the events a second.
    fn end(self, figures: &mut Figures, name: &str, events: usize) -> f64 {
        let (took, usage, events) = (self.begun.elapsed(), Usage::own(), events as f64);
        let rate = events / took.as_secs_f64();
        figures.put(format!("{name}: events"), "/s", rate);
        figures.put(format!("{name}: CPU per event"), "µs", (usage.cpu_s - self.usage.cpu_s) * 1e6 / events);
        let written = (usage.written_mb - self.usage.written_mb) * 1e6;
        figures.put(format!("{name}: written per event"), "B", written / events);
        if let (Some(before), Some(after)) = (self.flushes, machine::flushes(&self.folder)) {
            figures.put(format!("{name}: syncs of the device"), "", (after - before) as f64);
        }
        rate
    }
}

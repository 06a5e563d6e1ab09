//! `timers`: very many runs that wait until a time: spread over a while, or all the same moment.
//!
//! How late one is, is told by the run's own events: the time of `wait_completed` against the time
//! that `wait_started` names, to a millisecond.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use opcode_engine::event::EventType;
use opcode_engine::ids::Timestamp;
use serde_json::json;

use crate::figures::Figures;
use crate::latencies::Latencies;
use crate::load;
use crate::server::{Server, Target};
use crate::work;

/// Runs that a query looks at, in each shard: so few that it ends in time and has rows to spare.
const RUNS_PER_QUERY: u64 = 2_000;
/// Longest that the last timer may be late.
const LATE_MAX: Duration = Duration::from_secs(300);

#[derive(Args, Clone, Debug)]
pub(crate) struct Timers {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Timers that are spread over the window
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pending: usize,
    /// Seconds that they are spread over
    #[arg(long, default_value_t = 30, value_name = "S")]
    window: u64,
    /// Timers that are all due the same moment, instead
    #[arg(long, conflicts_with = "pending", value_name = "N")]
    at_once: Option<usize>,
    /// Seconds until the first is due: all must have been submitted by then
    #[arg(long, default_value_t = 15, value_name = "S")]
    lead: u64,
}

impl Timers {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let server = Server::open(&self.target, dir, &[]).await?;
        let (runs, window_ms) = match self.at_once {
            Some(runs) => (runs, 0),
            None => (self.pending, self.window * 1_000),
        };
        let first = now()?.plus_ms(self.lead * 1_000);
        let due = |n: usize| first.plus_ms(n as u64 * window_ms / runs.max(1) as u64);
        let definition = work::sleeping();
        let submission = |n: usize| json!({"definition": definition, "params": {"due": due(n).to_rfc3339()}});
        load::submit_all(server.api(), runs, submission).await?;
        let spare_ms = first.since_ms(now()?);
        if spare_ms == 0 {
            bail!("the first timer was due before all were submitted: give a longer --lead");
        }
        figures.put("from submitted to the first due", "s", spare_ms as f64 / 1e3);
        let usage = server.usage().context("this needs nodes of its own")?;
        figures.put("memory held, all pending", "MB", usage.held_mb);
        tokio::time::sleep(Duration::from_millis(spare_ms + window_ms)).await;
        wait_until_all_fired(&server, runs).await?;
        server.api().all_completed(runs as u64).await?;
        let late = lateness(&server).await?;
        if late.count() != runs as u64 {
            bail!("{} of {runs} timers fired", late.count());
        }
        figures.latencies("late", &late);
        if self.at_once.is_some() {
            figures.put("all fired after", "s", late.at_ms(1.0) / 1e3);
        }
        let used = server.usage().context("this needs nodes of its own")?.cpu_s - usage.cpu_s;
        figures.put("server CPU per timer", "µs", used * 1e6 / runs.max(1) as f64);
        Ok(())
    }
}

fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Timestamp(i64::try_from(since.as_millis())?))
}

/// Looks now and then, so that looking costs next to nothing.
async fn wait_until_all_fired(server: &Server, runs: usize) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let open = server.api().get("/v1/workflows?status=active&limit=1").await?;
        if open["items"].as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if begun.elapsed() > LATE_MAX {
            bail!("of {runs} timers some are pending {LATE_MAX:?} after the last was due");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// How late each timer fired, counted by the shards themselves.
async fn lateness(server: &Server) -> Result<Latencies> {
    let last = server.api().sql("SELECT max(no) AS n FROM workflows").await?;
    let last = last.iter().filter_map(|row| row["n"].as_u64()).max().unwrap_or_default();
    let (started, completed) = (EventType::WaitStarted.code(), EventType::WaitCompleted.code());
    let mut late = Latencies::new();
    for first in (1..=last).step_by(usize::try_from(RUNS_PER_QUERY)?) {
        let query = format!(
            "SELECT c.timestamp
                - CAST(round(1000 * unixepoch(json_extract(s.data, '$.until'), 'subsec')) AS INTEGER) AS late,
                count(*) AS n
             FROM event_rows s JOIN event_rows c ON c.workflow_no = s.workflow_no AND c.type = {completed}
             WHERE s.type = {started} AND s.workflow_no BETWEEN {first} AND {}
             GROUP BY 1",
            first + RUNS_PER_QUERY - 1
        );
        for row in server.api().sql(&query).await? {
            let (ms, count) = (row["late"].as_i64(), row["n"].as_u64());
            let (ms, count) = (ms.context("a lateness")?, count.context("a count")?);
            let ms = u64::try_from(ms).map_err(|_| anyhow::anyhow!("a timer fired {} ms early", -ms))?;
            late.record_many(Duration::from_millis(ms), count);
        }
    }
    Ok(late)
}

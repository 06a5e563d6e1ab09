//! The scrub: damage in rows that nobody reads, found by reading all of them, beside the work. Views
//! that are not what their events say are written anew; of damage in the events, and in what is no
//! view of them, nothing here knows what it was, so it is told.
//!
//! It reads in many short snapshots, so that the WAL is never held back for long.

use std::time::Duration;

use opcode_engine::ids::RunNo;
use serde::Serialize;

use super::check::Checker;
use super::connection::{Bind, Connection};
use super::mend::is_stray_label;
use super::rebuild::{Difference, RebuildReport};
use super::writer::Damaged;
use super::{Store, tell_damage};
use crate::error::ShardError;

/// Runs that are read in one snapshot.
const RUNS_PER_SNAPSHOT: usize = 100;
/// Labels, likewise.
const LABELS_PER_SNAPSHOT: i64 = 1_000;
/// Differences and damages that a report lists; the rest are counted.
const LISTED_MAX: usize = 100;

/// What a scrub found in one replica of a shard.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ScrubReport {
    /// Runs looked at.
    pub runs: u64,
    /// Events refolded.
    pub events: u64,
    /// Runs whose views were not what their events say, and are again.
    pub mended: u64,
    /// Values that were other than the events say.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Faults that cannot be mended from what is here.
    pub damage_count: u64,
    /// The first of them.
    pub damages: Vec<String>,
}

impl ScrubReport {
    fn take_in(&mut self, found: RebuildReport) {
        self.runs += found.runs;
        self.events += found.events;
        self.difference_count += found.difference_count;
        self.damage_count += found.damage_count;
        self.differences.extend(found.differences);
        self.differences.truncate(LISTED_MAX);
        self.damages.extend(found.damages);
        self.damages.truncate(LISTED_MAX);
    }

    fn damage(&mut self, damage: String) {
        self.damage_count += 1;
        if self.damages.len() < LISTED_MAX {
            self.damages.push(damage);
        }
    }
}

/// What one snapshot showed.
struct Part {
    /// Where to go on; none at the end.
    last: Option<RunNo>,
    differing: Vec<RunNo>,
    found: RebuildReport,
}

impl Store {
    /// Reads every run, and writes views anew that are not what their events say. After each part it
    /// rests for `rests` times as long as the part took: 0 for an operator who waits, more beside work.
    pub async fn scrub(&self, rests: u32) -> Result<ScrubReport, ShardError> {
        let mut report = ScrubReport::default();
        let mut place = Some(RunNo(0));
        while let Some(after) = place {
            let started = tokio::time::Instant::now();
            let part = self.look(after, RUNS_PER_SNAPSHOT).await?;
            report.take_in(part.found);
            for no in part.differing {
                self.mend_looked(no, &mut report).await?;
            }
            place = part.last;
            rest(started, rests).await;
        }
        // The runs they are compared with are what was written by now.
        let mut place = Some(LabelKey::default());
        while let Some(after) = place {
            let started = tokio::time::Instant::now();
            let (last, has_strays) = self.inner.readers.read(move |c| look_at_labels(c, &after)).await?;
            if has_strays {
                report.difference_count += 1;
                match self.inner.shared.mend(Damaged::Labels).await {
                    Ok(()) => report.mended += 1,
                    Err(_) => report.damage("labels that no run has cannot be deleted".into()),
                }
            }
            place = last;
            rest(started, rests).await;
        }
        if report.damage_count > 0 {
            let first = report.damages.first().cloned().unwrap_or_default();
            tell_damage(self.inner.options.shard, Some(&ShardError::Damaged(first)));
        }
        Ok(report)
    }

    /// Has whoever holds the replica act on damage that a scrub has found, as on a read's. Apart from the
    /// scrub, so that all of a node's shards are looked at before it may stop.
    pub fn act_on(&self, report: &ScrubReport) {
        if report.damage_count > 0 {
            self.inner.damage.notify_one();
        }
    }

    /// Looks at the runs after one, at most so many; with the last of them, at what is no view too.
    async fn look(&self, after: RunNo, runs_max: usize) -> Result<Part, ShardError> {
        let look = move |mut connection: Connection| {
            connection.execute("BEGIN")?;
            let mut checker = Checker::new(&mut connection)?;
            let (last, differing) = checker.check_some(after, runs_max)?;
            if last.is_none() {
                checker.check_kept()?;
            }
            Ok(Part { last, differing, found: checker.report() })
        };
        self.inner.readers.read_apart(look).await
    }

    /// Has a run's views written anew, and if that is not enough the indexes.
    async fn mend_looked(&self, no: RunNo, report: &mut ScrubReport) -> Result<(), ShardError> {
        for is_again in [false, true] {
            let is_written = self.inner.shared.mend(Damaged::Run { no, is_again }).await.is_ok();
            if is_written && !self.look(RunNo(no.0.saturating_sub(1)), 1).await?.differing.contains(&no) {
                report.mended += 1;
                return Ok(());
            }
        }
        report.damage(format!("run {}: its views cannot be written anew from its events", no.0));
        Ok(())
    }
}

/// Rests after a part that was begun then.
async fn rest(started: tokio::time::Instant, rests: u32) {
    let rest = started.elapsed().saturating_mul(rests);
    if rest > Duration::ZERO {
        tokio::time::sleep(rest).await;
    }
}

/// A label's key in its table; what is damaged need not be UTF-8.
#[derive(Default)]
struct LabelKey {
    key: Vec<u8>,
    value: Vec<u8>,
    created_at: i64,
    workflow_no: i64,
}

/// Where the labels after one end that were looked at, none at the end of all; whether there is one among
/// them that no run has. One that cannot be read at all is one.
fn look_at_labels(
    connection: &mut Connection,
    after: &LabelKey,
) -> Result<(Option<LabelKey>, bool), ShardError> {
    const SQL: &str = concat!(
        "SELECT key, value, created_at, workflow_no, ",
        is_stray_label!(),
        " FROM labels l WHERE (key, value, created_at, workflow_no) > (?1, ?2, ?3, ?4)
         ORDER BY key, value, created_at, workflow_no LIMIT ?5"
    );
    let binds = [
        Bind::Json(&after.key),
        Bind::Json(&after.value),
        Bind::Int(after.created_at),
        Bind::Int(after.workflow_no),
        Bind::Int(LABELS_PER_SNAPSHOT),
    ];
    let mut rows = connection.select(SQL, &binds)?;
    let (mut last, mut has_strays, mut count) = (None, false, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        let read = || {
            let (key, value) = (row.bytes(0)?.to_vec(), row.bytes(1)?.to_vec());
            Ok::<_, ShardError>(LabelKey { key, value, created_at: row.int(2)?, workflow_no: row.int(3)? })
        };
        let Ok(key) = read() else { return Ok((None, true)) };
        has_strays |= row.int(4)? == 1;
        last = Some(key);
    }
    Ok((last.filter(|_| count == LABELS_PER_SNAPSHOT), has_strays))
}

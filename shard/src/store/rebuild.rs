//! The rebuild: refolds every event and compares with the tables that are views of them.
//!
//! Works on a file that no process has open. Differences in views can be repaired, since the
//! events have it all; damage in the events themselves is told and nothing is written then.

use std::path::{Path, PathBuf};

use opcode_engine::ids::{RunNo, Sequence};
use serde::Serialize;

use super::apply::FoldedStatements;
use super::check::Checker;
use super::codec::{self, no_bind};
use super::connection::{Access, Bind, CheckpointMode, Connection};
use super::fold::RunFold;
use super::mend::next_run;
use super::{reader, schema};
use crate::error::ShardError;

/// What a rebuild found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RebuildReport {
    /// Runs looked at.
    pub runs: u64,
    /// Events refolded.
    pub events: u64,
    /// Values in the views that the events do not say.
    pub difference_count: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Faults in the events: gaps, unreadable data, logs that do not replay.
    pub damage_count: u64,
    /// The first of them.
    pub damages: Vec<String>,
    /// The views were written anew.
    pub is_rewritten: bool,
}

/// A value in a view that the events do not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// The row.
    pub key: String,
    /// The column, or `*` for the whole row.
    pub column: String,
    /// What the events say.
    pub expected: String,
    /// What the table says.
    pub found: String,
}

/// Checks a shard's tables against its events; without `is_check_only`, writes the views anew
/// when they differ. The file must be closed: hold the data folder's lock.
pub async fn rebuild(path: &Path, is_check_only: bool) -> Result<RebuildReport, ShardError> {
    let path = PathBuf::from(path);
    let work = tokio::task::spawn_blocking(move || rebuild_file(&path, is_check_only));
    match work.await {
        Ok(report) => report,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ShardError::Stopped("the process is ending".into())),
    }
}

fn rebuild_file(path: &Path, is_check_only: bool) -> Result<RebuildReport, ShardError> {
    if schema::file_bytes(path)? == 0 {
        return Err(ShardError::Refused(format!("there are no tables at {}", path.display())));
    }
    let mut looking = Connection::open(path, Access::Read)?;
    if !schema::check_format(&mut looking, path)? {
        return Err(ShardError::Refused(format!("{} has no tables yet", path.display())));
    }
    looking.execute("BEGIN")?;
    let mut report = Checker::new(&mut looking)?.check()?;
    drop(looking);
    if is_check_only || report.difference_count == 0 || report.damage_count > 0 {
        return Ok(report);
    }
    let mut connection = Connection::open(path, Access::Write)?;
    schema::set_up(&mut connection)?;
    rewrite(&mut connection)?;
    report.is_rewritten = true;
    Ok(report)
}

/// Writes every view anew, in one transaction.
fn rewrite(connection: &mut Connection) -> Result<(), ShardError> {
    connection.execute("BEGIN IMMEDIATE")?;
    schema::empty_folded(connection)?;
    schema::add_checksums(connection)?;
    let statements = FoldedStatements::prepare(connection)?;
    let has_outbox = schema::has_table(connection, "outbox")?;
    let mut last = RunNo(0);
    while let Some(no) = next_run(connection, last)? {
        let events = reader::events(connection, no, Sequence(0), usize::MAX)?;
        let mut fold = RunFold::default();
        for event in &events {
            fold.fold(event)?;
        }
        let fold = (no, fold);
        statements.write(connection, std::slice::from_ref(&fold))?;
        if has_outbox {
            for sequence in strays_of(connection, no, &fold.1)? {
                let delete =
                    connection.cached("DELETE FROM outbox WHERE workflow_no = ?1 AND sequence = ?2")?;
                connection.run(delete, &[no_bind(no), Bind::Int(codec::integer(sequence.0))])?;
            }
        }
        last = no;
    }
    connection.execute("COMMIT")?;
    let checkpoint = connection.checkpoint(CheckpointMode::Truncate)?;
    if !checkpoint.is_whole() {
        return Err(ShardError::Refused("the tables are in use by another process".into()));
    }
    Ok(())
}

/// Messages of a run that stand in the outbox and that no event owes. One that is owed and does
/// not stand there may have been delivered.
pub(super) fn strays_of(
    connection: &mut Connection,
    no: RunNo,
    fold: &RunFold<'_>,
) -> Result<Vec<Sequence>, ShardError> {
    let binds = [no_bind(no)];
    let mut rows = connection.select("SELECT sequence FROM outbox WHERE workflow_no = ?1", &binds)?;
    let mut strays = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence = Sequence(row.unsigned(0)?);
        if !fold.owed.contains(&sequence) {
            strays.push(sequence);
        }
    }
    Ok(strays)
}

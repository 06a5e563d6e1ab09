//! Views of runs written anew from their events, beside the work: a read, or a write, has found a row
//! that is not what was written.
//!
//! Only the runs concerned are written, in one transaction. A flipped bit may also have a row disagree
//! with its indexes, or be taken for another run's; so indexes are made anew when the rows cannot be
//! replaced as they are, and runs that have events and no row any more get theirs.

use opcode_engine::ids::{RunNo, Sequence};

use super::apply::{Applier, FoldedStatements};
use super::codec::no_bind;
use super::connection::{Bind, Connection};
use super::fold::RunFold;
use super::reader;
use crate::error::ShardError;

/// Writes the views of run `no` anew from its events, and those of runs that have events and no row.
/// `is_again` when that was done already and the damage is still there: then the indexes as well.
/// Changes nothing when it fails: damaged events are the last word on a run.
pub(super) fn run(
    connection: &mut Connection,
    statements: &FoldedStatements,
    no: RunNo,
    is_again: bool,
) -> Result<(), ShardError> {
    for makes_indexes in [is_again, true] {
        connection.execute("BEGIN IMMEDIATE")?;
        match write(connection, statements, no, makes_indexes) {
            Ok(()) => return connection.execute("COMMIT"),
            Err(error) => {
                // The first error is the one to tell.
                let _ = connection.execute("ROLLBACK");
                if makes_indexes {
                    return Err(error);
                }
                tracing::warn!(run = no.0, %error, "its indexes are made anew too");
            }
        }
    }
    unreachable!("the second time is the last")
}

fn write(
    connection: &mut Connection,
    statements: &FoldedStatements,
    no: RunNo,
    makes_indexes: bool,
) -> Result<(), ShardError> {
    if makes_indexes {
        connection.execute("REINDEX workflows; REINDEX decision_rows; REINDEX step_rows")?;
    }
    remake(connection, statements, no)?;
    let mut last = RunNo(0);
    while let Some(next) = next_run(connection, last)? {
        let is_there = {
            let binds = [no_bind(next)];
            connection.select("SELECT 1 FROM workflows WHERE no = ?1", &binds)?.next()?.is_some()
        };
        if !is_there {
            remake(connection, statements, next)?;
        }
        last = next;
    }
    Ok(())
}

/// The next run after one that has events.
pub(super) fn next_run(connection: &mut Connection, after: RunNo) -> Result<Option<RunNo>, ShardError> {
    let binds = [no_bind(after)];
    let sql = "SELECT min(workflow_no) FROM event_rows WHERE workflow_no > ?1";
    let mut rows = connection.select(sql, &binds)?;
    let no = rows.next()?.map_or(Ok(None), |row| row.optional_int(0))?;
    Ok(no.map(|no| RunNo(no.unsigned_abs())))
}

/// Whether a label `l` is one that its run does not have.
macro_rules! is_stray_label {
    () => {
        "NOT EXISTS (SELECT 1 FROM workflows w, json_each(w.labels) j WHERE w.no = l.workflow_no
             AND w.created_at = l.created_at AND j.key = l.key AND j.value = l.value)"
    };
}
pub(super) use is_stray_label;

/// Replaces a run's rows in every view. A label's row that no event knows stays: [`Applier::mend_labels`].
pub(super) fn remake(
    connection: &mut Connection,
    statements: &FoldedStatements,
    no: RunNo,
) -> Result<(), ShardError> {
    let deletes = [
        "DELETE FROM workflows WHERE no = ?1",
        "DELETE FROM step_rows WHERE workflow_no = ?1",
        "DELETE FROM decision_rows WHERE workflow_no = ?1",
    ];
    for sql in deletes {
        let delete = connection.cached(sql)?;
        connection.run(delete, &[no_bind(no)])?;
    }
    let events = reader::events(connection, no, Sequence(0), usize::MAX)?;
    let mut fold = RunFold::default();
    events.iter().try_for_each(|event| fold.fold(event))?;
    if let Some(started) = &fold.started {
        let delete = connection.cached(
            "DELETE FROM labels WHERE key = ?1 AND value = ?2 AND created_at = ?3 AND workflow_no = ?4",
        )?;
        for (key, value) in &started.labels {
            let created_at = Bind::Int(started.created_at.0);
            let binds = [Bind::Text(key), Bind::Text(value), created_at, no_bind(no)];
            connection.run(delete, &binds)?;
        }
    }
    statements.write(connection, &[(no, fold)])
}

impl Applier {
    /// Writes a run's views anew, see [`run`].
    pub(super) fn mend(&mut self, no: RunNo, is_again: bool) -> Result<(), ShardError> {
        let statements = self.folded();
        run(self.connection(), &statements, no, is_again)
    }

    /// Deletes labels that no run has.
    pub(super) fn mend_labels(&mut self) -> Result<(), ShardError> {
        self.connection().execute(concat!("DELETE FROM labels AS l WHERE ", is_stray_label!()))
    }
}

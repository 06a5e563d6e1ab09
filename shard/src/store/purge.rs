//! Runs that are purged: nothing of them stays in the tables but that their numbers are used.
//!
//! Definitions stay: others may have them by the same hash.

use opcode_engine::ids::RunNo;

use super::codec::no_bind;
use super::connection::{Connection, StatementId};
use crate::error::ShardError;

/// The highest number of all runs that were purged, and how many were: they stand in files.
pub(super) const LAST_KEY: &str = "purged_last";
pub(super) const COUNT_KEY: &str = "purged_count";

/// Deletes from every table, those first that are found by what is in `workflows`.
pub(super) const DELETES: [&str; 6] = [
    "DELETE FROM labels WHERE (key, value, created_at, workflow_no) IN (
        SELECT j.key, j.value, w.created_at, w.no FROM workflows w, json_each(w.labels) j WHERE w.no = ?1)",
    "DELETE FROM outbox WHERE workflow_no = ?1",
    "DELETE FROM decision_rows WHERE workflow_no = ?1",
    "DELETE FROM step_rows WHERE workflow_no = ?1",
    "DELETE FROM event_rows WHERE workflow_no = ?1",
    "DELETE FROM workflows WHERE no = ?1",
];

/// The statements of a purge, prepared once.
#[derive(Clone, Copy)]
pub(super) struct PurgeStatements {
    deletes: [StatementId; DELETES.len()],
    note_last: StatementId,
    note_count: StatementId,
}

impl PurgeStatements {
    pub(super) fn prepare(connection: &mut Connection) -> Result<Self, ShardError> {
        let mut deletes = Vec::with_capacity(DELETES.len());
        for sql in DELETES {
            deletes.push(connection.prepare(sql)?);
        }
        Ok(Self {
            deletes: deletes.try_into().expect("one statement for each"),
            note_last: connection.prepare(&format!(
                "INSERT INTO meta(key, value) VALUES ('{LAST_KEY}', ?1)
                 ON CONFLICT DO UPDATE SET value = max(value, excluded.value)"
            ))?,
            note_count: connection.prepare(&format!(
                "INSERT INTO meta(key, value) VALUES ('{COUNT_KEY}', 1)
                 ON CONFLICT DO UPDATE SET value = value + 1"
            ))?,
        })
    }

    /// Purges a run. Within the caller's transaction.
    pub(super) fn run(&self, connection: &mut Connection, no: RunNo) -> Result<(), ShardError> {
        for statement in self.deletes {
            connection.run(statement, &[no_bind(no)])?;
        }
        if connection.changes() != 1 {
            return Err(ShardError::Damaged(format!("run {} is purged and was not there", no.0)));
        }
        connection.run(self.note_last, &[no_bind(no)])?;
        connection.run(self.note_count, &[])
    }
}

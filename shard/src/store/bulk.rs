//! Rows of one table, many to a statement: libSQL then opens its cursors once for all of them, and
//! walks down its trees less often.

use super::connection::{Bind, Connection, StatementId};
use crate::error::ShardError;

/// Rows that one statement writes.
const ROWS: usize = 16;

/// A statement that writes a row of so many columns, and one that writes [`ROWS`] of them.
#[derive(Clone, Copy)]
pub(super) struct Bulk<const COLUMNS: usize> {
    one: StatementId,
    many: StatementId,
}

impl<const COLUMNS: usize> Bulk<COLUMNS> {
    /// Prepares both. `on_conflict` says what happens to a row whose key is taken; without it, that is
    /// an error.
    pub(super) fn prepare(
        connection: &mut Connection,
        table: &str,
        columns: &str,
        on_conflict: &str,
    ) -> Result<Self, ShardError> {
        assert_eq!(columns.split(',').count(), COLUMNS, "a row of {table} has another number of columns");
        let mut statement = |rows: usize| {
            let places = (0..rows).map(|row| {
                let places = (1..=COLUMNS).map(|column| format!("?{}", row * COLUMNS + column));
                format!("({})", places.collect::<Vec<_>>().join(", "))
            });
            let places = places.collect::<Vec<_>>().join(", ");
            connection.prepare(&format!("INSERT INTO {table}({columns}) VALUES {places} {on_conflict}"))
        };
        Ok(Self { one: statement(1)?, many: statement(ROWS)? })
    }

    /// Writes rows, in order. After an error some of them may be written.
    pub(super) fn write<'b>(
        &self,
        connection: &mut Connection,
        rows: impl Iterator<Item = [Bind<'b>; COLUMNS]>,
    ) -> Result<(), ShardError> {
        let mut rows = rows.fuse();
        let mut gathered = Vec::with_capacity(ROWS);
        loop {
            gathered.clear();
            gathered.extend(rows.by_ref().take(ROWS));
            match gathered.len() {
                0 => return Ok(()),
                ROWS => connection.run(self.many, gathered.as_flattened())?,
                _ => gathered.iter().try_for_each(|row| connection.run(self.one, row))?,
            }
        }
    }
}

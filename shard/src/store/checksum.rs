//! Checksums of the rows that lists and other reads show: XXH3 (64 bits) over a row's columns as they
//! are stored, in the row's own column `checksum`. What is read later is what was written, or an error.
//!
//! It covers what is read from a row. Of `workflows` that is all but `output`, which nothing shows but
//! people's queries (`opcode sql`, which are not checked) and which may be a megabyte; `step_rows`
//! are read by people's queries alone and have none; a definition is named by its own hash. **Damage to
//! an index is not seen by this**: a row that a list then skips, or a timer that is not found, since no
//! row of it is read. The scrub and the rebuild compare all of them with the events, indexes too.
//!
//! A row of the release before has none (NULL): it is taken as it is, and gets one at its next write.

use super::connection::{Bind, Datum, Row};
use crate::error::ShardError;
use opcode_engine::ids::RunNo;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Tables whose rows have one.
pub(super) const TABLES: [&str; 4] = ["workflows", "decision_rows", "templates", "catalogue"];

/// The checksum of values in the order of their columns.
pub(super) fn of<'v>(values: impl IntoIterator<Item = Datum<'v>>) -> i64 {
    // What is not there is told from what is empty, and a column from the next, by its number; text
    // from a number by the other half of the seeds.
    let add = |sum: u64, (at, value): (u64, Datum<'v>)| match value {
        Datum::Null => sum,
        Datum::Int(int) => xxh3_64_with_seed(&int.to_le_bytes(), sum.wrapping_add(2 * at)),
        Datum::Real(real) => xxh3_64_with_seed(&real.to_le_bytes(), sum.wrapping_add(2 * at)),
        Datum::Text(bytes) | Datum::Blob(bytes) => xxh3_64_with_seed(bytes, sum.wrapping_add(2 * at + 1)),
    };
    (1..).zip(values).fold(0, add).cast_signed()
}

/// The checksum of what is bound to a row's columns.
pub(super) fn of_binds(values: &[Bind<'_>]) -> i64 {
    of(values.iter().map(|value| Datum::from(*value)))
}

/// A row's values, and its checksum behind them.
pub(super) fn with_sum<'b, const COLUMNS: usize, const ALL: usize>(
    values: [Bind<'b>; COLUMNS],
) -> [Bind<'b>; ALL] {
    const { assert!(COLUMNS + 1 == ALL) };
    let mut all = [Bind::Int(of_binds(&values)); ALL];
    all[..COLUMNS].copy_from_slice(&values);
    all
}

/// Whether a row is what was written, or has no checksum: `columns` values from `at` on, and then the
/// checksum.
pub(super) fn is_sound(row: &Row<'_>, at: usize, columns: usize) -> bool {
    match row.get(at + columns) {
        Datum::Null => true,
        sum => sum == Datum::Int(of((at..at + columns).map(|at| row.get(at)))),
    }
}

/// A row that is not what was written; `run` is whose it is, when it is a view of a run's events.
pub(super) fn damaged(table: &'static str, key: impl Into<String>, run: Option<RunNo>) -> ShardError {
    ShardError::DamagedRow { table, key: key.into(), run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_counts_and_none_is_taken_for_another() {
        let row = [Bind::Int(7), Bind::Text("a"), Bind::Null, Bind::Text(""), Bind::Blob(b"\x07")];
        let others = [
            [Bind::Int(6), Bind::Text("a"), Bind::Null, Bind::Text(""), Bind::Blob(b"\x07")],
            [Bind::Null, Bind::Text("a"), Bind::Null, Bind::Text(""), Bind::Blob(b"\x07")],
            [Bind::Int(7), Bind::Null, Bind::Text("a"), Bind::Text(""), Bind::Blob(b"\x07")],
            [Bind::Int(7), Bind::Text("a"), Bind::Text(""), Bind::Null, Bind::Blob(b"\x07")],
            [Bind::Int(7), Bind::Text("a"), Bind::Null, Bind::Null, Bind::Blob(b"\x07")],
            [Bind::Int(7), Bind::Text("a"), Bind::Null, Bind::Text(""), Bind::Blob(b"\x06")],
            [Bind::Int(7), Bind::Text("a"), Bind::Null, Bind::Text(""), Bind::Int(7)],
        ];
        for other in &others {
            assert_ne!(of_binds(other), of_binds(&row), "{other:?}");
        }
        // It is on disks: another one makes every table that there is a damaged one.
        assert_eq!(of_binds(&row).cast_unsigned(), 0xacd6_6ece_3b5c_974e);
    }
}

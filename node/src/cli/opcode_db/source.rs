//! A database file of the original OPCODE, opened to be read and trusted in nothing: tables are looked
//! for by name, every cell is read as bytes up to a bound, and what is no JSON is taken as text.

use libsql::{Builder, Connection, OpenFlags, Value as Cell, params_from_iter};
use serde_json::Value;

use crate::cli::failure::Failure;

/// Most bytes of a cell.
const CELL_BYTES_MAX: usize = 1024 * 1024;
/// Most rows of a table that belong to one workflow, and of those that are read whole.
const ROWS_MAX: usize = 100_000;
/// Tables that an OPCODE database has, whichever release made it.
const NEEDED: [&str; 4] = ["workflows", "events", "step_state", "workflow_templates"];

/// The file.
pub(super) struct Source {
    file: String,
    connection: Connection,
}

/// A row: its cells by the names that were asked for.
pub(super) struct Row {
    columns: &'static [&'static str],
    cells: Vec<Option<Vec<u8>>>,
}

impl Row {
    /// A cell's bytes; none when it is null.
    pub(super) fn bytes(&self, column: &str) -> Option<&[u8]> {
        let at = self.columns.iter().position(|name| *name == column).expect("a column that was asked for");
        self.cells[at].as_deref()
    }

    /// A cell's text; none when it is null or empty.
    pub(super) fn text(&self, column: &str) -> Option<String> {
        self.bytes(column)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .filter(|text| !text.is_empty())
    }

    /// A cell's JSON; null when it is null or empty, and its text when it is none.
    pub(super) fn json(&self, column: &str) -> Value {
        let Some(text) = self.text(column) else { return Value::Null };
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }
}

impl Source {
    /// Opens the file; refuses what is no database of an OPCODE.
    pub(super) async fn open(file: &str) -> Result<Self, Failure> {
        let failed = |error: libsql::Error| Failure::local(format!("{file}: {error}"));
        if !std::path::Path::new(file).is_file() {
            return Err(Failure::local(format!("{file}: no such file")));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = Builder::new_local(file).flags(flags).build().await.map_err(failed)?;
        let connection = database.connect().map_err(failed)?;
        let source = Self { file: file.to_owned(), connection };
        for pragma in ["PRAGMA trusted_schema = OFF", "PRAGMA query_only = ON", "PRAGMA cell_size_check = ON"]
        {
            source.connection.execute_batch(pragma).await.map_err(failed)?;
        }
        for table in NEEDED {
            if !source.has(table).await? {
                let message = format!("{file}: not a database of an OPCODE: it has no table `{table}`");
                return Err(Failure::local(message));
            }
        }
        Ok(source)
    }

    fn failed(&self, error: &libsql::Error) -> Failure {
        Failure::local(format!("{}: {error}", self.file))
    }

    /// Whether there is such a table: not a view, nor what a module makes up.
    pub(super) async fn has(&self, table: &str) -> Result<bool, Failure> {
        let sql = "SELECT count(*) FROM sqlite_master
            WHERE type = 'table' AND name = ?1 AND sql NOT LIKE 'CREATE VIRTUAL%'";
        let mut rows = self.connection.query(sql, [table]).await.map_err(|error| self.failed(&error))?;
        let row = rows.next().await.map_err(|error| self.failed(&error))?;
        let count = row.map(|row| row.get_value(0)).transpose().map_err(|error| self.failed(&error))?;
        Ok(matches!(count, Some(Cell::Integer(1))))
    }

    /// Rows of a table, those where `key` has this value if one is given, in the order of `order`.
    /// Column and table names are fixed; the value is bound.
    pub(super) async fn rows(
        &self,
        table: &'static str,
        columns: &'static [&'static str],
        key: Option<(&'static str, &str)>,
        order: &'static str,
    ) -> Result<Vec<Row>, Failure> {
        let cells: Vec<String> = columns
            .iter()
            .map(|name| format!("substr(CAST({name} AS BLOB), 1, {})", CELL_BYTES_MAX + 1))
            .collect();
        let only = key.map(|(name, _)| format!(" WHERE {name} = ?1")).unwrap_or_default();
        let sql =
            format!("SELECT {} FROM {table}{only} ORDER BY {order} LIMIT {}", cells.join(", "), ROWS_MAX + 1);
        let bound = key.map(|(_, value)| value.to_owned());
        let failed = |error| self.failed(&error);
        let mut found = self.connection.query(&sql, params_from_iter(bound)).await.map_err(failed)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().await.map_err(failed)? {
            let mut cells = Vec::with_capacity(columns.len());
            for (at, name) in columns.iter().enumerate() {
                let at = i32::try_from(at).expect("a few columns");
                let cell = match row.get_value(at).map_err(failed)? {
                    Cell::Null => None,
                    Cell::Blob(bytes) => Some(bytes),
                    Cell::Text(text) => Some(text.into_bytes()),
                    Cell::Integer(number) => Some(number.to_string().into_bytes()),
                    Cell::Real(number) => Some(number.to_string().into_bytes()),
                };
                if cell.as_ref().is_some_and(|bytes| bytes.len() > CELL_BYTES_MAX) {
                    let message =
                        format!("{}: a `{name}` of {table} is over {CELL_BYTES_MAX} bytes", self.file);
                    return Err(Failure::local(message));
                }
                cells.push(cell);
            }
            rows.push(Row { columns, cells });
            if rows.len() > ROWS_MAX {
                return Err(Failure::local(format!("{}: over {ROWS_MAX} rows of {table}", self.file)));
            }
        }
        Ok(rows)
    }
}

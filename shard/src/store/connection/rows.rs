//! Rows of a statement and their values, borrowed from libSQL until the next row is asked for.

use std::ffi::{CStr, c_int};

use libsql::ffi;

use super::{Bind, Connection};
use crate::error::ShardError;

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::store) enum Datum<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

impl<'a> From<Bind<'a>> for Datum<'a> {
    fn from(bind: Bind<'a>) -> Self {
        match bind {
            Bind::Null => Self::Null,
            Bind::Int(int) => Self::Int(int),
            Bind::Text(text) => Self::Text(text.as_bytes()),
            Bind::Json(text) => Self::Text(text),
            Bind::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

/// Rows on their way.
pub(in crate::store) struct Rows<'c> {
    pub(super) connection: &'c mut Connection,
    pub(super) statement: *mut ffi::sqlite3_stmt,
    pub(super) is_temporary: bool,
}

impl Rows<'_> {
    /// The next row, if there is one.
    pub(in crate::store) fn next(&mut self) -> Result<Option<Row<'_>>, ShardError> {
        // SAFETY: a statement of the open connection that this borrows.
        match unsafe { ffi::sqlite3_step(self.statement) } {
            ffi::SQLITE_ROW => Ok(Some(Row { rows: self })),
            ffi::SQLITE_DONE => Ok(None),
            code => Err(self.connection.statement_error(code, self.statement)),
        }
    }

    /// Names of the columns.
    pub(in crate::store) fn columns(&self) -> Vec<String> {
        // SAFETY: as above; a name lives until the statement is prepared anew.
        unsafe {
            (0..ffi::sqlite3_column_count(self.statement))
                .map(|at| {
                    let name = ffi::sqlite3_column_name(self.statement, at);
                    if name.is_null() {
                        return String::new();
                    }
                    CStr::from_ptr(name).to_string_lossy().into_owned()
                })
                .collect()
        }
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        // SAFETY: a statement of the open connection that this borrows; a temporary one is known
        // to nobody else.
        unsafe {
            if self.is_temporary {
                ffi::sqlite3_finalize(self.statement);
            } else {
                ffi::sqlite3_reset(self.statement);
            }
        }
    }
}

/// One row, until the next is asked for.
pub(in crate::store) struct Row<'r> {
    rows: &'r Rows<'r>,
}

impl<'r> Row<'r> {
    /// The value of a column, from 0.
    pub(in crate::store) fn get(&self, at: usize) -> Datum<'r> {
        let statement = self.rows.statement;
        let at = c_int::try_from(at).expect("a column's number is small");
        // SAFETY: the statement stands on a row until `Rows::next` is called, which this borrow
        // forbids; the pointer is asked for before the length, as libSQL wants it.
        unsafe {
            assert!(at < ffi::sqlite3_column_count(statement), "there is no column {at}");
            match ffi::sqlite3_column_type(statement, at) {
                ffi::SQLITE_INTEGER => Datum::Int(ffi::sqlite3_column_int64(statement, at)),
                ffi::SQLITE_FLOAT => Datum::Real(ffi::sqlite3_column_double(statement, at)),
                ffi::SQLITE_TEXT => Datum::Text(column_bytes(statement, at)),
                ffi::SQLITE_BLOB => Datum::Blob(column_bytes(statement, at)),
                _ => Datum::Null,
            }
        }
    }

    /// A whole number; a row that has none here is damaged.
    pub(in crate::store) fn int(&self, at: usize) -> Result<i64, ShardError> {
        match self.get(at) {
            Datum::Int(int) => Ok(int),
            other => Err(self.unexpected(at, "an integer", other)),
        }
    }

    /// A whole number that is never negative.
    pub(in crate::store) fn unsigned(&self, at: usize) -> Result<u64, ShardError> {
        let int = self.int(at)?;
        u64::try_from(int).map_err(|_| ShardError::Damaged(format!("a negative number {int} in the tables")))
    }

    /// A whole number or nothing.
    pub(in crate::store) fn optional_int(&self, at: usize) -> Result<Option<i64>, ShardError> {
        match self.get(at) {
            Datum::Null => Ok(None),
            Datum::Int(int) => Ok(Some(int)),
            other => Err(self.unexpected(at, "an integer", other)),
        }
    }

    /// Text.
    pub(in crate::store) fn text(&self, at: usize) -> Result<&'r str, ShardError> {
        self.optional_text(at)?.ok_or_else(|| self.unexpected(at, "text", Datum::Null))
    }

    /// Text or nothing.
    pub(in crate::store) fn optional_text(&self, at: usize) -> Result<Option<&'r str>, ShardError> {
        match self.get(at) {
            Datum::Null => Ok(None),
            Datum::Text(bytes) => std::str::from_utf8(bytes)
                .map(Some)
                .map_err(|_| ShardError::Damaged("text in the tables is not UTF-8".into())),
            other => Err(self.unexpected(at, "text", other)),
        }
    }

    /// Bytes of a text or a blob.
    pub(in crate::store) fn bytes(&self, at: usize) -> Result<&'r [u8], ShardError> {
        match self.get(at) {
            Datum::Text(bytes) | Datum::Blob(bytes) => Ok(bytes),
            other => Err(self.unexpected(at, "bytes", other)),
        }
    }

    fn unexpected(&self, at: usize, wanted: &str, found: Datum<'_>) -> ShardError {
        let found = match found {
            Datum::Null => "nothing",
            Datum::Int(_) => "an integer",
            Datum::Real(_) => "a real number",
            Datum::Text(_) => "text",
            Datum::Blob(_) => "a blob",
        };
        let name = self.rows.columns().get(at).cloned().unwrap_or_default();
        ShardError::Damaged(format!("column {name} holds {found}, not {wanted}"))
    }
}

/// # Safety
/// `statement` stands on a row for as long as `'r`, and column `at` is a text or a blob.
unsafe fn column_bytes<'r>(statement: *mut ffi::sqlite3_stmt, at: c_int) -> &'r [u8] {
    // SAFETY: promised by the caller; an empty value may come as a null pointer.
    unsafe {
        let start = ffi::sqlite3_column_blob(statement, at);
        let length = usize::try_from(ffi::sqlite3_column_bytes(statement, at)).unwrap_or(0);
        if start.is_null() || length == 0 {
            return &[];
        }
        std::slice::from_raw_parts(start.cast::<u8>(), length)
    }
}

//! A connection confined to reading, for queries that people wrote: bounded in time, in the size
//! of values and in the size of statements.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Instant;

use libsql::ffi;

use super::Connection;
use crate::error::ShardError;

/// Longest text of a query that people wrote.
const SQL_BYTES_MAX: c_int = 256 * 1024;
/// Deepest expression in it.
const SQL_DEPTH_MAX: c_int = 200;
/// Steps of libSQL's machine between two looks at the clock, some tens of microseconds.
const PROGRESS_STEPS: c_int = 4_000;

impl Connection {
    /// From now on: only reading statements can be prepared, values and statements have limits,
    /// and all stops at `deadline`. For queries that people wrote.
    pub(in crate::store) fn confine(&mut self, deadline: Instant, value_bytes_max: usize) {
        self.deadline.set(Some(deadline));
        let bytes = c_int::try_from(value_bytes_max).unwrap_or(c_int::MAX);
        // SAFETY: an open handle; the deadline is boxed and outlives it.
        unsafe {
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_LENGTH, bytes);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_EXPR_DEPTH, SQL_DEPTH_MAX);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_ATTACHED, 0);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_WORKER_THREADS, 0);
            ffi::sqlite3_set_authorizer(self.raw, Some(authorize_reads), std::ptr::null_mut());
            let at = std::ptr::from_ref::<Cell<Option<Instant>>>(&self.deadline).cast_mut().cast::<c_void>();
            ffi::sqlite3_progress_handler(self.raw, PROGRESS_STEPS, Some(on_progress), at);
        }
    }

    /// For a file that came from elsewhere: what its schema says is not run, no other file can be
    /// attached, and pages that contradict themselves are errors.
    pub(in crate::store) fn distrust(&self) -> Result<(), ShardError> {
        // SAFETY: an open handle.
        unsafe {
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_ATTACHED, 0);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_TRIGGER_DEPTH, 0);
            ffi::sqlite3_limit(self.raw, ffi::SQLITE_LIMIT_WORKER_THREADS, 0);
        }
        self.execute("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0;")
    }

    /// Whether the deadline of [`Connection::confine`] has passed.
    pub(in crate::store) fn is_late(&self) -> bool {
        self.deadline.get().is_some_and(|at| Instant::now() >= at)
    }
}

unsafe extern "C" fn on_progress(cell: *mut c_void) -> c_int {
    // SAFETY: installed with a boxed cell that outlives the connection.
    let deadline = unsafe { (*cell.cast::<Cell<Option<Instant>>>()).get() };
    c_int::from(deadline.is_some_and(|at| Instant::now() >= at))
}

/// Pragmas that only describe the schema.
const PRAGMAS_ALLOWED: [&CStr; 5] =
    [c"table_info", c"table_xinfo", c"table_list", c"index_list", c"index_info"];
/// Functions that reach outside the file.
const FUNCTIONS_REFUSED: [&CStr; 2] = [c"load_extension", c"fts3_tokenizer"];

unsafe extern "C" fn authorize_reads(
    _: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _: *const c_char,
    _: *const c_char,
) -> c_int {
    let is_one_of = |name: *const c_char, names: &[&CStr]| {
        // SAFETY: libSQL gives null or a C string that lives as long as the call.
        !name.is_null()
            && names
                .iter()
                .any(|n| n.to_bytes().eq_ignore_ascii_case(unsafe { CStr::from_ptr(name) }.to_bytes()))
    };
    let is_allowed = match action {
        ffi::SQLITE_SELECT | ffi::SQLITE_READ | ffi::SQLITE_RECURSIVE => true,
        ffi::SQLITE_FUNCTION => !is_one_of(second, &FUNCTIONS_REFUSED),
        ffi::SQLITE_PRAGMA => is_one_of(first, &PRAGMAS_ALLOWED),
        _ => false,
    };
    if is_allowed { ffi::SQLITE_OK } else { ffi::SQLITE_DENY }
}

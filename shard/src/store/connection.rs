//! A libSQL connection, synchronous, with the statements it has prepared.
//!
//! Applying events decides how fast a shard is, and libSQL's async API copies every bound value
//! twice; so this goes to libSQL's C interface, and it is the only module that does. A connection
//! is used by one thread at a time and owns its statements, which makes that safe. It never
//! retries, and never checkpoints unless told to.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Once;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use libsql::ffi;

use crate::error::ShardError;

/// What a connection may do. The writer alone opens [`Access::Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads; libSQL itself refuses anything else.
    Read,
    /// Reads and writes a file that exists.
    Write,
    /// The same, and makes the file when it is missing.
    Create,
}

/// A value for a statement's parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bind<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    /// Text whose bytes are known to be JSON.
    Json(&'a [u8]),
    Blob(&'a [u8]),
}

impl<'a> Bind<'a> {
    pub(super) fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }

    pub(super) fn int(int: Option<i64>) -> Self {
        int.map_or(Self::Null, Self::Int)
    }
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Datum<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// A statement of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatementId(usize);

/// How a checkpoint went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    /// A reader was in its way.
    pub(super) is_busy: bool,
    /// Frames in the WAL.
    pub(super) frames: u32,
    /// How many of them are now in the main file.
    pub(super) moved: u32,
}

impl Checkpoint {
    /// Whether all that was committed is in the main file, which libSQL has synced then.
    pub(super) fn is_whole(self) -> bool {
        self.frames == self.moved
    }
}

/// How far a checkpoint goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum CheckpointMode {
    /// What readers allow, without waiting.
    Passive,
    /// Everything, and the next write starts the WAL over; waits for readers.
    Restart,
    /// The same, and the WAL file is cut to nothing.
    Truncate,
}

/// One libSQL connection.
pub(super) struct Connection {
    raw: *mut ffi::sqlite3,
    statements: Vec<*mut ffi::sqlite3_stmt>,
    cached: HashMap<&'static str, StatementId>,
    wal_frames: Box<Cell<u32>>,
    deadline: Box<Cell<Option<Instant>>>,
}

// SAFETY: the handle, its statements and the two cells are reachable through this value alone;
// it is not `Sync`, so that one thread at a time uses them, which libSQL allows of a connection
// opened with NOMUTEX.
unsafe impl Send for Connection {}

impl Connection {
    /// Opens a file.
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, ShardError> {
        configure();
        let text = path.to_str().ok_or_else(|| ShardError::Store {
            what: format!("open {}", path.display()),
            message: "the path is not UTF-8".into(),
        })?;
        let name = CString::new(text)
            .map_err(|_| ShardError::Store { what: "open".into(), message: "the path holds a NUL".into() })?;
        let mode = match access {
            Access::Read => ffi::SQLITE_OPEN_READONLY,
            Access::Write => ffi::SQLITE_OPEN_READWRITE,
            Access::Create => ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE,
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: `name` is a C string that outlives the call, `raw` a place for the handle.
        let code = unsafe {
            ffi::sqlite3_open_v2(name.as_ptr(), &mut raw, mode | ffi::SQLITE_OPEN_NOMUTEX, std::ptr::null())
        };
        let connection = Self {
            raw,
            statements: Vec::new(),
            cached: HashMap::new(),
            wal_frames: Box::new(Cell::new(0)),
            deadline: Box::new(Cell::new(None)),
        };
        if code != ffi::SQLITE_OK {
            return Err(connection.error(code, &format!("open {}", path.display())));
        }
        connection.install_hooks();
        connection.busy_timeout(BUSY_TIMEOUT);
        Ok(connection)
    }

    fn install_hooks(&self) {
        // SAFETY: both cells are boxed and live until after the handle is closed in `drop`.
        unsafe {
            let frames = std::ptr::from_ref::<Cell<u32>>(&self.wal_frames).cast_mut().cast::<c_void>();
            ffi::sqlite3_wal_hook(self.raw, Some(on_commit), frames);
        }
    }

    /// How long a lock is waited for.
    pub(super) fn busy_timeout(&self, timeout: Duration) {
        let ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: an open handle.
        unsafe { ffi::sqlite3_busy_timeout(self.raw, ms) };
    }

    /// Runs statements that take no parameters and give no rows that matter.
    pub(super) fn execute(&self, sql: &str) -> Result<(), ShardError> {
        let text = CString::new(sql).expect("our own SQL holds no NUL");
        // SAFETY: an open handle and a C string.
        let code = unsafe {
            ffi::sqlite3_exec(self.raw, text.as_ptr(), None, std::ptr::null_mut(), std::ptr::null_mut())
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code, sql)) }
    }

    /// Prepares a statement for as long as the connection lives.
    pub(super) fn prepare(&mut self, sql: &str) -> Result<StatementId, ShardError> {
        let (raw, _) = self.prepare_raw(sql, ffi::SQLITE_PREPARE_PERSISTENT as u32)?;
        self.statements.push(raw);
        Ok(StatementId(self.statements.len() - 1))
    }

    /// The statement of this text, prepared the first time.
    pub(super) fn cached(&mut self, sql: &'static str) -> Result<StatementId, ShardError> {
        if let Some(id) = self.cached.get(sql) {
            return Ok(*id);
        }
        let id = self.prepare(sql)?;
        self.cached.insert(sql, id);
        Ok(id)
    }

    fn prepare_raw(&self, sql: &str, flags: u32) -> Result<(*mut ffi::sqlite3_stmt, usize), ShardError> {
        let mut raw = std::ptr::null_mut();
        let mut tail: *const c_char = std::ptr::null();
        let length = c_int::try_from(sql.len()).map_err(|_| ShardError::Store {
            what: "prepare a statement".into(),
            message: "it is too long".into(),
        })?;
        // SAFETY: the text is read for `length` bytes only; both places outlive the call.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(self.raw, sql.as_ptr().cast(), length, flags, &mut raw, &mut tail)
        };
        if code != ffi::SQLITE_OK {
            return Err(self.error(code, sql));
        }
        let consumed = if tail.is_null() { sql.len() } else { tail as usize - sql.as_ptr() as usize };
        Ok((raw, consumed))
    }

    /// Runs a prepared statement that gives no rows.
    pub(super) fn run(&mut self, id: StatementId, binds: &[Bind<'_>]) -> Result<(), ShardError> {
        let statement = self.statements[id.0];
        let bound = self.bind(statement, binds);
        // SAFETY: a statement of this open connection; what is bound lives until it is reset.
        let code = match bound {
            Ok(()) => unsafe { ffi::sqlite3_step(statement) },
            Err(code) => code,
        };
        let result = match code {
            ffi::SQLITE_DONE | ffi::SQLITE_ROW => Ok(()),
            code => Err(self.statement_error(code, statement)),
        };
        // SAFETY: as above. The parameters go on pointing at `binds` and are all bound anew
        // before the next step, so they are never read again.
        unsafe { ffi::sqlite3_reset(statement) };
        result
    }

    /// Rows that the last statement changed.
    pub(super) fn changes(&self) -> u64 {
        // SAFETY: an open handle.
        u64::try_from(unsafe { ffi::sqlite3_changes64(self.raw) }).unwrap_or(0)
    }

    /// Rows of a statement; it is reset when they are dropped.
    pub(super) fn rows<'c>(
        &'c mut self,
        id: StatementId,
        binds: &'c [Bind<'c>],
    ) -> Result<Rows<'c>, ShardError> {
        let statement = self.statements[id.0];
        match self.bind(statement, binds) {
            Ok(()) => Ok(Rows { connection: self, statement, is_temporary: false }),
            Err(code) => Err(self.statement_error(code, statement)),
        }
    }

    /// Rows of a cached statement.
    pub(super) fn select<'c>(
        &'c mut self,
        sql: &'static str,
        binds: &'c [Bind<'c>],
    ) -> Result<Rows<'c>, ShardError> {
        let id = self.cached(sql)?;
        self.rows(id, binds)
    }

    /// Rows of a statement made for once. More than one statement, none, or one that writes is
    /// refused.
    pub(super) fn select_once<'c>(
        &'c mut self,
        sql: &str,
        binds: &'c [Bind<'c>],
    ) -> Result<Rows<'c>, ShardError> {
        let (statement, consumed) = self.prepare_raw(sql, 0)?;
        let refused = |message: &str| ShardError::Refused(message.to_owned());
        if statement.is_null() {
            return Err(refused("there is no statement"));
        }
        // From here on, dropping the rows finalizes the statement.
        let rows = Rows { connection: self, statement, is_temporary: true };
        // SAFETY: a statement of this open connection.
        if unsafe { ffi::sqlite3_stmt_readonly(statement) } == 0 {
            return Err(refused("only statements that read are allowed"));
        }
        if !rows.connection.is_blank(&sql[consumed..]) {
            return Err(refused("one statement at a time"));
        }
        match rows.connection.bind(statement, binds) {
            Ok(()) => Ok(rows),
            Err(code) => Err(rows.connection.statement_error(code, statement)),
        }
    }

    /// Whether a statement's tail holds nothing but space, comments and semicolons.
    fn is_blank(&self, mut tail: &str) -> bool {
        while !tail.is_empty() {
            match self.prepare_raw(tail, 0) {
                Ok((statement, consumed)) if statement.is_null() && consumed > 0 => tail = &tail[consumed..],
                Ok((statement, _)) if statement.is_null() => return true,
                Ok((statement, _)) => {
                    // SAFETY: just prepared, used nowhere else.
                    unsafe { ffi::sqlite3_finalize(statement) };
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn bind(&self, statement: *mut ffi::sqlite3_stmt, binds: &[Bind<'_>]) -> Result<(), c_int> {
        // SAFETY: a statement of this open connection, reset. With no destructor the value is not
        // copied: every caller keeps `binds` alive until the statement is reset again.
        unsafe {
            let wanted = ffi::sqlite3_bind_parameter_count(statement);
            assert!(
                usize::try_from(wanted) == Ok(binds.len()),
                "a statement with {wanted} parameters was given {} values",
                binds.len()
            );
            for (at, bind) in (1..).zip(binds) {
                let code = match *bind {
                    Bind::Null => ffi::sqlite3_bind_null(statement, at),
                    Bind::Int(int) => ffi::sqlite3_bind_int64(statement, at, int),
                    Bind::Text(text) => bind_text(statement, at, text.as_bytes()),
                    Bind::Json(bytes) => bind_text(statement, at, bytes),
                    Bind::Blob(bytes) => match c_int::try_from(bytes.len()) {
                        Ok(length) => {
                            ffi::sqlite3_bind_blob(statement, at, bytes.as_ptr().cast(), length, None)
                        }
                        Err(_) => ffi::SQLITE_TOOBIG,
                    },
                };
                if code != ffi::SQLITE_OK {
                    return Err(code);
                }
            }
        }
        Ok(())
    }

    /// Frames in the WAL after the last commit of this connection.
    pub(super) fn wal_frames(&self) -> u32 {
        self.wal_frames.get()
    }

    /// Moves the WAL into the main file. Busy readers are told of, not an error.
    pub(super) fn checkpoint(&mut self, mode: CheckpointMode) -> Result<Checkpoint, ShardError> {
        let raw_mode = match mode {
            CheckpointMode::Passive => ffi::SQLITE_CHECKPOINT_PASSIVE,
            CheckpointMode::Restart => ffi::SQLITE_CHECKPOINT_RESTART,
            CheckpointMode::Truncate => ffi::SQLITE_CHECKPOINT_TRUNCATE,
        };
        let (mut frames, mut moved) = (0, 0);
        // SAFETY: an open handle, a C string, two places that outlive the call.
        let code = unsafe {
            ffi::sqlite3_wal_checkpoint_v2(self.raw, c"main".as_ptr(), raw_mode, &mut frames, &mut moved)
        };
        let is_busy = code == ffi::SQLITE_BUSY;
        if code != ffi::SQLITE_OK && !is_busy {
            return Err(self.error(code, "checkpoint"));
        }
        let count = |n: c_int| u32::try_from(n).unwrap_or(0);
        if frames < 0 || moved < 0 {
            // No frame was looked at: another checkpoint holds the lock.
            return Ok(Checkpoint { is_busy: true, frames: 1, moved: 0 });
        }
        Ok(Checkpoint { is_busy, frames: count(frames), moved: count(moved) })
    }

    /// From now on: only reading statements can be prepared, values and statements have limits,
    /// and all stops at `deadline`. For queries that people wrote.
    pub(super) fn confine(&mut self, deadline: Instant, value_bytes_max: usize) {
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

    /// Whether the deadline of [`Connection::confine`] has passed.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.get().is_some_and(|at| Instant::now() >= at)
    }

    fn statement_error(&self, code: c_int, statement: *mut ffi::sqlite3_stmt) -> ShardError {
        // SAFETY: a statement of this open connection; its text lives as long as it does.
        let sql = unsafe {
            let text = ffi::sqlite3_sql(statement);
            if text.is_null() { "".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        self.error(code, &sql)
    }

    fn error(&self, code: c_int, what: &str) -> ShardError {
        // SAFETY: libSQL gives a message for any handle, also for none.
        let message = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(self.raw)) }.to_string_lossy();
        let what: String = what.chars().take(ERROR_TEXT_CHARS_MAX).collect();
        match code & 0xff {
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => ShardError::Damaged(format!("{what}: {message}")),
            ffi::SQLITE_CONSTRAINT => ShardError::Damaged(format!("{message} ({what})")),
            _ => ShardError::Store { what, message: format!("{message} (code {code})") },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: nothing else holds the handle or its statements, and rows borrow the connection.
        unsafe {
            for statement in self.statements.drain(..) {
                ffi::sqlite3_finalize(statement);
            }
            ffi::sqlite3_close_v2(self.raw);
        }
    }
}

/// Rows on their way.
pub(super) struct Rows<'c> {
    connection: &'c mut Connection,
    statement: *mut ffi::sqlite3_stmt,
    is_temporary: bool,
}

impl Rows<'_> {
    /// The next row, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, ShardError> {
        // SAFETY: a statement of the open connection that this borrows.
        match unsafe { ffi::sqlite3_step(self.statement) } {
            ffi::SQLITE_ROW => Ok(Some(Row { rows: self })),
            ffi::SQLITE_DONE => Ok(None),
            code => Err(self.connection.statement_error(code, self.statement)),
        }
    }

    /// Whether the connection's deadline has passed.
    pub(super) fn is_late(&self) -> bool {
        self.connection.is_late()
    }

    /// Names of the columns.
    pub(super) fn columns(&self) -> Vec<String> {
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
pub(super) struct Row<'r> {
    rows: &'r Rows<'r>,
}

impl<'r> Row<'r> {
    /// The value of a column, from 0.
    pub(super) fn get(&self, at: usize) -> Datum<'r> {
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
    pub(super) fn int(&self, at: usize) -> Result<i64, ShardError> {
        match self.get(at) {
            Datum::Int(int) => Ok(int),
            other => Err(self.unexpected(at, "an integer", other)),
        }
    }

    /// A whole number that is never negative.
    pub(super) fn unsigned(&self, at: usize) -> Result<u64, ShardError> {
        let int = self.int(at)?;
        u64::try_from(int).map_err(|_| ShardError::Damaged(format!("a negative number {int} in the tables")))
    }

    /// A whole number or nothing.
    pub(super) fn optional_int(&self, at: usize) -> Result<Option<i64>, ShardError> {
        match self.get(at) {
            Datum::Null => Ok(None),
            Datum::Int(int) => Ok(Some(int)),
            other => Err(self.unexpected(at, "an integer", other)),
        }
    }

    /// Text.
    pub(super) fn text(&self, at: usize) -> Result<&'r str, ShardError> {
        self.optional_text(at)?.ok_or_else(|| self.unexpected(at, "text", Datum::Null))
    }

    /// Text or nothing.
    pub(super) fn optional_text(&self, at: usize) -> Result<Option<&'r str>, ShardError> {
        match self.get(at) {
            Datum::Null => Ok(None),
            Datum::Text(bytes) => std::str::from_utf8(bytes)
                .map(Some)
                .map_err(|_| ShardError::Damaged("text in the tables is not UTF-8".into())),
            other => Err(self.unexpected(at, "text", other)),
        }
    }

    /// Bytes of a text or a blob.
    pub(super) fn bytes(&self, at: usize) -> Result<&'r [u8], ShardError> {
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

/// How long the writer waits for a lock that only people's tools could hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of SQL text shown in an error.
const ERROR_TEXT_CHARS_MAX: usize = 200;
/// Longest text of a query that people wrote.
const SQL_BYTES_MAX: c_int = 256 * 1024;
/// Deepest expression in it.
const SQL_DEPTH_MAX: c_int = 200;
/// Steps of libSQL's machine between two looks at the clock, some tens of microseconds.
const PROGRESS_STEPS: c_int = 4_000;

/// Sets libSQL up once for the process: its own first open configures threading and must come
/// before any other.
fn configure() {
    static CONFIGURED: Once = Once::new();
    CONFIGURED.call_once(|| {
        let opened = pin!(async { libsql::Builder::new_local(":memory:").build().await?.connect() })
            .poll(&mut Context::from_waker(Waker::noop()));
        match opened {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => panic!("libSQL does not open a database in memory: {error}"),
            Poll::Pending => panic!("libSQL waits for something to open a database in memory"),
        }
    });
}

/// # Safety
/// `statement` is open and reset, and `bytes` live until it is reset again.
unsafe fn bind_text(statement: *mut ffi::sqlite3_stmt, at: c_int, bytes: &[u8]) -> c_int {
    match c_int::try_from(bytes.len()) {
        // SAFETY: promised by the caller.
        Ok(length) => unsafe { ffi::sqlite3_bind_text(statement, at, bytes.as_ptr().cast(), length, None) },
        Err(_) => ffi::SQLITE_TOOBIG,
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

unsafe extern "C" fn on_commit(
    cell: *mut c_void,
    _: *mut ffi::sqlite3,
    _: *const c_char,
    frames: c_int,
) -> c_int {
    // SAFETY: installed with a boxed cell that outlives the connection.
    unsafe { (*cell.cast::<Cell<u32>>()).set(u32::try_from(frames).unwrap_or(0)) };
    ffi::SQLITE_OK
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

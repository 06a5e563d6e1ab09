//! A libSQL connection, synchronous, with the statements it has prepared.
//!
//! Applying events decides how fast a shard is, and libSQL's async API copies every bound value
//! twice; so this goes to libSQL's C interface, and it is the only module that does. A connection
//! is used by one thread at a time and owns its statements, which makes that safe. It never
//! retries, and never checkpoints unless told to.

#![allow(unsafe_code)]

mod confine;
mod rows;

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

pub(super) use self::rows::{Datum, Row, Rows};

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
    /// Text by its bytes: known to be JSON, or read from a column of text.
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

/// A statement of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatementId(usize);

/// How a checkpoint went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
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
        connection.plan_once();
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

    /// A cached statement is planned once: without this, it is planned anew whenever another value
    /// is bound to a range, to see whether statistics (there are none) would have it otherwise.
    fn plan_once(&self) {
        let (on, unread) = (1_i32, std::ptr::null_mut::<c_int>());
        // SAFETY: an open connection; this option takes a number and a place that may be null.
        unsafe { ffi::sqlite3_db_config(self.raw, ffi::SQLITE_DBCONFIG_ENABLE_QPSG, on, unread) };
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

    /// Moves the WAL into the main file, as far as readers allow.
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
        if code != ffi::SQLITE_OK && code != ffi::SQLITE_BUSY {
            return Err(self.error(code, "checkpoint"));
        }
        let count = |n: c_int| u32::try_from(n).unwrap_or(0);
        if frames < 0 || moved < 0 {
            // No frame was looked at: another checkpoint holds the lock.
            return Ok(Checkpoint { frames: 1, moved: 0 });
        }
        Ok(Checkpoint { frames: count(frames), moved: count(moved) })
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

/// How long the writer waits for a lock that only people's tools could hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of SQL text shown in an error.
const ERROR_TEXT_CHARS_MAX: usize = 200;
/// Sets libSQL up once for the process: its own first open configures threading and must come
/// before any other.
fn configure() {
    static CONFIGURED: Once = Once::new();
    CONFIGURED.call_once(|| {
        // Nobody asks how much memory libSQL holds, and counting it takes a lock for each allocation.
        // SAFETY: nothing has opened a database before; the argument is the int that this option has.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0) };
        if code != ffi::SQLITE_OK {
            tracing::debug!(code, "libSQL goes on counting the memory it holds");
        }
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

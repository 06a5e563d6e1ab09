//! Copies of the tables as files: made for a member of the group that has fallen too far behind,
//! and put in the place of the tables of one that has.
//!
//! A copy comes from another node, so nothing in it is believed before it has been looked at: the
//! file must hold exactly the schema that this build makes, so that opening it as ours runs
//! nothing but our own SQL, and be whole. It takes the tables' place in steps that a crash or a
//! power cut may end anywhere: a file named `….installing` is whole, checked and synced, and
//! whoever opens the tables next finishes its way.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::StoreOptions;
use super::apply::{Standing, load_standing};
use super::connection::{Access, Connection, Datum};
use super::schema::{PAGE_BYTES, check_identity, check_schema};
use crate::crash;
use crate::disk;
use crate::error::ShardError;

/// Bytes of an SQLite file that say what it is.
const HEADER_BYTES: usize = 100;
/// What it starts with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The name of a copy that takes the tables' place.
const INSTALLING: &str = ".installing";

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> ShardError {
    let what = format!("{what} {}", path.display());
    move |source| ShardError::Io { what, source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_folder(path: &Path) -> Result<(), ShardError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("syncing", folder))
}

fn remove(path: &Path) -> Result<(), ShardError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes what `connection` sees to a new file at `to`, synced; tells how far it goes. A file that
/// is there is left alone, and so is a disk with no room to spare.
pub(super) fn write(connection: &mut Connection, to: &Path) -> Result<Standing, ShardError> {
    let text = to.to_str().ok_or_else(|| ShardError::Refused(format!("{}: not UTF-8", to.display())))?;
    let pages = {
        let mut rows = connection.select("PRAGMA page_count", &[])?;
        rows.next()?.map_or(Ok(0), |row| row.unsigned(0))?
    };
    disk::check_room(to.parent().unwrap_or(Path::new(".")), pages * PAGE_BYTES)?;
    // Ours from here on: an empty file is what libSQL writes into, and what may be removed again.
    File::create_new(to).map_err(failed("making", to))?;
    let written = fill(connection, to, text);
    if written.is_err() {
        // The first error is the one to tell.
        let _ = remove(to);
    }
    written
}

fn fill(connection: &Connection, to: &Path, text: &str) -> Result<Standing, ShardError> {
    connection.execute(&format!("VACUUM INTO '{}'", text.replace('\'', "''")))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(failed("syncing", to))?;
    standing(&mut Connection::open(to, Access::Read)?, to)
}

fn standing(connection: &mut Connection, path: &Path) -> Result<Standing, ShardError> {
    load_standing(connection)?
        .ok_or_else(|| ShardError::Damaged(format!("{} holds nothing applied", path.display())))
}

/// How far a copy has come; an error when it is none of these tables, or damaged. Reads all of it.
pub(super) fn check(from: &Path, options: &StoreOptions) -> Result<Standing, ShardError> {
    let (mut connection, standing) = identify(from, options)?;
    let is_sound = {
        let mut rows = connection.select_once("PRAGMA quick_check(1)", &[])?;
        let row = rows.next()?;
        row.is_some_and(|row| row.get(0) == Datum::Text(b"ok"))
    };
    match is_sound {
        true => Ok(standing),
        false => Err(ShardError::Damaged(format!("{} is not sound", from.display()))),
    }
}

/// Whose copy it is and how far it has come, without reading the whole of it.
fn identify(from: &Path, options: &StoreOptions) -> Result<(Connection, Standing), ShardError> {
    check_header(from)?;
    let mut connection = Connection::open(from, Access::Read)?;
    connection.distrust()?;
    check_schema(&mut connection, from)?;
    check_identity(&mut connection, &StoreOptions { path: from.to_owned(), ..options.clone() })?;
    let standing = standing(&mut connection, from)?;
    Ok((connection, standing))
}

/// Refuses a file that libSQL would write beside, or whose end is missing: a copy is one file, all
/// of it, and no WAL goes with it.
fn check_header(from: &Path) -> Result<(), ShardError> {
    let damaged = |what: &str| Err(ShardError::Damaged(format!("{}: {what}", from.display())));
    let mut file = File::open(from).map_err(failed("opening", from))?;
    let bytes = file.metadata().map_err(failed("looking at", from))?.len();
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return damaged("too short for a database");
    }
    file.read_exact(&mut header).map_err(failed("reading", from))?;
    let page_bytes = u64::from(u16::from_be_bytes([header[16], header[17]]));
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    if &header[..16] != MAGIC {
        return damaged("not a database");
    }
    if header[18..20] != [1, 1] {
        return damaged("a database with a WAL, which a copy is not");
    }
    if page_bytes != PAGE_BYTES || pages * page_bytes != bytes {
        return damaged("not as long as it says");
    }
    Ok(())
}

/// Puts a copy that has been checked on its way to the tables' place. From here on the tables are
/// what it holds, and [`finish`] must come before they are used again.
pub(super) fn send_off(from: &Path, tables: &Path) -> Result<(), ShardError> {
    let installing = beside(tables, INSTALLING);
    File::open(from).and_then(|file| file.sync_all()).map_err(failed("syncing", from))?;
    std::fs::rename(from, &installing).map_err(failed("renaming", from))?;
    sync_folder(tables)?;
    crash::point("tables.install.sent");
    Ok(())
}

/// Whose copy may take the tables' place, and how far it goes, before anything is changed.
pub(super) fn may_take_place(from: &Path, options: &StoreOptions) -> Result<Standing, ShardError> {
    identify(from, options).map(|(_, standing)| standing)
}

/// Ends the way of a copy that was put on it, if there is one. Nobody has the tables open: a
/// connection to what was there would find the WAL of what is there now. A copy that is not of
/// these tables is refused, and nothing is changed.
pub(super) fn finish(options: &StoreOptions) -> Result<(), ShardError> {
    let tables = &options.path;
    let installing = beside(tables, INSTALLING);
    if !installing.try_exists().map_err(failed("looking at", &installing))? {
        return Ok(());
    }
    identify(&installing, options)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        remove(&beside(tables, suffix))?;
    }
    // The names must be gone for good first: a WAL that came back after a power cut would be
    // taken for the new file's.
    sync_folder(tables)?;
    crash::point("tables.install.cleared");
    std::fs::rename(&installing, tables).map_err(failed("renaming", &installing))?;
    sync_folder(tables)?;
    crash::point("tables.install.done");
    Ok(())
}

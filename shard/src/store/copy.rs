//! Copies of the tables as files: made for a member of the group that has fallen too far behind,
//! and put in the place of the tables of one that has.
//!
//! A copy takes the tables' place in steps that a crash may end anywhere: a file named
//! `….installing` is whole and checked, and whoever opens the tables next finishes its way.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::StoreOptions;
use super::apply::{Standing, load_standing};
use super::connection::{Access, Connection, Datum};
use super::schema::check_identity;
use crate::error::ShardError;

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

/// Writes what `connection` sees to a new file at `to`, synced.
pub(super) fn write(connection: &Connection, to: &Path) -> Result<(), ShardError> {
    let text = to.to_str().ok_or_else(|| ShardError::Refused(format!("{}: not UTF-8", to.display())))?;
    let copied = connection.execute(&format!("VACUUM INTO '{}'", text.replace('\'', "''")));
    let synced =
        copied.and_then(|()| File::open(to).and_then(|file| file.sync_all()).map_err(failed("syncing", to)));
    if synced.is_err() {
        // The first error is the one to tell.
        let _ = remove(to);
    }
    synced
}

/// How far a copy has come; an error when it is none of these tables, or damaged.
pub(super) fn check(from: &Path, options: &StoreOptions) -> Result<Standing, ShardError> {
    let mut connection = Connection::open(from, Access::Read)?;
    check_identity(&mut connection, &StoreOptions { path: from.to_owned(), ..options.clone() })?;
    let is_sound = {
        let mut rows = connection.select_once("PRAGMA quick_check(1)", &[])?;
        let row = rows.next()?;
        row.is_some_and(|row| row.get(0) == Datum::Text(b"ok"))
    };
    if !is_sound {
        return Err(ShardError::Damaged(format!("{} is not sound", from.display())));
    }
    load_standing(&mut connection)?
        .ok_or_else(|| ShardError::Damaged(format!("{} holds nothing applied", from.display())))
}

/// Puts a checked copy in the tables' place. Nobody has the tables open for writing.
pub(super) fn take_place(from: &Path, tables: &Path) -> Result<(), ShardError> {
    let installing = beside(tables, ".installing");
    File::open(from).and_then(|file| file.sync_all()).map_err(failed("syncing", from))?;
    std::fs::rename(from, &installing).map_err(failed("renaming", from))?;
    sync_folder(tables)?;
    finish(tables)
}

/// Ends the way of a copy that was put on it, if there is one.
pub(super) fn finish(tables: &Path) -> Result<(), ShardError> {
    let installing = beside(tables, ".installing");
    if !installing.exists() {
        return Ok(());
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        remove(&beside(tables, suffix))?;
    }
    std::fs::rename(&installing, tables).map_err(failed("renaming", &installing))?;
    sync_folder(tables)?;
    Ok(())
}

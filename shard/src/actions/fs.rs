//! `fs.*`: files under the open roots. A write is whole or not at all: it goes to a file beside
//! the target and is renamed. Nothing here follows a symlink that the guard has not judged.

use std::ffi::OsString;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::stat::FileStat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use opcode_engine::ids::Timestamp;
use opcode_engine::{Code, Fault};
use serde_json::{Value, json};

use super::fs_guard::{FsGuard, LastLink, Place, failure_of_io};
use super::params::{Params, text_of};
use super::{Call, Failure, fs_tree};

/// Bytes that `fs.read` takes unless `max_bytes` says less or more.
const READ_BYTES_DEFAULT: u64 = 1024 * 1024;
/// Bytes that `max_bytes` may allow.
const READ_BYTES_MAX: u64 = 10 * 1024 * 1024;

type Done = Result<Value, Failure>;

pub(super) fn run(call: &Call, guard: &FsGuard) -> Done {
    let params = Params::new(&call.action, &call.params);
    match call.action.as_ref() {
        "fs.append" => append(params, guard),
        "fs.copy" => copy(params, guard),
        "fs.delete" => delete(params, guard),
        "fs.list" => list(params, guard),
        "fs.move" => rename(params, guard),
        "fs.read" => read(params, guard),
        "fs.stat" => stat(params, guard),
        "fs.write" => write(params, guard),
        other => Err(Fault::new(Code::ActionUnavailable, format!("no action {other} on this node")).into()),
    }
}

fn read(params: Params<'_>, guard: &FsGuard) -> Done {
    let place = guard.locate(params.require_str("path")?, LastLink::Follow, false)?;
    let bytes_max = params.u64("max_bytes", READ_BYTES_DEFAULT)?.min(READ_BYTES_MAX);
    let file = place.open(OFlag::O_RDONLY, 0)?;
    let metadata = file.metadata().map_err(|e| failure_of_io(&place.shown, &e))?;
    if !metadata.is_file() {
        return Err(place.failure(if metadata.is_dir() { Errno::EISDIR } else { Errno::ENXIO }));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| failure_of_io(&place.shown, &e))?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("{:?} is over {bytes_max} bytes (max_bytes)", place.shown);
        return Err(Fault::new(Code::NonRetryable, message).into());
    }
    let size = bytes.len();
    let (content, encoding) = match (params.str("encoding")?.unwrap_or("auto"), String::from_utf8(bytes)) {
        ("auto" | "text" | "utf8" | "utf-8", Ok(text)) => (text, "text"),
        ("base64", Ok(text)) => (STANDARD.encode(text), "base64"),
        ("auto" | "base64", Err(e)) => (STANDARD.encode(e.into_bytes()), "base64"),
        ("text" | "utf8" | "utf-8", Err(_)) => {
            let message = format!("{:?} is not UTF-8 text; read it as base64", place.shown);
            return Err(Fault::new(Code::NonRetryable, message).into());
        }
        _ => return Err(params.invalid("encoding", "must be auto, text or base64").into()),
    };
    Ok(json!({"path": place.shown, "content": content, "encoding": encoding, "size": size}))
}

fn content_of(params: Params<'_>) -> Result<Vec<u8>, Fault> {
    let content = params.require("content")?;
    match params.str("encoding")?.unwrap_or("text") {
        "auto" | "text" | "utf8" | "utf-8" => Ok(text_of(content).into_owned().into_bytes()),
        "base64" => {
            STANDARD.decode(text_of(content).trim()).map_err(|_| params.invalid("content", "is not base64"))
        }
        _ => Err(params.invalid("encoding", "must be text or base64")),
    }
}

/// Permission bits: a number, or octal text like `"0644"`.
fn mode_of(params: Params<'_>) -> Result<Option<u32>, Fault> {
    let bits = match params.get("mode") {
        None => return Ok(None),
        Some(Value::String(octal)) => u64::from_str_radix(octal.trim_start_matches("0o"), 8).ok(),
        Some(other) => other.as_u64(),
    };
    match bits {
        Some(bits) if bits <= 0o777 => Ok(u32::try_from(bits).ok()),
        _ => Err(params.invalid("mode", "must be permission bits, \"0644\" or 420")),
    }
}

fn write(params: Params<'_>, guard: &FsGuard) -> Done {
    let bytes = content_of(params)?;
    let mode = mode_of(params)?;
    let overwrites = params.bool("overwrite", true)?;
    let place = target(guard, params, "path")?;
    let existing = place.stat()?;
    check_target(&place, existing.as_ref(), overwrites)?;
    let mode = mode.or(existing.map(|s| s.st_mode & 0o777)).unwrap_or(0o644);
    replace(&place, overwrites, |temporary| {
        let mut file = temporary.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode)?;
        file.write_all(&bytes).map_err(|e| failure_of_io(&place.shown, &e))
    })?;
    Ok(json!({"path": place.shown, "size": bytes.len(), "bytes_written": bytes.len()}))
}

fn append(params: Params<'_>, guard: &FsGuard) -> Done {
    let bytes = content_of(params)?;
    let place = target(guard, params, "path")?;
    let mut file = place.open(OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT, 0o644)?;
    let fails = |e| failure_of_io(&place.shown, &e);
    if !file.metadata().map_err(fails)?.is_file() {
        return Err(place.failure(Errno::ENXIO));
    }
    file.write_all(&bytes).map_err(fails)?;
    let size = file.metadata().map_err(fails)?.len();
    Ok(json!({"path": place.shown, "size": size, "bytes_written": bytes.len()}))
}

/// Deleting what is gone already succeeds with `deleted: false`, since a step may run twice.
fn delete(params: Params<'_>, guard: &FsGuard) -> Done {
    let is_recursive = params.bool("recursive", false)?;
    let place = match guard.locate(params.require_str("path")?, LastLink::Keep, false) {
        Err(failure) if is_missing_folder(&failure, params) => {
            return Ok(json!({"path": params.require_str("path")?, "deleted": false}));
        }
        other => other?,
    };
    refuse_root(&place)?;
    refuse_around_closed(guard, &place)?;
    let Some(stat) = place.stat()? else {
        return Ok(json!({"path": place.shown, "deleted": false}));
    };
    let removed = match (fs_tree::is_dir(&stat), is_recursive) {
        (true, true) => fs_tree::remove(place.folder(), place.name(), 0),
        (true, false) => unlinkat(place.folder(), place.name(), UnlinkatFlags::RemoveDir),
        (false, _) => unlinkat(place.folder(), place.name(), UnlinkatFlags::NoRemoveDir),
    };
    removed.map_err(|errno| place.failure(errno))?;
    Ok(json!({"path": place.shown, "deleted": true}))
}

/// Whether a path could not be located only because a folder above it is not there.
fn is_missing_folder(failure: &Failure, params: Params<'_>) -> bool {
    let path = params.str("path").ok().flatten().unwrap_or_default();
    failure.fault.message == super::fs_guard::io_failure(path, Errno::ENOENT).fault.message
}

fn list(params: Params<'_>, guard: &FsGuard) -> Done {
    let place = guard.locate(params.require_str("path")?, LastLink::Follow, false)?;
    let pattern = params.str("pattern")?;
    let found = fs_tree::list(place.open_folder()?, params.bool("recursive", false)?, &guard.closed_ids())
        .map_err(|errno| place.failure(errno))?;
    let prefix = place.shown.trim_end_matches('/');
    let entries: Vec<Value> = found
        .iter()
        .filter(|entry| {
            pattern.is_none_or(|pattern| {
                let text = if pattern.contains('/') {
                    entry.path.as_str().into()
                } else {
                    entry.name.to_string_lossy()
                };
                is_match(pattern.as_bytes(), text.as_bytes())
            })
        })
        .map(|entry| {
            json!({
                "name": entry.name.to_string_lossy(),
                "path": format!("{prefix}/{}", entry.path),
                "size": entry.stat.st_size,
                "modified_at": modified_at(&entry.stat),
                "is_dir": fs_tree::is_dir(&entry.stat),
            })
        })
        .collect();
    Ok(json!({"path": place.shown, "count": entries.len(), "entries": entries}))
}

fn stat(params: Params<'_>, guard: &FsGuard) -> Done {
    let place = guard.locate(params.require_str("path")?, LastLink::Follow, false)?;
    let stat = place.stat()?.ok_or_else(|| place.failure(Errno::ENOENT))?;
    Ok(json!({
        "path": place.shown,
        "exists": true,
        "size": stat.st_size,
        "is_dir": fs_tree::is_dir(&stat),
        "is_file": fs_tree::is_file(&stat),
        "modified_at": modified_at(&stat),
        "permissions": format!("{:04o}", stat.st_mode & 0o7777),
    }))
}

fn copy(params: Params<'_>, guard: &FsGuard) -> Done {
    let overwrites = params.bool("overwrite", true)?;
    let from = guard.locate(params.require_str("src")?, LastLink::Follow, false)?;
    let source = from.stat()?.ok_or_else(|| from.failure(Errno::ENOENT))?;
    let to = target(guard, params, "dst")?;
    copy_to(&from, &source, &to, overwrites, &guard.closed_ids())
}

fn copy_to(from: &Place, source: &FileStat, to: &Place, overwrites: bool, closed: &[(u64, u64)]) -> Done {
    let existing = to.stat()?;
    let is_dir = fs_tree::is_dir(source);
    let ends = ((from.folder(), from.name()), (to.folder(), to.name()));
    let size = if is_dir {
        if existing.is_some_and(|s| !fs_tree::is_dir(&s)) {
            return Err(to.failure(Errno::ENOTDIR));
        }
        if existing.is_some() && !overwrites {
            return Err(to.failure(Errno::EEXIST));
        }
        fs_tree::copy(ends.0, ends.1, closed).map_err(|errno| from.failure(errno))?
    } else {
        if !fs_tree::is_file(source) {
            return Err(from.failure(Errno::ENXIO));
        }
        check_target(to, existing.as_ref(), overwrites)?;
        let mut size = 0;
        replace(to, overwrites, |temporary| {
            size = fs_tree::copy_file(ends.0, (temporary.folder(), temporary.name()), source)
                .map_err(|errno| from.failure(errno))?;
            Ok(())
        })?;
        size
    };
    Ok(json!({"src": from.shown, "dst": to.shown, "size": size, "is_dir": is_dir}))
}

fn rename(params: Params<'_>, guard: &FsGuard) -> Done {
    let overwrites = params.bool("overwrite", true)?;
    let from = guard.locate(params.require_str("src")?, LastLink::Keep, false)?;
    refuse_root(&from)?;
    refuse_around_closed(guard, &from)?;
    let source = from.stat()?.ok_or_else(|| from.failure(Errno::ENOENT))?;
    let to = target(guard, params, "dst")?;
    let flags = if overwrites { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    match renameat2(from.folder(), from.name(), to.folder(), to.name(), flags) {
        Ok(()) => {
            let is_dir = fs_tree::is_dir(&source);
            Ok(json!({"src": from.shown, "dst": to.shown, "size": source.st_size, "is_dir": is_dir}))
        }
        Err(Errno::EXDEV) => {
            let output = copy_to(&from, &source, &to, overwrites, &guard.closed_ids())?;
            let removed = if fs_tree::is_dir(&source) {
                fs_tree::remove(from.folder(), from.name(), 0)
            } else {
                unlinkat(from.folder(), from.name(), UnlinkatFlags::NoRemoveDir)
            };
            removed.map_err(|errno| from.failure(errno))?;
            Ok(output)
        }
        Err(errno) => Err(to.failure(errno)),
    }
}

/// The place that a param names as a target, its folders made when `create_dirs` is set.
fn target(guard: &FsGuard, params: Params<'_>, name: &str) -> Result<Place, Failure> {
    let create_dirs = params.bool("create_dirs", false)?;
    let place = guard.locate(params.require_str(name)?, LastLink::Follow, create_dirs)?;
    refuse_root(&place)?;
    Ok(place)
}

fn refuse_root(place: &Place) -> Result<(), Failure> {
    if !place.is_root() {
        return Ok(());
    }
    let message = format!("{:?} is itself an open folder and stays as it is", place.shown);
    Err(Fault::new(Code::PathDenied, message).into())
}

/// What goes as a whole cannot leave a part of it behind.
fn refuse_around_closed(guard: &FsGuard, place: &Place) -> Result<(), Failure> {
    if !guard.is_around_closed(place) {
        return Ok(());
    }
    let message = format!("{:?} holds files of the node itself and stays as it is", place.shown);
    Err(Fault::new(Code::PathDenied, message).into())
}

fn check_target(place: &Place, existing: Option<&FileStat>, overwrites: bool) -> Result<(), Failure> {
    match existing {
        Some(stat) if fs_tree::is_dir(stat) => Err(place.failure(Errno::EISDIR)),
        Some(_) if !overwrites => Err(place.failure(Errno::EEXIST)),
        Some(_) | None => Ok(()),
    }
}

/// Fills a file beside `place` and renames it there; on failure nothing is left.
fn replace(
    place: &Place,
    overwrites: bool,
    fill: impl FnOnce(&Place) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let temporary = place.beside(OsString::from(format!(".opcode-{}.tmp", uuid::Uuid::new_v4().simple())))?;
    let flags = if overwrites { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    let done = fill(&temporary).and_then(|()| {
        renameat2(place.folder(), temporary.name(), place.folder(), place.name(), flags)
            .map_err(|errno| place.failure(errno))
    });
    if done.is_err() {
        // What failed is reported; the file may not even have been made.
        let _ = unlinkat(place.folder(), temporary.name(), UnlinkatFlags::NoRemoveDir);
    }
    done
}

fn modified_at(stat: &FileStat) -> String {
    Timestamp(stat.st_mtime.saturating_mul(1_000).saturating_add(stat.st_mtime_nsec / 1_000_000)).to_rfc3339()
}

/// Shell-style match: `*` and `?` within a component, `**` across them, `[a-z]` and `[!a-z]`.
/// Iterative, so that no pattern is slow or deep.
fn is_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a star matched one byte more: pattern, text, whether it crosses `/`.
    let mut retry: Option<(usize, usize, bool)> = None;
    loop {
        if pattern[p..].starts_with(b"*") {
            let crosses = pattern[p..].starts_with(b"**");
            p += if crosses { 2 } else { 1 };
            retry = Some((p, t, crosses));
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if t < text.len()
            && let Some(length) = match_one(&pattern[p..], text[t])
        {
            p += length;
            t += 1;
            continue;
        }
        match retry {
            Some((after, from, crosses)) if from < text.len() && (crosses || text[from] != b'/') => {
                retry = Some((after, from + 1, crosses));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern one byte matches, if it does.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => (byte != b'/').then_some(1),
        b'\\' => (pattern.get(1) == Some(&byte)).then_some(2),
        b'[' => {
            let is_negated = matches!(pattern.get(1), Some(b'!' | b'^'));
            let start = if is_negated { 2 } else { 1 };
            // A bracket right after the opening one is a member.
            let end = start + 1 + pattern.get(start + 1..)?.iter().position(|b| *b == b']')?;
            let mut set = &pattern[start..end];
            let mut is_in = false;
            while let Some((low, rest)) = set.split_first() {
                let (high, rest) = match rest {
                    [b'-', high, rest @ ..] => (high, rest),
                    _ => (low, rest),
                };
                is_in |= (*low..=*high).contains(&byte);
                set = rest;
            }
            (is_in != is_negated && byte != b'/').then_some(end + 1)
        }
        other => (*other == byte).then_some(1),
    }
}

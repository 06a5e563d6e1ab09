//! Crash points: places where a test build stops the process as if power had gone.
//!
//! With the feature `crash-points`, `OPCODE_CRASH_AT=NAME:N` aborts at the N-th time (from 1)
//! that the point NAME is passed. Without the feature a point is nothing at all.

/// Names of every point, so that a test can go through them in turn.
pub const POINTS: &[&str] = &[
    "log.append.before",
    "log.append.torn",
    "log.append.written",
    "log.sync.after",
    "log.roll.created",
    "log.roll.renamed",
    "log.purge.before",
    "log.purge.after",
    "log.vote.synced",
    "tables.begin",
    "tables.commit.before",
    "tables.commit.after",
    "tables.checkpoint.before",
    "tables.checkpoint.after",
];

/// Those that only a replica passes which takes a copy, or is given away.
pub const MEMBER_POINTS: &[&str] = &[
    "tables.install.sent",
    "tables.install.cleared",
    "tables.install.done",
    "log.removed",
    "shard.removal.begun",
    "shard.removal.unlogged",
];

/// Those that only a run with children passes.
pub const CHILD_POINTS: &[&str] =
    &["child.start.sent", "child.start.taken", "outbox.message.sent", "outbox.message.taken"];

/// Those that only who writes or restores a backup passes.
pub const BACKUP_POINTS: &[&str] =
    &["backup.file.before", "backup.manifest.before", "restore.identity.before"];

/// Passes a point: aborts here when the environment says so.
#[cfg(feature = "crash-points")]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};
    static TARGET: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let is_listed =
        [POINTS, MEMBER_POINTS, CHILD_POINTS, BACKUP_POINTS].iter().any(|points| points.contains(&name));
    debug_assert!(is_listed, "an unlisted crash point: {name}");
    let target = TARGET.get_or_init(|| {
        let text = std::env::var("OPCODE_CRASH_AT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some((name.to_owned(), AtomicI64::new(count.parse().ok()?)))
    });
    if let Some((wanted, left)) = target
        && wanted == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        eprintln!("crash point {name}");
        std::process::abort();
    }
}

/// Passes a point: nothing, in a build for use.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

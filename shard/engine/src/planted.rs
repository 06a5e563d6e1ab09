//! Faults on purpose, each of which a simulation must find: a test of the tests.
//!
//! `OPCODE_PLANTED=NAME` picks one, in a build with the feature `planted`; in any other build the
//! places below are nothing at all. A place is found by its name.

/// Names of all, so that a test can go through them in turn.
pub const NAMES: &[&str] = &[
    "acknowledge-before-sync",
    "acknowledge-before-quorum",
    "skip-term-check",
    "stale-read",
    "reuse-sequence",
    "drop-last-log-record",
    "timer-twice",
    "step-twice-after-failover",
    "signal-twice",
    "lost-outbox-row",
    "snapshot-out-of-order",
    "checksum-skipped",
    "deposed-leader-starts-steps",
    "secret-in-error",
];

/// Whether this fault is in.
#[cfg(feature = "planted")]
pub fn is(name: &'static str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!(NAMES.contains(&name), "an unlisted fault: {name}");
    let chosen = CHOSEN.get_or_init(|| std::env::var("OPCODE_PLANTED").ok());
    chosen.as_deref() == Some(name)
}

/// Whether this fault is in: never, in a build for use.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_name: &'static str) -> bool {
    false
}

//! Faults on purpose, each of which a simulation must find: a test of the tests.
//!
//! `OPCODE_PLANTED=NAME` picks one, in a build with the feature `planted`; in any other build the
//! places below are nothing at all. A place is found by its name.

/// Names of those that a simulation finds, so that a test can go through them in turn.
pub const NAMES: &[&str] = &[
    "acknowledge-before-sync",
    "acknowledge-before-quorum",
    "stale-read",
    "reuse-sequence",
    "drop-last-log-record",
    "timer-twice",
    "signal-twice",
    "lost-outbox-row",
    "checksum-skipped",
];

/// Those that are in place and that no seed has found within a minute so far: what they need is too
/// rare in the faults as they are.
pub const RARE: &[&str] = &["skip-term-check", "step-twice-after-failover", "deposed-leader-starts-steps"];

/// Whether this fault is in.
#[cfg(feature = "planted")]
pub fn is(name: &'static str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    debug_assert!([NAMES, RARE].iter().any(|names| names.contains(&name)), "an unlisted fault: {name}");
    let chosen = CHOSEN.get_or_init(|| std::env::var("OPCODE_PLANTED").ok());
    chosen.as_deref() == Some(name)
}

/// Whether this fault is in: never, in a build for use.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_name: &'static str) -> bool {
    false
}

//! Every fault that is planted on purpose is found within a minute, and its seed is told.
#![cfg(feature = "planted")]

use std::time::{Duration, Instant};

use super::seeds::simulate;

/// Longest time until a fault is found.
const FOUND_MAX: Duration = Duration::from_secs(60);

/// The first seed that finds a fault.
fn seed_that_finds(fault: &str) -> Option<u64> {
    let begun = Instant::now();
    let fails = |seed: &u64| {
        let output = simulate(&["--seed", &seed.to_string(), "--seconds", "5"], fault);
        String::from_utf8_lossy(&output.stdout).contains("BROKEN") || !output.status.success()
    };
    (1..).take_while(|_| begun.elapsed() < FOUND_MAX).find(fails)
}

#[test]
fn each_is_found_within_a_minute() {
    let missed: Vec<_> =
        opcode_shard::planted::NAMES.iter().filter(|fault| seed_that_finds(fault).is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

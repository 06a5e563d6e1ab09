//! The engine against its slow twins: thousands of grown expressions and templates, from fixed seeds.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use opcode_fuzz::expr_twin::{self, Outcome};
use opcode_fuzz::template_twin;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Runs `count` inputs and tells how many came out how; a failure names its seed.
fn compared(count: u64, compare: fn(&[u8]) -> Outcome) -> BTreeMap<String, u64> {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let mut outcomes = BTreeMap::new();
    let mut apart = Vec::new();
    for seed in 0..count * rounds {
        let mut bytes = [0_u8; 600];
        StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
        match catch_unwind(AssertUnwindSafe(|| compare(&bytes))) {
            Ok(outcome) => *outcomes.entry(format!("{outcome:?}")).or_default() += 1,
            Err(_) => apart.push(seed),
        }
    }
    assert!(apart.is_empty(), "these seeds tell them apart: {apart:?}");
    outcomes
}

/// Most come to values, and some to errors, or little is tested.
fn assert_mixed(outcomes: &BTreeMap<String, u64>) {
    let all: u64 = outcomes.values().sum();
    assert!(outcomes["Value"] * 2 > all && outcomes["Error"] * 50 > all, "{outcomes:?}");
    assert!(outcomes.get("TooMuch").unwrap_or(&0) * 20 < all, "{outcomes:?}");
}

#[test]
fn expr_gives_what_its_reference_gives() {
    let outcomes = compared(8_000, expr_twin::compare);
    println!("expressions: {outcomes:?}");
    assert_mixed(&outcomes);
}

#[test]
fn interpolation_gives_what_its_reference_gives() {
    let outcomes = compared(4_000, template_twin::compare);
    println!("templates: {outcomes:?}");
    assert_mixed(&outcomes);
}

//! Mutations of the corpora from a fixed seed: a bounded number of them, the same on every machine.
//! `FUZZ_ROUNDS=50 cargo test mutated` tries fifty times as many, each round with a seed of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use opcode_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::corpus::seeds;

/// Pieces that mean something to one of the languages.
const WORDS: [&str; 64] = [
    "${{",
    "}}",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    "`",
    "\\",
    "\\(",
    "\\u00e9",
    "//",
    "/*",
    "*/",
    "#",
    "#acc",
    "?.",
    "??",
    "?",
    ":",
    ",",
    ".",
    "..",
    "|",
    "|=",
    "=",
    "==",
    "!=",
    "<=",
    "&&",
    "||",
    "!",
    "not ",
    "-",
    "+",
    "*",
    "**",
    "/",
    "%",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "1e308",
    "0.5",
    "null",
    "true",
    "nil",
    "let x = 1; ",
    "steps.",
    "inputs.n",
    "inputs.exact",
    "loop.item",
    "secrets.K",
    "jq:",
    "expr:",
    "é",
    "\u{1F600}",
    "\0",
    " ",
    "\n",
];

/// One to eight small changes.
fn mutated(rng: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 << rng.random_range(0..4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..16)).min(bytes.len());
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 => bytes.insert(at, rng.random_range(b' '..=b'~')),
            3 | 4 => drop(bytes.splice(at..at, WORDS[rng.random_range(0..WORDS.len())].bytes())),
            5 => drop(bytes.splice(at..end, WORDS[rng.random_range(0..WORDS.len())].bytes())),
            6 => drop(bytes.drain(at..end)),
            7 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(end..end, again));
            }
            _ => {
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..64)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    bytes
}

/// Tries one target; tells the inputs that fail.
fn failing(target: &Target, round: u64) -> Vec<String> {
    let seeds = seeds(target);
    let mut rng = StdRng::seed_from_u64(round);
    let mut failing = Vec::new();
    for _ in 0..target.mutations {
        let [seed, other] = [0; 2].map(|_| seeds[rng.random_range(0..seeds.len())].1.as_slice());
        let mut input = mutated(&mut rng, seed, other);
        input.truncate(target.bytes_max);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            failing.push(format!("{} on {:?}", target.name, String::from_utf8_lossy(&input)));
        }
    }
    failing
}

#[test]
fn mutated_seeds_pass() {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let runs = (0..rounds).flat_map(|round| TARGETS.iter().map(move |target| (target, round)));
    let failing: Vec<String> = runs.flat_map(|(target, round)| failing(target, round)).collect();
    assert!(failing.is_empty(), "{} inputs fail:\n{}", failing.len(), failing.join("\n"));
}

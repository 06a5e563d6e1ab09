//! Fuzz targets: whatever bytes come in, the engine and the log keep their promises.
//!
//! Each target is a plain function that takes bytes and asserts properties. `cargo fuzz run TARGET`
//! drives it with coverage (`fuzz_targets/`, feature `libfuzzer`, nightly); `cargo test` runs it over
//! `corpus/TARGET/` and over a bounded number of mutations of that, on stable.
//!
//! Beside them stand slow twins, written from the specification and not from the engine: [`tree`]
//! grows and prints expressions of Expr and [`reference`] evaluates them; [`template_twin`] does both
//! for `${{ … }}`. They are targets too: the bytes choose what grows.

pub mod audit;
pub mod backup;
pub mod cel;
pub mod choices;
pub mod definition;
pub mod events;
pub mod expr;
pub mod expr_twin;
pub mod follow;
pub mod frames;
pub mod history;
pub mod interpolation;
pub mod jq;
pub mod namespace;
pub mod records;
pub mod reference;
pub mod schedule;
pub mod template_twin;
pub mod traceparent;
pub mod tree;
pub mod url_guard;
pub mod wire;
pub mod world;

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Runs one input; panics when a property does not hold.
    pub run: fn(&[u8]),
    /// Longest input worth trying, in bytes.
    pub bytes_max: usize,
    /// Mutated inputs that a test run tries.
    pub mutations: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), bytes_max: usize, mutations: usize) -> Target {
    Target { name, run, bytes_max, mutations }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("definition", definition::definition, 16 * 1024, 3_000),
    target("interpolation", interpolation::interpolation, 2 * 1024, 8_000),
    target("cel", cel::cel, 1024, 8_000),
    target("jq", jq::jq, 512, 1_500),
    target("expr", expr::expr, 1024, 12_000),
    target("expr_twin", expr_twin::expr_twin, 2 * 1024, 2_000),
    target("template_twin", template_twin::template_twin, 2 * 1024, 2_000),
    target("events", events::events, 4 * 1024, 12_000),
    target("frames", frames::frames, 1024, 800),
    target("wire", wire::wire, 4 * 1024, 10_000),
    target("records", records::records, 4 * 1024, 10_000),
    target("history", history::history, 8 * 1024, 2_000),
    target("url_guard", url_guard::url_guard, 512, 6_000),
    target("backup", backup::backup, 2 * 1024, 6_000),
    target("schedule", schedule::schedule, 300, 2_000),
    target("namespace", namespace::namespace, 300, 20_000),
    target("follow", follow::follow, 600, 4_000),
    target("traceparent", traceparent::traceparent, 128, 4_000),
    target("audit", audit::audit, 2 * 1024, 8_000),
];

//! The paths that are counted: each is called once, one after another, and has no closure of its own,
//! since callgrind takes its count whenever a name of this module is called.

use std::hint::black_box;

use super::paths::Fixture;

/// Parses and checks a definition of 100 steps.
#[inline(never)]
pub(crate) fn validate(fixture: &Fixture) {
    black_box(fixture.validate());
}

/// Decides and folds a chain of 100 steps, from its submission to its end.
#[inline(never)]
pub(crate) fn decide(fixture: &Fixture) {
    black_box(fixture.decide());
}

/// Writes about 1 000 events as JSON.
#[inline(never)]
pub(crate) fn encode_events(fixture: &Fixture) {
    black_box(fixture.encode_events());
}

/// Reads about 1 000 events from JSON and folds them into a run.
#[inline(never)]
pub(crate) fn replay(fixture: &Fixture) {
    black_box(fixture.replay());
}

/// What about 1 000 events change in the views.
#[inline(never)]
pub(crate) fn changes(fixture: &Fixture) {
    black_box(fixture.changes());
}

/// Writes a batch of about 1 000 events as an entry of the log.
#[inline(never)]
pub(crate) fn encode_batch(fixture: &Fixture) {
    black_box(fixture.encode_batch());
}

/// Reads it back.
#[inline(never)]
pub(crate) fn decode_batch(fixture: &Fixture) {
    black_box(fixture.decode_batch());
}

/// Renders the params of a step a hundred times.
#[inline(never)]
pub(crate) fn render(fixture: &Fixture) {
    black_box(fixture.render());
}

/// A guard of CEL, and an arithmetic Expr, a hundred times each.
#[inline(never)]
pub(crate) fn evaluate(fixture: &Fixture) {
    black_box(fixture.evaluate());
}

/// Ends the count of the last.
#[inline(never)]
pub(crate) fn end(fixture: &Fixture) {
    black_box(fixture);
}

//! Every target over its corpus and over mutations of it, the engine against its slow twins, and the
//! languages against tables of what they are known to give.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cel;
mod corpus;
mod jq;
mod mutated;
mod tables;
mod twins;

/// The folder of this crate.
fn home() -> std::path::PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

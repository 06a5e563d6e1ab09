//! The engine's integration tests, in one binary.

#![allow(clippy::unwrap_used)]

mod children;
mod composites;
mod definition;
mod endings;
mod properties;
mod recovery;
mod script;
mod steps;
mod waits;

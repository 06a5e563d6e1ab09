//! The engine's integration tests, in one binary.

#![allow(clippy::unwrap_used)]

mod definition;
mod script;
mod steps;

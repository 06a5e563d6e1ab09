//! The rules of a workflow, pure: text becomes a [`definition::Definition`], a
//! [`command::Command`] to a [`run::Run`] becomes events, events fold into the run.
//!
//! No clock, no randomness, no files, no sockets, no threads but the one that parses a jq filter on
//! a stack of known size and is joined at once: times and ids come in as data, and what the rules
//! want done in the world goes out as [`command::Effect`]s.

pub mod catalogue;
pub mod child;
pub mod command;
pub mod dag;
mod decide;
pub mod definition;
pub mod diagram;
pub mod error;
pub mod event;
pub mod expr;
pub mod fsm;
pub mod ids;
pub mod namespace;
pub mod planted;
pub mod retry;
pub mod run;
pub mod schedule;
pub mod view;

pub use decide::INTERRUPTIONS_MAX;
pub use error::{Code, Fault, Invalid, Problem, Rejected};

//! The real binary, over HTTP and with signals, and the rules of the repository.

mod bad_input;
mod cli;
mod cluster;
mod crash;
#[cfg(feature = "crash-points")]
mod crash_points;
mod durable;
mod examples;
mod service;
mod tidy;

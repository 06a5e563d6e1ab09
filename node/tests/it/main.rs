//! The real binary, over HTTP and with signals, and the rules of the repository.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod agents;
mod bad_input;
mod canary;
mod children;
mod cli;
mod cluster;
mod crash;
#[cfg(feature = "crash-points")]
mod crash_points;
mod disk_full;
mod durable;
mod embedded;
mod examples;
mod failover;
mod hostile;
mod lab;
mod many;
mod mcp;
mod membership;
mod namespaces;
mod operations;
mod reads;
mod schedules;
mod scrub;
mod secrets;
mod service;
mod takeover;
mod tidy;
mod tls;

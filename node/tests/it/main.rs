//! The real binary, over HTTP and with signals, and the rules of the repository.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod agents;
mod audit;
mod backup;
mod bad_input;
mod canary;
mod children;
mod cli;
mod clients;
mod cluster;
mod crash;
#[cfg(feature = "crash-points")]
mod crash_points;
mod deploy;
mod disk_full;
mod durable;
mod embedded;
mod examples;
mod export;
mod failover;
mod firehose;
mod hostile;
mod https;
mod isolation;
mod lab;
mod many;
mod mcp;
mod membership;
mod namespaces;
mod observability;
mod opcode_db;
mod operations;
mod plugins;
mod reads;
mod receiver;
mod retention;
mod schedules;
mod scrub;
mod secrets;
mod service;
mod takeover;
mod tidy;
mod tls;
mod webhooks;

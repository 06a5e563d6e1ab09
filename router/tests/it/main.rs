//! The HTTP API of a node with real shards, asked in process, without a socket.

mod children;
mod conventions;
mod node;
mod operations;
mod runs;
mod schedules;
mod streams;
mod templates;

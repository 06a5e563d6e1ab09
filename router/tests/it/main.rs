//! The HTTP API of a node with real shards, asked in process, without a socket.

mod children;
mod conventions;
mod forward;
mod node;
mod runs;
mod schedules;
mod streams;
mod templates;

//! The HTTP API of a node with real shards, asked in process, without a socket.

mod agents;
mod children;
mod conventions;
mod mcp;
mod node;
mod runs;
mod schedules;
mod secrets;
mod streams;
mod templates;
mod tokens;

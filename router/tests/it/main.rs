//! The HTTP API of a node with real shards, asked in process, without a socket.

mod agents;
mod children;
mod conventions;
mod firehose;
mod forward;
mod manual;
mod mcp;
mod namespaces;
mod node;
mod operations;
mod runs;
mod schedules;
mod secrets;
mod streams;
mod templates;
mod tokens;

//! The HTTP API of a node with real shards, asked in process, without a socket.

mod children;
mod conventions;
mod node;
mod runs;
mod secrets;
mod streams;
mod templates;

//! MCP: what agents see of the node, six tools with OPCODE's parameters, over HTTP at `/mcp` and
//! over stdio (`opcode mcp`).
//!
//! A tool is a client of the HTTP contract like any other: it turns its arguments into calls of it
//! ([`calls`]) and their answers into its own. So what a definition, a signal or a query may be is
//! checked in one place, errors are the problem documents of the contract, any shard is reached, and
//! a caller's token counts for what it counts there. Only the way to the contract differs by
//! transport ([`Contract`]): in process for `/mcp`, HTTP for stdio.
//!
//! A tool that refuses or fails answers with `isError` and the problem document as text. Errors of
//! JSON-RPC are left to faults of the protocol: no message, no such method, no such tool.

mod calls;
mod contract;
mod fields;
mod http;
mod message;
mod notices;
mod query;
mod server;
mod sessions;
mod stdio;
mod tools;

pub use contract::{Answer, Call, Contract, Unreachable};
pub(crate) use http::route;
pub use stdio::serve as serve_stdio;

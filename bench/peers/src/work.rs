//! The work that every engine does: ten steps, one after another, each with a result of 100 bytes.

use std::net::SocketAddr;

use anyhow::{Context, Result};

/// Steps of a run.
pub const STEPS: usize = 10;
/// Bytes of JSON that a step's result is.
pub const RESULT_BYTES: usize = 100;
/// What a service says on its standard output, before its address, once it takes requests.
pub const READY: &str = "ready at ";
/// What `peer-dbos` says on its standard output before its figures.
pub const MEASURED: &str = "measured ";

/// A text that is as many bytes of JSON, its quotes with it.
#[must_use]
pub fn text(json_bytes: usize) -> String {
    "x".repeat(json_bytes - 2)
}

/// A listener on any free port of the loopback interface, and its address.
///
/// # Errors
/// The system has no port left.
pub async fn listener() -> Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no loopback port is free")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

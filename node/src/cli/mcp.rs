//! `opcode mcp`: MCP on stdin and stdout, for agents that start their servers themselves. The tools
//! are those of `/mcp`; what they ask goes to a node over HTTP like any other command.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opcode_router::mcp::{Answer, Call, Contract, Unreachable, serve_stdio};

use super::Context;
use super::client::Client;
use super::failure::Failure;

/// Flags of `opcode mcp`: none of its own.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode mcp
  opcode mcp --server http://10.0.0.1:4100 --token-file /etc/opcode/token

An agent's configuration:
  {\"mcpServers\": {\"opcode\": {\"command\": \"opcode\", \"args\": [\"mcp\"]}}}

Over HTTP a node serves the same at /mcp:
  {\"mcpServers\": {\"opcode\": {\"url\": \"http://127.0.0.1:4100/mcp\"}}}")]
pub(crate) struct Mcp {}

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let node = Arc::new(Node(context.client.clone()));
    let version = env!("CARGO_PKG_VERSION");
    serve_stdio(node, version, tokio::io::stdin(), tokio::io::stdout())
        .await
        .map_err(|error| Failure::local(error.to_string()))
}

/// The contract of the node that the command line names.
struct Node(Client);

impl Node {
    /// Why there is no answer, down to the cause.
    fn unreachable(&self, error: &reqwest::Error) -> Unreachable {
        let mut detail = format!("{} cannot be reached: {error}", self.0.server());
        let mut source = error.source();
        while let Some(deeper) = source {
            detail = format!("{detail}: {deeper}");
            source = deeper.source();
        }
        Unreachable { was_sent: !error.is_connect() && !error.is_builder(), detail }
    }
}

impl Contract for Node {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, Unreachable>> {
        async move {
            let response = self
                .0
                .exchange(call.method, &call.path, call.body, call.caller)
                .await
                .map_err(|error| self.unreachable(&error))?;
            let status = response.status().as_u16();
            let body = response
                .bytes()
                .await
                .map_err(|error| Unreachable { was_sent: true, ..self.unreachable(&error) })?;
            Ok(Answer { status, body })
        }
        .boxed()
    }

    fn events(&self) -> BoxFuture<'_, Option<BoxStream<'static, Bytes>>> {
        async move {
            let response = self.0.firehose("custom").await.ok()?;
            // A stream that is cut off ends with an error, and so with nothing.
            Some(response.bytes_stream().filter_map(|chunk| std::future::ready(chunk.ok())).boxed())
        }
        .boxed()
    }
}

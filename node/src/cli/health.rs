//! `opcode health`: whether a node serves, for probes that have nothing but this program.

use clap::Args;
use serde_json::Value;

use super::Context;
use super::failure::Failure;

/// Flags of `opcode health`.
#[derive(Args)]
#[command(after_help = "Examples:\n  opcode health\n  opcode health --server http://10.0.0.2:4100")]
pub(crate) struct Health {}

/// Exits with 0 when requests are served; with 7 while the node starts or stops, or is not there.
pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let health = context.client.get("/readyz").await?;
    context.output.document(&health, |health| {
        let part = |name| health.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        format!("node {} is ready, version {}", part("node_id"), part("version"))
    });
    Ok(())
}

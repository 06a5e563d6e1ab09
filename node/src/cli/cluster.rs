//! `opcode cluster …` and `opcode sql`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, Failure};
use super::output::{Output, cell};

/// `opcode cluster …`
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Members, shards, who leads what
    Status,
    /// Its nodes
    Nodes,
    /// Its shards
    Shards,
}

/// Flags of `opcode sql`.
#[derive(Args)]
pub(crate) struct Sql {
    /// A SELECT
    query: String,
    /// Rows at most, from each shard
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

const NODE_COLUMNS: &[(&str, &str)] =
    &[("NODE", "node_id"), ("ADDRESS", "addr"), ("ROLE", "role"), ("ALIVE", "alive")];
const SHARD_COLUMNS: &[(&str, &str)] = &[
    ("SHARD", "shard"),
    ("EPOCH", "epoch"),
    ("PRIMARY", "primary"),
    ("WORKFLOWS", "workflows"),
    ("BYTES", "bytes"),
];

pub(super) async fn run(command: Cluster, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let cluster = client.get("/v1/cluster").await?;
    let list = |key: &str| cluster[key].as_array().cloned().unwrap_or_default();
    match command {
        Cluster::Status => output.document(&cluster, |cluster| {
            println!("map version {}, leader {}", cell(&cluster["map_version"]), cell(&cluster["leader"]));
            output.list(&list("members"), NODE_COLUMNS);
            output.list(&list("shards"), SHARD_COLUMNS);
        }),
        Cluster::Nodes => output.list(&list("members"), NODE_COLUMNS),
        Cluster::Shards => output.list(&list("shards"), SHARD_COLUMNS),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn sql(args: Sql, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let answer = client.post("/v1/sql", &json!({"query": args.query, "limit": args.limit})).await?;
    let rows = answer["items"].as_array().or_else(|| answer["rows"].as_array()).cloned().unwrap_or_default();
    let columns: Vec<String> = match rows.first() {
        Some(Value::Object(row)) => row.keys().cloned().collect(),
        Some(_) | None => Vec::new(),
    };
    let columns: Vec<(&str, &str)> = columns.iter().map(|c| (c.as_str(), c.as_str())).collect();
    output.list(&rows, &columns);
    Ok(ExitCode::SUCCESS)
}

//! `opcode cluster` and `opcode sql`: the operator's view.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::Failure;
use super::output::{Column, facts, rows, shown};

/// Commands on the cluster.
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Show members and shards
    #[command(after_help = "Examples:\n  opcode cluster status\n  opcode cluster status -o json")]
    Status,
}

/// Flags of `opcode sql`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode sql \"SELECT status, count(*) AS n FROM workflows GROUP BY status\"
  opcode sql \"SELECT * FROM events LIMIT 10\" --shard 0 -o json")]
pub(crate) struct Sql {
    /// One SELECT; it runs on every shard, and the rows follow one another
    query: String,
    /// Rows at most
    #[arg(long, default_value_t = 1000)]
    limit: u32,
    /// Only this shard
    #[arg(long)]
    shard: Option<u32>,
}

pub(crate) async fn status(context: &Context) -> Result<(), Failure> {
    let cluster = context.client.get("/v1/cluster").await?;
    context.output.document(&cluster, |cluster| {
        let head = facts(cluster, &["cluster_id", "version", "map_version", "leader"]);
        let list = |name: &str| cluster[name].as_array().cloned().unwrap_or_default();
        let texts =
            |item: &Value, names: &[&str]| names.iter().map(|name| shown(&item[*name])).collect::<Vec<_>>();
        let members: Vec<_> =
            list("members").iter().map(|m| texts(m, &["node_id", "addr", "role", "alive"])).collect();
        let shards: Vec<_> = list("shards")
            .iter()
            .map(|shard| {
                let replicas = shard["replicas"].as_array().map_or(0, Vec::len);
                let mut row = texts(shard, &["shard", "primary", "epoch", "workflows", "bytes"]);
                row.push(replicas.to_string());
                row
            })
            .collect();
        format!(
            "{head}\n\n{}\n\n{}",
            rows(&["NODE", "ADDR", "ROLE", "ALIVE"], &members),
            rows(&["SHARD", "PRIMARY", "EPOCH", "WORKFLOWS", "BYTES", "REPLICAS"], &shards)
        )
    });
    Ok(())
}

pub(crate) async fn sql(args: Sql, context: &Context) -> Result<(), Failure> {
    let mut body = json!({"query": args.query, "limit": args.limit});
    if let Some(shard) = args.shard {
        body["shard"] = shard.into();
    }
    let answer = context.client.post("/v1/sql", &body).await?;
    let names: Vec<String> =
        answer["items"][0].as_object().map(|row| row.keys().cloned().collect()).unwrap_or_default();
    if context.output.format == super::Format::Table && !context.output.quiet {
        let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
        let head: Vec<&str> = names.iter().map(String::as_str).collect();
        let lines: Vec<Vec<String>> =
            items.iter().map(|item| names.iter().map(|name| shown(&item[name])).collect()).collect();
        if !head.is_empty() {
            super::output::emit(&rows(&head, &lines));
        }
    } else {
        let columns: &[Column] = &[("", "")];
        context.output.list(&answer, columns);
    }
    if answer["truncated"] == true {
        context.output.note("there are more rows: raise --limit");
    }
    Ok(())
}

//! `opcode cluster` and `opcode sql`: the operator's view.

use std::time::Duration;

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
    /// Have a node give its shards away; safe to repeat
    #[command(after_help = "Examples:\n  opcode cluster drain 3\n  opcode cluster drain 3 --wait")]
    Drain {
        /// The node's number
        node: u64,
        /// Wait until it holds nothing, and show what is left
        #[arg(long)]
        wait: bool,
    },
    /// Take a node out: one that was drained, or that is gone for good
    #[command(after_help = "Examples:\n  opcode cluster drain 3 --wait && opcode cluster remove 3")]
    Remove {
        /// The node's number
        node: u64,
    },
    /// Move a shard's replica to another node
    #[command(
        after_help = "Examples:\n  opcode cluster move 0 --to 4\n  opcode cluster move 0 --from 2 --to 4"
    )]
    Move {
        /// The shard
        shard: u32,
        /// The node that gives it away [default: the last of its nodes]
        #[arg(long)]
        from: Option<u64>,
        /// The node that gets it
        #[arg(long)]
        to: u64,
    },
    /// Place every shard anew, for the nodes there are
    #[command(after_help = "Examples:\n  opcode cluster rebalance")]
    Rebalance,
}

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Changes the cluster, as the command says.
pub(crate) async fn run(command: Cluster, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    let answer = match command {
        Cluster::Status => return status(context).await,
        Cluster::Drain { node, wait } => {
            let answer = client.post(&format!("/v1/cluster/nodes/{node}/drain"), &json!({})).await?;
            if wait {
                wait_until_empty(node, context).await?;
            }
            answer
        }
        Cluster::Remove { node } => client.delete(&format!("/v1/cluster/nodes/{node}")).await?,
        Cluster::Move { shard, from, to } => {
            let mut body = json!({"to": to});
            if let Some(from) = from {
                body["from"] = from.into();
            }
            client.post(&format!("/v1/cluster/shards/{shard}/move"), &body).await?
        }
        Cluster::Rebalance => client.post("/v1/cluster/rebalance", &json!({})).await?,
    };
    context.output.document(&answer, |answer| facts(answer, &["map_version"]));
    Ok(())
}

/// Waits until no shard is on a node any more.
async fn wait_until_empty(node: u64, context: &Context) -> Result<(), Failure> {
    let name = node.to_string();
    let mut told = usize::MAX;
    loop {
        let cluster = context.client.get("/v1/cluster").await?;
        let lists = [cluster["shards"].as_array().cloned(), Some(vec![cluster["system_shard"].clone()])];
        let is_there = |shard: &Value| {
            shard["replicas"].as_array().is_none_or(|all| all.iter().any(|r| r["node_id"] == name.as_str()))
        };
        let left = lists.into_iter().flatten().flatten().filter(is_there).count();
        if left == 0 {
            return Ok(());
        }
        if left != told {
            context.output.note(&format!("{left} shards are still on node {node}"));
            told = left;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
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

async fn status(context: &Context) -> Result<(), Failure> {
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

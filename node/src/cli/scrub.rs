//! `opcode cluster scrub`: has every node read all that it stores, for damage.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::failure::Failure;
use super::output::{Column, shown};

/// A node that stores much reads for long; whoever waits no longer interrupts.
const ANSWER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Flags of `opcode cluster scrub`.
#[derive(Args)]
#[command(after_help = "Examples:\n  opcode cluster scrub\n  opcode cluster scrub --node 2 -o json\n\n\
    Views of runs that are not what their events say are written anew. What cannot be mended from what\n\
    the node has is told (exit code 1): such a replica begins anew, by its node with an empty folder.")]
pub(crate) struct Scrub {
    /// Only this node [default: all that are alive, one after another]
    #[arg(long, value_name = "NODE")]
    node: Option<u64>,
}

pub(crate) async fn run(args: Scrub, context: &Context) -> Result<(), Failure> {
    let cluster = context.client.get("/v1/cluster").await?;
    let wanted = args.node.map(|node| node.to_string());
    let members: Vec<&Value> = cluster["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|member| match &wanted {
            Some(node) => member["node_id"] == node.as_str(),
            None => member["alive"] == true,
        })
        .collect();
    if let (Some(node), true) = (&wanted, members.is_empty()) {
        return Err(Failure::Usage(format!("there is no node {node}: see `opcode cluster nodes`")));
    }
    let (mut lines, mut damages) = (Vec::new(), Vec::new());
    for member in members {
        context.output.note(&format!("node {} reads all it stores …", shown(&member["node_id"])));
        let node = context.client.of_member(member["addr"].as_str().unwrap_or_default());
        let answer = node.post_waiting("/v1/cluster/scrub", &json!({}), ANSWER_MAX).await?;
        for shard in answer["shards"].as_array().into_iter().flatten() {
            let mut line = shard.clone();
            line["node_id"] = answer["node_id"].clone();
            damages.extend(shard["damages"].as_array().into_iter().flatten().map(|damage| {
                let of = (shown(&answer["node_id"]), shown(&shard["shard"]));
                format!("node {}, shard {}: {}", of.0, of.1, shown(damage))
            }));
            lines.push(line);
        }
    }
    let columns: &[Column] = &[
        ("NODE", "node_id"),
        ("SHARD", "shard"),
        ("RUNS", "runs"),
        ("EVENTS", "events"),
        ("MENDED", "mended"),
        ("DAMAGES", "damage_count"),
    ];
    context.output.list(&json!({"items": lines}), columns);
    if damages.is_empty() {
        return Ok(());
    }
    Err(Failure::local(format!("damage that cannot be mended:\n  {}", damages.join("\n  "))))
}

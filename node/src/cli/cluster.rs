//! `opcode cluster` and `opcode sql`: the operator's view.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::certs::{self, Certs};
use super::failure::Failure;
use super::force_recover::{self, ForceRecover};
use super::output::{Column, facts, rows, shown};
use super::scrub::{self, Scrub};
use crate::shards::{DataDir, Joined, NewData};

/// Commands on the cluster.
#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Show members and shards
    #[command(after_help = "Examples:\n  opcode cluster status\n  opcode cluster status -o json")]
    Status,
    /// List the nodes, and what each holds
    #[command(after_help = "Examples:\n  opcode cluster nodes\n  opcode cluster nodes -o json")]
    Nodes,
    /// List the shards: who leads, who follows, and what is being changed
    #[command(after_help = "Examples:\n  opcode cluster shards\n  opcode cluster shards -o jsonl")]
    Shards,
    /// Take a place in a cluster for a new, empty data folder, to be served later
    #[command(after_help = "Examples:\n  \
        opcode cluster join --server http://10.0.0.1:4100 --data-dir /var/lib/opcode \\\n    \
        --addr 10.0.0.2:4100 --peer-addr 10.0.0.2:5100\n  \
        opcode serve --data-dir /var/lib/opcode --listen 10.0.0.2:4100 --peer-listen 10.0.0.2:5100\n\n\
        `opcode serve --join ADDR` does both at once.")]
    Join(Join),
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
    ///
    /// The shards of a node that is gone get another node first, and then it leaves. Safe to repeat.
    #[command(after_help = "Examples:\n  opcode cluster drain 3 --wait && opcode cluster remove 3\n  \
        opcode cluster remove 3 --wait")]
    Remove {
        /// The node's number
        node: u64,
        /// Wait until it has left, and show what is left
        #[arg(long)]
        wait: bool,
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
    /// Make the cluster's CA and certificates of nodes, here, without a node
    Certs(Certs),
    /// Place every shard anew, for the nodes there are
    #[command(after_help = "Examples:\n  opcode cluster rebalance")]
    Rebalance,
    /// Have nodes read all that they store, and mend what is damaged
    Scrub(Scrub),
    /// UNSAFE: go on with this stopped node's data alone, after a majority is gone for good
    ForceRecover(ForceRecover),
    /// Change a setting of the cluster
    #[command(after_help = "Examples:\n  opcode cluster set --replication-factor 5")]
    Set {
        /// How many nodes shall hold each shard, when there are so many
        #[arg(long, value_name = "N")]
        replication_factor: u32,
    },
}

/// Flags of `opcode cluster join`.
#[derive(Args)]
pub(crate) struct Join {
    /// The new node's folder
    #[arg(long, value_name = "DIR", env = "OPCODE_DATA_DIR")]
    data_dir: PathBuf,
    /// Its HTTP address, as others will reach it
    #[arg(long, value_name = "HOST:PORT")]
    addr: String,
    /// Its address for other nodes
    #[arg(long, value_name = "HOST:PORT")]
    peer_addr: String,
}

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Changes the cluster, as the command says.
pub(crate) async fn run(command: Cluster, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    let answer = match command {
        Cluster::Status => return status(context).await,
        Cluster::Nodes => return nodes(context).await,
        Cluster::Shards => return shards(context).await,
        Cluster::ForceRecover(args) => return force_recover::run(args, context).await,
        Cluster::Join(args) => return join(args, context).await,
        Cluster::Scrub(args) => return scrub::run(args, context).await,
        Cluster::Certs(args) => return certs::run(&args, &context.output),
        Cluster::Drain { node, wait } => {
            let answer = client.post(&format!("/v1/cluster/nodes/{node}/drain"), &json!({})).await?;
            if wait {
                wait_until_empty(node, context).await?;
            }
            answer
        }
        Cluster::Remove { node, wait } => {
            let answer = client.delete(&format!("/v1/cluster/nodes/{node}")).await?;
            if wait {
                wait_until_gone(node, context).await?;
            }
            answer
        }
        Cluster::Move { shard, from, to } => {
            let mut body = json!({"to": to});
            if let Some(from) = from {
                body["from"] = from.into();
            }
            client.post(&format!("/v1/cluster/shards/{shard}/move"), &body).await?
        }
        Cluster::Set { replication_factor } => {
            client.patch("/v1/cluster", &json!({"replication_factor": replication_factor})).await?
        }
        Cluster::Rebalance => client.post("/v1/cluster/rebalance", &json!({})).await?,
    };
    context.output.document(&answer, |answer| facts(answer, &["map_version"]));
    Ok(())
}

/// Waits until no shard is on a node any more.
async fn wait_until_empty(node: u64, context: &Context) -> Result<(), Failure> {
    let is_empty = |cluster: &Value| member(cluster, node).is_none_or(|member| member["shards"] == 0);
    wait_until(node, context, is_empty).await
}

/// Waits until a node has left.
async fn wait_until_gone(node: u64, context: &Context) -> Result<(), Failure> {
    wait_until(node, context, |cluster| member(cluster, node).is_none()).await
}

fn member(cluster: &Value, node: u64) -> Option<&Value> {
    let name = node.to_string();
    cluster["members"].as_array()?.iter().find(|member| member["node_id"] == name.as_str())
}

/// Waits until something is so, and says what is left to do, whenever that changes.
async fn wait_until(node: u64, context: &Context, is_so: impl Fn(&Value) -> bool) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let cluster = context.client.get("/v1/cluster").await?;
        if is_so(&cluster) {
            return Ok(());
        }
        let left = member(&cluster, node).map_or(Value::Null, |member| member["shards"].clone());
        let doing = all_shards(&cluster).into_iter().filter_map(|shard| {
            Some(format!("; shard {}: {}", shown(&shard["shard"]), shard["doing"].as_str()?))
        });
        let progress =
            format!("{} shards are still on node {node}{}", shown(&left), doing.collect::<String>());
        if progress != told {
            context.output.note(&progress);
            told = progress;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Every shard that answered, the system shard last and called so.
fn all_shards(cluster: &Value) -> Vec<Value> {
    let mut shards = cluster["shards"].as_array().cloned().unwrap_or_default();
    if cluster["system_shard"].is_object() {
        let mut system = cluster["system_shard"].clone();
        system["shard"] = "system".into();
        shards.push(system);
    }
    shards
}

async fn nodes(context: &Context) -> Result<(), Failure> {
    let cluster = context.client.get("/v1/cluster").await?;
    let mut members = cluster["members"].as_array().cloned().unwrap_or_default();
    let shards = all_shards(&cluster);
    for member in &mut members {
        let leads = shards.iter().filter(|shard| shard["primary"] == member["node_id"]).count();
        member["leads"] = leads.into();
    }
    let columns: &[Column] = &[
        ("NODE", "node_id"),
        ("ADDR", "addr"),
        ("PEER ADDR", "peer_addr"),
        ("ROLE", "role"),
        ("STATE", "state"),
        ("ALIVE", "alive"),
        ("SHARDS", "shards"),
        ("LEADS", "leads"),
    ];
    context.output.list(&json!({"items": members}), columns);
    Ok(())
}

async fn shards(context: &Context) -> Result<(), Failure> {
    let cluster = context.client.get("/v1/cluster").await?;
    let mut shards = all_shards(&cluster);
    for shard in &mut shards {
        let replicas = shard["replicas"].as_array().cloned().unwrap_or_default();
        let each = replicas.iter().map(|replica| {
            let mark = match (replica["role"].as_str(), replica["in_sync"].as_bool()) {
                (Some("learner"), _) => " (learner)",
                (_, Some(true)) => "",
                (_, _) => " (behind)",
            };
            format!("{}{mark}", shown(&replica["node_id"]))
        });
        shard["members"] = each.collect::<Vec<_>>().join(", ").into();
    }
    let columns: &[Column] = &[
        ("SHARD", "shard"),
        ("PRIMARY", "primary"),
        ("EPOCH", "epoch"),
        ("WORKFLOWS", "workflows"),
        ("BYTES", "bytes"),
        ("REPLICAS", "members"),
        ("DOING", "doing"),
    ];
    context.output.list(&json!({"items": shards}), columns);
    for missing in cluster["unreachable_shards"].as_array().into_iter().flatten() {
        context.output.note(&format!(
            "shard {} gave no answer: {}",
            shown(&missing["shard"]),
            shown(&missing["reason"])
        ));
    }
    Ok(())
}

/// Takes a place in a cluster, and writes it into the new node's folder. Named by a request that
/// the folder keeps, so that one that was interrupted goes on as the same node.
async fn join(args: Join, context: &Context) -> Result<(), Failure> {
    let Join { data_dir, addr, peer_addr } = args;
    if DataDir::is_used(&data_dir) {
        return Err(Failure::local(format!("{} is in use by a node already", data_dir.display())));
    }
    let request = DataDir::join_request(&data_dir).map_err(|error| Failure::local(format!("{error:#}")))?;
    let body = json!({"request": request, "addr": addr, "peer_addr": peer_addr});
    let answer = context.client.post("/v1/cluster/nodes", &body).await?;
    let opened = serde_json::from_value::<Joined>(answer)
        .map_err(anyhow::Error::from)
        .and_then(|joined| DataDir::open(&data_dir, NewData::Joined(Box::new(joined))));
    let data = opened.map_err(|error| Failure::local(format!("{error:#}")))?;
    let told = json!({"node_id": data.identity.node_id.to_string(), "cluster_id": data.identity.cluster_id});
    context.output.document(&told, |told| facts(told, &["node_id", "cluster_id"]));
    Ok(())
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

//! `opcode audit`: who has called what that changes something, on all nodes.

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::wf::paged;
use super::{Context, input};

/// Commands on the audit log.
#[derive(Subcommand)]
pub(crate) enum Audit {
    /// List calls that change something, and refused ones, newest first
    List(List),
}

/// Flags of `opcode audit list`.
#[derive(Args)]
#[command(after_help = "Refused calls are those that were answered with 401, 403 or 429.

Examples:
  opcode audit list --since 24h --path /v1/tokens
  opcode audit list --status 403 --all -o jsonl
  opcode audit list --by ci --method DELETE")]
pub(crate) struct List {
    /// Answered since: RFC 3339, or how long ago (`2h`)
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    since: Option<String>,
    /// Answered before
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    until: Option<String>,
    /// Only for this agent
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// Only by the token of this id or name (`--token` is the one to show)
    #[arg(long, value_name = "ID|NAME")]
    by: Option<String>,
    /// Only of this method
    #[arg(long)]
    method: Option<String>,
    /// Only with a path that begins so
    #[arg(long)]
    path: Option<String>,
    /// Only with this status, or a class of them (`4xx`)
    #[arg(long)]
    status: Option<String>,
    /// Entries at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on after an earlier list
    #[arg(long)]
    cursor: Option<String>,
    /// Every one that matches
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(command: Audit, context: &Context) -> Result<(), Failure> {
    let Audit::List(args) = command;
    let filter = [
        ("since", args.since),
        ("until", args.until),
        ("agent_id", args.agent_id),
        ("token", args.by),
        ("method", args.method),
        ("path", args.path),
        ("status", args.status),
    ];
    let columns = [
        ("AT", "at"),
        ("STATUS", "status"),
        ("METHOD", "method"),
        ("PATH", "path"),
        ("TOKEN", "token_name"),
        ("AGENT", "agent_id"),
        ("FROM", "remote_addr"),
        ("NODE", "node_id"),
    ];
    let page = paged(context, "/v1/audit", &filter, args.limit, args.cursor, args.all).await?;
    context.output.list(&page, &columns);
    Ok(())
}

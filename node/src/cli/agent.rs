//! `opcode agent`: who has been in contact.

use clap::Subcommand;

use super::Context;
use super::failure::Failure;
use super::wf::paged;

/// Commands on agents.
#[derive(Subcommand)]
pub(crate) enum Agent {
    /// List the agents that have been in contact, and when they were last
    #[command(after_help = "Examples:\n  opcode agent list\n  opcode agent list --all -o jsonl")]
    List {
        /// Agents at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every agent
        #[arg(long)]
        all: bool,
    },
}

pub(crate) async fn run(command: Agent, context: &Context) -> Result<(), Failure> {
    let Agent::List { limit, cursor, all } = command;
    let columns = [
        ("AGENT", "agent_id"),
        ("CLIENT", "client"),
        ("FIRST SEEN", "first_seen"),
        ("LAST SEEN", "last_seen"),
    ];
    let page = paged(context, "/v1/agents", &[], limit, cursor, all).await?;
    context.output.list(&page, &columns);
    Ok(())
}

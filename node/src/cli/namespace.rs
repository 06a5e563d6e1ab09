//! `opcode namespace`: in which workflows, templates, schedules and secrets are kept apart.

use clap::Subcommand;
use opcode_engine::namespace::{DEFAULT, Namespace};
use serde_json::json;

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::facts;
use super::wf::paged;

/// Commands on namespaces.
#[derive(Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Make a namespace; commands are of it with --namespace, or OPCODE_NAMESPACE
    #[command(after_help = "Examples:
  opcode namespace create team-a
  opcode --namespace team-a run order.json --wait
  opcode --namespace team-a token create --scope run --scope read")]
    Create {
        /// Its name: a-z, 0-9 and -
        name: String,
    },
    /// List namespaces; `default` is always there
    #[command(after_help = "Examples:\n  opcode namespace list\n  opcode namespace list -q")]
    List {
        /// Namespaces at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every namespace
        #[arg(long)]
        all: bool,
    },
    /// Delete a namespace that has nothing in it; takes some seconds
    #[command(after_help = "Examples:\n  opcode namespace delete team-a")]
    Delete {
        /// Its name
        name: String,
    },
}

/// The flag's value.
pub(super) fn parse(text: &str) -> Result<Namespace, String> {
    // A variable of the environment that is there and says nothing.
    Namespace::parse(if text.is_empty() { DEFAULT } else { text })
}

pub(crate) async fn run(command: NamespaceCommand, context: &Context) -> Result<(), Failure> {
    match command {
        NamespaceCommand::Create { name } => {
            let path = format!("/v1/namespaces/{}", encoded(&name));
            let made = context.client.put(&path, &json!({})).await?;
            context.output.document(&made, |made| facts(made, &["name", "created_at"]));
        }
        NamespaceCommand::List { limit, cursor, all } => {
            let columns = [("NAME", "name"), ("CREATED", "created_at"), ("DELETING", "deleting")];
            let page = paged(context, "/v1/namespaces", &[], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        NamespaceCommand::Delete { name } => {
            let deleted = context.client.delete(&format!("/v1/namespaces/{}", encoded(&name))).await?;
            context.output.document(&deleted, |deleted| facts(deleted, &["name", "deleted"]));
        }
    }
    Ok(())
}

//! `opcode retention`: how long workflows are kept once they have ended.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::facts;

/// Commands on retention.
#[derive(Subcommand)]
pub(crate) enum Retention {
    /// Show all rules, or a template's
    #[command(after_help = "Examples:\n  opcode retention get\n  opcode retention get --template nightly")]
    Get {
        /// Only of this template
        #[arg(long)]
        template: Option<String>,
    },
    /// Say how long workflows are kept once they have ended
    Set(Set),
    /// Take a rule away
    #[command(after_help = "Examples:\n  opcode retention rm\n  opcode retention rm --template nightly")]
    Rm {
        /// Of this template; without it the rule of all that have none
        #[arg(long)]
        template: Option<String>,
    },
}

/// Flags of `opcode retention set`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode retention set --archive-after 30d --delete-after 365d
  opcode retention set --template scratch --delete-after 1h
  opcode retention set --template ledger --archive-after 90d

An archive is a file of the node that leads the workflow's shard, in its --archive-dir; `opcode import`
takes it. With both, the archive goes once all in it is that old.")]
pub(crate) struct Set {
    /// Of this template; without it of all that have no rule
    #[arg(long)]
    template: Option<String>,
    /// How long after its end a workflow is archived, and leaves the cluster
    #[arg(long, value_name = "DURATION", required_unless_present = "delete_after")]
    archive_after: Option<String>,
    /// How long after its end nothing of it is kept
    #[arg(long, value_name = "DURATION")]
    delete_after: Option<String>,
}

/// Fields of a rule.
const FIELDS: [&str; 4] = ["template", "archive_after", "delete_after", "updated_at"];

fn path(template: Option<&str>) -> String {
    match template {
        Some(name) => format!("/v1/retention/templates/{}", encoded(name)),
        None => "/v1/retention".to_owned(),
    }
}

pub(crate) async fn run(command: Retention, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        Retention::Get { template: Some(name) } => {
            let rule = client.get(&path(Some(&name))).await?;
            context.output.document(&rule, |rule| facts(rule, &FIELDS));
        }
        Retention::Get { template: None } => {
            let rules = client.get(&path(None)).await?;
            let mut items: Vec<Value> = Vec::new();
            if rules["default"].is_object() {
                let mut all = rules["default"].clone();
                all["template"] = "(all others)".into();
                items.push(all);
            }
            items.extend(rules["templates"].as_array().cloned().unwrap_or_default());
            let columns = [
                ("TEMPLATE", "template"),
                ("ARCHIVE AFTER", "archive_after"),
                ("DELETE AFTER", "delete_after"),
                ("UPDATED", "updated_at"),
            ];
            context.output.list(&json!({ "items": items }), &columns);
        }
        Retention::Set(Set { template, archive_after, delete_after }) => {
            let mut body = json!({});
            for (name, value) in [("archive_after", archive_after), ("delete_after", delete_after)] {
                if let Some(value) = value {
                    body[name] = value.into();
                }
            }
            let rule = client.put(&path(template.as_deref()), &body).await?;
            context.output.document(&rule, |rule| facts(rule, &FIELDS));
        }
        Retention::Rm { template } => {
            let gone = client.delete(&path(template.as_deref())).await?;
            let name = template.unwrap_or_else(|| "all others".to_owned());
            context.output.document(&gone, |_| format!("deleted the rule of {name}"));
        }
    }
    Ok(())
}

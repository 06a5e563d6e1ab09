//! `opcode template`: named definitions and their versions.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::client::{encoded, with_query};
use super::failure::Failure;
use super::input;
use super::output::{facts, pretty};
use super::wf::paged;

/// Commands on templates.
#[derive(Subcommand)]
pub(crate) enum Template {
    /// Define a template: a new version unless the newest one is the same
    #[command(after_help = "Examples:
  opcode template define approval-chain.json
  opcode template define steps.json --name nightly")]
    Define {
        /// A template file, or a bare definition with --name
        file: String,
        /// Its name, where the file has none
        #[arg(long)]
        name: Option<String>,
    },
    /// List the newest version of every template
    #[command(after_help = "Examples:\n  opcode template list\n  opcode template list -q")]
    List {
        /// Templates at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every template
        #[arg(long)]
        all: bool,
    },
    /// Start no run of a template until it is resumed; those that there are go on
    #[command(after_help = "Examples:\n  opcode template pause nightly --reason 'the bank is closed'")]
    Pause {
        /// Its name
        name: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let runs of a template start again
    #[command(after_help = "Examples:\n  opcode template resume nightly")]
    Resume {
        /// Its name
        name: String,
    },
    /// Show a template
    #[command(
        after_help = "Examples:\n  opcode template get approval-chain\n  opcode template get approval-chain --version v1 -o json"
    )]
    Get {
        /// Its name
        name: String,
        /// A version; the newest without it
        #[arg(long)]
        version: Option<String>,
    },
}

pub(crate) async fn run(command: Template, context: &Context) -> Result<(), Failure> {
    match command {
        Template::Define { file, name } => {
            let text = input::read_file(&file)?;
            let defined =
                context.client.post_text(&with_query("/v1/templates", &[("name", name)]), text).await?;
            context
                .output
                .document(&defined, |defined| facts(defined, &["name", "version", "definition_hash"]));
        }
        Template::List { limit, cursor, all } => {
            let columns = [
                ("NAME", "name"),
                ("VERSION", "version"),
                ("PAUSED", "paused_at"),
                ("CATEGORY", "category"),
                ("DESCRIPTION", "description"),
            ];
            let page = paged(context, "/v1/templates", &[], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        Template::Pause { name, reason } => pause(context, &name, true, reason).await?,
        Template::Resume { name } => pause(context, &name, false, None).await?,
        Template::Get { name, version } => {
            let path = with_query(&format!("/v1/templates/{}", encoded(&name)), &[("version", version)]);
            let template = context.client.get(&path).await?;
            context.output.document(&template, |template| {
                let head = facts(
                    template,
                    &[
                        "name",
                        "version",
                        "description",
                        "category",
                        "created_at",
                        "paused_at",
                        "paused_reason",
                    ],
                );
                format!("{head}\n{}", pretty(template.get("definition").unwrap_or(&Value::Null)))
            });
        }
    }
    Ok(())
}

async fn pause(context: &Context, name: &str, paused: bool, reason: Option<String>) -> Result<(), Failure> {
    let mut body = json!({ "paused": paused });
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    let template = context.client.patch(&format!("/v1/templates/{}", encoded(name)), &body).await?;
    context.output.document(&template, |template| {
        facts(template, &["name", "version", "paused", "paused_at", "paused_reason"])
    });
    Ok(())
}

//! `opcode template …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, Failure, encode};
use super::output::{Output, cell, pretty};
use super::{exit, read};

/// `opcode template …`
#[derive(Subcommand)]
pub(crate) enum Template {
    /// Define a template from a file; the same definition again is the same version
    #[command(after_help = "Examples:\n  opcode template define order-processing.json\n  \
                            opcode template define --name order steps.json")]
    Define {
        /// A template file, or a definition with --name
        file: String,
        /// Its name, when the file has none
        #[arg(long)]
        name: Option<String>,
    },
    /// List templates
    List {
        /// At most this many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Show a template
    Get {
        /// Its name
        name: String,
        /// A version, v1 or 1; the newest without it
        #[arg(long)]
        version: Option<String>,
    },
}

pub(super) async fn run(command: Template, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Template::Define { file, name } => {
            let text = read(&file)?;
            let mut body: Value = serde_json::from_str(&text)
                .map_err(|e| Failure::new(exit::ERROR, format!("{file}: not JSON: {e}")))?;
            if body.get("definition").is_none() {
                body = json!({"definition": body});
            }
            if let (Some(name), Some(map)) = (name, body.as_object_mut()) {
                map.insert("name".into(), json!(name));
            }
            let answer = client.post("/v1/templates", &body).await?;
            output.document(&answer, |t| println!("{} {}", cell(&t["name"]), cell(&t["version"])));
        }
        Template::List { limit } => {
            let items = client.list("/v1/templates", limit).await?;
            output.list(
                &items,
                &[
                    ("NAME", "name"),
                    ("VERSION", "version"),
                    ("DESCRIPTION", "description"),
                    ("CREATED", "created_at"),
                ],
            );
        }
        Template::Get { name, version } => {
            let query = version.map(|v| format!("?version={}", encode(&v))).unwrap_or_default();
            let template = client.get(&format!("/v1/templates/{}{query}", encode(&name))).await?;
            output.document(&template, |template| println!("{}", pretty(template)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `opcode decision …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, Failure, encode};
use super::output::{Output, cell};
use super::{exit, json_or_file};

/// Decisions looked through for the one to resolve.
const DECISIONS_MAX: usize = 100_000;

/// `opcode decision …`
#[derive(Subcommand)]
pub(crate) enum Decision {
    /// List decisions, oldest first
    List {
        /// pending, resolved, timed_out, cancelled or all
        #[arg(long, default_value = "pending")]
        status: String,
        /// Only those that this agent may answer
        #[arg(long)]
        agent_id: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Resolve a decision
    #[command(
        after_help = "Examples:\n  opcode decision list\n  opcode decision resolve ID --choice approve --reasoning 'it is fine'"
    )]
    Resolve {
        /// The decision's id, as listed
        decision_id: String,
        /// An option's id, or free words when there are no options
        #[arg(long)]
        choice: String,
        /// Data for the steps that follow: JSON, or @file
        #[arg(long, value_name = "JSON|@FILE")]
        data: Option<String>,
        /// Why
        #[arg(long)]
        reasoning: Option<String>,
        /// Who decides
        #[arg(long)]
        agent_id: Option<String>,
    },
}

pub(super) async fn run(command: Decision, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Decision::List { status, agent_id, limit } => {
            let agent = agent_id.map(|a| format!("&agent_id={}", encode(&a))).unwrap_or_default();
            let items =
                client.list(&format!("/v1/decisions?status={}{agent}", encode(&status)), limit).await?;
            let rows: Vec<Value> = items.into_iter().map(with_choices).collect();
            output.list(
                &rows,
                &[
                    ("ID", "decision_id"),
                    ("WORKFLOW", "workflow_id"),
                    ("STEP", "step_id"),
                    ("OPTIONS", "choices"),
                    ("FOR", "target_agent"),
                    ("UNTIL", "timeout_at"),
                ],
            );
        }
        Decision::Resolve { decision_id, choice, data, reasoning, agent_id } => {
            let pending = client.list("/v1/decisions?status=pending", DECISIONS_MAX).await?;
            let decision =
                pending.iter().find(|d| d["decision_id"] == decision_id.as_str()).ok_or_else(|| {
                    Failure::new(
                        exit::NOT_FOUND,
                        format!("no pending decision {decision_id}: see `opcode decision list`"),
                    )
                })?;
            let mut payload = json!({"choice": choice});
            if let Some(data) = data {
                payload["data"] = json_or_file(&data, "--data")?;
            }
            let mut body = json!({"type": "decision", "step_id": decision["step_id"], "payload": payload});
            for (key, value) in [("reasoning", reasoning), ("agent_id", agent_id)] {
                if let Some(value) = value {
                    body[key] = json!(value);
                }
            }
            let workflow = decision["workflow_id"].as_str().unwrap_or_default();
            let answer = client.post(&format!("/v1/workflows/{}/signals", encode(workflow)), &body).await?;
            output.document(&answer, |answer| println!("resolved, as event {}", cell(&answer["sequence"])));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The decision with its options' ids on one line.
fn with_choices(mut decision: Value) -> Value {
    let ids: Vec<&str> =
        decision["options"].as_array().into_iter().flatten().filter_map(|o| o["id"].as_str()).collect();
    let choices = if ids.is_empty() { "(free)".to_owned() } else { ids.join(" ") };
    decision["choices"] = json!(choices);
    decision
}

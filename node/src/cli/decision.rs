//! `opcode decision`: what agents and people are asked, and their answers.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Context;
use super::client::{encoded, with_query};
use super::failure::Failure;
use super::input;
use super::run::show_accepted;
use super::wf::paged;

/// Commands on decisions.
#[derive(Subcommand)]
pub(crate) enum Decision {
    /// List decisions, oldest first
    #[command(
        after_help = "Examples:\n  opcode decision list\n  opcode decision list --agent-id reviewer-1 -o json"
    )]
    List {
        /// `pending` (default), `resolved`, `timed_out`, `cancelled` or `all`
        #[arg(long)]
        status: Option<String>,
        /// Only those that this agent may answer
        #[arg(long, value_name = "AGENT")]
        agent_id: Option<String>,
        /// Only those of this workflow
        #[arg(long, value_name = "ID")]
        workflow: Option<String>,
        /// Decisions at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every decision
        #[arg(long)]
        all: bool,
    },
    /// Answer a decision
    #[command(after_help = "Examples:
  opcode decision resolve DECISION --choice approve
  opcode decision resolve DECISION --choice reject --reasoning 'over budget' --agent-id alice")]
    Resolve {
        /// The decision's id, as `decision list` shows it
        decision_id: String,
        /// The option to choose
        #[arg(long)]
        choice: Option<String>,
        /// Data of the answer: JSON, or @FILE
        #[arg(long, value_name = "JSON|@FILE", required_unless_present = "choice")]
        data: Option<String>,
        /// Why
        #[arg(long)]
        reasoning: Option<String>,
        /// Who answers
        #[arg(long, value_name = "AGENT")]
        agent_id: Option<String>,
        /// The decision's workflow, to find it sooner
        #[arg(long, value_name = "ID")]
        workflow: Option<String>,
    },
}

pub(crate) async fn run(command: Decision, context: &Context) -> Result<(), Failure> {
    match command {
        Decision::List { status, agent_id, workflow, limit, cursor, all } => {
            let columns = [
                ("DECISION", "decision_id"),
                ("WORKFLOW", "workflow_id"),
                ("STEP", "step_id"),
                ("FOR", "target_agent"),
                ("OPTIONS", "choices"),
                ("UNTIL", "timeout_at"),
            ];
            let filter = [("status", status), ("agent_id", agent_id), ("workflow_id", workflow)];
            let mut page = paged(context, "/v1/decisions", &filter, limit, cursor, all).await?;
            if context.output.format == super::Format::Table {
                add_choices(&mut page);
            }
            context.output.list(&page, &columns);
            Ok(())
        }
        Decision::Resolve { decision_id, choice, data, reasoning, agent_id, workflow } => {
            let decision = find(context, &decision_id, workflow).await?;
            let mut payload = Map::new();
            payload.extend(choice.map(|choice| ("choice".to_owned(), choice.into())));
            if let Some(data) = data {
                payload.insert("data".into(), input::json("--data", &data)?);
            }
            let mut body = json!({"type": "decision", "step_id": decision["step_id"], "payload": payload});
            if let Some(reasoning) = reasoning {
                body["reasoning"] = reasoning.into();
            }
            if let Some(agent_id) = agent_id {
                body["agent_id"] = agent_id.into();
            }
            let id = decision["workflow_id"].as_str().unwrap_or_default();
            let accepted =
                context.client.post(&format!("/v1/workflows/{}/signals", encoded(id)), &body).await?;
            show_accepted(context, id, "resolved a decision of", &accepted);
            Ok(())
        }
    }
}

/// A column of option ids, for the table.
fn add_choices(page: &mut Value) {
    let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) else { return };
    for item in items {
        let options = item["options"].as_array().map_or(&[][..], Vec::as_slice);
        let ids: Vec<&str> = options.iter().filter_map(|option| option["id"].as_str()).collect();
        item["choices"] = ids.join(", ").into();
    }
}

/// The pending decision with this id.
async fn find(context: &Context, decision_id: &str, workflow: Option<String>) -> Result<Value, Failure> {
    let mut cursor = None;
    loop {
        let limit = Some("1000".to_owned());
        let query = [("workflow_id", workflow.clone()), ("limit", limit), ("cursor", cursor.clone())];
        let page = context.client.get(&with_query("/v1/decisions", &query)).await?;
        let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(found) = items.iter().find(|item| item["decision_id"] == decision_id) {
            return Ok(found.clone());
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            let detail = format!("there is no pending decision {decision_id}; see `opcode decision list`");
            return Err(Failure::Problem {
                status: 404,
                document: json!({"detail": detail, "code": "NOT_FOUND"}),
            });
        }
    }
}

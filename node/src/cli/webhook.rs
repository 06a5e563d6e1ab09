//! `opcode webhook`: receivers that are told of events.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::input;
use super::output::{Format, emit, facts};
use super::wf::paged;

/// Commands on webhooks.
#[derive(Subcommand)]
pub(crate) enum Webhook {
    /// Have a receiver told of events
    Create(Create),
    /// List webhooks
    #[command(after_help = "Examples:\n  opcode webhook list\n  opcode webhook list -o jsonl")]
    List {
        /// Webhooks at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every webhook
        #[arg(long)]
        all: bool,
    },
    /// Show a webhook, and how its deliveries go
    #[command(after_help = "Examples:\n  opcode webhook get billing\n  opcode webhook get billing -o json")]
    Get {
        /// The webhook's id
        id: String,
    },
    /// Let events pass until it is resumed
    #[command(after_help = "Examples:\n  opcode webhook pause billing")]
    Pause {
        /// The webhook's id
        id: String,
    },
    /// Go on, with what comes from now on
    #[command(after_help = "Examples:\n  opcode webhook resume billing")]
    Resume {
        /// The webhook's id
        id: String,
    },
    /// Send a ping now, and say what came of it
    #[command(after_help = "Examples:\n  opcode webhook test billing")]
    Test {
        /// The webhook's id
        id: String,
    },
    /// List deliveries that failed
    #[command(
        after_help = "Examples:\n  opcode webhook failures billing\n  opcode webhook failures billing --state dead -q"
    )]
    Failures {
        /// The webhook's id
        id: String,
        /// `retrying` or `dead`; both without it
        #[arg(long)]
        state: Option<String>,
        /// Deliveries at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every one
        #[arg(long)]
        all: bool,
    },
    /// Have failed deliveries tried again now
    #[command(
        after_help = "Examples:\n  opcode webhook retry billing evt_3_120_7\n  opcode webhook retry billing --dead"
    )]
    Retry {
        /// The webhook's id
        id: String,
        /// The deliveries
        #[arg(required_unless_present = "dead")]
        deliveries: Vec<String>,
        /// Every one that is not tried again by itself
        #[arg(long, conflicts_with = "deliveries")]
        dead: bool,
    },
    /// Let go of failed deliveries
    #[command(after_help = "Examples:\n  opcode webhook drop billing evt_3_120_7")]
    Drop {
        /// The webhook's id
        id: String,
        /// The deliveries
        #[arg(required = true)]
        deliveries: Vec<String>,
    },
    /// Delete a webhook, with what failed of it
    #[command(after_help = "Examples:\n  opcode webhook rm billing")]
    Rm {
        /// The webhook's id
        id: String,
    },
}

/// Flags of `opcode webhook create`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode webhook create https://example.com/hook --event workflow.failed --event workflow.completed
  opcode webhook create https://example.com/hook --id billing --event decision.requested \\
      --template billing --label env=prod
  opcode webhook create https://example.com/hook --event workflow.failed --secret-file secret

Deliveries are signed after the Standard Webhooks specification. The secret is shown once.")]
pub(crate) struct Create {
    /// Where to post
    url: String,
    /// Its id; without one the server makes one
    #[arg(long)]
    id: Option<String>,
    /// An event to be told of, `workflow.completed`; may be repeated
    #[arg(long = "event", value_name = "EVENT", required = true)]
    events: Vec<String>,
    /// Only of runs of this template
    #[arg(long)]
    template: Option<String>,
    /// Only of runs with this label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Only of runs that this agent has started
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// A file with its secret (`whsec_…`), or - for stdin; without one the server makes one
    #[arg(long, value_name = "FILE|-")]
    secret_file: Option<String>,
    /// Begin with a pause
    #[arg(long)]
    paused: bool,
}

pub(crate) async fn run(command: Webhook, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        Webhook::Create(args) => {
            let created = client.post("/v1/webhooks", &body(args)?).await?;
            show(context, &created);
        }
        Webhook::List { limit, cursor, all } => {
            let columns = [("ID", "id"), ("URL", "url"), ("ACTIVE", "active"), ("EVENTS", "events")];
            let page = paged(context, "/v1/webhooks", &[], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        Webhook::Get { id } => show(context, &client.get(&path(&id, "")).await?),
        Webhook::Pause { id } => {
            show(context, &client.patch(&path(&id, ""), &json!({"active": false})).await?);
        }
        Webhook::Resume { id } => {
            show(context, &client.patch(&path(&id, ""), &json!({"active": true})).await?);
        }
        Webhook::Test { id } => {
            let tested = client.post(&path(&id, "/test"), &json!({})).await?;
            context.output.document(&tested, |tested| facts(tested, &["delivery", "delivered", "error"]));
            if tested["delivered"] != true {
                return Err(Failure::local("the receiver did not take it"));
            }
        }
        Webhook::Failures { id, state, limit, cursor, all } => {
            let columns = [
                ("DELIVERY", "delivery"),
                ("EVENT", "event"),
                ("WORKFLOW", "workflow_id"),
                ("STATE", "state"),
                ("TRIES", "tries"),
                ("NEXT", "next_at"),
                ("ERROR", "last_error"),
            ];
            let page =
                paged(context, &path(&id, "/failures"), &[("state", state)], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        Webhook::Retry { id, deliveries, dead } => {
            let deliveries = if dead { all_dead(context, &id).await? } else { deliveries };
            for delivery in &deliveries {
                client.post(&format!("{}/retry", failure(&id, delivery)), &json!({})).await?;
            }
            say(context, &format!("{} to be tried again", deliveries.len()));
        }
        Webhook::Drop { id, deliveries } => {
            for delivery in &deliveries {
                client.delete(&failure(&id, delivery)).await?;
            }
            say(context, &format!("{} let go of", deliveries.len()));
        }
        Webhook::Rm { id } => {
            let deleted = client.delete(&path(&id, "")).await?;
            if !is_quiet(context) {
                context.output.document(&deleted, |_| format!("deleted the webhook {id}"));
            }
        }
    }
    Ok(())
}

async fn all_dead(context: &Context, id: &str) -> Result<Vec<String>, Failure> {
    let dead = [("state", Some("dead".to_owned()))];
    let page = paged(context, &path(id, "/failures"), &dead, 1_000, None, true).await?;
    let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(items.iter().filter_map(|item| item["delivery"].as_str()).map(str::to_owned).collect())
}

/// Whether only what was asked for is to be printed.
fn is_quiet(context: &Context) -> bool {
    context.output.format == Format::Table && context.output.quiet
}

fn say(context: &Context, text: &str) {
    if !is_quiet(context) {
        context.output.note(text);
    }
}

fn path(id: &str, call: &str) -> String {
    format!("/v1/webhooks/{}{call}", encoded(id))
}

fn failure(id: &str, delivery: &str) -> String {
    format!("/v1/webhooks/{}/failures/{}", encoded(id), encoded(delivery))
}

fn body(args: Create) -> Result<Value, Failure> {
    let mut filter = Map::new();
    let texts = [("template", args.template), ("agent_id", args.agent_id)];
    filter.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    if !args.labels.is_empty() {
        let labels: Vec<String> = args.labels.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        filter.insert("label".into(), labels.into());
    }
    let mut body = Map::new();
    body.insert("url".into(), args.url.into());
    body.insert("events".into(), args.events.into());
    body.extend(args.id.map(|id| ("id".to_owned(), id.into())));
    if !filter.is_empty() {
        body.insert("filter".into(), filter.into());
    }
    if let Some(file) = &args.secret_file {
        body.insert("secret".into(), input::read_file(file)?.trim().into());
    }
    if args.paused {
        body.insert("active".into(), false.into());
    }
    Ok(Value::Object(body))
}

fn show(context: &Context, webhook: &Value) {
    if is_quiet(context) {
        return emit(webhook["id"].as_str().unwrap_or_default());
    }
    context.output.document(webhook, |webhook| {
        let names = [
            "id",
            "url",
            "events",
            "filter",
            "active",
            "disabled_reason",
            "secret",
            "created_at",
            "updated_at",
        ];
        let status = [
            "delivered",
            "behind",
            "retrying",
            "dead",
            "dropped",
            "missed",
            "last_success_at",
            "last_error_at",
            "last_error",
        ];
        format!("{}\n{}", facts(webhook, &names), facts(&webhook["status"], &status))
    });
}

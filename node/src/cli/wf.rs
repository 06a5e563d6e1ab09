//! `opcode wf`: lists, reads and steers workflows.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::bulk::Bulk;
use super::client::{encoded, with_query};
use super::failure::Failure;
use super::output::{Format, emit, facts, pretty, rows, shown};
use super::run::Watch;
use super::wf_commands::{self, Reasoned, Retry, SignalArgs};
use super::{Context, follow, input};

/// Commands on workflows.
#[derive(Subcommand)]
pub(crate) enum Wf {
    /// List workflows, newest first
    List(List),
    /// Show a workflow
    #[command(after_help = "Examples:\n  opcode wf get ID\n  opcode wf get ID --wait 10s -o json")]
    Get {
        /// The workflow
        id: String,
        /// Wait until it ends or suspends, at most this long (10 minutes if not said)
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, num_args = 0..=1, default_missing_value = "10m")]
        wait: Option<Duration>,
        /// `strong`, `session` or `eventual`
        #[arg(long)]
        consistency: Option<String>,
    },
    /// Show a workflow's events
    #[command(after_help = "Examples:\n  opcode wf events ID\n  opcode wf events ID --follow -o jsonl")]
    Events {
        /// The workflow
        id: String,
        /// Only events after this sequence
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Events at most
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// Go on as they happen, until the run ends
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the definition that a workflow is pinned to
    #[command(after_help = "Examples:\n  opcode wf definition ID > order.json")]
    Definition {
        /// The workflow
        id: String,
    },
    /// Draw a workflow's steps and how far they are
    #[command(
        after_help = "Examples:\n  opcode wf diagram ID\n  opcode wf diagram ID --format svg > run.svg"
    )]
    Diagram {
        /// The workflow
        id: String,
        /// `ascii`, `mermaid` or `svg`
        #[arg(long, default_value = "ascii")]
        format: String,
    },
    /// Say why a workflow is not moving
    #[command(after_help = "Examples:\n  opcode wf why ID")]
    Why {
        /// The workflow
        id: String,
    },
    /// Send a signal
    Signal(SignalArgs),
    /// Cancel a workflow
    #[command(after_help = "Examples:\n  opcode wf cancel ID --reason 'not needed'")]
    Cancel(Reasoned),
    /// Stop a workflow from starting steps
    #[command(after_help = "Examples:\n  opcode wf suspend ID")]
    Suspend(Reasoned),
    /// Let a suspended workflow go on
    #[command(after_help = "Examples:\n  opcode wf resume ID")]
    Resume(Reasoned),
    /// Delete a workflow that has ended, with all its events, for good
    #[command(after_help = "Examples:\n  opcode wf delete ID")]
    Delete {
        /// The workflow
        id: String,
    },
    /// Do the same to every workflow that matches
    Bulk(Box<Bulk>),
    /// Run a failed workflow again from where it failed, or from a step
    Retry(Retry),
    /// Start a new run of a workflow's definition with its params
    #[command(
        after_help = "Examples:\n  opcode wf rerun ID --wait\n  opcode wf rerun ID --params '{\"n\": 2}'\n  opcode wf rerun ID --version v3"
    )]
    Rerun {
        /// The workflow
        id: String,
        /// Other params: JSON, or @FILE
        #[arg(long, value_name = "JSON|@FILE")]
        params: Option<String>,
        /// Another version of its template
        #[arg(long)]
        version: Option<String>,
        /// Id of the new run
        #[arg(long, value_name = "ID")]
        new_id: Option<String>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Compare two workflows step by step
    #[command(after_help = "Examples:\n  opcode wf diff ID OTHER")]
    Diff {
        /// One workflow
        id: String,
        /// The other
        other: String,
    },
}

/// Flags of `opcode wf list`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode wf list --status failed --since 2h
  opcode wf list --template approval-chain --label team=payments --all -o jsonl")]
pub(crate) struct List {
    /// A status, may be repeated: pending, active, suspended, completed, failed, cancelled
    #[arg(long)]
    status: Vec<String>,
    /// Only this agent's
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// Only of this template
    #[arg(long)]
    template: Option<String>,
    /// Only with this label, may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Created since: RFC 3339, or how long ago (`2h`)
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    since: Option<String>,
    /// Created before
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    until: Option<String>,
    /// Workflows at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Go on after an earlier list
    #[arg(long)]
    cursor: Option<String>,
    /// Every one that matches
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(command: Wf, context: &Context) -> Result<(), Failure> {
    match command {
        Wf::List(args) => list(args, context).await,
        Wf::Get { id, wait, consistency } => get(context, &id, wait, consistency).await,
        Wf::Events { id, after, limit, follow: false } => events(context, &id, after, limit).await,
        Wf::Events { id, after, limit: _, follow: true } => follow::follow(context, &id, after).await,
        Wf::Definition { id } => {
            let definition = context.client.get(&format!("{}/definition", path_of(&id))).await?;
            context.output.document(&definition, pretty);
            Ok(())
        }
        Wf::Diagram { id, format } => diagram(context, &id, &format).await,
        Wf::Why { id } => why(context, &id).await,
        Wf::Signal(args) => wf_commands::signal(args, context).await,
        Wf::Cancel(args) => wf_commands::reasoned(args, "cancel", "cancelled", context).await,
        Wf::Suspend(args) => wf_commands::reasoned(args, "suspend", "suspended", context).await,
        Wf::Resume(args) => wf_commands::reasoned(args, "resume", "resumed", context).await,
        Wf::Retry(args) => wf_commands::retry(args, context).await,
        Wf::Delete { id } => {
            let accepted = context.client.delete(&path_of(&id)).await?;
            super::run::show_accepted(context, &id, "deleted", &accepted);
            Ok(())
        }
        Wf::Bulk(args) => super::bulk::run(*args, context).await,
        Wf::Rerun { id, params, version, new_id, watch } => {
            let params = params.map(|params| input::json("--params", &params)).transpose()?;
            super::run::rerun(context, &id, super::run::Other { params, version, id: new_id }, &watch).await
        }
        Wf::Diff { id, other } => wf_commands::diff(context, &id, &other).await,
    }
}

/// `/v1/workflows/ID`.
pub(crate) fn path_of(id: &str) -> String {
    format!("/v1/workflows/{}", encoded(id))
}

async fn list(args: List, context: &Context) -> Result<(), Failure> {
    let status = (!args.status.is_empty()).then(|| args.status.join(","));
    let mut filter = vec![
        ("status", status),
        ("agent_id", args.agent_id),
        ("template", args.template),
        ("since", args.since),
        ("until", args.until),
    ];
    filter.extend(args.labels.into_iter().map(|(name, value)| ("label", Some(format!("{name}:{value}")))));
    let page = paged(context, "/v1/workflows", &filter, args.limit, args.cursor, args.all).await?;
    let columns = [
        ("WORKFLOW", "workflow_id"),
        ("STATUS", "status"),
        ("TEMPLATE", "template"),
        ("AGENT", "agent_id"),
        ("CREATED", "created_at"),
        ("COMPLETED", "completed_at"),
    ];
    context.output.list(&page, &columns);
    Ok(())
}

/// A page of a list, or all pages as one.
pub(crate) async fn paged(
    context: &Context,
    path: &str,
    filter: &[(&str, Option<String>)],
    limit: u32,
    cursor: Option<String>,
    all: bool,
) -> Result<Value, Failure> {
    let ask = async |limit: u32, cursor: Option<String>| {
        let mut query = filter.to_vec();
        query.extend([("limit", Some(limit.to_string())), ("cursor", cursor)]);
        context.client.get(&with_query(path, &query)).await
    };
    if !all {
        return ask(limit, cursor).await;
    }
    let mut whole = ask(1000, cursor).await?;
    while let Some(cursor) = whole["next_cursor"].as_str().map(str::to_owned) {
        let mut page = ask(1000, Some(cursor)).await?;
        whole["next_cursor"] = page["next_cursor"].take();
        for missing in ["unreachable_shards", "unreachable_nodes"] {
            if whole.get(missing).is_none() && page.get(missing).is_some() {
                whole[missing] = page[missing].take();
            }
        }
        let (Some(items), Some(more)) = (whole["items"].as_array_mut(), page["items"].as_array_mut()) else {
            break;
        };
        items.append(more);
    }
    Ok(whole)
}

async fn get(
    context: &Context,
    id: &str,
    wait: Option<Duration>,
    consistency: Option<String>,
) -> Result<(), Failure> {
    let wait_text = wait.map(|wait| format!("{}ms", wait.as_millis()));
    let path = with_query(&path_of(id), &[("wait", wait_text), ("consistency", consistency)]);
    let run = context.client.get_waiting(&path, wait.unwrap_or_default()).await?;
    context.output.document(&run, |run| {
        let names = [
            "workflow_id",
            "status",
            "template",
            "version",
            "agent_id",
            "labels",
            "created_at",
            "started_at",
            "completed_at",
            "params",
            "output",
            "error",
        ];
        format!("{}\n\n{}", facts(run, &names), steps(run))
    });
    Ok(())
}

/// The steps of a run, by the time they started.
fn steps(run: &Value) -> String {
    let Some(steps) = run["steps"].as_object() else { return String::new() };
    let mut sorted: Vec<_> = steps.iter().collect();
    let started = |step: &Value| step["started_at"].as_str().unwrap_or("~").to_owned();
    sorted.sort_by_key(|(_, step)| started(step));
    let lines: Vec<_> = sorted
        .into_iter()
        .map(|(id, step)| {
            let error = &step["error"]["message"];
            vec![
                id.clone(),
                shown(&step["status"]),
                shown(&step["attempts"]),
                shown(&step["duration_ms"]),
                shown(error),
            ]
        })
        .collect();
    rows(&["STEP", "STATUS", "ATTEMPTS", "MS", "ERROR"], &lines)
}

async fn events(context: &Context, id: &str, after: u64, limit: u32) -> Result<(), Failure> {
    let query = [("after", Some(after.to_string())), ("limit", Some(limit.to_string()))];
    let page = context.client.get(&with_query(&format!("{}/events", path_of(id)), &query)).await?;
    match context.output.format {
        Format::Table => {
            let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
            items.iter().for_each(|event| emit(&follow::line(event)));
            if let Some(next) = page["next_cursor"].as_str() {
                context.output.note(&format!("more: --after {next}"));
            }
        }
        Format::Json | Format::Jsonl | Format::Yaml => context.output.list(&page, &[("", "sequence")]),
    }
    Ok(())
}

async fn diagram(context: &Context, id: &str, format: &str) -> Result<(), Failure> {
    let path = with_query(&format!("{}/diagram", path_of(id)), &[("format", Some(format.to_owned()))]);
    emit(&context.client.text(&path).await?);
    Ok(())
}

async fn why(context: &Context, id: &str) -> Result<(), Failure> {
    let answer = context.client.get(&format!("{}/why", path_of(id))).await?;
    context.output.document(&answer, |answer| {
        let reasons = answer["waiting_for"].as_array().map_or(&[][..], Vec::as_slice);
        let lines: Vec<String> = reasons
            .iter()
            .map(|reason| {
                let step = reason["step_id"].as_str().map(|step| format!(" [{step}]")).unwrap_or_default();
                let repair =
                    reason["repair"].as_str().map(|text| format!("\n    → {text}")).unwrap_or_default();
                format!("{}{step}: {}{repair}", shown(&reason["kind"]), shown(&reason["detail"]))
            })
            .collect();
        if lines.is_empty() { format!("{id} waits for nothing") } else { lines.join("\n") }
    });
    Ok(())
}

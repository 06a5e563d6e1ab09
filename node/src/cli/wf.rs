//! `opcode wf …`: look at workflows and steer them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, Failure, encode};
use super::output::{Output, cell};
use super::{exit, json_or_file};

/// Longest one request waits for a run; asked again until it has settled.
const WAIT: &str = "30s";

/// `opcode wf …`
#[derive(Subcommand)]
pub(crate) enum Wf {
    /// List workflows, newest first
    #[command(
        after_help = "Examples:\n  opcode wf list --status failed --status cancelled\n  opcode wf list --label team=red -o jsonl"
    )]
    List(List),
    /// Show one workflow
    Get {
        /// Its id
        id: String,
        /// Wait until it has ended or waits for somebody
        #[arg(long)]
        wait: bool,
    },
    /// Show its events
    Events {
        /// Its id
        id: String,
        /// Print new ones as they come, until it has ended
        #[arg(long)]
        follow: bool,
    },
    /// Draw its definition with the status of each step
    Diagram {
        /// Its id
        id: String,
        /// ascii, mermaid or svg
        #[arg(long, default_value = "ascii")]
        format: String,
    },
    /// Say what it waits for, since when, and what would move it
    Why {
        /// Its id
        id: String,
    },
    /// Send a signal
    #[command(
        after_help = "Examples:\n  opcode wf signal ID --type data --step paid --payload '{\"amount\": 3}'\n  \
                            opcode wf signal ID --type retry --step charge"
    )]
    Signal(Signal),
    /// End it
    Cancel(Act),
    /// Stop starting steps
    Suspend(Act),
    /// Go on
    Resume(Act),
    /// Run again what failed
    Retry(Again),
    /// Run again from a step
    Rerun(Again),
    /// Compare the outputs of two runs, step by step
    Diff {
        /// One id
        a: String,
        /// Another id
        b: String,
    },
}

/// Flags of `wf list`.
#[derive(Args)]
pub(crate) struct List {
    /// Only with this status; repeat for more
    #[arg(long)]
    status: Vec<String>,
    /// Only of this template
    #[arg(long)]
    template: Option<String>,
    /// Only of this agent
    #[arg(long)]
    agent_id: Option<String>,
    /// Only with this label, KEY=VALUE; repeat for more
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Flags of `wf signal`.
#[derive(Args)]
pub(crate) struct Signal {
    /// Its id
    id: String,
    /// decision, data, cancel, retry or skip
    #[arg(long = "type", default_value = "data")]
    kind: String,
    /// The step, or the name that a wait waits for
    #[arg(long)]
    step: Option<String>,
    /// JSON, or @file
    #[arg(long, value_name = "JSON|@FILE")]
    payload: Option<String>,
    /// Who sends it
    #[arg(long)]
    agent_id: Option<String>,
    /// The same id twice is delivered once
    #[arg(long)]
    signal_id: Option<String>,
}

/// Flags of commands that only need a reason.
#[derive(Args)]
pub(crate) struct Act {
    /// Its id
    id: String,
    /// Why, for the log
    #[arg(long)]
    reason: Option<String>,
}

/// Flags of `wf retry` and `wf rerun`.
#[derive(Args)]
pub(crate) struct Again {
    /// Its id
    id: String,
    /// The first step to run again
    #[arg(long)]
    from_step: Option<String>,
    /// Other params: JSON, or @file
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// Another version of its template
    #[arg(long)]
    version: Option<String>,
    /// Why, for the log
    #[arg(long)]
    reason: Option<String>,
}

pub(super) async fn run(command: Wf, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    match command {
        Wf::List(args) => list(args, client, output).await?,
        Wf::Get { id, wait } => {
            let run = if wait { settled(client, &id).await? } else { client.get(&path(&id, "")).await? };
            output.document(&run, |run| super::run::show(run, output));
            return Ok(if wait { exit_code(&run) } else { ExitCode::SUCCESS });
        }
        Wf::Events { id, follow: true } => follow(client, &id, output).await?,
        Wf::Events { id, follow: false } => {
            let mut last = 0;
            print_events(client, &id, &mut last, output).await?;
        }
        Wf::Diagram { id, format } => {
            print!("{}", client.text(&path(&id, &format!("/diagram?format={}", encode(&format)))).await?);
        }
        Wf::Why { id } => {
            let why = client.get(&path(&id, "/why")).await?;
            let items = why["waiting_for"].as_array().cloned().unwrap_or_default();
            output.document(&why, |_| {
                output.list(
                    &items,
                    &[
                        ("KIND", "kind"),
                        ("STEP", "step_id"),
                        ("SINCE", "since"),
                        ("UNTIL", "until"),
                        ("DETAIL", "detail"),
                        ("REPAIR", "repair"),
                    ],
                );
            });
        }
        Wf::Signal(args) => signal(args, client, output).await?,
        Wf::Cancel(act) => act_on(client, output, &act, "cancel").await?,
        Wf::Suspend(act) => act_on(client, output, &act, "suspend").await?,
        Wf::Resume(act) => act_on(client, output, &act, "resume").await?,
        Wf::Retry(again) => run_again(again, client, output).await?,
        Wf::Rerun(again) if again.from_step.is_none() => {
            return Err(Failure::new(2, "rerun needs --from-step STEP; retry runs again what failed"));
        }
        Wf::Rerun(again) => run_again(again, client, output).await?,
        Wf::Diff { a, b } => diff(client, output, &a, &b).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/workflows/{}{rest}", encode(id))
}

/// The run once it has ended or waits for somebody.
pub(super) async fn settled(client: &Client, id: &str) -> Result<Value, Failure> {
    loop {
        let run = client.get(&path(id, &format!("?wait={WAIT}"))).await?;
        if matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled" | "suspended")) {
            return Ok(run);
        }
    }
}

/// 3 for a run that failed or was cancelled.
pub(super) fn exit_code(run: &Value) -> ExitCode {
    match run["status"].as_str() {
        Some("failed" | "cancelled") => ExitCode::from(exit::WORKFLOW_FAILED),
        Some(_) | None => ExitCode::SUCCESS,
    }
}

/// Prints events as they come, until the run has ended or waits for somebody.
pub(super) async fn follow(client: &Client, id: &str, output: Output) -> Result<(), Failure> {
    let mut last = 0;
    loop {
        print_events(client, id, &mut last, output).await?;
        let run = client.get(&path(id, "?wait=1s")).await?;
        if matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled" | "suspended")) {
            return print_events(client, id, &mut last, output).await;
        }
    }
}

/// Prints the events after `last`, and moves it.
async fn print_events(client: &Client, id: &str, last: &mut u64, output: Output) -> Result<(), Failure> {
    loop {
        let page = client.get(&path(id, &format!("/events?after={last}&limit=1000"))).await?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let Some(newest) = items.last().and_then(|event| event["sequence"].as_u64()) else { return Ok(()) };
        *last = newest;
        for event in &items {
            output.document(event, |event| {
                println!(
                    "{:>5}  {}  {:<24} {:<32} {}",
                    cell(&event["sequence"]),
                    cell(&event["timestamp"]),
                    cell(&event["type"]),
                    cell(&event["step_id"]),
                    cell(&event["data"])
                );
            });
        }
    }
}

async fn list(args: List, client: &Client, output: Output) -> Result<(), Failure> {
    let mut query: Vec<String> = Vec::new();
    if !args.status.is_empty() {
        query.push(format!("status={}", encode(&args.status.join(","))));
    }
    query.extend(args.template.iter().map(|t| format!("template={}", encode(t))));
    query.extend(args.agent_id.iter().map(|a| format!("agent_id={}", encode(a))));
    for label in &args.labels {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::new(2, format!("--label {label}: write KEY=VALUE")))?;
        query.push(format!("label={}", encode(&format!("{key}:{value}"))));
    }
    let items = client.list(&format!("/v1/workflows?{}", query.join("&")), args.limit).await?;
    output.list(
        &items,
        &[
            ("ID", "workflow_id"),
            ("STATUS", "status"),
            ("TEMPLATE", "template"),
            ("AGENT", "agent_id"),
            ("CREATED", "created_at"),
            ("COMPLETED", "completed_at"),
        ],
    );
    Ok(())
}

async fn signal(args: Signal, client: &Client, output: Output) -> Result<(), Failure> {
    let mut body = Map::from_iter([("type".to_owned(), json!(args.kind))]);
    for (key, value) in
        [("step_id", &args.step), ("agent_id", &args.agent_id), ("signal_id", &args.signal_id)]
    {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    }
    if let Some(payload) = &args.payload {
        body.insert("payload".into(), json_or_file(payload, "--payload")?);
    }
    let answer = client.post(&path(&args.id, "/signals"), &Value::Object(body)).await?;
    output.document(&answer, |answer| println!("taken as event {}", cell(&answer["sequence"])));
    Ok(())
}

async fn act_on(client: &Client, output: Output, act: &Act, verb: &str) -> Result<(), Failure> {
    let body = act.reason.as_ref().map_or_else(|| json!({}), |reason| json!({"reason": reason}));
    let answer = client.post(&path(&act.id, &format!("/{verb}")), &body).await?;
    output.document(&answer, |_| println!("{verb}: accepted"));
    Ok(())
}

async fn run_again(args: Again, client: &Client, output: Output) -> Result<(), Failure> {
    let mut body = Map::new();
    for (key, value) in [("from_step", &args.from_step), ("version", &args.version), ("reason", &args.reason)]
    {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    }
    if let Some(params) = &args.params {
        body.insert("params".into(), json_or_file(params, "--params")?);
    }
    let answer = client.post(&path(&args.id, "/retry"), &Value::Object(body)).await?;
    output.document(&answer, |_| println!("retry: accepted"));
    Ok(())
}

async fn diff(client: &Client, output: Output, a: &str, b: &str) -> Result<(), Failure> {
    let (one, two) = (client.get(&path(a, "")).await?, client.get(&path(b, "")).await?);
    let empty = Map::new();
    let steps = |run: &Value| run["steps"].as_object().cloned().unwrap_or_else(|| empty.clone());
    let (one, two) = (steps(&one), steps(&two));
    let mut ids: Vec<&String> = one.keys().chain(two.keys()).collect();
    ids.sort();
    ids.dedup();
    let rows: Vec<Value> = ids
        .into_iter()
        .filter_map(|id| {
            let side = |steps: &Map<String, Value>| {
                steps.get(id).map_or(Value::Null, |step| json!([step["status"], step["output"]]))
            };
            let (one, two) = (side(&one), side(&two));
            (one != two).then(|| json!({"step": id, "a": one, "b": two}))
        })
        .collect();
    output.list(&rows, &[("STEP", "step"), ("A", "a"), ("B", "b")]);
    Ok(())
}

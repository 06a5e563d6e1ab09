//! `opcode run`: submits, and waits or follows if asked to.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, Failure};
use super::output::{Output, cell};
use super::{exit, json_or_file, read, wf};

/// Flags of `opcode run`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode run order.json --params @order-params.json --wait
  opcode run order-processing --params '{\"order\": 7}' --id order-7
  opcode run order.json --follow")]
pub(crate) struct Run {
    /// A definition or template file, or the name of a template
    #[arg(value_name = "FILE|TEMPLATE")]
    what: String,
    /// The run's params: JSON, or @file
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// The run's id: the same id again is the same run
    #[arg(long)]
    id: Option<String>,
    /// A template's version
    #[arg(long)]
    version: Option<String>,
    /// Who starts it
    #[arg(long)]
    agent_id: Option<String>,
    /// A label, KEY=VALUE; repeat for more
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Wait until it has ended or waits for somebody
    #[arg(long)]
    wait: bool,
    /// Print its events as they come, until it has ended
    #[arg(long)]
    follow: bool,
}

pub(super) async fn run(args: Run, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let answer = client.post("/v1/workflows", &body(&args)?).await?;
    let id = answer["workflow_id"]
        .as_str()
        .ok_or_else(|| Failure::new(exit::ERROR, "the node gave no workflow id"))?
        .to_owned();
    if args.follow {
        output.note(&id);
        wf::follow(client, &id, output).await?;
    }
    if !args.wait && !args.follow {
        output.document(&answer, |_| println!("{id}"));
        return Ok(ExitCode::SUCCESS);
    }
    let run = wf::settled(client, &id).await?;
    output.document(&run, |run| show(run, output));
    Ok(wf::exit_code(&run))
}

fn body(args: &Run) -> Result<Value, Failure> {
    let mut body = Map::new();
    if args.what == "-" || Path::new(&args.what).is_file() {
        let text = read(&args.what)?;
        let definition: Value = serde_json::from_str(&text)
            .map_err(|e| Failure::new(exit::ERROR, format!("{}: not JSON: {e}", args.what)))?;
        body.insert("definition".into(), definition);
    } else if args.what.contains('/') || args.what.ends_with(".json") {
        return Err(Failure::new(exit::ERROR, format!("{}: no such file", args.what)));
    } else {
        body.insert("template".into(), json!(args.what));
    }
    if let Some(params) = &args.params {
        body.insert("params".into(), json_or_file(params, "--params")?);
    }
    for (key, value) in [("id", &args.id), ("version", &args.version), ("agent_id", &args.agent_id)] {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    }
    let mut labels = Map::new();
    for label in &args.labels {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| Failure::new(exit::ERROR, format!("--label {label}: not KEY=VALUE")))?;
        labels.insert(key.to_owned(), json!(value));
    }
    if !labels.is_empty() {
        body.insert("labels".into(), Value::Object(labels));
    }
    Ok(Value::Object(body))
}

/// A settled run for people: its status, each step, what it waits for, its output.
pub(super) fn show(run: &Value, output: Output) {
    let id = cell(&run["workflow_id"]);
    if output.quiet {
        println!("{id}");
        return;
    }
    println!("{id}  {}", cell(&run["status"]));
    let steps: Vec<Value> = run["steps"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(id, step)| {
            let note = if step["error"].is_null() { &step["output"] } else { &step["error"]["message"] };
            json!({"id": id, "status": step["status"], "ms": step["duration_ms"], "attempts": step["attempts"], "note": note})
        })
        .collect();
    output.list(
        &steps,
        &[("STEP", "id"), ("STATUS", "status"), ("MS", "ms"), ("TRIES", "attempts"), ("OUTPUT", "note")],
    );
    for decision in run["pending_decisions"].as_array().into_iter().flatten() {
        println!(
            "waits for a decision: opcode decision resolve {} --choice …",
            cell(&decision["decision_id"])
        );
    }
    if !run["error"].is_null() {
        println!("error {}: {}", cell(&run["error"]["code"]), cell(&run["error"]["message"]));
    }
    if !run["output"].is_null() {
        println!("output {}", super::output::pretty(&run["output"]));
    }
}

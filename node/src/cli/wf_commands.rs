//! The commands of `opcode wf` that tell a run something, and the comparison of two.

use clap::Args;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::output::{rows, shown};
use super::run::show_accepted;
use super::wf::path_of;
use super::{Context, input};

/// Flags of `opcode wf cancel`, `suspend`, `resume`.
#[derive(Args)]
pub(crate) struct Reasoned {
    /// The workflow
    id: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Who says so
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
}

/// Flags of `opcode wf signal`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode wf signal ID --type data --step payment --payload '{\"paid\": true}'
  opcode wf signal ID --type decision --step review --choice approve
  opcode wf signal ID --type skip --step fetch")]
pub(crate) struct SignalArgs {
    /// The workflow
    id: String,
    /// `decision`, `data`, `cancel`, `retry` or `skip`
    #[arg(long = "type", value_name = "TYPE", default_value = "data")]
    kind: String,
    /// The step, or the name of the signal that it waits for
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// JSON, @FILE, or a plain text
    #[arg(long, value_name = "JSON|@FILE")]
    payload: Option<String>,
    /// The option to choose, for a decision
    #[arg(long, conflicts_with = "payload")]
    choice: Option<String>,
    /// Why
    #[arg(long)]
    reasoning: Option<String>,
    /// Who sends it
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// The same id twice is delivered once
    #[arg(long, value_name = "ID")]
    signal_id: Option<String>,
}

/// Flags of `opcode wf retry`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode wf retry ID
  opcode wf retry ID --from-step charge --params '{\"amount\": 5}'
  opcode wf retry ID --version v3")]
pub(crate) struct Retry {
    /// The workflow
    id: String,
    /// Run again from this step on
    #[arg(long, value_name = "STEP")]
    from_step: Option<String>,
    /// Other params: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// Another version of its template
    #[arg(long)]
    version: Option<String>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// Who says so
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
}

/// An object of those fields that were given.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect()
}

async fn post(context: &Context, id: &str, call: &str, body: Map<String, Value>) -> Result<Value, Failure> {
    context.client.post(&format!("{}/{call}", path_of(id)), &Value::Object(body)).await
}

pub(crate) async fn reasoned(
    args: Reasoned,
    call: &str,
    done: &str,
    context: &Context,
) -> Result<(), Failure> {
    let body = object([("reason", args.reason), ("agent_id", args.agent_id)]);
    let accepted = post(context, &args.id, call, body).await?;
    show_accepted(context, &args.id, done, &accepted);
    Ok(())
}

pub(crate) async fn signal(args: SignalArgs, context: &Context) -> Result<(), Failure> {
    let mut body = object([
        ("type", Some(args.kind)),
        ("step_id", args.step),
        ("reasoning", args.reasoning),
        ("agent_id", args.agent_id),
        ("signal_id", args.signal_id),
    ]);
    if let Some(choice) = args.choice {
        body.insert("payload".into(), json!({"choice": choice}));
    }
    if let Some(payload) = args.payload {
        body.insert("payload".into(), input::json_or_text("--payload", &payload)?);
    }
    let accepted = post(context, &args.id, "signals", body).await?;
    show_accepted(context, &args.id, "signalled", &accepted);
    Ok(())
}

pub(crate) async fn retry(args: Retry, context: &Context) -> Result<(), Failure> {
    let mut body = object([
        ("from_step", args.from_step),
        ("version", args.version),
        ("reason", args.reason),
        ("agent_id", args.agent_id),
    ]);
    if let Some(params) = args.params {
        body.insert("params".into(), input::json("--params", &params)?);
    }
    let accepted = post(context, &args.id, "retry", body).await?;
    show_accepted(context, &args.id, "retrying", &accepted);
    Ok(())
}

/// Shows in what two runs differ: params, outputs, and each step's status, output and error.
pub(crate) async fn diff(context: &Context, id: &str, other: &str) -> Result<(), Failure> {
    let left = context.client.get(&path_of(id)).await?;
    let right = context.client.get(&path_of(other)).await?;
    let differences = differences(&left, &right);
    let document = json!({"left": id, "right": other, "differences": differences});
    context.output.document(&document, |_| {
        if differences.is_empty() {
            return format!("{id} and {other} are alike");
        }
        let lines: Vec<_> = differences
            .iter()
            .map(|d| ["at", "left", "right"].map(|name| shown(&d[name])).to_vec())
            .collect();
        rows(&["AT", id, other], &lines)
    });
    Ok(())
}

fn differences(left: &Value, right: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    let mut compare = |at: String, left: &Value, right: &Value| {
        if left != right {
            found.push(json!({"at": at, "left": left, "right": right}));
        }
    };
    for name in ["status", "template", "version", "params", "output", "error"] {
        compare(name.to_owned(), &left[name], &right[name]);
    }
    let ids = |run: &Value| run["steps"].as_object().map(|s| s.keys().cloned().collect()).unwrap_or_default();
    let mut steps: std::collections::BTreeSet<String> = ids(left);
    steps.extend::<std::collections::BTreeSet<String>>(ids(right));
    for step in steps {
        for name in ["status", "output", "error"] {
            let at = format!("steps.{step}.{name}");
            compare(at, &left["steps"][&step][name], &right["steps"][&step][name]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let left = json!({"status": "failed", "params": {}, "steps": {"a": {"status": "completed"}, "b": {"status": "failed"}}});
        let right = json!({"status": "completed", "params": {}, "steps": {"a": {"status": "completed"}, "b": {"status": "completed"}}});
        let at: Vec<_> = differences(&left, &right).iter().map(|d| d["at"].clone()).collect();
        assert_eq!(at, ["status", "steps.b.status"]);
    }
}

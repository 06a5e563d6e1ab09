//! `opcode run`: starts a workflow, and waits for it or follows it when asked.

use std::time::{Duration, Instant};

use clap::Args;
use opcode_engine::Problem;
use opcode_router::locate;
use serde_json::{Map, Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::{Format, emit, facts, pretty, shown};
use super::{follow, input, validate};

/// How long one request waits at the node.
const WAIT_STEP: Duration = Duration::from_secs(20);

/// Flags of `opcode run`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode run order.json --params '{\"order_id\": 17}' --wait
  opcode run approval-chain --params @params.json --id approval-17
  opcode run approval-chain@v2 --follow
  opcode run - --wait < order.json")]
pub(crate) struct Run {
    /// A definition or template file (`-` is stdin), or a template's name (`NAME@v2` for a version)
    #[arg(value_name = "FILE|TEMPLATE")]
    what: String,
    /// Params of the run: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// Id of the run; the same id with the same body again is the same run
    #[arg(long)]
    id: Option<String>,
    /// A template's version; the newest without it
    #[arg(long)]
    version: Option<String>,
    /// Who starts it
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// A label, may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Not before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    start_at: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

/// What to do once the run is started.
#[derive(Args, Clone, Default)]
pub(crate) struct Watch {
    /// Wait until the run ends, or waits for somebody
    #[arg(long)]
    wait: bool,
    /// Show events as they happen until the run ends
    #[arg(long)]
    follow: bool,
    /// Longest wait; then exit code 6
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: Run, context: &Context) -> Result<(), Failure> {
    let mut body = Map::new();
    let mut source = None;
    if input::is_file(&args.what) {
        let text = input::read_file(&args.what)?;
        body.insert("definition".into(), parsed(&args.what, &text)?);
        source = Some((args.what.as_str(), text));
    } else {
        let (name, version) =
            args.what.split_once('@').map_or((args.what.as_str(), None), |(n, v)| (n, Some(v)));
        body.insert("template".into(), name.into());
        body.extend(version.map(|version| ("version".to_owned(), version.into())));
    }
    body.extend(args.version.clone().map(|version| ("version".to_owned(), version.into())));
    if let Some(params) = &args.params {
        body.insert("params".into(), input::json("--params", params)?);
    }
    let texts = [("id", &args.id), ("agent_id", &args.agent_id), ("start_at", &args.start_at)];
    body.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?.into()))));
    if !args.labels.is_empty() {
        let labels: Map<_, _> = args.labels.into_iter().map(|(name, value)| (name, value.into())).collect();
        body.insert("labels".into(), labels.into());
    }
    let started =
        submit(context, Value::Object(body), source.as_ref().map(|(f, t)| (*f, t.as_str()))).await?;
    watch(context, &started, &args.watch).await
}

fn parsed(file: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        let at = locate::Place { line: error.line(), column: error.column() };
        let excerpt = locate::excerpt(text, at).map(|excerpt| format!("\n{excerpt}")).unwrap_or_default();
        Failure::local(format!("{file}:{}:{}: not JSON: {error}{excerpt}", at.line, at.column))
    })
}

/// Submits a body; problems of its definition are shown in the file that it came from.
pub(crate) async fn submit(
    context: &Context,
    body: Value,
    source: Option<(&str, &str)>,
) -> Result<Value, Failure> {
    let failure = match context.client.post("/v1/workflows", &body).await {
        Ok(started) => return Ok(started),
        Err(failure) => failure,
    };
    if let (Failure::Problem { document, .. }, Some((file, text)), Format::Table) =
        (&failure, source, context.output.format)
    {
        let errors: Vec<Problem> = document
            .get("errors")
            .cloned()
            .and_then(|errors| serde_json::from_value(errors).ok())
            .unwrap_or_default();
        let in_file = errors.iter().all(|problem| problem.pointer.starts_with("/definition"));
        if !errors.is_empty() && in_file {
            for mut problem in errors {
                problem.pointer.drain(.."/definition".len());
                eprintln!("{}", validate::described(file, text, &problem));
            }
            return Err(Failure::Shown);
        }
    }
    Err(failure)
}

/// Shows a run that was started, after waiting or following as asked.
pub(crate) async fn watch(context: &Context, started: &Value, watch: &Watch) -> Result<(), Failure> {
    let id = started.get("workflow_id").and_then(Value::as_str).unwrap_or_default();
    if watch.follow {
        context.output.note(&format!("following {id}"));
        let following = follow::follow(context, id, 0);
        match watch.timeout {
            Some(limit) => {
                tokio::time::timeout(limit, following).await.map_err(|_| not_in_time(id, limit))??
            }
            None => following.await?,
        }
        let run = context.client.get(&format!("/v1/workflows/{}", encoded(id))).await?;
        return outcome(&run);
    }
    if watch.wait {
        context.output.note(&format!("waiting for {id}"));
        let run = wait(context, id, watch.timeout).await?;
        show_outcome(context, &run);
        return outcome(&run);
    }
    let quiet = context.output.quiet;
    context.output.document(started, |started| {
        if quiet { id.to_owned() } else { facts(started, &["workflow_id", "status", "shard"]) }
    });
    Ok(())
}

/// Waits until a run ends or is suspended.
pub(crate) async fn wait(context: &Context, id: &str, limit: Option<Duration>) -> Result<Value, Failure> {
    let begun = Instant::now();
    loop {
        let left = limit.map_or(WAIT_STEP, |limit| limit.saturating_sub(begun.elapsed()));
        let step = left.min(WAIT_STEP);
        let path = format!("/v1/workflows/{}?wait={}ms", encoded(id), step.as_millis());
        let run = context.client.get_waiting(&path, step).await?;
        if matches!(run["status"].as_str(), Some("completed" | "failed" | "cancelled" | "suspended")) {
            return Ok(run);
        }
        if let Some(limit) = limit
            && begun.elapsed() >= limit
        {
            return Err(not_in_time(id, limit));
        }
    }
}

fn not_in_time(id: &str, limit: Duration) -> Failure {
    let limit = humantime::format_duration(limit);
    Failure::TimedOut(format!("{id} did not end within {limit}; see `opcode wf why {id}`"))
}

fn show_outcome(context: &Context, run: &Value) {
    let quiet = context.output.quiet;
    context.output.document(run, |run| {
        if quiet {
            return pretty(&run["output"]);
        }
        let mut text = facts(run, &["workflow_id", "status"]);
        if run["status"] == "completed" {
            text.push_str(&format!("\n{}", pretty(&run["output"])));
        }
        text
    });
}

/// A run that did not end well is a failure with exit code 3.
fn outcome(run: &Value) -> Result<(), Failure> {
    let id = shown(&run["workflow_id"]);
    match run["status"].as_str() {
        Some("failed") => {
            let (code, message) = (shown(&run["error"]["code"]), shown(&run["error"]["message"]));
            let step =
                run["error"]["step_id"].as_str().map(|step| format!(" in step {step}")).unwrap_or_default();
            Err(Failure::Workflow(format!("workflow {id} failed{step}: {message} ({code})")))
        }
        Some("cancelled") => Err(Failure::Workflow(format!("workflow {id} was cancelled"))),
        Some("suspended") => {
            eprintln!("opcode: workflow {id} waits for somebody; see `opcode wf why {id}`");
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// In what a run that is started again is another one.
#[derive(Default)]
pub(crate) struct Other {
    pub(crate) params: Option<Value>,
    pub(crate) version: Option<String>,
    pub(crate) id: Option<String>,
}

/// Starts a run again: the same definition, params, labels and context as it was started with.
pub(crate) async fn rerun(
    context: &Context,
    id: &str,
    other: Other,
    watch_args: &Watch,
) -> Result<(), Failure> {
    let path = format!("/v1/workflows/{}", encoded(id));
    let run = context.client.get(&path).await?;
    let params = other.params.unwrap_or_else(|| run["params"].clone());
    let mut body = json!({"params": params});
    let started = context.client.get(&format!("{path}/events?limit=1")).await?;
    let began_with = &started["items"][0]["data"]["context"];
    let kept = [("agent_id", &run["agent_id"]), ("labels", &run["labels"]), ("context", began_with)];
    for (name, value) in kept.into_iter().filter(|(_, value)| !value.is_null()) {
        body[name] = value.clone();
    }
    body.as_object_mut()
        .expect("it was made so")
        .extend(what_runs(context, &path, &run, other.version).await?);
    if let Some(id) = other.id {
        body["id"] = id.into();
    }
    let started = submit(context, body, None).await?;
    watch(context, &started, watch_args).await
}

/// What to run: its template, in another version if one is given, or else the definition that it is
/// pinned to, where that is not the template's (it was extended, say).
async fn what_runs(
    context: &Context,
    path: &str,
    run: &Value,
    version: Option<String>,
) -> Result<Map<String, Value>, Failure> {
    let fields = |value: Value| value.as_object().cloned().unwrap_or_default();
    let (name, own) = (run["template"].as_str(), run["version"].as_str());
    match (name, version) {
        (Some(name), Some(version)) => return Ok(fields(json!({"template": name, "version": version}))),
        (None, Some(_)) => {
            return Err(Failure::Usage("--version is of a template, and it came from none".into()));
        }
        (_, None) => {}
    }
    let definition = context.client.get(&format!("{path}/definition")).await?;
    if let (Some(name), Some(own)) = (name, own) {
        let of_version = format!("/v1/templates/{}?version={}", encoded(name), encoded(own));
        let template = context.client.get(&of_version).await?;
        if template["definition"] == definition || template["definition"] == definition["definition"] {
            return Ok(fields(json!({"template": name, "version": own})));
        }
    }
    Ok(fields(json!({"definition": definition})))
}

/// Shows where a run that was just told something is.
pub(crate) fn show_accepted(context: &Context, id: &str, what: &str, accepted: &Value) {
    match (context.output.format, context.output.quiet) {
        (Format::Table, true) => {}
        (Format::Table, false) => emit(&format!("{what} {id} (event {})", accepted["sequence"])),
        (Format::Json | Format::Jsonl | Format::Yaml, _) => context.output.document(accepted, pretty),
    }
}

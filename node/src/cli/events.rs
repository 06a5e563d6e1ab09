//! `opcode events`: the events of all workflows, as they happened lately and as they happen, over lost
//! connections.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use futures::StreamExt;
use serde_json::Value;

use super::client::with_query;
use super::failure::Failure;
use super::output::{Format, emit, shown, yaml};
use super::{Context, input};

/// Connections tried again in a row, with nothing shown between, before following is given up.
const RETRIES_MAX: u32 = 20;
/// Pause before the next connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest line that is kept.
const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest part of an event's data that is shown, in characters.
const DATA_CHARS_MAX: usize = 100;

/// Show the events of all workflows, or of some: what the logs still have, or with `--follow` what
/// happens.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode events --follow
  opcode events --since 5m --type workflow_failed
  opcode events --follow --template billing --label env=prod -o jsonl
  opcode events --after 120-77-4.2 -o jsonl

Events that the logs have let go of are shown by `opcode wf events`, run by run.")]
pub(crate) struct Events {
    /// Go on as they happen
    #[arg(long, short)]
    follow: bool,
    /// At or after this time: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    since: Option<String>,
    /// After this place, as an earlier call has told
    #[arg(long, value_name = "PLACE", conflicts_with = "since")]
    after: Option<String>,
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only of runs of this template
    #[arg(long)]
    template: Option<String>,
    /// Only of runs with this label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Only of this run
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Only of runs that this agent has started
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
}

pub(crate) async fn run(args: Events, context: &Context) -> Result<(), Failure> {
    let since = args.since.as_deref().map(DateTime::parse_from_rfc3339).transpose();
    let since = since.map_err(|error| Failure::Usage(format!("--since: {error}")))?.map(|at| at.to_utc());
    let mut place = match (&args.after, args.follow, since) {
        (Some(place), _, _) => Some(place.clone()),
        (None, true, None) => None,
        (None, _, _) => Some("earliest".to_owned()),
    };
    let mut tries = 0;
    loop {
        let before = place.clone();
        let ended = read(&args, since, &mut place, context).await;
        match ended {
            Ok(()) if !args.follow => break,
            Ok(()) => {}
            Err(failure @ Failure::Problem { status: 400..=499, .. }) => return Err(failure),
            Err(failure) if !args.follow || tries >= RETRIES_MAX => return Err(failure),
            Err(_) => {}
        }
        tries = if place == before { tries + 1 } else { 0 };
        if tries > RETRIES_MAX {
            return Err(Failure::local(format!("the stream was cut off {RETRIES_MAX} times")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    if let Some(place) = place {
        context.output.note(&format!("what follows: --after {place}"));
    }
    Ok(())
}

fn path(args: &Events, place: Option<&String>) -> String {
    let mut query: Vec<(&str, Option<String>)> = vec![
        ("template", args.template.clone()),
        ("workflow_id", args.workflow.clone()),
        ("agent_id", args.agent_id.clone()),
        ("after", place.cloned()),
        ("follow", Some(args.follow.to_string())),
    ];
    query.extend(args.types.iter().map(|one| ("type", Some(one.clone()))));
    query.extend(args.labels.iter().map(|(name, value)| ("label", Some(format!("{name}:{value}")))));
    with_query("/v1/events", &query)
}

/// Shows one connection's events; `place` is where the next one goes on.
async fn read(
    args: &Events,
    since: Option<DateTime<Utc>>,
    place: &mut Option<String>,
    context: &Context,
) -> Result<(), Failure> {
    let response = context.client.lines(&path(args, place.as_ref())).await?;
    let mut stream = response.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        buffer.extend_from_slice(&chunk.map_err(|error| context.client.failure(&error))?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let said: Value = serde_json::from_slice(&line)
                .map_err(|error| Failure::local(format!("the node sent what is not JSON: {error}")))?;
            show(&said, since, context);
            if let Some(after) = said["place"].as_str() {
                *place = Some(after.to_owned());
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(Failure::local("the node sent an event without end"));
        }
    }
    Ok(())
}

/// An event; a word of the stream on itself goes beside the output.
fn show(said: &Value, since: Option<DateTime<Utc>>, context: &Context) {
    if let Some(notice) = said["notice"].as_str() {
        let detail = shown(&said["detail"]);
        context.output.note(&format!("shard {}: {notice}: {detail}", shown(&said["shard"])));
        return;
    }
    let Some(at) = said["timestamp"].as_str() else { return };
    let is_wanted =
        since.is_none_or(|since| DateTime::parse_from_rfc3339(at).is_ok_and(|at| at.to_utc() >= since));
    if !is_wanted {
        return;
    }
    match context.output.format {
        Format::Table => emit(&line(said)),
        Format::Json | Format::Jsonl => emit(&said.to_string()),
        Format::Yaml => emit(&format!("---\n{}", yaml(said))),
    }
}

/// An event on one line.
fn line(event: &Value) -> String {
    let field = |name: &str| shown(&event[name]);
    let data: String = field("data").chars().take(DATA_CHARS_MAX).collect();
    let line = format!(
        "{}  {:<36} {:>4}  {:<22} {:<24} {data}",
        field("timestamp"),
        field("workflow_id"),
        field("sequence"),
        field("type"),
        field("step_id")
    );
    line.trim_end().to_owned()
}

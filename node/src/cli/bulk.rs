//! `opcode wf bulk`: one action on every workflow that matches, some at a time, so that it is seen
//! how far it has come and an interruption leaves the rest as it was.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::output::{facts, shown};
use super::{Context, input};

/// Workflows that one request goes through.
const AT_A_TIME: u32 = 1_000;

/// Flags of `opcode wf bulk`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode wf bulk cancel --template nightly --dry-run
  opcode wf bulk retry --label team=payments --since 2h --reason 'the bank is back'
  opcode wf bulk delete --status completed --until 720h")]
pub(crate) struct Bulk {
    /// What to do
    #[arg(value_enum)]
    action: Action,
    /// Only of this status, may be repeated; without it those that the action can apply to
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
    /// Every workflow that the action can apply to, where nothing else says which
    #[arg(long)]
    all: bool,
    /// Say how many match, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// What may be done to many.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    Cancel,
    Suspend,
    Resume,
    Retry,
    Delete,
}

impl Bulk {
    fn filter(&self) -> Map<String, Value> {
        let mut filter = Map::new();
        let texts = [
            ("agent_id", &self.agent_id),
            ("template", &self.template),
            ("since", &self.since),
            ("until", &self.until),
        ];
        filter.extend(texts.into_iter().filter_map(|(name, text)| Some((name.into(), text.clone()?.into()))));
        if !self.status.is_empty() {
            filter.insert("status".into(), self.status.clone().into());
        }
        if !self.labels.is_empty() {
            let labels: Map<_, _> = self.labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            filter.insert("labels".into(), labels.into());
        }
        filter
    }

    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let filter = self.filter();
        if filter.is_empty() && !self.all {
            return Err(Failure::Usage("say which workflows, or --all".into()));
        }
        let action = self.action.to_possible_value().expect("no action is skipped").get_name().to_owned();
        let mut body = Map::from_iter([("action".into(), action.into()), ("filter".into(), filter.into())]);
        body.extend(self.reason.clone().map(|reason| ("reason".to_owned(), reason.into())));
        Ok(body)
    }
}

/// What has been done so far.
#[derive(Default)]
struct Sums {
    matched: u64,
    applied: u64,
    refused: u64,
    unknown: u64,
    unreachable: Vec<Value>,
}

impl Sums {
    fn add(&mut self, answer: &Value) {
        let count = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.matched += count("matched");
        self.applied += count("applied");
        self.refused += count("refused");
        self.unknown += count("unknown");
        self.unreachable.extend(answer["unreachable_shards"].as_array().cloned().unwrap_or_default());
    }

    fn document(&self) -> Value {
        let mut document = json!({"matched": self.matched, "applied": self.applied, "refused": self.refused});
        if self.unknown > 0 {
            document["unknown"] = self.unknown.into();
        }
        if !self.unreachable.is_empty() {
            document["unreachable_shards"] = self.unreachable.clone().into();
        }
        document
    }
}

pub(crate) async fn run(args: Bulk, context: &Context) -> Result<(), Failure> {
    let body = args.body()?;
    let is_watched = !context.output.quiet && std::io::stderr().is_terminal();
    let total = match is_watched && !args.dry_run {
        true => go(&body, true, context, |_| ()).await?.matched,
        false => 0,
    };
    let show = |sums: &Sums| {
        if is_watched && !args.dry_run {
            // Progress is for the eye alone: one that cannot be shown harms nothing.
            let _ = write!(std::io::stderr(), "\r{} of {total}", sums.matched);
        }
    };
    let done = go(&body, args.dry_run, context, show).await;
    if is_watched && !args.dry_run {
        eprintln!();
    }
    let sums = done?;
    context.output.document(&sums.document(), |document| {
        facts(
            document,
            if args.dry_run { &["matched"] } else { &["matched", "applied", "refused", "unknown"] },
        )
    });
    match sums.unreachable.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Partial(format!(
            "shard {} has not done all: {}; the same command again does the rest",
            first["shard"],
            shown(&first["detail"])
        ))),
    }
}

/// Asks again and again, until all that match are gone through.
async fn go(
    body: &Map<String, Value>,
    dry_run: bool,
    context: &Context,
    show: impl Fn(&Sums),
) -> Result<Sums, Failure> {
    let mut body = body.clone();
    body.insert("dry_run".into(), dry_run.into());
    if !dry_run {
        body.insert("limit".into(), AT_A_TIME.into());
    }
    let mut sums = Sums::default();
    loop {
        let answer = context.client.post("/v1/workflows/bulk", &Value::Object(body.clone())).await?;
        sums.add(&answer);
        show(&sums);
        let Some(next) = answer["next_cursor"].as_str() else { return Ok(sums) };
        body.insert("cursor".into(), next.into());
    }
}

//! `opcode schedule`: templates that run by the clock.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Context;
use super::client::{encoded, with_query};
use super::failure::Failure;
use super::input;
use super::output::{Format, emit, facts, pretty};
use super::wf::paged;

/// Commands on schedules.
#[derive(Subcommand)]
pub(crate) enum Schedule {
    /// Run a template by the clock
    Create(Box<Create>),
    /// List schedules
    #[command(after_help = "Examples:\n  opcode schedule list\n  opcode schedule list --all -o jsonl")]
    List {
        /// Schedules at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every schedule
        #[arg(long)]
        all: bool,
    },
    /// Show a schedule
    #[command(after_help = "Examples:\n  opcode schedule get nightly\n  opcode schedule get nightly -o json")]
    Get {
        /// The schedule's id
        id: String,
    },
    /// Let slots pass until it is resumed
    #[command(after_help = "Examples:\n  opcode schedule pause nightly")]
    Pause {
        /// The schedule's id
        id: String,
    },
    /// Go on after a pause, from now
    #[command(after_help = "Examples:\n  opcode schedule resume nightly")]
    Resume {
        /// The schedule's id
        id: String,
    },
    /// Start a run now, beside its slots
    #[command(
        after_help = "Examples:\n  opcode schedule trigger nightly\n  opcode schedule trigger nightly -q"
    )]
    Trigger {
        /// The schedule's id
        id: String,
    },
    /// Show the next slots
    #[command(
        after_help = "Examples:\n  opcode schedule next nightly\n  opcode schedule next nightly -n 20 -q"
    )]
    Next {
        /// The schedule's id
        id: String,
        /// How many
        #[arg(short, default_value_t = 5)]
        n: u32,
    },
    /// Start the runs of slots that have passed and have none
    #[command(after_help = "Examples:
  opcode schedule backfill nightly --since 2026-11-01T00:00:00Z
  opcode schedule backfill hourly --since 12h --until 6h")]
    Backfill {
        /// The schedule's id
        id: String,
        /// At or after this time: RFC 3339, or how long ago
        #[arg(long, value_name = "TIME", value_parser = input::time)]
        since: String,
        /// Before this time; now without it
        #[arg(long, value_name = "TIME", value_parser = input::time)]
        until: Option<String>,
    },
    /// Delete a schedule; its runs stay
    #[command(after_help = "Examples:\n  opcode schedule rm nightly")]
    Rm {
        /// The schedule's id
        id: String,
    },
}

/// Flags of `opcode schedule create`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode schedule create backup --id nightly --cron '0 2 * * *' --timezone Europe/Berlin
  opcode schedule create poll@v2 --interval 5m --overlap queue --missed all
  opcode schedule create announce --at 2027-01-01T00:00:00Z --params '{\"year\": 2027}'")]
pub(crate) struct Create {
    /// The template that it runs (`NAME@v2` for a version; else the newest at each slot)
    template: String,
    /// Its id; without one the server makes one
    #[arg(long)]
    id: Option<String>,
    #[command(flatten)]
    when: WhenArgs,
    /// Time zone of the pattern; UTC without it
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Params of the runs: JSON, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    params: Option<String>,
    /// Slots that nobody could act on in time: `skip`, `one` (default) or `all`
    #[arg(long)]
    missed: Option<String>,
    /// A slot before the earlier one's run has ended: `skip` (default), `queue` or `parallel`
    #[arg(long)]
    overlap: Option<String>,
    /// Begin with a pause
    #[arg(long)]
    paused: bool,
    /// A label of the runs, may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Who starts the runs
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
}

/// When it fires.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhenArgs {
    /// Five fields: minute, hour, day, month, weekday; or `@daily` and the like
    #[arg(long, value_name = "PATTERN")]
    cron: Option<String>,
    /// Every so often: `5m`, `1h30m`
    #[arg(long, value_name = "DURATION")]
    interval: Option<String>,
    /// Once, RFC 3339
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

pub(crate) async fn run(command: Schedule, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        Schedule::Create(args) => {
            let created = client.post("/v1/schedules", &body(*args)?).await?;
            show(context, &created);
        }
        Schedule::List { limit, cursor, all } => {
            let columns = [
                ("ID", "id"),
                ("TEMPLATE", "template"),
                ("WHEN", "when"),
                ("NEXT", "next_slot"),
                ("LAST", "last_slot"),
                ("PAUSED", "paused"),
            ];
            let mut page = paged(context, "/v1/schedules", &[], limit, cursor, all).await?;
            if context.output.format == Format::Table {
                add_when(&mut page);
            }
            context.output.list(&page, &columns);
        }
        Schedule::Get { id } => show(context, &client.get(&path(&id, "")).await?),
        Schedule::Pause { id } => {
            show(context, &client.patch(&path(&id, ""), &json!({"paused": true})).await?);
        }
        Schedule::Resume { id } => {
            show(context, &client.patch(&path(&id, ""), &json!({"paused": false})).await?);
        }
        Schedule::Trigger { id } => {
            let started = client.post(&path(&id, "/trigger"), &json!({})).await?;
            match is_quiet(context) {
                true => emit(started["workflow_id"].as_str().unwrap_or_default()),
                false => context.output.document(&started, |s| facts(s, &["workflow_id", "status"])),
            }
        }
        Schedule::Next { id, n } => {
            let next = with_query(&path(&id, "/next"), &[("n", Some(n.to_string()))]);
            let columns = [("SLOT", "slot"), ("WORKFLOW", "workflow_id")];
            context.output.list(&client.get(&next).await?, &columns);
        }
        Schedule::Backfill { id, since, until } => {
            let now = || chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            let range = json!({"since": since, "until": until.unwrap_or_else(now)});
            let done = client.post(&path(&id, "/backfill"), &range).await?;
            context.output.document(&done, |done| facts(done, &["matched", "started", "already"]));
        }
        Schedule::Rm { id } => {
            let deleted = client.delete(&path(&id, "")).await?;
            if !is_quiet(context) {
                context.output.document(&deleted, |_| format!("deleted the schedule {id}"));
            }
        }
    }
    Ok(())
}

/// Whether only what was asked for is to be printed.
fn is_quiet(context: &Context) -> bool {
    context.output.format == Format::Table && context.output.quiet
}

fn path(id: &str, call: &str) -> String {
    format!("/v1/schedules/{}{call}", encoded(id))
}

fn body(args: Create) -> Result<Value, Failure> {
    let mut body = Map::new();
    let (name, version) =
        args.template.split_once('@').map_or((args.template.as_str(), None), |(name, v)| (name, Some(v)));
    body.insert("template".into(), name.into());
    body.extend(version.map(|version| ("version".to_owned(), version.into())));
    let WhenArgs { cron, interval, at } = args.when;
    let texts = [
        ("id", args.id),
        ("cron", cron),
        ("interval", interval),
        ("at", at),
        ("timezone", args.timezone),
        ("missed", args.missed),
        ("overlap", args.overlap),
        ("agent_id", args.agent_id),
    ];
    body.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))));
    if let Some(params) = &args.params {
        body.insert("params".into(), input::json("--params", params)?);
    }
    if args.paused {
        body.insert("paused".into(), true.into());
    }
    if !args.labels.is_empty() {
        let labels: Map<_, _> = args.labels.into_iter().map(|(name, value)| (name, value.into())).collect();
        body.insert("labels".into(), labels.into());
    }
    Ok(Value::Object(body))
}

fn show(context: &Context, schedule: &Value) {
    if is_quiet(context) {
        return emit(schedule["id"].as_str().unwrap_or_default());
    }
    context.output.document(schedule, |schedule| {
        let names = [
            "id",
            "template",
            "version",
            "cron",
            "timezone",
            "interval",
            "at",
            "missed",
            "overlap",
            "paused",
            "labels",
            "agent_id",
            "next_slot",
            "last_slot",
            "last_workflow_id",
            "created_at",
            "updated_at",
        ];
        let head = facts(schedule, &names);
        let error = &schedule["last_error"];
        let error = match error.is_null() {
            true => String::new(),
            false => format!("\nlast error\n{}", facts(error, &["slot", "code", "message"])),
        };
        format!("{head}{error}\n{}", pretty(schedule.get("params").unwrap_or(&Value::Null)))
    });
}

/// A column that says when each fires, for the table.
fn add_when(page: &mut Value) {
    let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) else { return };
    for item in items {
        let text = |name: &str| item[name].as_str().map(str::to_owned);
        let cron = text("cron").map(|cron| match text("timezone") {
            Some(zone) if zone != "UTC" => format!("{cron} {zone}"),
            Some(_) | None => cron,
        });
        let interval = text("interval").map(|interval| format!("every {interval}"));
        item["when"] = cron.or(interval).or(text("at")).into();
    }
}

//! Schedules: what is due next, what was, and what can be done about it.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::act::{Action, Field};
use super::cluster::Form;
use super::contract::{Answer, Instead, Items, Problem, Shown};
use super::markup::{Markup, badge, escaped, pretty, when, when_if};
use super::page::{Chrome, Confirm, Nav, html, redirect};
use super::visit::{Visit, encoded};

/// Rows of a page.
const ROWS: usize = 100;
/// Slots that are shown.
const SLOTS: usize = 10;
/// How often the list is brought up to date, in seconds.
const EVERY_S: u32 = 10;

/// A schedule of the contract.
#[derive(Deserialize)]
struct Schedule {
    id: String,
    template: String,
    version: Option<String>,
    #[serde(default)]
    params: Value,
    cron: Option<String>,
    interval: Option<String>,
    at: Option<String>,
    timezone: Option<String>,
    missed: String,
    overlap: String,
    paused: bool,
    by_template: bool,
    next_slot: Option<String>,
    last_slot: Option<String>,
    last_workflow_id: Option<String>,
    last_error: Option<SlotError>,
    waiting: u64,
}

#[derive(Deserialize)]
struct SlotError {
    slot: String,
    message: String,
}

#[derive(Deserialize)]
struct Slot {
    slot: String,
}

impl Schedule {
    fn when(&self) -> String {
        let zone = self.timezone.as_ref().map(|zone| format!(" {zone}")).unwrap_or_default();
        match (&self.cron, &self.interval, &self.at) {
            (Some(cron), _, _) => format!("{cron}{zone}"),
            (_, Some(interval), _) => format!("every {interval}"),
            (_, _, Some(at)) => format!("once, {at}"),
            (None, None, None) => String::new(),
        }
    }

    fn standing(&self) -> Markup {
        match (self.paused, self.next_slot.is_some()) {
            (true, _) => badge("paused"),
            (false, true) => badge("scheduled"),
            (false, false) => badge("over"),
        }
    }

    fn url(&self) -> String {
        format!("/console/schedule/{}", encoded(&self.id))
    }

    fn error(&self) -> Option<String> {
        self.last_error.as_ref().map(|error| format!("{}: {}", error.slot, error.message))
    }
}

#[derive(Template)]
#[template(path = "schedules.html")]
struct List {
    chrome: Chrome,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    id: String,
    url: String,
    template: String,
    when: String,
    next: Markup,
    last: Markup,
    last_run: Option<String>,
    standing: Markup,
    error: Option<String>,
}

pub(super) async fn list(visit: Visit) -> Shown {
    let cursor = visit.asked("cursor").map(|cursor| format!("&cursor={}", encoded(cursor)));
    let url = format!("/v1/schedules?limit={ROWS}{}", cursor.unwrap_or_default());
    let page: Items<Schedule> = visit.get(&url).await?;
    let row = |schedule: &Schedule| Row {
        id: schedule.id.clone(),
        url: schedule.url(),
        template: schedule.template.clone(),
        when: schedule.when(),
        next: when_if(schedule.next_slot.as_ref()),
        last: when_if(schedule.last_slot.as_ref()),
        last_run: schedule.last_workflow_id.as_deref().map(encoded),
        standing: schedule.standing(),
        error: schedule.error(),
    };
    let list = List {
        chrome: visit.chrome(Nav::Schedules, "Schedules").every(EVERY_S),
        rows: page.items.iter().map(row).collect(),
        next: page.next_cursor.map(|next| format!("/console/schedules?cursor={}", encoded(&next))),
    };
    Ok(html(StatusCode::OK, &list))
}

#[derive(Template)]
#[template(path = "schedule.html")]
struct Page {
    chrome: Chrome,
    id: String,
    standing: Markup,
    actions: Vec<Action>,
    facts: Vec<(&'static str, Markup)>,
    error: Option<String>,
    slots: Vec<(String, Markup)>,
    params: String,
}

fn path_of(id: &str) -> String {
    format!("/v1/schedules/{}", encoded(id))
}

pub(super) async fn show(visit: Visit) -> Shown {
    let path = path_of(&visit.segment(2));
    let schedule: Schedule = visit.get(&path).await?;
    let slots: Items<Slot> = visit.get(&format!("{path}/next?n={SLOTS}")).await?;
    let act = |name, word: &str, key, is_dangerous| Action {
        name,
        url: format!("{}/do/{word}", schedule.url()),
        key,
        is_dangerous,
    };
    let pause = if schedule.paused {
        act("Let it fire", "resume", "p", false)
    } else {
        act("Pause", "pause", "p", false)
    };
    let text = |text: &str| Markup(escaped(text));
    let template = format!(
        "<a href=\"/console/template/{}\">{} {}</a>",
        encoded(&schedule.template),
        escaped(&schedule.template),
        escaped(schedule.version.as_deref().unwrap_or("(the newest)")),
    );
    let last = schedule
        .last_workflow_id
        .as_ref()
        .map(|run| Markup(format!("<a href=\"/console/workflows/{}\">{}</a>", encoded(run), escaped(run))));
    let mut facts = vec![
        ("Template", Markup(template)),
        ("When", text(&schedule.when())),
        ("Missed slots", text(&schedule.missed)),
        ("Overlaps", text(&schedule.overlap)),
        ("Last slot", when_if(schedule.last_slot.as_ref())),
        ("Last run", last.unwrap_or_default()),
        ("Slots that wait", Markup(schedule.waiting.to_string())),
        ("Made by", text(if schedule.by_template { "the triggers of its template" } else { "people" })),
    ];
    facts.retain(|(_, value)| !value.0.is_empty());
    let page = Page {
        chrome: visit.chrome(Nav::Schedules, schedule.id.clone()),
        standing: schedule.standing(),
        actions: vec![
            act("Run it now", "trigger", "t", false),
            pause,
            act("Backfill", "backfill", "b", false),
            act("Delete", "delete", "d", true),
        ],
        facts,
        error: schedule.error(),
        slots: slots.items.into_iter().map(|slot| (slot.slot.clone(), when(&slot.slot))).collect(),
        params: pretty(&schedule.params),
        id: schedule.id,
    };
    Ok(html(StatusCode::OK, &page))
}

/// Asks.
pub(super) async fn ask(visit: Visit) -> Shown {
    let id = visit.segment(2);
    let back = format!("/console/schedule/{}", encoded(&id));
    let (question, consequence, button, is_dangerous) = match visit.segment(4).as_str() {
        "pause" => {
            (format!("Pause {id}?"), "Its slots pass until it is told to fire again.", "Pause it", false)
        }
        "resume" => (
            format!("Let {id} fire again?"),
            "What of the slots that have passed, `missed` says.",
            "Let it fire",
            false,
        ),
        "trigger" => (format!("Run {id} now?"), "One run starts, beside its slots.", "Run it", false),
        "delete" => (
            format!("Delete {id}?"),
            "It fires no more; the runs that it has started stay.",
            "Delete it",
            true,
        ),
        "backfill" => return Ok(html(StatusCode::OK, &backfill(&visit, &id, None))),
        _ => return Err(visit.nothing_here()),
    };
    let page = Confirm {
        chrome: visit.chrome(Nav::Schedules, question.clone()),
        question,
        consequences: vec![consequence.to_owned()],
        hidden: Vec::new(),
        button,
        is_dangerous,
        back,
    };
    Ok(html(StatusCode::OK, &page))
}

fn backfill(visit: &Visit, id: &str, problem: Option<Problem>) -> Form {
    let field = |name: &'static str| visit.field(name).unwrap_or_default();
    Form {
        chrome: visit.chrome(Nav::Schedules, format!("Backfill {id}")),
        about: vec![
            "Starts the runs of slots that have passed, those that have none yet, all at once.".into(),
        ],
        fields: vec![
            Field::line("since", "From, as 2026-01-31T00:00:00Z", field("since")),
            Field::line("until", "Until before", field("until")),
        ],
        button: "Start them",
        is_dangerous: false,
        back: format!("/console/schedule/{}", encoded(id)),
        problem,
    }
}

/// Does it.
pub(super) async fn apply(visit: Visit) -> Shown {
    let id = visit.segment(2);
    let (path, own) = (path_of(&id), format!("/console/schedule/{}", encoded(&id)));
    let (answer, note) = match visit.segment(4).as_str() {
        "pause" => (visit.call(Method::PATCH, &path, Some(&json!({"paused": true}))).await?, "paused"),
        "resume" => (visit.call(Method::PATCH, &path, Some(&json!({"paused": false}))).await?, "unpaused"),
        "trigger" => (visit.call(Method::POST, &format!("{path}/trigger"), None).await?, "triggered"),
        "delete" => (visit.call(Method::DELETE, &path, None).await?, "unscheduled"),
        "backfill" => {
            let body = json!({"since": visit.field("since"), "until": visit.field("until")});
            match visit.call(Method::POST, &format!("{path}/backfill"), Some(&body)).await? {
                Answer::Refused(problem) => return Ok(again(&backfill(&visit, &id, Some(problem)))),
                done @ Answer::Done(_) => (done, "backfilled"),
            }
        }
        _ => return Err(visit.nothing_here()),
    };
    match answer {
        Answer::Refused(problem) => Err(visit.refused(problem)),
        Answer::Done(_) if note == "unscheduled" => Ok(redirect("/console/schedules?note=unscheduled")),
        Answer::Done(_) => Ok(redirect(&format!("{own}?note={note}"))),
    }
}

/// A form once more, with what was wrong.
pub(super) fn again(form: &Form) -> axum::response::Response {
    let status = form.problem.as_ref().and_then(|problem| StatusCode::from_u16(problem.status).ok());
    html(status.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY), form)
}

/// The form of a new one.
pub(super) async fn form(visit: Visit) -> Shown {
    Ok(html(StatusCode::OK, &new(&visit, None)))
}

fn new(visit: &Visit, problem: Option<Problem>) -> Form {
    let field = |name: &'static str, label, default: &str| {
        let given = visit.field(name).or(visit.asked(name)).unwrap_or(default);
        Field::line(name, label, given)
    };
    Form {
        chrome: visit.chrome(Nav::Schedules, "Make a schedule"),
        about: vec!["One of the three says when: a pattern, an interval, or a time.".into()],
        fields: vec![
            field("id", "Id (one is made without it)", ""),
            field("template", "Template", ""),
            field("version", "Version (the newest at each slot without it)", ""),
            field("cron", "Pattern: minute, hour, day, month, weekday", ""),
            field("interval", "or interval, as 5m or 1h30m", ""),
            field("at", "or once, as 2026-01-31T00:00:00Z", ""),
            field("timezone", "Time zone of the pattern", "UTC"),
            field("missed", "Slots that nobody could act on in time: skip, one or all", "one"),
            field("overlap", "A slot before the earlier run has ended: skip, queue or parallel", "skip"),
            Field::text("params", "Params, in JSON", visit.field("params").unwrap_or("{}")),
        ],
        button: "Make it",
        is_dangerous: false,
        back: "/console/schedules".into(),
        problem,
    }
}

/// Makes it.
pub(super) async fn create(visit: Visit) -> Shown {
    let body = Value::Object(spec(&visit)?);
    match visit.call(Method::POST, "/v1/schedules", Some(&body)).await? {
        Answer::Refused(problem) => Ok(again(&new(&visit, Some(problem)))),
        Answer::Done(answer) => {
            let made: Option<Schedule> = serde_json::from_slice(&answer).ok();
            let url = made.map_or_else(|| "/console/schedules".to_owned(), |made| made.url());
            Ok(redirect(&format!("{url}?note=scheduled")))
        }
    }
}

fn spec(visit: &Visit) -> Result<Map<String, Value>, Instead> {
    let mut body = Map::new();
    for name in ["id", "template", "version", "cron", "interval", "at", "missed", "overlap"] {
        if let Some(value) = visit.field(name) {
            body.insert(name.to_owned(), value.trim().into());
        }
    }
    if let (Some(zone), true) = (visit.field("timezone"), body.contains_key("cron")) {
        body.insert("timezone".to_owned(), zone.trim().into());
    }
    if let Some(params) = visit.json_field("params")? {
        body.insert("params".to_owned(), params);
    }
    Ok(body)
}

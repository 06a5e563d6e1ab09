//! One workflow: how it stands and why, its diagram, its steps in time, its events, what it was given.

use std::fmt;
use std::marker::PhantomData;

use askama::Template;
use axum::http::StatusCode;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::act::{Action, actions};
use super::contract::{Instead, Items, Shown};
use super::markup::{Markup, badge, cut, escaped, pretty, when, when_if};
use super::page::{Chrome, Nav, html};
use super::timeline::{Steps, steps};
use super::visit::{Visit, encoded};
use super::why::{Reasons, Wait};
use super::workflows::{Failed, took};

/// Events of one page.
const EVENTS: usize = 200;
/// Events that the bars are drawn from, at most.
const EVENTS_FOR_BARS: usize = 1_000;
/// Longest data of an event that stands open, in characters.
const DATA_CHARS: usize = 100;

/// `GET /v1/workflows/{id}`.
#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) workflow_id: String,
    pub(super) status: String,
    pub(super) template: Option<String>,
    pub(super) version: Option<String>,
    pub(super) agent_id: Option<String>,
    #[serde(default)]
    pub(super) params: Value,
    #[serde(default)]
    pub(super) output: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Failed>,
    #[serde(default)]
    pub(super) labels: std::collections::BTreeMap<String, String>,
    pub(super) steps: Pairs<Step>,
    #[serde(default)]
    pub(super) context: Value,
    pub(super) created_at: String,
    pub(super) started_at: Option<String>,
    pub(super) completed_at: Option<String>,
    #[serde(default)]
    pub(super) parent: Option<Parent>,
}

#[derive(Deserialize)]
pub(super) struct Parent {
    workflow_id: String,
}

/// A step of it.
#[derive(Deserialize)]
pub(super) struct Step {
    pub(super) status: String,
    #[serde(default)]
    pub(super) output: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Value>,
    #[serde(default)]
    pub(super) attempts: u32,
    pub(super) started_at: Option<String>,
    pub(super) completed_at: Option<String>,
    pub(super) duration_ms: Option<u64>,
    #[serde(default)]
    pub(super) child: Option<String>,
}

/// An event of it.
#[derive(Deserialize)]
pub(super) struct Event {
    pub(super) sequence: u64,
    pub(super) r#type: String,
    pub(super) step_id: Option<String>,
    #[serde(default)]
    pub(super) data: Value,
    pub(super) agent_id: Option<String>,
    pub(super) timestamp: String,
}

/// The members of an object, in their order.
pub(super) struct Pairs<T>(pub(super) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Pairs<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(Members(PhantomData))
    }
}

#[derive(Template)]
#[template(path = "run.html")]
struct Page {
    chrome: Chrome,
    id: String,
    status: Markup,
    actions: Vec<Action>,
    facts: Vec<(&'static str, Markup)>,
    error: Option<Fault>,
    waits: Vec<Wait>,
    tabs: Vec<TabLink>,
    tab: Tab,
    shell: Vec<String>,
}

struct Fault {
    code: String,
    message: String,
    /// Where to read of the step, and its id.
    step: Option<(String, String)>,
}

/// A link to a part of a page.
pub(super) struct TabLink {
    pub(super) name: &'static str,
    pub(super) url: String,
    pub(super) is_here: bool,
}

enum Tab {
    Steps(Box<Steps>),
    Events(Events),
    Text(Vec<(&'static str, String)>),
}

struct Events {
    rows: Vec<EventRow>,
    next: Option<String>,
}

/// An event as a row.
pub(super) struct EventRow {
    pub(super) sequence: u64,
    pub(super) at: String,
    pub(super) clock: String,
    pub(super) kind: String,
    pub(super) step: String,
    pub(super) agent: String,
    pub(super) short: String,
    pub(super) data: String,
    pub(super) is_long: bool,
}

impl EventRow {
    pub(super) fn of(event: &Event) -> Self {
        let text = if event.data.as_object().is_some_and(serde_json::Map::is_empty) {
            String::new()
        } else {
            event.data.to_string()
        };
        Self {
            sequence: event.sequence,
            at: event.timestamp.clone(),
            // The time of day; the day stands in its title.
            clock: event.timestamp.get(11..23).unwrap_or(&event.timestamp).to_owned(),
            kind: event.r#type.replace('_', " "),
            step: event.step_id.clone().unwrap_or_default(),
            agent: event.agent_id.clone().unwrap_or_default(),
            short: cut(&text, DATA_CHARS),
            is_long: text.chars().count() > DATA_CHARS,
            data: pretty(&event.data),
        }
    }
}

pub(super) async fn show(visit: Visit) -> Shown {
    let id = visit.segment(2);
    let path = format!("/v1/workflows/{}", encoded(&id));
    let run: Run = visit.get(&path).await?;
    let has_ended = matches!(run.status.as_str(), "completed" | "failed" | "cancelled");
    let waits = match has_ended {
        true => Vec::new(),
        false => {
            let reasons: Option<Reasons> = visit.try_get(&format!("{path}/why")).await?;
            reasons.map(|reasons| reasons.waits(&id)).unwrap_or_default()
        }
    };
    let chosen = visit.asked("tab").unwrap_or("steps");
    let (tab, after) = tab(&visit, &path, &run, chosen).await?;
    let own = format!("/console/workflows/{}", encoded(&id));
    let link = |name, word: &str| TabLink { name, url: format!("{own}?tab={word}"), is_here: chosen == word };
    let mut chrome = visit.chrome(Nav::Workflows, run.workflow_id.clone());
    chrome.stream = (!has_ended).then(|| format!("{own}/stream?after={after}"));
    let page = Page {
        chrome,
        status: badge(&run.status),
        actions: actions(&id, &run.status),
        facts: facts(&run),
        error: run.error.as_ref().map(|error| fault(&id, error)),
        waits,
        tabs: vec![
            link("Steps", "steps"),
            link("Events", "events"),
            link("Params and output", "data"),
            link("Definition", "definition"),
        ],
        tab,
        shell: vec![
            format!("opcode --server {} wf get {id}", visit.origin()),
            format!("curl {}/v1/workflows/{id}", visit.origin()),
            format!("curl -N {}/v1/workflows/{id}/events -H 'Accept: text/event-stream'", visit.origin()),
        ],
        id,
    };
    Ok(html(StatusCode::OK, &page))
}

/// A part of the page, and the last event that it shows, as far as that is known.
async fn tab(visit: &Visit, path: &str, run: &Run, chosen: &str) -> Result<(Tab, u64), Instead> {
    let mut after = 0;
    let tab = match chosen {
        "events" => {
            let after = visit.asked("after").and_then(|after| after.parse::<u64>().ok()).unwrap_or(0);
            let url = format!("{path}/events?limit={EVENTS}&after={after}");
            let page: Items<Event> = visit.get(&url).await?;
            let own = format!("/console/workflows/{}?tab=events", encoded(&run.workflow_id));
            let next = page.next_cursor.map(|next| format!("{own}&after={}", encoded(&next)));
            Tab::Events(Events { rows: page.items.iter().map(EventRow::of).collect(), next })
        }
        "data" => Tab::Text(vec![
            ("Params", pretty(&run.params)),
            ("Output", run.output.as_ref().map_or_else(|| "none yet".to_owned(), pretty)),
            ("Context", pretty(&run.context)),
        ]),
        "definition" => {
            let definition: Value = visit.get(&format!("{path}/definition")).await?;
            Tab::Text(vec![("Definition", pretty(&definition))])
        }
        _ => {
            let (drawn, events) =
                (format!("{path}/diagram?format=svg"), format!("{path}/events?limit={EVENTS_FOR_BARS}"));
            let (drawn, events) = tokio::join!(visit.text(&drawn), visit.get::<Items<Event>>(&events));
            let from = visit.asked("from").and_then(|from| from.parse().ok()).unwrap_or(0);
            let events = events?;
            after = events.items.last().map_or(0, |event| event.sequence);
            Tab::Steps(Box::new(steps(run, &events, diagram(&drawn?), from)))
        }
    };
    Ok((tab, after))
}

/// A picture of the contract as a part of a page: without its own colours, which stand in the page's
/// stylesheet.
pub(super) fn diagram(svg: &str) -> Markup {
    let (Some((head, rest)), true) = (svg.split_once("<style>"), svg.starts_with("<svg ")) else {
        return Markup::default();
    };
    Markup(format!("{head}{}", rest.split_once("</style>").map_or("", |(_, rest)| rest)))
}

fn facts(run: &Run) -> Vec<(&'static str, Markup)> {
    let text = |text: &str| Markup(escaped(text));
    let link =
        |url: String, name: &str| Markup(format!("<a href=\"{}\">{}</a>", escaped(&url), escaped(name)));
    let mut facts = Vec::new();
    if let Some(template) = &run.template {
        let version = run.version.as_deref().unwrap_or_default();
        let url = format!("/console/template/{}?version={}", encoded(template), encoded(version));
        facts.push(("Template", link(url, &format!("{template} {version}"))));
    }
    facts.push(("Made", when(&run.created_at)));
    facts.push(("Started", when_if(run.started_at.as_ref())));
    facts.push(("Ended", when_if(run.completed_at.as_ref())));
    facts.push(("Took", text(&took(run.started_at.as_deref(), run.completed_at.as_deref()))));
    if let Some(agent) = &run.agent_id {
        facts.push(("Agent", link(format!("/console/workflows?agent_id={}", encoded(agent)), agent)));
    }
    if let Some(parent) = &run.parent {
        let id = &parent.workflow_id;
        facts.push(("Child of", link(format!("/console/workflows/{}", encoded(id)), id)));
    }
    for (name, value) in &run.labels {
        let label = format!("{name}:{value}");
        facts.push(("Label", link(format!("/console/workflows?label={}", encoded(&label)), &label)));
    }
    facts.retain(|(_, value)| !value.0.is_empty());
    facts
}

fn fault(id: &str, error: &Failed) -> Fault {
    let step = error.step_id.as_ref().map(|step| (step_url(id, step), step.clone()));
    Fault { code: error.code.clone(), message: error.message.clone(), step }
}

/// Where one step is shown.
pub(super) fn step_url(id: &str, step: &str) -> String {
    format!("/console/workflows/{}/step?id={}", encoded(id), encoded(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_stands_in_a_page_without_its_style() {
        let drawn = diagram("<svg width=\"1\">\n<style>text{}</style>\n<g/></svg>\n").0;
        assert_eq!(drawn, "<svg width=\"1\">\n\n<g/></svg>\n");
        assert_eq!(diagram("<html><style></style>").0, "");
    }

    #[test]
    fn steps_keep_their_order() {
        let pairs: Pairs<u8> = serde_json::from_str(r#"{"b": 1, "a": 2}"#).unwrap();
        assert_eq!(pairs.0, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
    }
}

//! A schedule as it stands in the catalogue, and the reading of bodies that make or change one.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::ids::{Timestamp, WorkflowId};
use opcode_engine::namespace::local;
use opcode_engine::schedule::{Cron, Interval, Missed, Overlap, Policy, Standing, Trigger, Zone};
use opcode_engine::{Code, Problem};
use opcode_shard::handle::Submission;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::access::Caller;
use crate::error::ApiError;
use crate::submission::{Found, request, version};
use crate::wire::{Fields, invalid, unknown};

/// Largest schedule, in bytes of its document, without what it comes to keep of its slots.
const SPEC_BYTES_MAX: usize = 32 * 1024;
/// Longest message of a failure that is kept, in characters.
const MESSAGE_CHARS_MAX: usize = 500;
/// The label of a schedule's runs.
const LABEL: &str = "schedule";

/// When a schedule fires, as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    Cron { pattern: String, timezone: String },
    Interval(String),
    At(Timestamp),
}

impl When {
    /// What it says; the error names the field that says nothing.
    pub(crate) fn trigger(&self) -> Result<Trigger, (&'static str, String)> {
        match self {
            Self::Cron { pattern, timezone } => {
                let zone = Zone::parse(timezone).map_err(|message| ("timezone", message))?;
                let cron = Cron::parse(pattern, zone).map_err(|message| ("cron", message))?;
                Ok(Trigger::Cron(Box::new(cron)))
            }
            Self::Interval(text) => {
                Interval::parse(text).map(Trigger::Interval).map_err(|message| ("interval", message))
            }
            Self::At(at) => Ok(Trigger::At(*at)),
        }
    }
}

/// What people say of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) template: Arc<str>,
    /// The newest at each slot without it.
    pub(crate) version: Option<u32>,
    pub(crate) params: Value,
    pub(crate) when: When,
    pub(crate) missed: Missed,
    pub(crate) overlap: Overlap,
    pub(crate) paused: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) agent_id: Option<Arc<str>>,
}

/// Why a slot has no run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) slot: Timestamp,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A schedule, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) spec: Spec,
    /// Made by the `triggers` of its template, and goes with them.
    pub(crate) by_template: bool,
    pub(crate) created_at: Timestamp,
    /// When people changed it last.
    pub(crate) updated_at: Timestamp,
    /// Counts their changes, from 1.
    pub(crate) revision: u64,
    pub(crate) standing: Standing,
    /// The last slot that was acted on.
    pub(crate) last_slot: Option<Timestamp>,
    /// The last run that a slot has started.
    pub(crate) last_workflow_id: Option<WorkflowId>,
    pub(crate) last_error: Option<Failed>,
}

impl Schedule {
    pub(crate) fn new(spec: Spec, by_template: bool, now: Timestamp) -> Self {
        Self {
            spec,
            by_template,
            created_at: now,
            updated_at: now,
            revision: 1,
            standing: Standing { done: now, waiting: Vec::new() },
            last_slot: None,
            last_workflow_id: None,
            last_error: None,
        }
    }

    /// The same with other words. What would have fired while it was paused, or by other words, never
    /// was due.
    pub(crate) fn changed(&self, spec: Spec, now: Timestamp) -> Self {
        let mut changed = Self { updated_at: now, revision: self.revision + 1, ..self.clone() };
        if self.spec.paused != spec.paused || self.spec.when != spec.when {
            changed.standing.done = self.standing.done.max(now);
        }
        changed.spec = spec;
        changed
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy { missed: self.spec.missed, overlap: self.spec.overlap }
    }

    /// The first slot after now and after where it stands.
    pub(crate) fn next_slot(&self, trigger: &Trigger, now: Timestamp) -> Option<Timestamp> {
        trigger.next_after(self.standing.done.max(now)).filter(|_| !self.spec.paused)
    }

    /// Takes note that a slot could not be started, and never will be.
    pub(crate) fn failed(&mut self, slot: Timestamp, code: &str, message: &str) {
        let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
        self.last_error = Some(Failed { slot, code: code.to_owned(), message });
    }

    /// As it is kept.
    pub(crate) fn body(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a schedule is JSON").into()
    }

    /// The same, refused when it is too large.
    pub(crate) fn checked_body(&self) -> Result<Arc<str>, ApiError> {
        let bytes = serde_json::to_string(&self.spec).expect("a schedule is JSON").len();
        if bytes > SPEC_BYTES_MAX {
            let message = format!("the schedule has {bytes} bytes; at most {SPEC_BYTES_MAX} are taken");
            return Err(invalid(vec![Problem::at("/params", message)]));
        }
        Ok(self.body())
    }

    /// The run of a slot, or one out of turn. `key` is the schedule's in the catalogue, `found` the template.
    pub(crate) fn submission(
        &self,
        key: &str,
        run: WorkflowId,
        slot: Option<Timestamp>,
        body_hash: Option<u64>,
        found: Found,
    ) -> Submission {
        let mut labels = self.spec.labels.clone();
        let id = local(key);
        labels.insert(LABEL.to_owned(), id.to_owned());
        Submission {
            id: run,
            body_hash,
            request: body_hash.map(|_| request()),
            definition: found.definition,
            template: Some((found.name, found.version)),
            params: self.spec.params.clone(),
            agent_id: self.spec.agent_id.clone(),
            context: json!({"schedule": id, "slot": slot.map(Timestamp::to_rfc3339)}),
            labels,
            start_at: None,
            parent: None,
        }
    }
}

/// What makes two submissions of a slot the same, whatever the schedule says by then.
pub(crate) fn slot_hash(id: &str, slot: Timestamp) -> u64 {
    xxh3_64(format!("schedule slot\0{id}\0{}", slot.0).as_bytes())
}

/// The fields of a body that say something of a schedule.
pub(crate) struct Draft {
    pub(crate) template: Option<Arc<str>>,
    version: Option<u32>,
    params: Option<Value>,
    cron: Option<String>,
    interval: Option<String>,
    at: Option<Timestamp>,
    timezone: Option<String>,
    missed: Option<Missed>,
    overlap: Option<Overlap>,
    paused: Option<bool>,
    labels: Option<BTreeMap<String, String>>,
    pub(crate) agent_id: Option<Arc<str>>,
}

impl Draft {
    /// What is not given stays as it is.
    pub(crate) fn read(fields: &mut Fields<'_>, caller: &Caller) -> Result<Self, ApiError> {
        let (has_labels, has_agent) = (fields.is_given("labels"), fields.is_given("agent_id"));
        let agent_id = fields.agent(caller)?.filter(|_| has_agent);
        Ok(Self {
            template: fields.name("template").map(Arc::from),
            version: version(fields),
            params: fields.object("params"),
            cron: fields.string("cron"),
            interval: fields.string("interval"),
            at: fields.time("at"),
            timezone: fields.string("timezone"),
            missed: word(fields, "missed", &MISSED),
            overlap: word(fields, "overlap", &OVERLAP),
            paused: fields.boolean("paused"),
            labels: Some(fields.labels()).filter(|_| has_labels),
            agent_id,
        })
    }

    /// What a new schedule says. Problems are noted.
    pub(crate) fn spec(self, fields: &mut Fields<'_>, now: Timestamp) -> Option<Spec> {
        let when = self.when(fields, None, now);
        if self.template.is_none() && !fields.is_given("template") {
            fields.problem("template", "is missing: what its runs run");
        }
        Some(Spec {
            template: self.template?,
            version: self.version,
            params: self.params.unwrap_or_else(|| Value::Object(Map::new())),
            when: when?,
            missed: self.missed.unwrap_or_default(),
            overlap: self.overlap.unwrap_or_default(),
            paused: self.paused.unwrap_or_default(),
            labels: self.labels.unwrap_or_default(),
            agent_id: self.agent_id,
        })
    }

    /// What one says from now on that has said something. Problems are noted.
    pub(crate) fn change(self, fields: &mut Fields<'_>, before: &Spec, now: Timestamp) -> Option<Spec> {
        let when = self.when(fields, Some(&before.when), now);
        let is_other = self.template.as_ref().is_some_and(|template| *template != before.template);
        Some(Spec {
            template: self.template.unwrap_or_else(|| before.template.clone()),
            // A version is of a template.
            version: self.version.or(before.version.filter(|_| !is_other)),
            params: self.params.unwrap_or_else(|| before.params.clone()),
            when: when?,
            missed: self.missed.unwrap_or(before.missed),
            overlap: self.overlap.unwrap_or(before.overlap),
            paused: self.paused.unwrap_or(before.paused),
            labels: self.labels.unwrap_or_else(|| before.labels.clone()),
            agent_id: self.agent_id.or_else(|| before.agent_id.clone()),
        })
    }

    fn when(&self, fields: &mut Fields<'_>, before: Option<&When>, now: Timestamp) -> Option<When> {
        let is_given = |name: &&str| fields.is_given(name);
        let given: Vec<&str> = ["cron", "interval", "at"].into_iter().filter(is_given).collect();
        if let [first, second, ..] = given.as_slice() {
            let message = format!("is given beside `{first}`; give one of `cron`, `interval` and `at`");
            fields.problem(second, message);
            return None;
        }
        let zone = |other: &str| self.timezone.clone().unwrap_or_else(|| other.to_owned());
        let when = match (&self.cron, &self.interval, self.at, before) {
            (Some(pattern), _, _, Some(When::Cron { timezone, .. })) => {
                When::Cron { pattern: pattern.clone(), timezone: zone(timezone) }
            }
            (Some(pattern), _, _, _) => When::Cron { pattern: pattern.clone(), timezone: zone("UTC") },
            (None, Some(interval), _, _) => When::Interval(interval.clone()),
            (None, None, Some(at), _) => When::At(at),
            (None, None, None, _) if !given.is_empty() => return None,
            (None, None, None, Some(When::Cron { pattern, timezone })) => {
                When::Cron { pattern: pattern.clone(), timezone: zone(timezone) }
            }
            (None, None, None, Some(before)) => before.clone(),
            (None, None, None, None) => {
                fields.problem("cron", "is missing; give `cron`, `interval` or `at`");
                return None;
            }
        };
        if self.timezone.is_some() && !matches!(when, When::Cron { .. }) {
            fields.problem("timezone", "is of a cron pattern; intervals and times have none");
        }
        if matches!(when, When::At(at) if at <= now) && self.at.is_some() {
            fields.problem("at", "is not in the future");
        }
        match when.trigger() {
            Ok(_) => Some(when),
            Err((name, message)) => {
                fields.problem(name, message);
                None
            }
        }
    }
}

const MISSED: [(&str, Missed); 3] = [("skip", Missed::Skip), ("one", Missed::One), ("all", Missed::All)];
const OVERLAP: [(&str, Overlap); 3] =
    [("skip", Overlap::Skip), ("queue", Overlap::Queue), ("parallel", Overlap::Parallel)];

/// One of some words.
fn word<T: Copy>(fields: &mut Fields<'_>, name: &'static str, words: &[(&str, T)]) -> Option<T> {
    let text = fields.string(name)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        fields.problem(name, unknown("value", &text, &known));
    }
    found
}

/// A schedule as it is shown.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    id: &'a str,
    template: &'a str,
    version: Option<String>,
    params: &'a Value,
    cron: Option<&'a str>,
    interval: Option<&'a str>,
    at: Option<String>,
    timezone: Option<&'a str>,
    missed: Missed,
    overlap: Overlap,
    paused: bool,
    labels: &'a BTreeMap<String, String>,
    agent_id: Option<&'a str>,
    by_template: bool,
    next_slot: Option<String>,
    last_slot: Option<String>,
    last_workflow_id: Option<&'a str>,
    last_error: Option<ShownFailure<'a>>,
    waiting: usize,
    created_at: String,
    updated_at: String,
    revision: u64,
}

#[derive(Serialize)]
struct ShownFailure<'a> {
    slot: String,
    code: &'a str,
    message: &'a str,
}

impl<'a> Shown<'a> {
    pub(crate) fn of(id: &'a str, schedule: &'a Schedule, now: Timestamp) -> Self {
        let Schedule { spec, standing, .. } = schedule;
        let (cron, timezone) = match &spec.when {
            When::Cron { pattern, timezone } => (Some(pattern.as_str()), Some(timezone.as_str())),
            When::Interval(_) | When::At(_) => (None, None),
        };
        let interval = if let When::Interval(text) = &spec.when { Some(text.as_str()) } else { None };
        let at = if let When::At(at) = &spec.when { Some(at.to_rfc3339()) } else { None };
        let next_slot = spec.when.trigger().ok().and_then(|trigger| schedule.next_slot(&trigger, now));
        Self {
            id,
            template: &spec.template,
            version: spec.version.map(|version| format!("v{version}")),
            params: &spec.params,
            cron,
            interval,
            at,
            timezone,
            missed: spec.missed,
            overlap: spec.overlap,
            paused: spec.paused,
            labels: &spec.labels,
            agent_id: spec.agent_id.as_deref(),
            by_template: schedule.by_template,
            next_slot: next_slot.map(Timestamp::to_rfc3339),
            last_slot: schedule.last_slot.map(Timestamp::to_rfc3339),
            last_workflow_id: schedule.last_workflow_id.as_ref().map(WorkflowId::local),
            last_error: schedule.last_error.as_ref().map(|failed| ShownFailure {
                slot: failed.slot.to_rfc3339(),
                code: &failed.code,
                message: &failed.message,
            }),
            waiting: standing.waiting.len(),
            created_at: schedule.created_at.to_rfc3339(),
            updated_at: schedule.updated_at.to_rfc3339(),
            revision: schedule.revision,
        }
    }
}

/// Reads a schedule of the catalogue.
pub(crate) fn parse(key: &str, body: &str) -> Result<Schedule, ApiError> {
    serde_json::from_str(body).map_err(|error| {
        tracing::error!(schedule = key, %error, "a stored schedule cannot be read");
        ApiError::unavailable(
            crate::error::Applied::No,
            format!("the stored schedule {} is damaged", local(key)),
        )
    })
}

/// The code and message of a failure that trying again does not mend; none of one that it may.
pub(crate) fn final_failure(error: &ApiError) -> Option<(&'static str, &str)> {
    let may_pass = error.status().is_server_error() || error.code() == "OVERLOADED";
    (!may_pass).then(|| (error.code(), error.detail()))
}

/// 409: something else has the name.
pub(crate) fn conflict(detail: impl Into<String>) -> ApiError {
    ApiError::new(axum::http::StatusCode::CONFLICT, Code::Conflict.as_str(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        let mut fields = Fields::of_body(r#"{"template":"t","interval":"1m"}"#).expect("an object");
        let spec = Draft::read(&mut fields, &Caller::default()).expect("anybody may name an agent");
        let spec = spec.spec(&mut fields, Timestamp(0)).expect("it says all");
        Schedule::new(spec, false, Timestamp(1_000))
    }

    /// The same, changed by a body at 10 minutes.
    fn changed(before: &Schedule, text: &str) -> Schedule {
        let mut fields = Fields::of_body(text).expect("an object");
        let now = Timestamp(600_000);
        let draft = Draft::read(&mut fields, &Caller::default()).expect("anybody may name an agent");
        let spec = draft.change(&mut fields, &before.spec, now);
        assert!(fields.finish().is_empty(), "{text}");
        before.changed(spec.expect("no problem was found"), now)
    }

    #[test]
    fn what_was_not_to_fire_then_is_not_made_up_for() {
        let first = schedule();
        let labelled = changed(&first, r#"{"labels":{"a":"b"},"missed":"all"}"#);
        assert_eq!((labelled.standing.done, labelled.revision), (Timestamp(1_000), 2));
        for text in [r#"{"paused":true}"#, r#"{"interval":"2m"}"#, r#"{"cron":"@daily"}"#] {
            assert_eq!(changed(&first, text).standing.done, Timestamp(600_000), "{text}");
        }
        let paused = Schedule { spec: Spec { paused: true, ..first.spec.clone() }, ..first };
        assert_eq!(changed(&paused, r#"{"paused":false}"#).standing.done, Timestamp(600_000));
        let ahead = Standing { done: Timestamp(900_000), waiting: Vec::new() };
        let ahead = Schedule { standing: ahead, ..paused };
        assert_eq!(changed(&ahead, r#"{"paused":false}"#).standing.done, Timestamp(900_000), "never back");
    }

    #[test]
    fn what_is_left_out_stays() {
        let first = changed(&schedule(), r#"{"cron":"0 1 * * *","timezone":"Asia/Tokyo","version":"v3"}"#);
        let cron = |pattern: &str| When::Cron { pattern: pattern.into(), timezone: "Asia/Tokyo".into() };
        assert_eq!((&first.spec.when, first.spec.version), (&cron("0 1 * * *"), Some(3)));
        let second = changed(&first, r#"{"cron":"0 2 * * *"}"#);
        assert_eq!(second.spec, Spec { when: cron("0 2 * * *"), ..first.spec.clone() });
        assert_eq!(changed(&first, r#"{"template":"t"}"#).spec, first.spec);
        assert_eq!(changed(&first, r#"{"template":"u"}"#).spec.version, None, "a version is of a template");
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let mut schedule = schedule();
        schedule.failed(Timestamp(7), "NOT_FOUND", &"x".repeat(10_000));
        schedule.standing.waiting = vec![Timestamp(1), Timestamp(2)];
        let read = parse("a", &schedule.body()).expect("it is read back");
        assert_eq!(read, schedule);
        assert_eq!(read.last_error.map(|failed| failed.message.len()), Some(MESSAGE_CHARS_MAX));
    }
}

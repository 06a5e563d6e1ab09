//! `opcode.query`: lists of workflows, events, templates and decisions, filtered.

use opcode_engine::event::EventType;
use opcode_engine::ids::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Caller, Object, Outcome, done, encoded, refuse, required, with_query, word, workflow};
use crate::wire::{Fields, unknown};

/// What can be asked for.
const RESOURCES: [&str; 4] = ["workflows", "events", "templates", "decisions"];
/// Events read at a time while the wanted ones are looked for.
const EVENTS_READ: u64 = 1_000;
/// Pages of events looked through in one call.
const EVENT_PAGES_MAX: usize = 50;
/// Events that are given, unless the filter says.
const EVENTS_GIVEN: u64 = 100;
/// Most items of one answer.
const LIMIT_MAX: u64 = 1_000;
/// Longest value of a filter, in bytes.
const VALUE_BYTES_MAX: usize = 512;

/// Answers a query.
pub(super) async fn query(mut fields: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    required(&mut fields, "resource", "workflows, events, templates or decisions");
    let resource = word(&mut fields, "resource", &RESOURCES);
    let filter = fields.raw("filter");
    done(fields)?;
    let filter = filter.unwrap_or_else(|| serde_json::from_str("{}").expect("this is JSON"));
    let filter = Fields::of_raw(filter, "/filter").map_err(|wrong| refuse(vec![wrong]))?;
    match resource {
        Some("workflows") => workflows(filter, caller).await,
        Some("events") => events(filter, caller).await,
        Some("templates") => templates(filter, caller).await,
        Some(_) | None => decisions(filter, caller).await,
    }
}

/// A page of the contract under the resource's name.
fn page(resource: &str, mut page: Object) -> Object {
    let items = page.remove("items").unwrap_or_default();
    page.insert(resource.to_owned(), items);
    page
}

/// A filter's text or number, to go into a query.
fn value(filter: &mut Fields<'_>, name: &'static str) -> Option<String> {
    let raw = filter.raw(name)?;
    let first = raw.get().as_bytes().first();
    if first.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return Some(raw.get().to_owned());
    }
    let text = filter.string(name)?;
    if text.len() > VALUE_BYTES_MAX {
        filter.problem(name, format!("is longer than {VALUE_BYTES_MAX} bytes"));
    }
    Some(text)
}

async fn workflows(mut filter: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let statuses = filter.strings("status").join(",");
    let labels: Vec<String> = filter.labels().iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let mut parameters = vec![("status", (!statuses.is_empty()).then_some(statuses))];
    for name in ["agent_id", "template", "since", "until", "limit", "cursor"] {
        parameters.push((name, value(&mut filter, name)));
    }
    parameters.extend(labels.into_iter().map(|label| ("label", Some(label))));
    done(filter)?;
    let found = caller.get(with_query("/v1/workflows", &parameters)).await.map_err(in_filter)?;
    Ok(page("workflows", found))
}

async fn decisions(mut filter: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let names = ["status", "agent_id", "workflow_id", "limit", "cursor"];
    let parameters = names.map(|name| (name, value(&mut filter, name)));
    done(filter)?;
    let found = caller.get(with_query("/v1/decisions", &parameters)).await.map_err(in_filter)?;
    Ok(page("decisions", found))
}

async fn templates(mut filter: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let name = filter.name("name");
    let version = filter.raw("version").map(RawValue::get).map(|text| text.trim_matches('"').to_owned());
    let list = ["limit", "cursor"].map(|name| (name, value(&mut filter, name)));
    if filter.raw("agent_id").is_some() {
        filter.problem("agent_id", "templates belong to no agent here; leave it out");
    }
    if name.is_none() && version.is_some() {
        filter.problem("version", "is of one template; give `name` too");
    }
    done(filter)?;
    let Some(name) = name else {
        let found = caller.get(with_query("/v1/templates", &list)).await.map_err(in_filter)?;
        return Ok(page("templates", found));
    };
    let path = with_query(&format!("/v1/templates/{}", encoded(&name)), &[("version", version)]);
    let items = match caller.get(path).await {
        Ok(found) => vec![Value::Object(found)],
        Err(told) if told["status"] == 404 => Vec::new(),
        Err(told) => return Err(in_filter(told)),
    };
    let nothing_more = ("next_cursor".to_owned(), Value::Null);
    Ok(Object::from_iter([("templates".to_owned(), Value::Array(items)), nothing_more]))
}

/// What a filter lets through of a run's events.
struct Wanted {
    step_id: Option<String>,
    event_type: Option<EventType>,
    since: Option<Timestamp>,
}

impl Wanted {
    fn of(filter: &mut Fields<'_>) -> Self {
        let kind = filter.string("event_type");
        let event_type = kind.as_deref().and_then(EventType::from_name);
        if let (Some(kind), None) = (&kind, event_type) {
            let names: Vec<&str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
            filter.problem("event_type", unknown("event type", kind, &names));
        }
        Self { step_id: filter.string("step_id"), event_type, since: filter.time("since") }
    }

    fn is(&self, event: &Value) -> bool {
        let at = || event["timestamp"].as_str().and_then(|text| Timestamp::parse_rfc3339(text).ok());
        self.step_id.as_ref().is_none_or(|id| event["step_id"] == **id)
            && self.event_type.is_none_or(|kind| event["type"] == kind.as_str())
            && self.since.is_none_or(|since| at().is_some_and(|at| at >= since))
    }
}

/// Events of one run: its pages are read until enough of those that are wanted were found.
async fn events(mut filter: Fields<'_>, caller: &Caller<'_>) -> Outcome<Object> {
    let id = filter.name("workflow_id");
    if id.is_none() {
        filter.problem("workflow_id", "is missing: events are asked for by run; give its `workflow_id`");
    }
    let wanted = Wanted::of(&mut filter);
    let limit = filter.number("limit", 1, LIMIT_MAX).unwrap_or(EVENTS_GIVEN);
    let mut after = value(&mut filter, "after");
    done(filter)?;
    let limit = usize::try_from(limit).expect("at most 1000");
    let path = format!("{}/events", workflow(&id.unwrap_or_default()));
    let mut found: Vec<Value> = Vec::new();
    let mut next = None;
    for _ in 0..EVENT_PAGES_MAX {
        let parameters = [("after", after.take()), ("limit", Some(EVENTS_READ.to_string()))];
        let mut page = caller.get(with_query(&path, &parameters)).await.map_err(in_filter)?;
        next = page.remove("next_cursor").filter(|cursor| !cursor.is_null());
        let items = page.remove("items").unwrap_or_default();
        for event in items.as_array().into_iter().flatten().filter(|event| wanted.is(event)) {
            if found.len() == limit {
                // What is left of this page comes with the next call.
                next = found.last().map(|last| last["sequence"].to_string().into());
                break;
            }
            found.push(event.clone());
        }
        after = next.as_ref().and_then(Value::as_str).map(str::to_owned);
        if found.len() == limit || after.is_none() {
            break;
        }
    }
    let next = ("next_cursor".to_owned(), next.unwrap_or_default());
    Ok(Object::from_iter([("events".to_owned(), Value::Array(found)), next]))
}

/// What the contract says of a query's parameters, as of the filter's fields.
fn in_filter(mut told: Value) -> Value {
    for error in told.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(pointer) = error["pointer"].as_str() {
            error["pointer"] = format!("/filter{pointer}").into();
        }
    }
    told
}

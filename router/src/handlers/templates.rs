//! Templates: named definitions with versions that count themselves, kept by the system shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ID_BYTES_MAX;
use opcode_engine::namespace::{Namespace, local};
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use opcode_shard::record::TemplateRecord;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::schedules;
use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{self, Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace;
use crate::schema;
use crate::state::RouterState;
use crate::submission::{no_template, parse_version};
use crate::wire::{self, Fields, invalid};

/// Fields of a template file that lists show too.
const SHOWN_IN_LISTS: [&str; 3] = ["description", "category", "features"];
/// Fields of a template file that only the template itself shows.
const SHOWN_ALONE: [&str; 3] = ["input_schema", "output_schema", "definition"];

#[derive(Serialize)]
struct Defined<'a> {
    name: &'a str,
    version: String,
    definition_hash: String,
    created_at: String,
}

/// Defines a template: a new version unless the newest one is the same.
#[utoipa::path(post, path = "/v1/templates", tag = "catalogue", operation_id = "defineTemplate", request_body = schema::TemplateRequest,
    params(("name" = Option<String>, Query, description = "the name, where the body has none or is a bare definition")),
    responses((status = 201, body = schema::Template), (status = 200, description = "the newest version is the same", body = schema::Template),
        (status = 400, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn define(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let query_name = query.one("name");
    query.finish()?;
    let text = incoming.json()?;
    let (name, source) = read_file(text, query_name)?;
    // The sent text is compiled, so that pointers are into what was sent.
    let definition = crate::definitions::parse(&state, text.into()).await?;
    let schedule = schedules::of_template(&name, text)?;
    let name = namespace::kept(incoming.caller.namespace(), &name);
    if schedule.is_some() {
        schedules::check_free(&state, &name).await?;
    }
    let before = state.system().template(&name, None).await?.value;
    let defined = state.system().define_template(name, source, Arc::new(definition)).await?;
    let (record, is_new) = defined.value;
    // After the template, which its first slot needs. Defined again, what was not done is made up for;
    // where there never was a schedule, there is nothing to ask for.
    let had_triggers = before.is_some_and(|before| schedules::has_triggers(&before.source));
    if schedule.is_some() || had_triggers || !is_new {
        schedules::follow_template(&state, &record.name, schedule).await?;
    }
    let document = Defined {
        name: local(&record.name),
        version: format!("v{}", record.version),
        definition_hash: record.definition.to_string(),
        created_at: record.created_at.to_rfc3339(),
    };
    let mut response = json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &document);
    let location = format!("/v1/templates/{}?version=v{}", local(&record.name), record.version);
    let location = HeaderValue::try_from(location).expect("a template's name is visible ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(with_token(response, state.system().id(), defined.position))
}

/// The name of a template file and its text as it is kept: canonical, so that white space makes
/// no new version. A bare definition is wrapped.
fn read_file(text: &str, query_name: Option<String>) -> Result<(Arc<str>, Arc<str>), ApiError> {
    let mut fields = Fields::of_body(text)?;
    let body_name = fields.name("name");
    let has_definition = fields.raw("definition").is_some();
    let value: Value = serde_json::from_str(text)
        .map_err(|error| invalid(vec![Problem::at("", format!("cannot be read: {error}"))]))?;
    let name = match (query_name, body_name) {
        (Some(query), Some(body)) if query != body => {
            return Err(invalid(vec![Problem::at("/name", "differs from the query parameter `name`")]));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            return Err(invalid(vec![Problem::at("/name", "is missing: the template's name, a string")]));
        }
    };
    check_name(&name).map_err(|message| invalid(vec![Problem::at("/name", message)]))?;
    let mut file = match value {
        Value::Object(file) if has_definition => file,
        definition => Map::from_iter([("definition".to_owned(), definition)]),
    };
    file.insert("name".to_owned(), Value::String(name.clone()));
    Ok((name.into(), Value::Object(file).to_string().into()))
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.is_empty() && name.len() <= ID_BYTES_MAX && name.bytes().all(ok) {
        return Ok(());
    }
    Err("a template's name is 1 to 128 characters of A-Z a-z 0-9 . _ -".into())
}

/// The template's name in `/v1/templates/NAME…`.
pub(super) fn named(incoming: &Incoming, version: Option<u32>) -> Result<String, ApiError> {
    let name = incoming.segment(2)?;
    if check_name(&name).is_err() {
        return Err(no_template(&wire::shortened(&name), version));
    }
    Ok(name)
}

/// A template as it is shown.
fn shown<'a>(
    record: &'a TemplateRecord,
    fields: impl Iterator<Item = &'a str>,
    pause: Option<&CatalogueEntry>,
) -> Result<BTreeMap<&'a str, Box<RawValue>>, ApiError> {
    let damaged = |error: serde_json::Error| {
        tracing::error!(template = %record.name, %error, "a stored template is not JSON");
        ApiError::unavailable(Applied::No, "the stored template is damaged")
    };
    let mut file: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&record.source).map_err(damaged)?;
    let text = |text: &str| serde_json::value::to_raw_value(text).expect("text is JSON");
    let mut document = BTreeMap::from([
        ("name", text(local(&record.name))),
        ("version", text(&format!("v{}", record.version))),
        ("definition_hash", text(&record.definition.to_string())),
        ("created_at", text(&record.created_at.to_rfc3339())),
        ("paused", serde_json::value::to_raw_value(&pause.is_some()).expect("a truth is JSON")),
    ]);
    if let Some(entry) = pause {
        let kept: Option<Pause> = entry.body.as_deref().and_then(|body| serde_json::from_str(body).ok());
        document.insert("paused_at", text(&entry.at.to_rfc3339()));
        if let Some(reason) = kept.and_then(|kept| kept.reason) {
            document.insert("paused_reason", text(&reason));
        }
    }
    for field in fields {
        document.insert(field, file.remove(field).unwrap_or_else(|| RawValue::NULL.to_owned()));
    }
    Ok(document)
}

/// The newest version of every template, by name.
#[utoipa::path(get, path = "/v1/templates", tag = "catalogue", operation_id = "listTemplates",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::TemplateList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query);
    query.finish()?;
    let Seen { value: mut records, position, .. } = state.system().templates().await?;
    records.sort_by(|a, b| a.name.cmp(&b.name));
    let namespace = incoming.caller.namespace();
    records.retain(|record| namespace.owns(&record.name));
    records.retain(|record| after.as_ref().is_none_or(|after| *record.name > *after.id));
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| has_more);
    let next_cursor =
        next.map(|record| gather::Cursor { at: record.created_at, id: record.name.to_string() }.encode());
    let pauses = pauses(&state).await?;
    let item = |record| shown(record, SHOWN_IN_LISTS.into_iter(), pauses.get(&record.name));
    let items = records.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

/// All templates that are paused.
async fn pauses(state: &RouterState) -> Result<BTreeMap<Arc<str>, CatalogueEntry>, ApiError> {
    let mut pauses = BTreeMap::new();
    let mut after = None;
    loop {
        let page = state.system().entries(EntryKind::Pause, after, PAUSES_AT_A_TIME).await?.value;
        after = page.entries.last().map(|entry| entry.key.clone());
        pauses.extend(page.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        if !page.has_more || after.is_none() {
            return Ok(pauses);
        }
    }
}

/// Pauses read at a time.
const PAUSES_AT_A_TIME: usize = 1_000;

/// What is kept of a template that is paused.
#[derive(Serialize, Deserialize)]
struct Pause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<Arc<str>>,
}

/// Longest reason for a pause, in bytes.
const REASON_BYTES_MAX: usize = 4 * 1024;
/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 20;

/// Pauses a template, or has it go on. While it is paused no run of it starts, by whomever: a
/// submission is refused, a slot of a schedule passes, a step that wants it as a child fails. Runs
/// that there are go on.
#[utoipa::path(patch, path = "/v1/templates/{name}", tag = "catalogue", operation_id = "changeTemplate",
    params(("name" = String, Path)), request_body = schema::TemplatePatch,
    responses((status = 200, body = schema::Template), (status = 404, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn change(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let name = incoming.segment(2)?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let paused = fields.boolean("paused");
    let pause = Pause { reason: fields.string("reason"), agent_id: fields.agent(&incoming.caller)? };
    if !fields.is_given("paused") {
        fields.problem("paused", "is missing: true, or false to have it go on");
    }
    if pause.reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        fields.problem("reason", format!("is longer than {REASON_BYTES_MAX} bytes"));
    }
    fields.done()?;
    let paused = paused.expect("a body without problems says so");
    let none = || no_template(&wire::shortened(&name), None);
    let kept = incoming.caller.namespace().qualify(&*name).filter(|_| check_name(&name).is_ok());
    let kept = kept.ok_or_else(none)?;
    if state.system().template(&kept, None).await?.value.is_none() {
        return Err(none());
    }
    let body = serde_json::to_string(&pause).expect("a pause is JSON");
    set_pause(&state, &kept, paused.then(|| body.into())).await?;
    show(&state, incoming.caller.namespace(), &name, None).await
}

/// Makes the entry of a pause what it shall be; one that is there already stays as it is.
async fn set_pause(state: &RouterState, name: &str, body: Option<Arc<str>>) -> Result<(), ApiError> {
    for _ in 0..TRIES_MAX {
        let there = state.system().entry(EntryKind::Pause, name.into()).await?.value;
        if there.is_some() == body.is_some() {
            return Ok(());
        }
        let after = there.map(|entry| entry.revision);
        let change = EntryChange { kind: EntryKind::Pause, key: name.into(), after, body: body.clone() };
        match state.system().change_entry(change).await?.value {
            Changed::Made(_) | Changed::Already(_) => return Ok(()),
            Changed::Stale(_) => {}
        }
    }
    let detail = format!("the template {} changes all the time: nothing was changed", local(name));
    Err(ApiError::unavailable(Applied::No, detail))
}

/// A template's newest version, or the one asked for.
#[utoipa::path(get, path = "/v1/templates/{name}", tag = "catalogue", operation_id = "getTemplate",
    params(("name" = String, Path), ("version" = Option<String>, Query, description = "`v3`; the newest without it")),
    responses((status = 200, body = schema::Template), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let version = query
        .one("version")
        .and_then(|text| parse_version(&text).map_err(|message| query.problem("version", message)).ok());
    query.finish()?;
    let name = named(&incoming, version)?;
    show(&state, incoming.caller.namespace(), &name, version).await
}

async fn show(
    state: &RouterState,
    namespace: &Namespace,
    name: &str,
    version: Option<u32>,
) -> Result<Response, ApiError> {
    let Some(kept) = namespace.qualify(name) else { return Err(no_template(name, version)) };
    let Seen { value: record, position, .. } = state.system().template(&kept, version).await?;
    let Some(record) = record else {
        return Err(no_template(name, version));
    };
    let pause = state.system().entry(EntryKind::Pause, kept.into()).await?.value;
    let fields = SHOWN_IN_LISTS.into_iter().chain(SHOWN_ALONE);
    let document = shown(&record, fields, pause.as_ref())?;
    Ok(with_token(json(StatusCode::OK, &document), state.system().id(), position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str, query: Option<&str>) -> Result<String, String> {
        let read = read_file(text, query.map(str::to_owned));
        read.map(|(_, source)| source.to_string()).map_err(|error| error.detail().to_owned())
    }

    #[test]
    fn white_space_makes_no_other_template() {
        let a = kept(r#"{"name":"a","definition":{"steps":[],"n":1.50}}"#, None);
        let b = kept("{ \"definition\" : {\"n\":1.50, \"steps\": [] },\n \"name\":\"a\"}", None);
        assert_eq!(a, b);
        assert!(a.expect("kept").contains("1.50"));
    }

    #[test]
    fn a_bare_definition_is_wrapped() {
        assert_eq!(
            kept(r#"{"steps":[]}"#, Some("a")),
            Ok(r#"{"definition":{"steps":[]},"name":"a"}"#.to_owned())
        );
        assert!(kept(r#"{"steps":[]}"#, None).is_err());
        assert!(kept(r#"{"name":"a b","definition":{}}"#, None).is_err());
        assert!(kept(r#"{"name":"a","definition":{}}"#, Some("b")).is_err());
    }
}

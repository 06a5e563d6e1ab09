//! Templates: named definitions with versions that count themselves, kept by the system shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ID_BYTES_MAX;
use opcode_shard::record::TemplateRecord;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::schedules;
use crate::error::ApiError;
use crate::forward::Seen;
use crate::gather::{self, Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
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
    let definition = crate::definitions::parse(text.into()).await?;
    let schedule = schedules::of_template(&name, text)?;
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
        name: &record.name,
        version: format!("v{}", record.version),
        definition_hash: record.definition.to_string(),
        created_at: record.created_at.to_rfc3339(),
    };
    let mut response = json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &document);
    let location = format!("/v1/templates/{}?version=v{}", record.name, record.version);
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

fn check_name(name: &str) -> Result<(), String> {
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
) -> Result<BTreeMap<&'a str, Box<RawValue>>, ApiError> {
    let damaged = |error: serde_json::Error| {
        tracing::error!(template = %record.name, %error, "a stored template is not JSON");
        ApiError::unavailable(crate::error::Applied::No, "the stored template is damaged")
    };
    let mut file: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&record.source).map_err(damaged)?;
    let text = |text: &str| serde_json::value::to_raw_value(text).expect("text is JSON");
    let mut document = BTreeMap::from([
        ("name", text(&record.name)),
        ("version", text(&format!("v{}", record.version))),
        ("definition_hash", text(&record.definition.to_string())),
        ("created_at", text(&record.created_at.to_rfc3339())),
    ]);
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
    records.retain(|record| after.as_ref().is_none_or(|after| *record.name > *after.id));
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| has_more);
    let next_cursor =
        next.map(|record| gather::Cursor { at: record.created_at, id: record.name.to_string() }.encode());
    let items =
        records.iter().map(|r| shown(r, SHOWN_IN_LISTS.into_iter())).collect::<Result<Vec<_>, _>>()?;
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
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
    let Seen { value: record, position, .. } = state.system().template(&name, version).await?;
    let Some(record) = record else {
        return Err(no_template(&name, version));
    };
    let fields = SHOWN_IN_LISTS.into_iter().chain(SHOWN_ALONE);
    Ok(with_token(json(StatusCode::OK, &shown(&record, fields)?), state.system().id(), position))
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

//! How long a namespace's runs are kept once they have ended: a rule for each template that has one,
//! and one for all others.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::definition::parse_duration_ms;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use serde::Serialize;

use super::templates::check_name;
use crate::error::{ApiError, Applied};
use crate::incoming::{Incoming, json};
use crate::retention::{Rule, Rules, key_of};
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, shortened};

/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 20;
/// Shortest time that runs may be kept: whoever submitted one has to see its end.
const KEEP_MS_MIN: u64 = 1_000;

/// A rule as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    template: Option<&'a str>,
    archive_after: Option<&'a str>,
    delete_after: Option<&'a str>,
    updated_at: Option<String>,
}

#[derive(Serialize)]
struct All<'a> {
    default: Option<Shown<'a>>,
    templates: Vec<Shown<'a>>,
}

impl<'a> Shown<'a> {
    fn of(template: Option<&'a str>, rule: &'a Rule, entry: &CatalogueEntry) -> Self {
        Self {
            template,
            archive_after: rule.archive_after.as_deref(),
            delete_after: rule.delete_after.as_deref(),
            updated_at: Some(entry.at.to_rfc3339()),
        }
    }
}

/// All rules.
#[utoipa::path(get, path = "/v1/retention", tag = "operations", operation_id = "listRetention",
    responses((status = 200, body = schema::RetentionList), (status = 503, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let rules = Rules::read(&state, incoming.caller.namespace()).await?;
    let default = rules.default.as_ref().map(|(rule, entry)| Shown::of(None, rule, entry));
    let templates = rules.by_template.iter().map(|(name, (rule, entry))| Shown::of(Some(name), rule, entry));
    Ok(json(StatusCode::OK, &All { default, templates: templates.collect() }))
}

/// Says how long runs are kept whose template has no rule of its own.
#[utoipa::path(put, path = "/v1/retention", tag = "operations", operation_id = "setRetention",
    request_body = schema::RetentionRequest,
    responses((status = 200, body = schema::Retention), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn set(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    put(&state, &incoming, None).await
}

/// Takes the rule away: runs whose template has no rule of its own are all kept.
#[utoipa::path(delete, path = "/v1/retention", tag = "operations", operation_id = "deleteRetention",
    responses((status = 200, body = schema::Retention), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    remove(&state, &incoming, None).await
}

/// A template's rule.
#[utoipa::path(get, path = "/v1/retention/templates/{name}", tag = "operations", operation_id = "getTemplateRetention",
    params(("name" = String, Path)),
    responses((status = 200, body = schema::Retention), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn get_template(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let name = named(&incoming)?;
    let key = key_of(incoming.caller.namespace(), Some(&name));
    let entry = state.system().entry(EntryKind::Retention, key).await?.value;
    let entry = entry.ok_or_else(|| none(Some(&name)))?;
    let rule = Rule::of(&entry).ok_or_else(|| ApiError::unavailable(Applied::No, "the rule is damaged"))?;
    Ok(json(StatusCode::OK, &Shown::of(Some(&name), &rule, &entry)))
}

/// Says how long runs of a template are kept. The template may come later.
#[utoipa::path(put, path = "/v1/retention/templates/{name}", tag = "operations", operation_id = "setTemplateRetention",
    params(("name" = String, Path)), request_body = schema::RetentionRequest,
    responses((status = 200, body = schema::Retention), (status = 404, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn set_template(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let name = named(&incoming)?;
    put(&state, &incoming, Some(&name)).await
}

/// Takes a template's rule away: for its runs holds what does for all others.
#[utoipa::path(delete, path = "/v1/retention/templates/{name}", tag = "operations", operation_id = "deleteTemplateRetention",
    params(("name" = String, Path)),
    responses((status = 200, body = schema::Retention), (status = 404, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn delete_template(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let name = named(&incoming)?;
    remove(&state, &incoming, Some(&name)).await
}

/// The template of `/v1/retention/templates/NAME`.
fn named(incoming: &Incoming) -> Result<String, ApiError> {
    let name = incoming.segment(3)?;
    check_name(&name)
        .map_err(|_| ApiError::not_found(format!("no template is called `{}`", shortened(&name))))?;
    Ok(name)
}

fn none(template: Option<&str>) -> ApiError {
    ApiError::not_found(match template {
        Some(name) => format!("there is no rule for the template `{name}`"),
        None => "there is no rule for all templates: everything is kept".to_owned(),
    })
}

async fn put(state: &RouterState, incoming: &Incoming, template: Option<&str>) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let rule = read(incoming.json()?)?;
    let body = serde_json::to_string(&rule).expect("a rule is JSON");
    let key = key_of(incoming.caller.namespace(), template);
    for _ in 0..TRIES_MAX {
        let there = state.system().entry(EntryKind::Retention, key.clone()).await?.value;
        let after = there.map(|entry| entry.revision);
        match change(state, &key, after, Some(&body)).await? {
            Changed::Made(entry) | Changed::Already(Some(entry)) => {
                return Ok(json(StatusCode::OK, &Shown::of(template, &rule, &entry)));
            }
            Changed::Already(None) | Changed::Stale(_) => {}
        }
    }
    Err(contended())
}

async fn remove(
    state: &RouterState,
    incoming: &Incoming,
    template: Option<&str>,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let key = key_of(incoming.caller.namespace(), template);
    for _ in 0..TRIES_MAX {
        let there = state.system().entry(EntryKind::Retention, key.clone()).await?.value;
        let Some(entry) = there else { return Err(none(template)) };
        match change(state, &key, Some(entry.revision), None).await? {
            Changed::Made(_) | Changed::Already(_) => {
                let gone = Shown { template, archive_after: None, delete_after: None, updated_at: None };
                return Ok(json(StatusCode::OK, &gone));
            }
            Changed::Stale(_) => {}
        }
    }
    Err(contended())
}

async fn change(
    state: &RouterState,
    key: &Arc<str>,
    after: Option<u64>,
    body: Option<&str>,
) -> Result<Changed, ApiError> {
    let (kind, key) = (EntryKind::Retention, Arc::clone(key));
    let change = EntryChange { kind, key, after, body: body.map(Into::into) };
    Ok(state.system().change_entry(change).await?.value)
}

fn contended() -> ApiError {
    ApiError::unavailable(Applied::No, "the rule changes all the time: nothing was changed")
}

fn read(text: &str) -> Result<Rule, ApiError> {
    let mut fields = Fields::of_body(text)?;
    let (archive_after, archive_ms) = duration(&mut fields, "archive_after").unzip();
    let (delete_after, delete_ms) = duration(&mut fields, "delete_after").unzip();
    if !fields.is_given("archive_after") && !fields.is_given("delete_after") {
        fields.problem("archive_after", "is missing, and so is `delete_after`: give one at least");
    }
    if let (Some(archive_ms), Some(delete_ms)) = (archive_ms, delete_ms)
        && delete_ms <= archive_ms
    {
        fields
            .problem("delete_after", "is not later than `archive_after`: nothing would be archived for long");
    }
    fields.done()?;
    Ok(Rule { archive_after, delete_after })
}

fn duration(fields: &mut Fields<'_>, name: &'static str) -> Option<(String, u64)> {
    let text = fields.string(name)?;
    match parse_duration_ms(&text) {
        Ok(ms) if ms >= KEEP_MS_MIN => Some((text, ms)),
        Ok(_) => {
            fields.problem(name, format!("is less than {KEEP_MS_MIN} ms: nobody would see the end of a run"));
            None
        }
        Err(message) => {
            fields.problem(name, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_something_that_can_be() {
        let rule = |text: &str| read(text).map_err(|error| error.problems()[0].pointer.clone());
        let both = rule(r#"{"archive_after":"30d","delete_after":"365d"}"#).expect("a rule");
        assert_eq!(
            (both.archive_after.as_deref(), both.delete_after.as_deref()),
            (Some("30d"), Some("365d"))
        );
        for (text, pointer) in [
            ("{}", "/archive_after"),
            (r#"{"delete_after":"soon"}"#, "/delete_after"),
            (r#"{"delete_after":"1ms"}"#, "/delete_after"),
            (r#"{"archive_after":"2h","delete_after":"1h"}"#, "/delete_after"),
            (r#"{"archive_afer":"2h","delete_after":"1h"}"#, "/archive_afer"),
            (r#"{"archive_after":5}"#, "/archive_after"),
        ] {
            assert_eq!(rule(text).expect_err(text), pointer, "{text}");
        }
    }
}

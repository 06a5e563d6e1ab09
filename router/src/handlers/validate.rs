//! Checks without effects: a definition against the rules, and the actions that one may name.

use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::catalogue::ACTIONS;
use serde::Serialize;

use crate::error::ApiError;
use crate::gather::Page;
use crate::incoming::{Incoming, json};
use crate::schema;
use crate::wire;

#[derive(Serialize)]
struct Validated<'a> {
    valid: bool,
    steps: usize,
    levels: Vec<Vec<&'a str>>,
    definition_hash: String,
}

/// Checks a definition or template file; nothing is stored.
#[utoipa::path(post, path = "/v1/validate", tag = "catalogue", operation_id = "validateDefinition",
    request_body(content = Object, description = "a definition, or a template file that wraps one"),
    responses((status = 200, body = schema::Validated), (status = 400, body = schema::Problem), (status = 422, body = schema::Problem)))]
pub(crate) async fn validate(incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let text = incoming.json()?;
    wire::check_syntax(text)?;
    let definition = crate::definitions::parse(text.into()).await?;
    let names = |level: &Vec<opcode_engine::definition::SpecIx>| {
        level.iter().map(|&ix| &*definition.step(ix).id).collect()
    };
    let document = Validated {
        valid: true,
        steps: definition.steps.len(),
        levels: definition.levels.iter().map(names).collect(),
        definition_hash: definition.hash.to_string(),
    };
    Ok(json(StatusCode::OK, &document))
}

#[derive(Serialize)]
struct Action {
    name: &'static str,
    aliases: &'static [&'static str],
    pure: bool,
    about: &'static str,
    params: Vec<Param>,
}

#[derive(Serialize)]
struct Param {
    name: &'static str,
    required: bool,
    types: &'static [&'static str],
    about: &'static str,
}

/// The actions that steps may name.
#[utoipa::path(get, path = "/v1/actions", tag = "catalogue", operation_id = "listActions", responses((status = 200, body = schema::ActionList)))]
pub(crate) async fn actions(incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let items = ACTIONS
        .iter()
        .map(|action| Action {
            name: action.name,
            aliases: action.aliases,
            pure: action.is_pure,
            about: action.about,
            params: action
                .params
                .iter()
                .map(|p| Param { name: p.name, required: p.required, types: p.types, about: p.about })
                .collect(),
        })
        .collect();
    let page: Page<Action> = Page { items, next_cursor: None, unreachable_shards: Vec::new() };
    Ok(json(StatusCode::OK, &page))
}

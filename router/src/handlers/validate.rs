//! Checks without effects: a definition against the rules, and the actions that one may name.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::catalogue;
use serde::Serialize;

use super::plugins;
use crate::error::ApiError;
use crate::gather::Page;
use crate::incoming::{Incoming, json};
use crate::plugins::ToolInfo;
use crate::schema;
use crate::state::RouterState;
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
pub(crate) async fn validate(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let text = incoming.json()?;
    wire::check_syntax(text)?;
    let definition = crate::definitions::parse(&state, text.into()).await?;
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
    name: Cow<'static, str>,
    aliases: &'static [&'static str],
    pure: bool,
    about: Cow<'static, str>,
    params: Vec<Param>,
}

#[derive(Serialize)]
struct Param {
    name: Cow<'static, str>,
    required: bool,
    types: Vec<Cow<'static, str>>,
    about: &'static str,
}

impl Action {
    fn of(action: &'static catalogue::Action) -> Self {
        let params = action.params.iter().map(|param| Param {
            name: param.name.into(),
            required: param.required,
            types: param.types.iter().map(|name| Cow::from(*name)).collect(),
            about: param.about,
        });
        Self {
            name: action.name.into(),
            aliases: action.aliases,
            pure: action.is_pure,
            about: action.about.into(),
            params: params.collect(),
        }
    }

    fn of_tool(namespace: &str, tool: ToolInfo) -> Self {
        let param = |(name, required, of_type): (String, bool, String)| Param {
            name: name.into(),
            required,
            types: vec![of_type.into()],
            about: "",
        };
        Self {
            name: format!("{namespace}.{}", tool.name).into(),
            aliases: &[],
            pure: false,
            about: tool.about.into(),
            params: tool.params.into_iter().map(param).collect(),
        }
    }
}

/// The actions that steps may name; those of plugins as far as some node has found them.
#[utoipa::path(get, path = "/v1/actions", tag = "catalogue", operation_id = "listActions", responses((status = 200, body = schema::ActionList)))]
pub(crate) async fn actions(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut items: Vec<Action> = catalogue::ACTIONS.iter().map(Action::of).collect();
    // Ours are there, whether or not anybody can say what else is.
    for (namespace, tools) in plugins::tools(&state).await.unwrap_or_default() {
        items.extend(tools.into_iter().map(|tool| Action::of_tool(&namespace, tool)));
    }
    let page: Page<Action> = Page { items, next_cursor: None, unreachable_shards: Vec::new() };
    Ok(json(StatusCode::OK, &page))
}

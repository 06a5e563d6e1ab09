//! A workflow drawn: its definition's steps with how far each of them is; and a template, before
//! anything runs.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::diagram;
use opcode_shard::handle::PinnedDefinition;

use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::incoming::{Incoming, unsupported_accept, with_token};
use crate::query::Query;
use crate::schema;
use crate::state::RouterState;
use crate::submission::{Templates, parse_version};

#[derive(Clone, Copy)]
enum Format {
    Ascii,
    Mermaid,
    Svg,
}

impl Format {
    /// The query's `format`.
    fn of(query: &mut Query) -> Result<Self, ApiError> {
        match query.word("format", &["ascii", "mermaid", "svg", "png"]) {
            Some("mermaid") => Ok(Self::Mermaid),
            Some("svg") => Ok(Self::Svg),
            Some("png") => Err(unsupported_accept("`ascii`, `mermaid` or `svg`, not with `png`")),
            Some(_) | None => Ok(Self::Ascii),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Ascii => "text/plain; charset=utf-8",
            Self::Mermaid => "text/vnd.mermaid; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }

    fn draw(self, pinned: &PinnedDefinition) -> String {
        match self {
            Self::Ascii => diagram::ascii(&pinned.definition, &pinned.statuses),
            Self::Mermaid => diagram::mermaid(&pinned.definition, &pinned.statuses),
            Self::Svg => diagram::svg(&pinned.definition, &pinned.statuses),
        }
    }
}

/// Draws a workflow.
#[utoipa::path(get, path = "/v1/workflows/{id}/diagram", tag = "workflows", operation_id = "drawWorkflow",
    params(("id" = String, Path), ("format" = Option<String>, Query, description = "`ascii` (default), `mermaid` or `svg`"),
        ("include_status" = Option<bool>, Query, description = "how far each step is, default true")),
    responses((status = 200, content((String = "text/plain"), (String = "text/vnd.mermaid"), (String = "image/svg+xml"))),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 406, description = "`png` is not drawn by this build", body = schema::Problem)))]
pub(crate) async fn draw(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let format = Format::of(&mut query)?;
    let with_status = query.word("include_status", &["true", "false"]) != Some("false");
    query.finish()?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let Seen { value: mut pinned, position, .. } = shard.definition(&id).await?;
    if !with_status {
        pinned.statuses.clear();
    }
    Ok(with_token(picture(format, pinned).await?, shard.id(), position))
}

/// Draws a template.
#[utoipa::path(get, path = "/v1/templates/{name}/diagram", tag = "catalogue", operation_id = "drawTemplate",
    params(("name" = String, Path), ("version" = Option<String>, Query, description = "`v3`; the newest without it"),
        ("format" = Option<String>, Query, description = "`ascii` (default), `mermaid` or `svg`")),
    responses((status = 200, content((String = "text/plain"), (String = "text/vnd.mermaid"), (String = "image/svg+xml"))),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 406, description = "`png` is not drawn by this build", body = schema::Problem)))]
pub(crate) async fn draw_template(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let format = Format::of(&mut query)?;
    let version = query
        .one("version")
        .and_then(|text| parse_version(&text).map_err(|message| query.problem("version", message)).ok());
    query.finish()?;
    let name = super::templates::named(&incoming, version)?;
    let found = Templates::new(&state, incoming.caller.namespace()).find(name, version).await?;
    picture(format, PinnedDefinition { definition: found.definition, statuses: BTreeMap::new() }).await
}

/// The picture's answer.
async fn picture(format: Format, pinned: PinnedDefinition) -> Result<Response, ApiError> {
    // Ten thousand steps take a while: not on a thread that serves others.
    let text = tokio::task::spawn_blocking(move || format.draw(&pinned))
        .await
        .map_err(|_| ApiError::unavailable(Applied::No, "the diagram could not be drawn"))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        // Whatever a definition holds, a browser that opens its picture runs nothing of it.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
        ),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((StatusCode::OK, headers, text).into_response())
}

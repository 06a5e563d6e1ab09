//! A workflow drawn: its definition's steps with how far each of them is.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::diagram;
use opcode_shard::handle::PinnedDefinition;

use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::incoming::{Incoming, unsupported_accept, with_token};
use crate::schema;
use crate::state::RouterState;

#[derive(Clone, Copy)]
enum Format {
    Ascii,
    Mermaid,
    Svg,
}

impl Format {
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
    params(("id" = String, Path), ("format" = Option<String>, Query, description = "`ascii` (default), `mermaid` or `svg`")),
    responses((status = 200, content((String = "text/plain"), (String = "text/vnd.mermaid"), (String = "image/svg+xml"))),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 406, description = "`png` is not drawn by this build", body = schema::Problem)))]
pub(crate) async fn draw(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let format = match query.word("format", &["ascii", "mermaid", "svg", "png"]) {
        Some("mermaid") => Format::Mermaid,
        Some("svg") => Format::Svg,
        Some("png") => return Err(unsupported_accept("`ascii`, `mermaid` or `svg`, not with `png`")),
        Some(_) | None => Format::Ascii,
    };
    query.finish()?;
    let id = incoming.workflow_id()?;
    let shard = state.shard_of(&id);
    let Seen { value: pinned, position, .. } = shard.definition(&id).await?;
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
    Ok(with_token((StatusCode::OK, headers, text).into_response(), shard.id(), position))
}

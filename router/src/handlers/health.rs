//! Whether the process lives, whether it serves, and its metrics.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::incoming::json;
use crate::schema;
use crate::state::RouterState;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    node_id: &'a str,
    version: &'a str,
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "operations", operation_id = "getHealth", responses((status = 200, body = Object)))]
pub(crate) async fn healthz(State(state): State<RouterState>) -> Response {
    let node = state.node();
    json(StatusCode::OK, &Health { status: "ok", node_id: &node.node_id, version: &node.version })
}

/// Requests are served.
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "getReadiness",
    responses((status = 200, body = Object), (status = 503, body = schema::Problem)))]
pub(crate) async fn readyz(State(state): State<RouterState>) -> Result<Response, ApiError> {
    if !state.is_ready() {
        return Err(ApiError::unavailable(Applied::No, "the node is starting or stopping"));
    }
    let node = state.node();
    Ok(json(StatusCode::OK, &Health { status: "ready", node_id: &node.node_id, version: &node.version }))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", operation_id = "getMetrics",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<RouterState>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], state.metrics()).into_response()
}

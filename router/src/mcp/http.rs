//! `/mcp`: MCP's streamable HTTP on the node's listener.
//!
//! The API's own layers stand before it: tokens, the guard on `Host`, and here the guard on `Origin`
//! counts for reading too. Bodies are read as the API's are. The transport checks both headers once
//! more; what it refuses without a message of JSON-RPC becomes a problem document.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, FromRequest, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use opcode_engine::Code;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use super::contract::InProcess;
use super::message;
use super::server::{SESSION, Server, Shared};
use super::sessions::Sessions;
use crate::access::remote::Remote;
use crate::error::ApiError;
use crate::incoming::{Incoming, json};
use crate::state::RouterState;

/// How often a silent stream of a session says that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// Longest text of a refusal by the transport, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

type Service = StreamableHttpService<Server, Sessions>;

/// The transport and its sessions.
#[derive(Clone)]
struct Mcp {
    service: Service,
    sessions: Arc<Sessions>,
}

/// The route of `/mcp`, for tools that call `api`.
pub(crate) fn route(state: &RouterState, api: Router) -> Router<RouterState> {
    let contract = Arc::new(InProcess { api, state: state.clone() });
    let shared = Shared::new(contract, state.node().version.clone());
    let sessions = Arc::new(Sessions::new(state.options().mcp_sessions_max, state.options().mcp_idle));
    let new_server = move || Ok(Server::new(Arc::clone(&shared)));
    let mcp = Mcp { service: Service::new(new_server, Arc::clone(&sessions), config(state)), sessions };
    let serve = move |State(state): State<RouterState>, request: Request| {
        let mcp = mcp.clone();
        async move { mcp.serve(&state, request).await }
    };
    Router::new().route("/mcp", any(serve))
}

/// What the transport checks by itself, in the guard's terms: of a listener on loopback, its own
/// names; of another, which asks for a token and may stand behind a proxy of any name, no host. A
/// browser's page comes from the node's own address or not at all.
fn config(state: &RouterState) -> StreamableHttpServerConfig {
    let addr = &state.node().addr;
    let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host);
    let hosts = ["localhost", "127.0.0.1", "[::1]", host];
    let origins = hosts.iter().flat_map(|host| [format!("http://{host}:*"), format!("https://{host}:*")]);
    let config = StreamableHttpServerConfig::default()
        .with_sse_keep_alive(Some(BEAT_EVERY))
        .with_max_request_body_bytes(state.options().body_bytes_max)
        .with_allowed_origins(origins)
        .enforce_origin_validation();
    if state.listener_is_loopback() {
        config.with_allowed_hosts(hosts)
    } else {
        config.disable_allowed_hosts()
    }
}

impl Mcp {
    async fn serve(&self, state: &RouterState, request: Request) -> Result<Response, ApiError> {
        let has_session = request.headers().contains_key(SESSION);
        // A stream of a session is one like any other.
        let place = (*request.method() == Method::GET).then(|| state.enter_stream()).transpose()?;
        let (mut begins, ends) = (false, *request.method() == Method::DELETE);
        let (request, held) = if *request.method() == Method::POST {
            let method = request.method().clone();
            let from = request.extensions().get::<ConnectInfo<Remote>>().copied();
            let incoming = Incoming::from_request(request, state).await?;
            if incoming.media_type() == "application/json" {
                match message::read(&incoming.body) {
                    Ok(read) => begins = read.is_initialize && !has_session,
                    Err(refusal) => return Ok(json(StatusCode::BAD_REQUEST, &refusal)),
                }
            }
            let mut request = Request::new(Body::from(incoming.body.clone()));
            *request.method_mut() = method;
            *request.uri_mut() = incoming.uri.clone();
            *request.headers_mut() = incoming.headers.clone();
            request.extensions_mut().insert(incoming.caller.clone());
            if let Some(from) = from {
                request.extensions_mut().insert(from);
            }
            (request, Some(incoming))
        } else {
            (request.map(|_| Body::empty()), None)
        };
        let full = || ApiError::overloaded("too many MCP sessions are open; try again later");
        if begins && self.sessions.is_full().await {
            return Err(full());
        }
        let response = self.service.handle(request).await;
        drop(held);
        let (mut parts, body) = response.into_parts();
        if ends && parts.status == StatusCode::ACCEPTED {
            // There is nothing to come: some clients take 202 for a failure.
            parts.status = StatusCode::NO_CONTENT;
        }
        if begins && parts.status.is_server_error() && self.sessions.is_full().await {
            // Others were faster.
            return Err(full());
        }
        let body = Body::new(body);
        let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if (parts.status.is_client_error() || parts.status.is_server_error()) && !is_json {
            let text = to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
            let mut response = refused(parts.status, &text).into_response();
            if let Some(allow) = parts.headers.get(header::ALLOW) {
                response.headers_mut().insert(header::ALLOW, allow.clone());
            }
            return Ok(response);
        }
        // A call's stream ends with its answer, and waits end when the node stops; a session's stream
        // would go on.
        let (is_endless, stopping) = (place.is_some(), state.stopping());
        let end = async move {
            if !is_endless {
                std::future::pending::<()>().await;
            }
            stopping.await;
        };
        let chunks = body.into_data_stream().take_until(end).map(move |chunk| {
            let _place = &place;
            chunk
        });
        Ok(Response::from_parts(parts, Body::from_stream(chunks)))
    }
}

/// A refusal by the transport as the API would tell it.
fn refused(status: StatusCode, text: &Bytes) -> ApiError {
    let text = String::from_utf8_lossy(text);
    let detail = crate::wire::shortened(text.split_once(": ").map_or(&text, |(_, reason)| reason));
    match status {
        StatusCode::FORBIDDEN => ApiError::forbidden(detail),
        StatusCode::NOT_FOUND => ApiError::not_found(format!("{detail}; begin anew with `initialize`")),
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(detail),
        status if status.is_client_error() => ApiError::new(status, Code::ValidationError.as_str(), detail),
        _ => ApiError::unavailable(crate::error::Applied::Unknown, detail),
    }
}

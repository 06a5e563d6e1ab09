//! A request as handlers take it: method and path are axum's, the rest is read here, within
//! bounds of size and time. Also the answers' common form.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::Problem;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::batch::Position;
use opcode_shard::handle::Submission;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::access::Caller;
use crate::error::ApiError;
use crate::query::{Consistency, Query};
use crate::session::{Session, TOKEN};
use crate::state::RouterState;
use crate::trace::{self, Traced};

/// A request with its whole body.
pub(crate) struct Incoming {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trace_id: String,
    pub(crate) traced: Option<Traced>,
    pub(crate) caller: Caller,
    _room: OwnedSemaphorePermit,
}

impl FromRequest<RouterState> for Incoming {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &RouterState) -> Result<Self, ApiError> {
        let options = state.options();
        let (parts, body) = request.into_parts();
        let size = HttpBody::size_hint(&body).upper().unwrap_or(u64::MAX);
        if size > options.body_bytes_max as u64 && size < u64::MAX {
            return Err(too_large(options.body_bytes_max));
        }
        let room =
            state.hold_body(usize::try_from(size).unwrap_or(usize::MAX).min(options.body_bytes_max))?;
        let body = read_body(body, options.body_bytes_max, options.body_timeout).await?;
        let traced = trace::of(&parts.extensions);
        let trace_id = traced.map_or_else(String::new, |traced| traced.id());
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
        Ok(Self { uri: parts.uri, headers: parts.headers, body, trace_id, traced, caller, _room: room })
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("the body is larger than {bytes_max} bytes"))
}

async fn read_body(body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(timeout, axum::body::to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_length_limit(&error) => Err(too_large(bytes_max)),
        Ok(Err(error)) => {
            Err(ApiError::malformed(Problem::at("", format!("the body could not be received: {error}"))))
        }
        Err(_elapsed) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            opcode_engine::Code::TimeoutError.as_str(),
            "the body did not arrive in time",
        )),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}

impl Incoming {
    /// The type and subtype of the body, lower case, empty when not said.
    pub(crate) fn media_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
    }

    /// The body as text of a JSON media type.
    pub(crate) fn json(&self) -> Result<&str, ApiError> {
        let media_type = self.media_type();
        if media_type != "application/json" && !media_type.ends_with("+json") {
            return Err(unsupported(&media_type, "application/json"));
        }
        self.text()
    }

    /// The same where a body may be left out.
    pub(crate) fn optional_json(&self) -> Result<&str, ApiError> {
        if self.body.iter().all(u8::is_ascii_whitespace) { Ok("{}") } else { self.json() }
    }

    /// Has a run that the request starts go on with its trace.
    pub(crate) fn carry_trace(&self, submission: &mut Submission) {
        if let Some(traced) = &self.traced {
            traced.carry(submission);
        }
    }

    /// The body as UTF-8.
    pub(crate) fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(&self.body).map_err(|error| {
            let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
            ApiError::malformed(Problem::at("", message))
        })
    }

    pub(crate) fn query(&self) -> Result<Query, ApiError> {
        Query::of(&self.uri)
    }

    /// The segment of the path at `index`, decoded; `/v1/workflows/ID` has ID at 2.
    pub(crate) fn segment(&self, index: usize) -> Result<String, ApiError> {
        let raw = self.uri.path().trim_start_matches('/').split('/').nth(index).unwrap_or("");
        percent_decoded(raw)
            .ok_or_else(|| ApiError::malformed(Problem::at("", "the path is not percent-encoded UTF-8")))
    }

    /// The workflow id of `/v1/workflows/ID…`, in the caller's namespace.
    pub(crate) fn workflow_id(&self) -> Result<WorkflowId, ApiError> {
        WorkflowId::parse(&self.segment(2)?)
            .map(|id| id.in_namespace(self.caller.namespace()))
            .map_err(|message| ApiError::malformed(Problem::at("/workflow_id", message)))
    }

    /// Whether the client asks for an event stream.
    pub(crate) fn wants_events(&self) -> bool {
        self.accepts("text/event-stream")
    }

    /// Whether `Accept` names this media type.
    pub(crate) fn accepts(&self, media_type: &str) -> bool {
        self.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|part| part.split(';').next().is_some_and(|name| name.trim() == media_type))
        })
    }

    /// How fresh what is read must be.
    pub(crate) fn session(&self, consistency: Consistency) -> Result<Session, ApiError> {
        Session::of(&self.headers, consistency)
    }
}

pub(crate) fn unsupported(found: &str, wanted: &str) -> ApiError {
    let found = if found.is_empty() { "none is named".to_owned() } else { format!("`{found}` is named") };
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        opcode_engine::Code::ValidationError.as_str(),
        format!("this call takes the Content-Type {wanted}, and {found}"),
    )
}

/// 406: the client does not take what this call gives.
pub(crate) fn unsupported_accept(wanted: &str) -> ApiError {
    let detail = format!("this call answers with {wanted}");
    ApiError::new(StatusCode::NOT_ACCEPTABLE, opcode_engine::Code::ValidationError.as_str(), detail)
}

/// `%41` becomes `A`; `None` when that is no UTF-8 or a `%` stands alone.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let body = serde_json::to_vec(document).expect("an answer is JSON");
    json_bytes(status, body)
}

/// An answer that is JSON text already.
pub(crate) fn json_bytes(status: StatusCode, body: impl Into<Body>) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, content_type, body.into()).into_response()
}

/// Says what position of which shard an answer reflects.
pub(crate) fn with_token(response: Response, shard: ShardId, position: Position) -> Response {
    with_tokens(response, [(shard, position)])
}

/// The same for an answer of several shards: their tokens with commas between.
pub(crate) fn with_tokens(
    mut response: Response,
    positions: impl IntoIterator<Item = (ShardId, Position)>,
) -> Response {
    let mut token = String::new();
    for (shard, position) in positions {
        let comma = if token.is_empty() { "" } else { "," };
        token.push_str(&format!("{comma}{shard}:{}:{}", position.term, position.index));
    }
    response.headers_mut().insert(TOKEN, HeaderValue::try_from(token).expect("digits and colons"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded() {
        assert_eq!(percent_decoded("a%3Ab"), Some("a:b".into()));
        assert_eq!(percent_decoded("a%3"), None);
        assert_eq!(percent_decoded("%ff"), None);
        assert_eq!(percent_decoded("%é"), None);
    }
}

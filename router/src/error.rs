//! Errors as the HTTP contract shows them: RFC 9457 problem documents.
//!
//! A handler returns an [`ApiError`]; the outermost layer turns it into the document, since only
//! that layer knows the request's trace id. A 429 or 503 never says "not applied" wrongly.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::namespace::local;
use opcode_engine::{Code, Invalid, Problem, Rejected};
use opcode_shard::CallError;
use opcode_shard::vault::VaultError;
use serde::Serialize;

/// Whether a request that was not answered properly was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Certainly not.
    No,
    /// It may have been: try again with the same id.
    Unknown,
}

/// A request refused or failed, ready to be shown.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    detail: String,
    step_id: Option<String>,
    errors: Vec<Problem>,
    applied: Option<Applied>,
    retry_after_s: Option<u32>,
}

/// The document, as it is written.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    r#type: String,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'static str,
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Problem]>::is_empty")]
    errors: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<&'static str>,
}

/// Most single problems that one document lists; the detail counts them all.
const ERRORS_MAX: usize = 100;

impl ApiError {
    /// An error with a status, a code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            status,
            code,
            detail: detail.into(),
            step_id: None,
            errors: Vec::new(),
            applied: None,
            retry_after_s: None,
        }))
    }

    /// 400: not JSON, or a query that cannot be read.
    pub fn malformed(problem: Problem) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::ValidationError.as_str(), problem.message.clone())
            .with_errors(vec![problem])
    }

    /// 422: JSON that is not what this request takes. At least one problem.
    pub fn invalid(code: Code, problems: Vec<Problem>) -> Self {
        assert!(!problems.is_empty(), "a refusal without a problem");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code.as_str(), summary(&problems)).with_errors(problems)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound.as_str(), detail)
    }

    /// 401.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", detail)
    }

    /// 403.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied.as_str(), detail)
    }

    /// 413.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", detail)
    }

    /// 429, certainly not applied.
    pub fn overloaded(detail: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "OVERLOADED", detail);
        error.0.applied = Some(Applied::No);
        error.0.retry_after_s = Some(1);
        error
    }

    /// 503.
    pub fn unavailable(applied: Applied, detail: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", detail);
        error.0.applied = Some(applied);
        error.0.retry_after_s = Some(1);
        error
    }

    /// 503, certainly not applied.
    pub fn storage_full(detail: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "STORAGE_FULL", detail);
        error.0.applied = Some(Applied::No);
        error.0.retry_after_s = Some(10);
        error
    }

    /// 503, certainly not applied: the node has no key for secrets, or not the one that it takes.
    pub fn vault(detail: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::VaultError.as_str(), detail);
        error.0.applied = Some(Applied::No);
        error.0.retry_after_s = Some(10);
        error
    }

    fn with_errors(mut self, errors: Vec<Problem>) -> Self {
        self.0.errors = errors;
        self.0.errors.truncate(ERRORS_MAX);
        self
    }

    /// The same error with another status, where the contract maps a code differently.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The same refusal, with when to try again, in seconds.
    pub(crate) fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Its code.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// Its sentence.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Its single problems.
    pub fn problems(&self) -> &[Problem] {
        &self.0.errors
    }

    /// The problem document for a request with this trace id.
    pub(crate) fn document<'a>(&'a self, trace_id: &'a str) -> Document<'a> {
        let inner = &*self.0;
        Document {
            r#type: crate::manual::path_of(inner.code),
            title: title(inner.code),
            status: inner.status.as_u16(),
            detail: &inner.detail,
            code: inner.code,
            trace_id,
            step_id: inner.step_id.as_deref(),
            errors: &inner.errors,
            applied: inner.applied.map(|applied| match applied {
                Applied::No => "no",
                Applied::Unknown => "unknown",
            }),
        }
    }

    /// The whole answer.
    pub(crate) fn render(&self, trace_id: &str) -> Response {
        let body = serde_json::to_vec(&self.document(trace_id)).expect("a problem document is JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// `NOT_FOUND` becomes "Not found".
fn title(code: &str) -> String {
    let mut title = code.to_ascii_lowercase().replace('_', " ");
    if let Some(first) = title.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    title
}

fn summary(problems: &[Problem]) -> String {
    let first = &problems[0];
    let place = if first.pointer.is_empty() { String::new() } else { format!("{}: ", first.pointer) };
    match problems.len() {
        1 => format!("{place}{}", first.message),
        n => format!("{n} problems, the first: {place}{}", first.message),
    }
}

impl IntoResponse for ApiError {
    /// An empty answer that carries the error, for the outermost layer to write.
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> Self {
        let status = match rejected.code {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Conflict | Code::InvalidTransition => StatusCode::CONFLICT,
            Code::PermissionDenied | Code::PathDenied => StatusCode::FORBIDDEN,
            Code::ValidationError
            | Code::CycleDetected
            | Code::ExecutionError
            | Code::TimeoutError
            | Code::StepFailed
            | Code::StoreError
            | Code::InterpolationError
            | Code::IsolationError
            | Code::VaultError
            | Code::ActionUnavailable
            | Code::NonRetryable
            | Code::CircuitOpen
            | Code::AssertionFailed
            | Code::RetryExhausted
            | Code::Cancelled
            | Code::SignalFailed => StatusCode::UNPROCESSABLE_ENTITY,
        };
        let mut error =
            Self::new(status, rejected.code.as_str(), rejected.message).with_errors(rejected.problems);
        error.0.step_id = rejected.step_id;
        error
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::from(Rejected::from(invalid))
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rejected(rejected) => rejected.into(),
            CallError::NotFound(id) => Self::not_found(format!("there is no workflow {}", local(&id))),
            CallError::Overloaded => {
                Self::overloaded("the shard has more work queued than it takes; try again shortly")
            }
            CallError::StorageFull => Self::storage_full(
                "the disk of the node that leads the shard is full: make room, or move the shard",
            ),
            CallError::NotLeader { shard, .. } => {
                Self::unavailable(Applied::No, format!("shard {shard} has no leader that can be reached"))
            }
            CallError::Unavailable { applied_unknown, message } => {
                let applied = if applied_unknown { Applied::Unknown } else { Applied::No };
                Self::unavailable(applied, message)
            }
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey
            | VaultError::WrongKey { .. }
            | VaultError::Damaged { .. }
            | VaultError::TooLong => Self::vault(error.to_string()),
            VaultError::Missing(_) => Self::not_found(error.to_string()),
            VaultError::Refused { field, message } => {
                Self::invalid(Code::ValidationError, vec![Problem::at(format!("/{field}"), message)])
            }
            VaultError::Contended(_) => {
                Self::new(StatusCode::CONFLICT, Code::Conflict.as_str(), error.to_string())
            }
            VaultError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_fields_of_the_contract() {
        let error = ApiError::invalid(Code::ValidationError, vec![Problem::at("/steps/0/id", "is missing")]);
        let document = serde_json::to_value(error.document("abc")).expect("a document");
        assert_eq!(
            document,
            serde_json::json!({
                "type": "/errors/VALIDATION_ERROR",
                "title": "Validation error",
                "status": 422,
                "detail": "/steps/0/id: is missing",
                "code": "VALIDATION_ERROR",
                "trace_id": "abc",
                "errors": [{"pointer": "/steps/0/id", "message": "is missing"}],
            })
        );
    }

    #[test]
    fn an_unknown_outcome_is_never_told_as_not_applied() {
        let unknown = ApiError::from(CallError::Unavailable { applied_unknown: true, message: "m".into() });
        assert_eq!(serde_json::to_value(unknown.document("t")).expect("json")["applied"], "unknown");
        let refused = ApiError::from(CallError::Overloaded);
        assert_eq!(serde_json::to_value(refused.document("t")).expect("json")["applied"], "no");
        assert_eq!(refused.render("t").headers()[header::RETRY_AFTER], "1");
    }
}

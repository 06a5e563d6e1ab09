//! The audit log: who has called what that changes something, and who was refused.
//!
//! A layer sees each call from outside the check of tokens and hands what it has seen to the node's
//! [`AuditLog`], which keeps it in files of its own; any node shows those of all. Of a call its
//! method and path are taken down, never its body, its query or its token.
//!
//! A call that administers (tokens, secrets, templates, schedules, the cluster, whatever deletes) is
//! on stable storage before its answer leaves. To wait for that is too much for what runs workflows:
//! of those calls a crash takes the last second at most. Of calls that were refused for who made
//! them, or for how many there were, a few a second are taken down and the rest is counted, since
//! whoever guesses tokens must not push out what others have done.

mod entry;
pub mod query;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::future::BoxFuture;
use opcode_shard::clock::Clock;
use parking_lot::Mutex;

pub use self::entry::{Call, Entry, NotRecorded, Noted};
use self::query::{AuditPage, PageQuery};
use crate::access::limit::{Bucket, RateLimit};
use crate::access::remote::remote_of;
use crate::state::RouterState;
use crate::trace;

/// Refused calls that are taken down; of more only the number is.
const REFUSED: RateLimit = RateLimit { requests_per_second: 1, burst: 100 };

/// Where a node keeps its part of the audit log.
pub trait AuditLog: Send + Sync + 'static {
    /// Takes a call down. Never waits; within a second it is on stable storage, unless there are more
    /// calls than can be written, which are counted.
    fn record(&self, call: Call);

    /// Takes a call down; resolves once it is on stable storage. The error says why it is not.
    fn record_durably(&self, call: Call) -> BoxFuture<'static, Result<(), String>>;

    /// Counts a refused call that is not taken down.
    fn skip_refused(&self);

    /// The newest entries that match, with all that has been taken down before.
    fn page(&self, query: PageQuery) -> BoxFuture<'static, Result<AuditPage, String>>;
}

/// The way to a node's part of the log, and what bounds refused calls in it.
pub(crate) struct Audit {
    log: Arc<dyn AuditLog>,
    refused: Mutex<Bucket>,
    clock: Clock,
    begun: Instant,
}

impl Audit {
    pub(crate) fn new(log: Arc<dyn AuditLog>) -> Self {
        Self { log, refused: Mutex::default(), clock: Clock::default(), begun: Instant::now() }
    }

    pub(crate) fn log(&self) -> &dyn AuditLog {
        &*self.log
    }

    fn may_record_refused(&self) -> bool {
        self.refused.lock().take(REFUSED, self.begun.elapsed())
    }
}

/// How a call is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Only when it is refused.
    Reads,
    /// With others.
    Runs,
    /// At once.
    Administers,
}

impl Kind {
    fn of(method: &Method, path: &str) -> Self {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Self::Reads;
        }
        let mut segments = path.trim_matches('/').split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            // Nothing is changed by these; and what a tool of MCP asks for is a call of its own.
            (Some("v1"), Some("validate" | "sql"), None, None) | (Some("mcp"), None, None, None) => {
                Self::Reads
            }
            (Some("v1"), Some("workflows"), Some("bulk"), None) => Self::Administers,
            (Some("v1"), Some("workflows"), ..) if *method != Method::DELETE => Self::Runs,
            _ => Self::Administers,
        }
    }
}

/// A call that is being answered. One whose caller goes away first is taken down too, without a
/// status: what it asked for may have been done.
struct Pending {
    state: RouterState,
    kind: Kind,
    call: Option<Call>,
    started: Instant,
}

impl Pending {
    async fn end(mut self, response: Response) -> Response {
        let (Some(audit), Some(mut call)) = (self.state.audit(), self.call.take()) else { return response };
        let status = response.status();
        call.at = audit.clock.now();
        call.status = Some(status.as_u16());
        call.duration = self.started.elapsed();
        call.location = response.headers().get(header::LOCATION).cloned();
        let is_refused = matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        );
        match self.kind {
            _ if is_refused && audit.may_record_refused() => audit.log.record(call),
            _ if is_refused => audit.log.skip_refused(),
            Kind::Reads => {}
            // What was refused for what it says has changed nothing.
            Kind::Administers if !status.is_client_error() => {
                let trace_id = call.trace_id.clone();
                if let Err(error) = audit.log.record_durably(call).await {
                    // It has been done: to say otherwise would be a lie.
                    tracing::error!(trace_id, error, "a call is not in the audit log");
                }
            }
            Kind::Administers | Kind::Runs => audit.log.record(call),
        }
        response
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let (Some(audit), Some(mut call), true) =
            (self.state.audit(), self.call.take(), self.kind != Kind::Reads)
        {
            call.at = audit.clock.now();
            call.duration = self.started.elapsed();
            audit.log.record(call);
        }
    }
}

/// The layer.
pub(crate) async fn record(State(state): State<RouterState>, mut request: Request, next: Next) -> Response {
    if state.audit().is_none() {
        return next.run(request).await;
    }
    let noted = Arc::new(Noted::default());
    request.extensions_mut().insert(Arc::clone(&noted));
    let call = Call::new(
        trace::of(request.extensions()).map_or_else(String::new, |traced| traced.id().to_string()),
        request.method().clone(),
        request.uri().clone(),
        remote_of(&request),
        noted,
    );
    let kind = Kind::of(request.method(), request.uri().path());
    let pending = Pending { state, kind, call: Some(call), started: Instant::now() };
    let response = next.run(request).await;
    pending.end(response).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_administers_is_told_from_what_runs_and_what_reads() {
        let kind = |method: &str, path: &str| Kind::of(&method.parse().unwrap(), path);
        for (method, path) in [
            ("GET", "/v1/tokens"),
            ("HEAD", "/v1/workflows/x"),
            ("POST", "/v1/validate"),
            ("POST", "/v1/sql"),
            ("POST", "/mcp"),
            ("DELETE", "/mcp"),
        ] {
            assert_eq!(kind(method, path), Kind::Reads, "{method} {path}");
        }
        for path in ["", "/batch", "/x/signals", "/x/cancel", "/bulk/cancel"] {
            assert_eq!(kind("POST", &format!("/v1/workflows{path}")), Kind::Runs, "{path}");
        }
        for (method, path) in [
            ("POST", "/v1/workflows/bulk"),
            ("DELETE", "/v1/workflows/x"),
            ("POST", "/v1/tokens"),
            ("PUT", "/v1/secrets/x"),
            ("POST", "/v1/templates"),
            ("POST", "/v1/schedules/x/trigger"),
            ("POST", "/v1/cluster/rebalance"),
            ("POST", "/v1/what-comes-next"),
            ("POST", "/mcp/x"),
        ] {
            assert_eq!(kind(method, path), Kind::Administers, "{method} {path}");
        }
    }
}

//! What the HTTP edge tells of itself in numbers, and the recording of it.
//!
//! A route is a label by its pattern, and a method by its name if it is one of ours: whatever
//! clients send, the labels are of a bounded number.

use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::{Extensions, Method, StatusCode};
use opcode_shard::meters::Meter;

use crate::error::ApiError;

/// Every metric that this crate records.
pub const METERS: &[Meter] = &[
    Meter::counter("opcode_http_requests_total", "HTTP requests answered"),
    Meter::histogram(
        "opcode_http_request_duration_seconds",
        "Time from a request's head to its answer's; a stream's body comes after",
    ),
    Meter::counter("opcode_http_problems_total", "HTTP requests answered with a problem, by its code"),
    Meter::counter("opcode_audit_lost_total", "Entries of the audit log that could not be written"),
    Meter::counter("opcode_retention_deleted_total", "Runs deleted, since their time was up"),
    Meter::counter(
        "opcode_retention_failures_total",
        "Runs whose time was up, and that could not be deleted",
    ),
    Meter::counter(
        "opcode_retention_archives_deleted_total",
        "Archives of runs deleted, since their time was up",
    ),
    Meter::counter("opcode_webhook_deliveries_total", "Deliveries to webhooks, by what became of them"),
    Meter::counter(
        "opcode_schedule_slots_total",
        "Slots of schedules that came up on this node, by what became of them",
    ),
];

/// A request, as labels.
pub(crate) struct Asked {
    method: &'static str,
    pub(crate) route: String,
}

impl Asked {
    /// What a request asks for.
    pub(crate) fn of(method: &Method, extensions: &Extensions) -> Self {
        let route = extensions.get::<MatchedPath>().map_or("none", MatchedPath::as_str);
        Self { method: label(method), route: route.to_owned() }
    }

    /// It has been answered.
    pub(crate) fn answered(self, status: StatusCode, problem: Option<&ApiError>, took: Duration) {
        let Self { method, route } = self;
        metrics::histogram!(
            "opcode_http_request_duration_seconds", "method" => method, "route" => route.clone()
        )
        .record(took.as_secs_f64());
        metrics::counter!(
            "opcode_http_requests_total",
            "method" => method, "route" => route, "status" => status.as_u16().to_string()
        )
        .increment(1);
        let Some(problem) = problem else { return };
        let code = problem.code();
        metrics::counter!("opcode_http_problems_total", "code" => code).increment(1);
        if matches!(problem.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            metrics::counter!("opcode_denied_total", "of" => "call", "code" => code).increment(1);
        }
    }
}

/// A method as a label.
fn label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        _ => "other",
    }
}

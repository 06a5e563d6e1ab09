//! Streams of events for pages: those of the contract as they are, with the visitor's token.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::visit::{Visit, encoded};

const EVENTS: &str = "text/event-stream";

/// The events of one workflow. A browser that was cut off says by itself which it has seen last; one that
/// is here for the first time has the page that it is on, and is told what comes after `after`.
pub(super) async fn of_run(visit: Visit) -> Response {
    let after = visit.asked("after").and_then(|after| after.parse::<u64>().ok()).unwrap_or(0);
    let path = format!("/v1/workflows/{}/events?after={after}", encoded(&visit.segment(2)));
    handed_on(visit.open(Method::GET, &path, None, EVENTS).await)
}

/// All events from now on.
pub(super) async fn firehose(visit: Visit) -> Response {
    let only = visit.asked("type").map(|only| format!("?type={}", encoded(only))).unwrap_or_default();
    handed_on(visit.open(Method::GET, &format!("/v1/events{only}"), None, EVENTS).await)
}

/// A refusal is told by its status alone: who reads a stream sees no more of it.
fn handed_on(response: Response) -> Response {
    match response.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => response,
        status => status.into_response(),
    }
}

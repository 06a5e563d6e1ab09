//! A request as part of a trace: the one that its `traceparent` names, or one of its own.

use std::time::SystemTime;

use axum::http::{Extensions, HeaderMap, Method};
use opcode_shard::handle::Submission;
use opcode_shard::trace::{self, Span, SpanKind, TRACEPARENT, TraceParent};
use serde_json::Value;
use uuid::Uuid;

use crate::error::ApiError;

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traced {
    /// What it is known by in its trace.
    own: TraceParent,
    /// Who asks, if the request says so.
    parent: Option<TraceParent>,
    begun: SystemTime,
}

impl Traced {
    /// A request with these headers begins.
    pub(crate) fn begin(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(TRACEPARENT).iter();
        // Several say nothing.
        let only = all.next().filter(|_| all.next().is_none());
        let parent = only.and_then(|value| TraceParent::parse(value.to_str().ok()?));
        let own = match parent {
            Some(parent) => parent.child(),
            None => TraceParent::root(*Uuid::now_v7().as_bytes(), trace::is_on()),
        };
        Self { own, parent, begun: SystemTime::now() }
    }

    /// The trace's id, for problem documents and logs.
    pub(crate) fn id(&self) -> String {
        self.own.trace_id()
    }

    /// What is started by the request belongs to: without anybody who takes spans, to who asked.
    fn passed_on(&self) -> Option<TraceParent> {
        if trace::is_on() && self.own.is_sampled { Some(self.own) } else { self.parent }
    }

    /// Has a run go on with the trace, in its context, unless that names another.
    pub(crate) fn carry(&self, submission: &mut Submission) {
        let Some(passed_on) = self.passed_on() else { return };
        if submission.context.is_null() {
            submission.context = Value::Object(serde_json::Map::new());
        }
        if let Some(context) = submission.context.as_object_mut() {
            context.entry(TRACEPARENT).or_insert_with(|| passed_on.to_string().into());
        }
    }

    /// The request has been answered.
    pub(crate) fn answered(self, method: &Method, route: &str, status: u16, problem: Option<&ApiError>) {
        trace::ended(self.own, || Span {
            own: self.own,
            parent: self.parent.map(|parent| parent.span_id),
            name: format!("{method} {route}"),
            kind: SpanKind::Server,
            begun: self.begun,
            ended: SystemTime::now(),
            attributes: vec![
                ("http.request.method", method.to_string()),
                ("http.route", route.to_owned()),
                ("http.response.status_code", status.to_string()),
            ],
            error: problem.filter(|_| status >= 500).map(|problem| problem.code().to_owned()),
        });
    }
}

/// The trace of a request, as the outermost layer began it.
pub(crate) fn of(extensions: &Extensions) -> Option<Traced> {
    extensions.get::<Traced>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_on_with_the_trace_that_it_names_once() {
        const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let id = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, value.parse().unwrap());
            }
            Traced::begin(&headers).id()
        };
        assert_eq!(id(&[GIVEN]), "4bf92f3577b34da6a3ce929d0e0e4736");
        for own in [&[][..], &["junk"], &[GIVEN, GIVEN]] {
            let id = id(own);
            assert!(id.len() == 32 && !id.starts_with("4bf92f"), "{own:?}: {id}");
        }
    }
}

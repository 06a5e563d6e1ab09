//! Events of a workflow, as a list or as a live stream, and the firehose of all of them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::event::EventType;
use opcode_engine::ids::{Sequence, WorkflowId};
use opcode_shard::follow::{Places, RunChoice, parse_label};

use crate::error::ApiError;
use crate::event_stream;
use crate::firehose::{self, Form, Start, Wanted};
use crate::gather::Page;
use crate::incoming::{Incoming, json, unsupported_accept, with_token};
use crate::namespace::sought;
use crate::query::Query;
use crate::schema;
use crate::state::RouterState;
use crate::wire::unknown;

/// Events of a workflow in order; with `Accept: text/event-stream` live until it ends.
#[utoipa::path(get, path = "/v1/workflows/{id}/events", tag = "workflows", operation_id = "listWorkflowEvents",
    params(("id" = String, Path), ("after" = Option<u64>, Query, description = "only events after this sequence"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000),
        ("consistency" = Option<String>, Query, description = "of a list: `strong` (default), `session` or `eventual`"),
        ("Last-Event-ID" = Option<u64>, Header, description = "of a stream: goes on after this sequence")),
    responses((status = 200, content((schema::EventList = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "of a stream: the run has ended and has no more events"),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let after = query.number("after", 0, i64::MAX.unsigned_abs());
    let limit = query.limit();
    let consistency = query.consistency();
    query.finish()?;
    let id = incoming.workflow_id()?;
    if incoming.wants_events() {
        let after = last_event_id(&incoming)?.or(after).unwrap_or(0);
        return event_stream::follow_run(&state, id, Sequence(after)).await;
    }
    let shard = state.shard_of(&id);
    let session = incoming.session(consistency)?;
    let after = Sequence(after.unwrap_or(0));
    let read = event_stream::read(&shard, &id, after, limit, session.freshness(shard.id())).await?;
    let (records, has_more) = read.value;
    let next_cursor = records.last().filter(|_| has_more).map(|record| record.sequence.0.to_string());
    let namespace = incoming.caller.namespace();
    let items = records.iter().map(|record| event_stream::document(record, namespace)).collect();
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(session.with_lag(with_token(response, shard.id(), read.position), read.lag_ms))
}

/// Where a stream goes on.
fn last_event_id(incoming: &Incoming) -> Result<Option<u64>, ApiError> {
    let Some(value) = incoming.headers.get("last-event-id") else { return Ok(None) };
    let read = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    match read.filter(|&sequence| i64::try_from(sequence).is_ok()) {
        Some(sequence) => Ok(Some(sequence)),
        None => Err(ApiError::malformed(Problem::at(
            "",
            "the header Last-Event-ID must be the sequence of an event of this workflow",
        ))),
    }
}

/// Every event of every workflow of the namespace, or of some, from now on or from a place on.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "followEvents",
    params(("type" = Option<Vec<String>>, Query, description = "only events of this type; may be repeated"),
        ("template" = Option<String>, Query, description = "only of runs of this template"),
        ("label" = Option<Vec<String>>, Query, description = "only of runs with this label, `name:value`; all given must match"),
        ("workflow_id" = Option<String>, Query, description = "only of this run"),
        ("agent_id" = Option<String>, Query, description = "only of runs that this agent has started"),
        ("after" = Option<String>, Query, description = "goes on after this place, the `id` of an event; `earliest`: all that is still there"),
        ("follow" = Option<bool>, Query, description = "`false` ends it with what is there by now"),
        ("Last-Event-ID" = Option<String>, Header, description = "goes on after this place")),
    responses((status = 400, body = schema::Problem),
        (status = 200, content((String = "text/event-stream"), (String = "application/x-ndjson"))),
        (status = 406, body = schema::Problem), (status = 410, description = "the logs have let go of what follows the place; `detail` says from where they go on", body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn firehose(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let types = event_types(&mut query);
    let namespace = incoming.caller.namespace();
    let workflow_id = query
        .one("workflow_id")
        .and_then(|id| WorkflowId::parse(&id).map_err(|message| query.problem("workflow_id", message)).ok());
    let choice = RunChoice {
        namespace: Some(namespace.clone()),
        workflow_id: workflow_id.map(|id| id.in_namespace(namespace)),
        template: query.one("template").map(|name| sought(namespace, name)),
        labels: labels(&mut query),
        agent_id: query.one("agent_id"),
    };
    let after = query.one("after");
    let follows = query.word("follow", &["true", "false"]) != Some("false");
    query.finish()?;
    let is_lines = incoming.accepts("application/x-ndjson");
    if !is_lines
        && !incoming.wants_events()
        && !incoming.accepts("*/*")
        && incoming.headers.contains_key("accept")
    {
        return Err(unsupported_accept("text/event-stream"));
    }
    let form = if is_lines { Form::Lines } else { Form::Frames };
    let start = start(&incoming, after, state.map().shards.len())?;
    let is_confined = incoming.caller.confined_to().is_some() || !namespace.is_default();
    firehose::firehose(&state, Wanted { types, choice, is_confined, start, form, follows }).await
}

fn event_types(query: &mut Query) -> Vec<EventType> {
    let names: Vec<&'static str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    let mut types = Vec::new();
    for name in query.all("type") {
        match EventType::from_name(&name) {
            Some(event_type) => types.push(event_type),
            None => query.problem("type", unknown("value", &name, &names)),
        }
    }
    types
}

fn labels(query: &mut Query) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    for text in query.all("label") {
        match parse_label(&text) {
            Ok(label) => labels.push(label),
            Err(message) => query.problem("label", message),
        }
    }
    labels
}

/// Where a firehose begins, of a cluster with so many shards. A browser sends the header with what it
/// saw last, beside the query that it began with.
fn start(incoming: &Incoming, after: Option<String>, shards: usize) -> Result<Start, ApiError> {
    let (place, name) = match incoming.headers.get("last-event-id") {
        Some(value) => (Some(value.to_str().unwrap_or_default().to_owned()), "the header Last-Event-ID"),
        None => (after, "query parameter `after`"),
    };
    match place.as_deref() {
        None => Ok(Start::Now),
        Some("earliest") => Ok(Start::Earliest),
        Some(text) => Places::parse(text, shards)
            .map(Start::After)
            .map_err(|message| ApiError::malformed(Problem::at("/after", format!("{name} {message}")))),
    }
}

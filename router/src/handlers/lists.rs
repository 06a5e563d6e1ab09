//! Lists of workflows over all shards, newest first.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::namespace::into_local;
use opcode_shard::store::{RunFilter, RunSummary};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::ApiError;
use crate::gather::{self, Cursor, Order, Page};
use crate::incoming::{Incoming, json, with_tokens};
use crate::namespace::sought;
use crate::query::Query;
use crate::schema;
use crate::state::RouterState;
use crate::wire::unknown;

/// A line of the list.
#[derive(Serialize)]
struct Line {
    workflow_id: String,
    status: String,
    template: Option<String>,
    version: Option<String>,
    agent_id: Option<String>,
    labels: BTreeMap<String, String>,
    error: Option<Box<RawValue>>,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
}

impl From<RunSummary> for Line {
    fn from(run: RunSummary) -> Self {
        Self {
            workflow_id: into_local(run.workflow_id),
            status: run.status,
            template: run.template.map(into_local),
            version: run.version,
            agent_id: run.agent_id,
            labels: run.labels,
            error: run.error,
            created_at: run.created_at.to_rfc3339(),
            started_at: run.started_at.map(|at| at.to_rfc3339()),
            completed_at: run.completed_at.map(|at| at.to_rfc3339()),
        }
    }
}

/// Lists workflows, newest first.
#[utoipa::path(get, path = "/v1/workflows", tag = "workflows", operation_id = "listWorkflows",
    params(("status" = Option<String>, Query, description = "one, several with commas, or repeated"),
        ("agent_id" = Option<String>, Query), ("template" = Option<String>, Query),
        ("label" = Option<Vec<String>>, Query, description = "`name:value`; all given must match"),
        ("since" = Option<String>, Query, description = "created at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "created before, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query),
        ("consistency" = Option<String>, Query)),
    responses((status = 200, body = schema::WorkflowList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let consistency = query.consistency();
    let limit = query.limit();
    let namespace = incoming.caller.namespace();
    let filter = RunFilter {
        namespace: Some(namespace.clone()),
        statuses: statuses(&mut query),
        agent_id: query.one("agent_id"),
        template: query.one("template").map(|name| sought(namespace, name)),
        labels: labels(&mut query),
        since: query.time("since"),
        until: query.time("until"),
        after: Cursor::of(&mut query).map(|cursor| (cursor.at, cursor.id)),
        limit: limit + 1,
    };
    query.finish()?;
    let session = incoming.session(consistency)?;
    let mut gathered = gather::ask_all(&state, |shard| {
        let (filter, freshness) = (filter.clone(), session.freshness(shard.id()));
        async move { shard.list_runs(filter, freshness).await }
    })
    .await?;
    let (positions, lag_ms) = (std::mem::take(&mut gathered.positions), gathered.lag_ms);
    let (rows, next_cursor, unreachable_shards) = gather::merge(gathered, limit, Order::NewestFirst, run_key);
    let items = rows.into_iter().map(Line::from).collect();
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards });
    Ok(session.with_lag(with_tokens(response, positions), lag_ms))
}

/// A run's place in lists.
pub(crate) fn run_key(run: &RunSummary) -> Cursor {
    Cursor { at: run.created_at, id: run.workflow_id.clone() }
}

pub(super) fn statuses(query: &mut Query) -> Vec<String> {
    let given = query.all("status");
    let words: Vec<String> = given.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
    for word in &words {
        if let Err(message) = check_status(word) {
            query.problem("status", message);
        }
    }
    words
}

/// Whether this is a status that a workflow can have.
pub(crate) fn check_status(word: &str) -> Result<(), String> {
    let known = WorkflowStatus::ALL.map(WorkflowStatus::as_str);
    if known.contains(&word) { Ok(()) } else { Err(unknown("status", word, &known)) }
}

pub(super) fn labels(query: &mut Query) -> Vec<(String, String)> {
    let given = query.all("label");
    let mut labels = Vec::with_capacity(given.len());
    for text in given {
        match text.split_once(':') {
            Some((name, value)) if !name.is_empty() => labels.push((name.to_owned(), value.to_owned())),
            _ => query.problem("label", "must be `name:value`"),
        }
    }
    labels
}

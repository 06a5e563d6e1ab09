//! One action on every workflow that matches a filter: cancel, retry or signal.
//!
//! Not a transaction: each run takes or refuses the command for itself, and the answer counts.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use opcode_engine::command::{Command, Reason, Signal};
use opcode_engine::ids::WorkflowId;
use opcode_shard::CallError;
use opcode_shard::remote::Freshness;
use opcode_shard::store::{RunFilter, RunSummary};
use serde::Serialize;

use super::commands;
use super::lists::check_status;
use crate::access::Caller;
use crate::error::ApiError;
use crate::forward::ShardClient;
use crate::incoming::{Incoming, json};
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, unknown};

/// Runs that one call goes through at most.
const RUNS_MAX: u64 = 100_000;
/// Runs listed at a time.
const PAGE: usize = 500;
/// Commands under way at a time.
const COMMANDS_AT_A_TIME: usize = 64;

#[derive(Clone)]
enum Action {
    Cancel(Reason),
    Retry(Reason),
    Signal(Signal),
}

impl Action {
    fn command(&self) -> Command {
        match self.clone() {
            Self::Cancel(reason) => Command::Cancel(reason),
            Self::Retry(reason) => Command::Retry { from_step: None, params: None, definition: None, reason },
            Self::Signal(signal) => Command::Signal(signal),
        }
    }

    /// The statuses of runs that the action can apply to.
    fn statuses(&self) -> Vec<String> {
        let statuses: &[&str] = match self {
            Self::Cancel(_) | Self::Signal(_) => &["pending", "active", "suspended"],
            Self::Retry(_) => &["failed"],
        };
        statuses.iter().map(|&status| status.to_owned()).collect()
    }
}

#[derive(Default, Serialize)]
struct Answer {
    matched: u64,
    applied: u64,
    refused: u64,
    truncated: bool,
}

/// Cancels, retries or signals every workflow that matches.
#[utoipa::path(post, path = "/v1/workflows/bulk", tag = "workflows", operation_id = "applyToWorkflows", request_body = schema::BulkRequest,
    responses((status = 200, body = schema::BulkAnswer), (status = 400, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn apply(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let action = action(&mut fields, &incoming.caller)?;
    let filter = filter(&mut fields);
    let dry_run = fields.boolean("dry_run").unwrap_or(false);
    fields.done()?;
    let (action, mut filter) = action.zip(filter).expect("a body without problems has both");
    if filter.statuses.is_empty() {
        filter.statuses = action.statuses();
    }
    let mut answer = Answer::default();
    for shard in state.shards() {
        go_through(&shard, &filter, &action, dry_run, &mut answer).await?;
    }
    if !dry_run {
        state.agents().seen(action.command().agent_id().map(|id| &**id), &incoming.headers);
    }
    Ok(json(StatusCode::OK, &answer))
}

async fn go_through(
    shard: &ShardClient,
    filter: &RunFilter,
    action: &Action,
    dry_run: bool,
    answer: &mut Answer,
) -> Result<(), ApiError> {
    let mut filter = filter.clone();
    loop {
        if answer.matched >= RUNS_MAX {
            answer.truncated = true;
            return Ok(());
        }
        let page = shard.list_runs(filter.clone(), Freshness::Strong).await?.value;
        let Some(last) = page.last() else { return Ok(()) };
        filter.after = Some((last.created_at, last.workflow_id.clone()));
        answer.matched += page.len() as u64;
        let is_last = page.len() < filter.limit;
        if !dry_run {
            apply_page(shard, page, action, answer).await?;
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn apply_page(
    shard: &ShardClient,
    page: Vec<RunSummary>,
    action: &Action,
    answer: &mut Answer,
) -> Result<(), ApiError> {
    let commands = page.into_iter().filter_map(|run| WorkflowId::parse(&run.workflow_id).ok()).map(|id| {
        let command = action.command();
        async move { shard.command(&id, command).await }
    });
    let results: Vec<_> = futures::stream::iter(commands).buffered(COMMANDS_AT_A_TIME).collect().await;
    for result in results {
        match result {
            Ok(_) => answer.applied += 1,
            Err(CallError::Rejected(_) | CallError::NotFound(_)) => answer.refused += 1,
            // Others were applied before: it is not for this error to say that nothing was.
            Err(
                error @ (CallError::Overloaded
                | CallError::StorageFull
                | CallError::NotLeader { .. }
                | CallError::Unavailable { .. }),
            ) => {
                let detail = format!("{error}; {} were applied before", answer.applied);
                return Err(ApiError::unavailable(crate::error::Applied::Unknown, detail));
            }
        }
    }
    Ok(())
}

fn action(fields: &mut Fields<'_>, caller: &Caller) -> Result<Option<Action>, ApiError> {
    let name = fields.string("action");
    let reason = Reason { agent_id: fields.agent(caller)?, reason: fields.string("reason") };
    let signal = read_signal(fields, caller)?;
    Ok(match (name.as_deref(), signal) {
        (Some("cancel"), None) => Some(Action::Cancel(reason)),
        (Some("retry"), None) => Some(Action::Retry(reason)),
        (Some("signal"), Some(signal)) => signal.map(Action::Signal),
        (Some("signal"), None) => {
            fields.problem("signal", "is missing: the signal to send");
            None
        }
        (Some("cancel" | "retry"), Some(_)) => {
            fields.problem("signal", "is only for the action `signal`");
            None
        }
        (Some(other), _) => {
            fields.problem("action", unknown("action", other, &["cancel", "retry", "signal"]));
            None
        }
        (None, _) => {
            fields.problem("action", "is missing or no string; give cancel, retry or signal");
            None
        }
    })
}

/// The field `signal`: outer `None` when it is not there, inner when it is not valid.
fn read_signal(fields: &mut Fields<'_>, caller: &Caller) -> Result<Option<Option<Signal>>, ApiError> {
    let Some(raw) = fields.raw("signal") else { return Ok(None) };
    Ok(Some(match Fields::of_raw(raw, "/signal") {
        Ok(mut inner) => {
            let signal = commands::signal(&mut inner, caller)?;
            fields.extend(inner.finish());
            signal
        }
        Err(problem) => {
            fields.extend([problem]);
            None
        }
    }))
}

fn filter(fields: &mut Fields<'_>) -> Option<RunFilter> {
    let Some(raw) = fields.raw("filter") else {
        fields.problem("filter", "is missing; `{}` is every workflow that the action can apply to");
        return None;
    };
    let mut inner = match Fields::of_raw(raw, "/filter") {
        Ok(inner) => inner,
        Err(problem) => {
            fields.extend([problem]);
            return None;
        }
    };
    let statuses = inner.strings("status");
    for status in &statuses {
        if let Err(message) = check_status(status) {
            inner.problem("status", message);
        }
    }
    let filter = RunFilter {
        statuses,
        agent_id: inner.string("agent_id"),
        template: inner.string("template"),
        labels: inner.labels().into_iter().collect(),
        since: inner.time("since"),
        until: inner.time("until"),
        after: None,
        limit: PAGE,
    };
    fields.extend(inner.finish());
    Some(filter)
}

//! One action on every workflow that matches a filter, on whatever shard it is.
//!
//! Not a transaction: each run takes or refuses the command for itself, and the answer counts. A
//! shard that cannot be reached is named, and what others have done stays done.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use opcode_engine::command::{Command, Reason, Signal};
use opcode_engine::ids::{ShardId, Timestamp, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::remote::Freshness;
use opcode_shard::store::{RunFilter, RunSummary};
use serde::Serialize;

use super::commands;
use super::lists::check_status;
use crate::access::Caller;
use crate::access::scope::Scope;
use crate::error::ApiError;
use crate::forward::ShardClient;
use crate::gather::{Cursor, Missing};
use crate::incoming::{Incoming, json};
use crate::namespace::sought;
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, unknown};

/// Runs that one call goes through at most.
const RUNS_MAX: u64 = 100_000;
/// Runs listed at a time.
const PAGE: usize = 500;
/// Commands under way at a time.
const COMMANDS_AT_A_TIME: usize = 64;
/// What may be done.
const ACTIONS: [&str; 6] = ["cancel", "suspend", "resume", "retry", "delete", "signal"];

#[derive(Clone)]
enum Action {
    Cancel(Reason),
    Suspend(Reason),
    Resume(Reason),
    Retry(Reason),
    Delete,
    Signal(Signal),
}

impl Action {
    /// The command to one run; none to delete it.
    fn command(&self) -> Option<Command> {
        Some(match self.clone() {
            Self::Cancel(reason) => Command::Cancel(reason),
            Self::Suspend(reason) => Command::Suspend(reason),
            Self::Resume(reason) => Command::Resume(reason),
            Self::Retry(reason) => Command::Retry { from_step: None, params: None, definition: None, reason },
            Self::Delete => return None,
            Self::Signal(signal) => Command::Signal(signal),
        })
    }

    /// The statuses of runs that the action can apply to.
    fn statuses(&self) -> Vec<String> {
        let statuses: &[&str] = match self {
            Self::Cancel(_) | Self::Signal(_) => &["pending", "active", "suspended"],
            Self::Suspend(_) => &["active", "suspended"],
            Self::Resume(_) => &["suspended"],
            Self::Retry(_) => &["failed"],
            Self::Delete => &["completed", "failed", "cancelled"],
        };
        statuses.iter().map(|&status| status.to_owned()).collect()
    }
}

#[derive(Default, Serialize)]
struct Answer {
    matched: u64,
    applied: u64,
    refused: u64,
    /// Asked of their shard, which gave no answer: applied or not.
    unknown: u64,
    truncated: bool,
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreachable_shards: Vec<Missing>,
}

/// A body, read.
struct Request {
    action: Action,
    filter: RunFilter,
    dry_run: bool,
    limit: u64,
    from: Option<Place>,
}

/// Where an earlier call has come to: in this shard, after this run.
struct Place {
    shard: ShardId,
    after: (Timestamp, String),
}

impl Place {
    fn encode(&self) -> String {
        Cursor { at: self.after.0, id: format!("{} {}", self.shard.0, self.after.1) }.encode()
    }

    fn decode(text: &str) -> Option<Self> {
        let Cursor { at, id } = Cursor::decode(text)?;
        let (shard, id) = id.split_once(' ')?;
        Some(Self { shard: ShardId(shard.parse().ok()?), after: (at, id.to_owned()) })
    }
}

/// Cancels, suspends, resumes, retries, deletes or signals every workflow that matches.
#[utoipa::path(post, path = "/v1/workflows/bulk", tag = "workflows", operation_id = "applyToWorkflows", request_body = schema::BulkRequest,
    responses((status = 200, body = schema::BulkAnswer), (status = 400, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn apply(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let request = read(incoming.json()?, &incoming.caller)?;
    let mut answer = Answer::default();
    let first = request.from.as_ref().map_or(0, |from| from.shard.0);
    let (mut has_answered, mut first_error) = (false, None);
    let mut shards = state.shards();
    shards.sort_by_key(|shard| shard.id().0);
    for shard in shards.into_iter().filter(|shard| shard.id().0 >= first) {
        if answer.truncated {
            break;
        }
        match go_through(&shard, &request, &mut answer).await {
            Ok(()) => has_answered = true,
            Err(error) => {
                answer.unreachable_shards.push(Missing::of(shard.id(), &error));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if !has_answered && answer.matched == 0 => Err(error),
        Some(_) | None => {
            if !request.dry_run {
                let agent_id = request.action.command().and_then(|command| command.agent_id().cloned());
                state.agents().seen(agent_id.as_deref(), &incoming);
            }
            Ok(json(StatusCode::OK, &answer))
        }
    }
}

fn read(text: &str, caller: &Caller) -> Result<Request, ApiError> {
    let mut fields = Fields::of_body(text)?;
    let action = action(&mut fields, caller)?;
    let filter = filter(&mut fields, caller.namespace());
    let dry_run = fields.boolean("dry_run").unwrap_or(false);
    let limit = fields.number("limit", 1, RUNS_MAX).unwrap_or(RUNS_MAX);
    let cursor = fields.string("cursor");
    let from = cursor.as_deref().and_then(Place::decode);
    if cursor.is_some() && from.is_none() {
        fields.problem("cursor", "is not a cursor that such a call has given");
    }
    fields.done()?;
    let (action, mut filter) = action.zip(filter).expect("a body without problems has both");
    if filter.statuses.is_empty() {
        filter.statuses = action.statuses();
    }
    Ok(Request { action, filter, dry_run, limit, from })
}

/// Goes through one shard, newest runs first, so that those that come meanwhile are not met.
async fn go_through(shard: &ShardClient, request: &Request, answer: &mut Answer) -> Result<(), ApiError> {
    let mut filter = request.filter.clone();
    let from = request.from.as_ref().filter(|from| from.shard == shard.id());
    filter.after = from.map(|from| from.after.clone());
    loop {
        let left = usize::try_from(request.limit - answer.matched).unwrap_or(PAGE);
        // One more, to know whether there is more.
        filter.limit = left.min(PAGE) + 1;
        let mut page = shard.list_runs(filter.clone(), Freshness::Strong).await?.value;
        let has_more = page.len() == filter.limit;
        page.truncate(filter.limit - 1);
        let Some(last) = page.last() else { return Ok(()) };
        let place = Place { shard: shard.id(), after: (last.created_at, last.workflow_id.clone()) };
        answer.matched += page.len() as u64;
        if !request.dry_run {
            apply_page(shard, page, &request.action, answer).await?;
        }
        if answer.matched >= request.limit {
            // Whether other shards have more is not known: the next call tells.
            answer.truncated = true;
            answer.next_cursor = Some(place.encode());
            return Ok(());
        }
        if !has_more {
            return Ok(());
        }
        filter.after = Some(place.after);
    }
}

/// Applies the action to each of some runs; an error when the shard was out of reach for one.
async fn apply_page(
    shard: &ShardClient,
    page: Vec<RunSummary>,
    action: &Action,
    answer: &mut Answer,
) -> Result<(), ApiError> {
    let calls = page.into_iter().filter_map(|run| WorkflowId::parse_kept(&run.workflow_id).ok()).map(|id| {
        let command = action.command();
        async move {
            match command {
                Some(command) => shard.command(&id, command).await,
                None => shard.purge(&id).await,
            }
        }
    });
    let mut lost = None;
    let mut results = futures::stream::iter(calls).buffered(COMMANDS_AT_A_TIME);
    while let Some(result) = results.next().await {
        match result {
            Ok(_) => answer.applied += 1,
            Err(CallError::Rejected(_) | CallError::NotFound(_)) => answer.refused += 1,
            Err(
                error @ (CallError::Overloaded
                | CallError::StorageFull
                | CallError::NotLeader { .. }
                | CallError::Unavailable { .. }),
            ) => {
                let is_unknown = matches!(error, CallError::Unavailable { applied_unknown: true, .. });
                answer.unknown += u64::from(is_unknown);
                lost = Some(error);
            }
        }
    }
    lost.map_or(Ok(()), |error| Err(error.into()))
}

fn action(fields: &mut Fields<'_>, caller: &Caller) -> Result<Option<Action>, ApiError> {
    let name = fields.string("action");
    let reason = Reason { agent_id: fields.agent(caller)?, reason: fields.string("reason") };
    let signal = read_signal(fields, caller)?;
    let action = match name.as_deref() {
        Some("cancel") => Action::Cancel(reason),
        Some("suspend") => Action::Suspend(reason),
        Some("resume") => Action::Resume(reason),
        Some("retry") => Action::Retry(reason),
        Some("delete") => {
            caller.may(&[Scope::Admin])?;
            Action::Delete
        }
        Some("signal") => {
            if signal.is_none() {
                fields.problem("signal", "is missing: the signal to send");
            }
            return Ok(signal.flatten().map(Action::Signal));
        }
        Some(other) => {
            fields.problem("action", unknown("action", other, &ACTIONS));
            return Ok(None);
        }
        None => {
            let words = ACTIONS.join(", ");
            fields.problem("action", format!("is missing or no string; give one of {words}"));
            return Ok(None);
        }
    };
    if signal.is_some() {
        fields.problem("signal", "is only for the action `signal`");
        return Ok(None);
    }
    Ok(Some(action))
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

fn filter(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<RunFilter> {
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
        namespace: Some(namespace.clone()),
        statuses,
        agent_id: inner.string("agent_id"),
        template: inner.string("template").map(|name| sought(namespace, name)),
        labels: inner.labels().into_iter().collect(),
        since: inner.time("since"),
        until: inner.time("until"),
        after: None,
        limit: PAGE,
    };
    fields.extend(inner.finish());
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_the_way_out_and_back() {
        let place = Place { shard: ShardId(3), after: (Timestamp(17), "order:17".into()) };
        let read = Place::decode(&place.encode()).expect("a cursor");
        assert_eq!((read.shard, read.after), (place.shard, place.after));
        let of_a_list = Cursor { at: Timestamp(17), id: "order:17".into() }.encode();
        for wrong in ["", "x", &of_a_list] {
            assert!(Place::decode(wrong).is_none(), "{wrong}");
        }
    }
}

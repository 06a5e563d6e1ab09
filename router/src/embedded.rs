//! Eventual reads from the embedded replicas that this node keeps of shards it is no member of.
//! One that is fresh answers without asking anybody; one that is not, only when nobody else does.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::Response;
use opcode_shard::CallError;
use opcode_shard::batch::Position;
use opcode_shard::error::ShardError;
use opcode_shard::replica::sync_client::ReadReplica;
use opcode_shard::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};

use crate::forward::ShardClient;
use crate::gather::Gathered;
use crate::incoming::LAG_MS;
use crate::query::Consistency;
use crate::state::RouterState;

/// How far a replica may lie behind to be asked first.
const FRESH: Duration = Duration::from_secs(1);

/// An answer, and where it comes from.
pub(crate) struct Answered<T> {
    answer: T,
    /// What it reflects at least, and how far it lies behind in ms; none of the leader's.
    replica: Option<(Position, u64)>,
}

/// Runs of a shard, as fresh as `consistency` asks for.
pub(crate) async fn list_runs(
    state: &RouterState,
    shard: &ShardClient,
    filter: RunFilter,
    consistency: Consistency,
) -> Result<Answered<Vec<RunSummary>>, CallError> {
    let here = |replica: Arc<ReadReplica>| {
        let filter = filter.clone();
        async move { replica.list_runs(filter).await }
    };
    nearest(state, shard, consistency, here, shard.list_runs(filter.clone())).await
}

/// Decisions of a shard, as fresh as `consistency` asks for.
pub(crate) async fn list_decisions(
    state: &RouterState,
    shard: &ShardClient,
    filter: DecisionFilter,
    consistency: Consistency,
) -> Result<Answered<Vec<DecisionRow>>, CallError> {
    let here = |replica: Arc<ReadReplica>| {
        let filter = filter.clone();
        async move { replica.list_decisions(filter).await }
    };
    nearest(state, shard, consistency, here, shard.list_decisions(filter.clone())).await
}

async fn nearest<T, F: Future<Output = Result<T, ShardError>>>(
    state: &RouterState,
    shard: &ShardClient,
    consistency: Consistency,
    here: impl Fn(Arc<ReadReplica>) -> F,
    leader: impl Future<Output = Result<T, CallError>>,
) -> Result<Answered<T>, CallError> {
    let replica = match consistency {
        Consistency::Eventual => state.local().replica(shard.id()),
        Consistency::Strong | Consistency::Session => None,
    };
    let Some(replica) = replica else {
        return leader.await.map(|answer| Answered { answer, replica: None });
    };
    if replica.standing().is_some_and(|(_, behind)| behind <= FRESH)
        && let Some(answered) = ask(&replica, &here).await
    {
        return Ok(answered);
    }
    match leader.await {
        Ok(answer) => Ok(Answered { answer, replica: None }),
        Err(error @ CallError::Rejected(_)) => Err(error),
        Err(error) => ask(&replica, &here).await.ok_or(error),
    }
}

async fn ask<T, F: Future<Output = Result<T, ShardError>>>(
    replica: &Arc<ReadReplica>,
    here: &impl Fn(Arc<ReadReplica>) -> F,
) -> Option<Answered<T>> {
    // Before the read: what comes meanwhile makes the answer no staler than it says.
    let (position, behind) = replica.standing()?;
    let answer = here(Arc::clone(replica)).await.ok()?;
    let lag_ms = u64::try_from(behind.as_millis()).unwrap_or(u64::MAX);
    Some(Answered { answer, replica: Some((position, lag_ms)) })
}

/// The answers, each with the position that it reflects, and the lag in ms of the one that lies
/// behind most.
pub(crate) fn split<T>(gathered: Gathered<Answered<T>>) -> (Gathered<T>, u64) {
    let Gathered { answers, missing, mut positions } = gathered;
    let mut lag_ms_max = 0;
    let answers = answers.into_iter().map(|(shard, answered)| {
        if let Some((reflected, lag_ms)) = answered.replica {
            lag_ms_max = lag_ms_max.max(lag_ms);
            let place = positions.iter_mut().find(|(other, _)| *other == shard);
            place.expect("every answer has its position").1 = reflected;
        }
        (shard, answered.answer)
    });
    (Gathered { answers: answers.collect(), missing, positions }, lag_ms_max)
}

/// Says how far the answer lies behind where that is more than nothing.
pub(crate) fn with_lag_ms(mut response: Response, lag_ms: u64) -> Response {
    if lag_ms > 0 {
        response.headers_mut().insert(LAG_MS, HeaderValue::from(lag_ms));
    }
    response
}

//! Reads from the embedded replicas that this node keeps of shards it is no member of.

use opcode_shard::remote::{Answer, Answered, Freshness, Request};
use opcode_shard::replica::sync_client::ReadReplica;

/// The answer of an embedded replica, if it has one that is as fresh as that.
pub(crate) async fn answer(
    replica: &ReadReplica,
    request: &Request,
    freshness: Freshness,
) -> Option<Answered> {
    // Before the read, for how old the answer may be; after it, for all that it may reflect.
    let (position, behind) = replica.standing()?;
    match freshness {
        Freshness::Any => {}
        Freshness::Reached(at) if position >= at => {}
        Freshness::Reached(_) | Freshness::Strong => return None,
    }
    let answer = match request.clone() {
        Request::ListRuns(filter) => Answer::Runs(replica.list_runs(filter).await.ok()?),
        Request::ListDecisions(filter) => Answer::Decisions(replica.list_decisions(filter).await.ok()?),
        _ => return None,
    };
    let lag_ms = Some(u64::try_from(behind.as_millis()).unwrap_or(u64::MAX));
    let (position, _) = replica.standing()?;
    Some(Answered { answer, position, lag_ms })
}

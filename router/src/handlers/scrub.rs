//! Reading all that a node stores, for damage that nobody has come upon: when an operator asks, and
//! beside the work every so often.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use opcode_shard::store::ScrubReport;
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::incoming::{Incoming, json};
use crate::schema;
use crate::state::RouterState;

/// Beside the work a scrub rests for so many times as long as it reads: at most 2 % of a core.
const RESTS: u32 = 50;

/// The first one comes so long after a start.
const FIRST_AFTER: Duration = Duration::from_secs(60 * 60);

#[derive(Serialize)]
struct Scrubbed {
    node_id: String,
    shards: Vec<ShardScrubbed>,
}

#[derive(Serialize)]
struct ShardScrubbed {
    shard: u32,
    #[serde(flatten)]
    report: ScrubReport,
}

/// Reads every run of every replica that the node asked holds. Views of runs that are not what the
/// events say are written anew; what cannot be mended is told, and a replica of three or more that has
/// such damage stops its node after the answer: it should begin anew.
#[utoipa::path(post, path = "/v1/cluster/scrub", tag = "cluster", operation_id = "scrub",
    responses((status = 200, body = Object), (status = 503, body = schema::Problem)))]
pub(crate) async fn scrub(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let (replicas, mut shards) = (state.local().all(), Vec::new());
    for shard in &replicas {
        let report = tokio::select! {
            report = shard.scrub(0) => report,
            () = state.stopping() => return Err(ApiError::unavailable(Applied::Unknown, "the node is stopping")),
        };
        let report = report.map_err(|error| {
            ApiError::unavailable(Applied::Unknown, format!("shard {}: {error}", shard.id()))
        })?;
        shards.push(ShardScrubbed { shard: shard.id().0, report });
    }
    for (replica, ShardScrubbed { report, .. }) in replicas.iter().zip(&shards) {
        replica.act_on(report);
    }
    Ok(json(StatusCode::OK, &Scrubbed { node_id: state.node().node_id.clone(), shards }))
}

/// Scrubs what this node holds every so often, until the node stops.
pub async fn run_scrubs(state: RouterState, every: Duration) {
    let scrubbing = async {
        // Soon after a start: a node that is started often would else never come to it.
        let mut rest = every.min(FIRST_AFTER);
        loop {
            tokio::time::sleep(std::mem::replace(&mut rest, every)).await;
            for shard in state.local().all() {
                match shard.scrub(RESTS).await {
                    Ok(found) => {
                        let (runs, mended, damages) = (found.runs, found.mended, found.damage_count);
                        tracing::info!(shard = %shard.id(), runs, mended, damages, "scrubbed");
                        shard.act_on(&found);
                    }
                    // A replica may go at any time.
                    Err(error) => tracing::warn!(shard = %shard.id(), %error, "not scrubbed to the end"),
                }
            }
        }
    };
    tokio::select! {
        () = scrubbing => {}
        () = state.stopping() => {}
    }
}

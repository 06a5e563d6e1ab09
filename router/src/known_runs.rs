//! What runs say of themselves, by their number in a shard, as far as it was asked for lately.

use std::collections::HashMap;
use std::sync::Arc;

use opcode_engine::ids::{RunNo, Sequence};
use opcode_shard::CallError;
use opcode_shard::batch::Position;
use opcode_shard::follow::RunFacts;
use opcode_shard::record::EventRecord;
use opcode_shard::remote::Freshness;

use crate::forward::ShardClient;

/// Runs that are remembered of one shard.
const RUNS_MAX: usize = 10_000;

/// Runs of one shard.
#[derive(Default)]
pub(crate) struct KnownRuns {
    runs: HashMap<RunNo, Arc<RunFacts>>,
}

impl KnownRuns {
    /// Those of a record's run, which stands in the log up to `at`; none when the run was purged since.
    pub(crate) async fn of(
        &mut self,
        shard: &ShardClient,
        record: &EventRecord,
        at: Position,
    ) -> Result<Option<Arc<RunFacts>>, CallError> {
        if let Some(known) = self.runs.get(&record.no) {
            return Ok(Some(known.clone()));
        }
        let found = match RunFacts::of(record) {
            Some(facts) => Some(facts),
            None => look_up(shard, record.no, at).await?,
        };
        let found = found.map(Arc::new);
        if let Some(facts) = &found {
            if self.runs.len() >= RUNS_MAX {
                // Runs that still move are looked up again.
                self.runs.clear();
            }
            self.runs.insert(record.no, facts.clone());
        }
        Ok(found)
    }
}

/// From the run's first event, which says who it is.
async fn look_up(shard: &ShardClient, no: RunNo, at: Position) -> Result<Option<RunFacts>, CallError> {
    let Some(id) = shard.run_id(no, at).await? else { return Ok(None) };
    match shard.events(&id, Sequence(0), 1, Freshness::Reached(at)).await {
        Ok(seen) => Ok(seen.value.first().filter(|first| first.no == no).and_then(RunFacts::of)),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

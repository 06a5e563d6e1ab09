//! Reads, as fresh as they were asked for: by the leader once it has made sure that it leads, or by
//! any replica from its tables, which says how far it lies behind.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, ROWS_MAX, Request};
use crate::batch::Position;
use crate::error::{CallError, ShardError};
use crate::handle::ShardHandle;
use crate::store::{DecisionFilter, RunFilter};

/// Longest wait of a replica for a position that the caller has seen already.
const REACH_MAX: Duration = Duration::from_secs(1);

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// Linearizable: the leader's, after a majority has told it that it leads.
    Strong,
    /// Any replica's that has reached this position.
    Reached(Position),
    /// Any replica's, however far behind.
    Any,
}

/// An answer, and what it reflects.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// All that it reflects is in the log up to here: whoever has reached this shows no less.
    pub position: Position,
    /// How far the replica that gave it lies behind, in ms; `None` of the leader's.
    pub lag_ms: Option<u64>,
}

impl Request {
    /// Whether a replica may answer it from its tables alone.
    pub fn is_for_replicas(&self) -> bool {
        match self {
            Self::Status(_)
            | Self::Events(..)
            | Self::RunId(_)
            | Self::ListRuns(_)
            | Self::ListDecisions(_) => true,
            Self::Submit(_)
            | Self::Command(..)
            | Self::CallOff(..)
            | Self::Purge(..)
            | Self::Import(_)
            | Self::History(_)
            | Self::Wait(..)
            | Self::Why(_)
            | Self::Definition(_)
            | Self::DefineTemplate { .. }
            | Self::Template(..)
            | Self::TemplateToRun(..)
            | Self::Templates
            | Self::ChangeEntry(_)
            | Self::Entry(..)
            | Self::Entries(..)
            | Self::Sql(..)
            | Self::Info
            | Self::Tail(..) => false,
        }
    }

    /// Asks the replica here for an answer that is as fresh as that. A replica that does not lead
    /// turns away what only the leader can answer; one that does not know how far behind it is, or
    /// does not reach the position in time, turns everything away.
    pub async fn answer_at(self, handle: &ShardHandle, freshness: Freshness) -> Result<Answered, CallError> {
        let at = match freshness {
            Freshness::Strong => None,
            Freshness::Reached(at) => Some(at),
            Freshness::Any => Some(Position::default()),
        };
        match at {
            Some(at) if self.is_for_replicas() => self.answer_from_tables(handle, at).await,
            Some(_) | None => {
                let answer = self.answer(handle).await?;
                // Looked at afterwards: all that the answer reflects is in it. The tables may be
                // ahead of what is noted as committed, by an entry that is being noted.
                let position = handle.committed().max(handle.inner.store.applied_position());
                Ok(Answered { answer, position, lag_ms: None })
            }
        }
    }

    async fn answer_from_tables(self, handle: &ShardHandle, at: Position) -> Result<Answered, CallError> {
        let unavailable = |message: String| CallError::Unavailable { applied_unknown: false, message };
        let failed = |error: ShardError| unavailable(error.to_string());
        let door = &handle.inner;
        match tokio::time::timeout(REACH_MAX, handle.group().reaches(at)).await {
            Ok(reached) => reached.map_err(failed)?,
            Err(_) => return Err(unavailable(format!("position {} is not reached here", at.index))),
        }
        // The leader's own tables may be late by a moment, which none of its readers needs to see.
        let at = if handle.serves() { handle.committed().max(at) } else { at };
        door.store.reached(at).await.map_err(failed)?;
        // What it reflects at least, for how old it may be; at most, for the caller's token.
        let least = door.store.applied_position();
        let Some(behind) = handle.group().behind(least.index) else {
            return Err(unavailable("the replica here has not heard a leader yet".into()));
        };
        let answer = match self {
            Self::Status(id) => Answer::View(door.stored_view(&id, least).await?),
            Self::Events(id, after, limit) => {
                Answer::Events(door.stored_events(&id, after, limit.min(ROWS_MAX)).await?)
            }
            Self::RunId(no) => Answer::RunId(door.stored_run_id(no).await?),
            Self::ListRuns(filter) => {
                let limit = filter.limit.min(ROWS_MAX);
                let rows = door.store.list_runs(RunFilter { limit, ..filter }).await;
                Answer::Runs(rows.map_err(failed)?)
            }
            Self::ListDecisions(filter) => {
                let limit = filter.limit.min(ROWS_MAX);
                let rows = door.store.list_decisions(DecisionFilter { limit, ..filter }).await;
                Answer::Decisions(rows.map_err(failed)?)
            }
            other => unreachable!("{other:?} is not for replicas"),
        };
        let lag_ms = Some(u64::try_from(behind.as_millis()).unwrap_or(u64::MAX));
        Ok(Answered { answer, position: door.store.applied_position(), lag_ms })
    }
}

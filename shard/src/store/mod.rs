//! The tables of one shard: libSQL, the query model. One writer thread, read-only readers.
//!
//! The commit point is the log; these files lag behind it by at most a moment under load, and
//! can be rebuilt from it, and their views from their events.

use std::path::PathBuf;
use std::sync::Arc;

use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::batch::Position;
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry, Tables};
use crate::record::{EventRecord, TemplateRecord};

/// How to open a shard's tables.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The libSQL file.
    pub path: PathBuf,
    /// Which shard; another's file is refused.
    pub shard: ShardId,
    /// The cluster's id; another's file is refused.
    pub cluster_id: String,
}

/// A shard's tables: handle to the writer, door to the readers. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    _private: (),
}

/// A run as stored: its key and its whole log.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct StoredRun {
    pub no: RunNo,
    pub id: WorkflowId,
    pub events: Vec<EventRecord>,
}

/// A line of a list of runs.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunSummary {
    pub workflow_id: String,
    pub status: String,
    pub template: Option<String>,
    pub version: Option<String>,
    pub agent_id: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Milliseconds since the epoch here; the router writes RFC 3339.
    #[serde(skip)]
    pub created_at: Timestamp,
    #[serde(skip)]
    pub started_at: Option<Timestamp>,
    #[serde(skip)]
    pub completed_at: Option<Timestamp>,
    pub error: Option<Box<RawValue>>,
}

/// Which runs to list. Newest first: by `created_at` descending, then id descending.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Any of these statuses; empty is all.
    pub statuses: Vec<String>,
    /// Only this agent's.
    pub agent_id: Option<String>,
    /// Only of this template.
    pub template: Option<String>,
    /// Only with all these labels.
    pub labels: Vec<(String, String)>,
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// Only after this (created_at, id) in the order of the list.
    pub after: Option<(Timestamp, String)>,
    /// At most this many.
    pub limit: usize,
}

/// A decision as listed, in the shape of the HTTP contract.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct DecisionRow {
    pub decision_id: String,
    pub workflow_id: String,
    pub step_id: String,
    pub status: String,
    pub context: Box<RawValue>,
    pub options: Box<RawValue>,
    pub target_agent: Option<String>,
    pub fallback: Option<String>,
    pub timeout_at: Option<String>,
    pub created_at: String,
    pub resolution: Option<Box<RawValue>>,
}

/// Which decisions to list, oldest first.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct DecisionFilter {
    /// `pending` (default), `resolved`, `timed_out`, `cancelled`, or `all`.
    pub status: Option<String>,
    /// Those that this agent may answer: its own and those for anybody.
    pub agent_id: Option<String>,
    pub workflow_id: Option<String>,
    /// Only after this (created_at, decision id).
    pub after: Option<(Timestamp, String)>,
    pub limit: usize,
}

/// Counts for the cluster read-out.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct StoreStats {
    pub workflows: u64,
    pub bytes: u64,
}

impl Store {
    /// Opens or makes the file and starts its writer thread. Refuses a file of another shard,
    /// cluster or newer format, unchanged.
    pub async fn open(options: StoreOptions) -> Result<Self, ShardError> {
        let _ = options;
        Ok(Self { _private: () })
    }

    /// The position applied last.
    pub fn applied_position(&self) -> Position {
        Position::default()
    }

    /// Waits until everything up to `position` is applied; asks the writer to be quick about it.
    pub async fn reached(&self, position: Position) -> Result<(), ShardError> {
        let _ = position;
        Ok(())
    }

    /// A run's key by id.
    pub async fn find(&self, id: &WorkflowId) -> Result<Option<RunNo>, ShardError> {
        let _ = id;
        Ok(None)
    }

    /// A run with its whole log.
    pub async fn load_run(&self, id: &WorkflowId) -> Result<Option<StoredRun>, ShardError> {
        let _ = id;
        Ok(None)
    }

    /// The same by number.
    pub async fn load_run_no(&self, no: RunNo) -> Result<Option<StoredRun>, ShardError> {
        let _ = no;
        Ok(None)
    }

    /// The highest run number in use, 0 when none.
    pub async fn last_run_no(&self) -> Result<RunNo, ShardError> {
        Ok(RunNo(0))
    }

    /// Numbers of runs that are pending or active, ascending: those to go on with after a start.
    pub async fn live_runs(&self) -> Result<Vec<RunNo>, ShardError> {
        Ok(Vec::new())
    }

    /// Every run that has a timer, with its earliest: `(due, run)`, by due.
    pub async fn timers(&self) -> Result<Vec<(Timestamp, RunNo)>, ShardError> {
        Ok(Vec::new())
    }

    /// A definition's canonical text.
    pub async fn definition(&self, hash: DefinitionHash) -> Result<Option<Arc<str>>, ShardError> {
        let _ = hash;
        Ok(None)
    }

    /// Events of a run after a sequence.
    pub async fn events(
        &self,
        no: RunNo,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, ShardError> {
        let _ = (no, after, limit);
        Ok(Vec::new())
    }

    /// Lists runs.
    pub async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, ShardError> {
        let _ = filter;
        Ok(Vec::new())
    }

    /// Lists decisions.
    pub async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, ShardError> {
        let _ = filter;
        Ok(Vec::new())
    }

    /// Every version of every template, by name and version.
    pub async fn templates(&self) -> Result<Vec<TemplateRecord>, ShardError> {
        Ok(Vec::new())
    }

    /// Rows of a read-only `SELECT`, at most `limit`, within `timeout_ms`, as JSON objects.
    pub async fn sql(
        &self,
        query: &str,
        limit: usize,
        timeout_ms: u64,
    ) -> Result<Vec<serde_json::Value>, ShardError> {
        let _ = (query, limit, timeout_ms);
        Ok(Vec::new())
    }

    /// Counts for people.
    pub async fn stats(&self) -> Result<StoreStats, ShardError> {
        Ok(StoreStats::default())
    }

    /// Applies what is enqueued, checkpoints and syncs: for a graceful stop.
    pub async fn close(&self) -> Result<(), ShardError> {
        Ok(())
    }
}

impl Tables for Store {
    fn applied(&self) -> Applied {
        Applied::default()
    }
    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        let _ = entries;
    }
    fn backlog(&self) -> usize {
        0
    }
    fn checkpointed(&self) -> Option<Applied> {
        None
    }
}

//! One shard's loop: sole owner of its runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::Rejected;
use opcode_engine::command::Command;
use opcode_engine::definition::Definition;
use opcode_engine::ids::{RunNo, Sequence, ShardId, WorkflowId};
use serde_json::Value;
use tokio::sync::broadcast;

use crate::batch::{Batch, Committed};
use crate::error::CallError;
use crate::handle::{CommandReply, PinnedDefinition, RunView, ShardInfo, Submission, Submitted};
use crate::record::{EventRecord, TemplateRecord};
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};

/// The near side of a shard's queue.
pub(crate) struct Door {
    id: ShardId,
    committed: broadcast::Sender<Batch<Committed>>,
}

fn stopped<T>() -> Result<T, CallError> {
    Err(CallError::Unavailable { applied_unknown: false, message: "no loop".into() })
}

impl Door {
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }
    pub(crate) async fn submit(
        &self,
        _: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
        stopped()
    }
    pub(crate) async fn command(&self, _: &WorkflowId, _: Command) -> Result<CommandReply, CallError> {
        stopped()
    }
    pub(crate) async fn status(&self, _: &WorkflowId) -> Result<RunView, CallError> {
        stopped()
    }
    pub(crate) async fn wait(&self, _: &WorkflowId, _: Duration) -> Result<RunView, CallError> {
        stopped()
    }
    pub(crate) async fn why(&self, _: &WorkflowId) -> Result<Vec<Value>, CallError> {
        stopped()
    }
    pub(crate) async fn definition(&self, _: &WorkflowId) -> Result<PinnedDefinition, CallError> {
        let _ = BTreeMap::<String, String>::new();
        stopped()
    }
    pub(crate) async fn events(
        &self,
        _: &WorkflowId,
        _: Sequence,
        _: usize,
    ) -> Result<Vec<EventRecord>, CallError> {
        stopped()
    }
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Batch<Committed>> {
        self.committed.subscribe()
    }
    pub(crate) async fn run_no(&self, _: &WorkflowId) -> Result<RunNo, CallError> {
        stopped()
    }
    pub(crate) async fn list_runs(&self, _: RunFilter) -> Result<Vec<RunSummary>, CallError> {
        stopped()
    }
    pub(crate) async fn list_decisions(&self, _: DecisionFilter) -> Result<Vec<DecisionRow>, CallError> {
        stopped()
    }
    pub(crate) async fn define_template(
        &self,
        _: Arc<str>,
        _: Arc<str>,
        _: Arc<Definition>,
    ) -> Result<(TemplateRecord, bool), CallError> {
        stopped()
    }
    pub(crate) async fn template(
        &self,
        _: &str,
        _: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        stopped()
    }
    pub(crate) async fn templates(&self) -> Result<Vec<TemplateRecord>, CallError> {
        stopped()
    }
    pub(crate) async fn sql(&self, _: &str, _: usize) -> Result<Vec<Value>, CallError> {
        stopped()
    }
    pub(crate) async fn info(&self) -> Result<ShardInfo, CallError> {
        stopped()
    }
}

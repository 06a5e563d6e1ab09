//! The door to a shard: what the router may ask of it. Cheap to clone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::Rejected;
use opcode_engine::child::Parent;
use opcode_engine::command::Command;
use opcode_engine::definition::Definition;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use opcode_engine::run::Run;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::broadcast;

use crate::batch::{Batch, Committed, Position};
use crate::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use crate::error::{CallError, ShardError};
use crate::history::{Imported, Line, PastRun};
use crate::log::Group;
use crate::peer::NodeId;
use crate::record::{EventRecord, TemplateRecord};
use crate::remote::Tail;
use crate::replica::sync_server::SyncServer;
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary, ScrubReport};

/// A run to start, parsed and checked as far as that needs no shard.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its id, from the client or made by the router.
    pub id: WorkflowId,
    /// Set when the client gave the id or an idempotency key: hash of the body, so that the same
    /// submission again gives the same run and another one with this id is refused.
    pub body_hash: Option<u64>,
    /// What names the request it came with, beside such a hash: a request that is sent on to a second
    /// leader finds the run that it has made itself.
    pub request: Option<u64>,
    /// What it runs.
    pub definition: Arc<Definition>,
    /// Template name and version (`v3`), when it came from one.
    pub template: Option<(Arc<str>, Arc<str>)>,
    /// As sent.
    pub params: Value,
    /// Who starts it.
    pub agent_id: Option<Arc<str>>,
    /// As sent; an object or null.
    pub context: Value,
    /// As sent.
    pub labels: BTreeMap<String, String>,
    /// Not before.
    pub start_at: Option<Timestamp>,
    /// The run that starts it as its child. The same attempt of the same step starts it once.
    pub parent: Option<Box<Parent>>,
}

/// A submission accepted and committed.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The run.
    pub workflow_id: WorkflowId,
    /// Its status at commit.
    pub status: WorkflowStatus,
    /// By this very request, now or at an earlier try. False: it was there already, from the same
    /// submission in another request.
    pub created: bool,
    /// It was there before this try, so that the answer rests on what the shard knew.
    pub was_there: bool,
    /// The log position that holds it.
    pub position: Position,
}

/// A command accepted and committed.
#[derive(Clone, Copy, Debug)]
pub struct CommandReply {
    /// Sequence of the event that recorded a signal, or of the run's last event.
    pub sequence: Sequence,
    /// The log position that holds it.
    pub position: Position,
    /// Whether it waited for a commit, and so comes from who led then. What was the case already may
    /// be known to a leader that was replaced behind its back.
    pub is_sure: bool,
}

/// How much of a run's document is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All of it.
    Document,
    /// `output` and `error`, once the run has ended.
    Outcome,
}

impl Shown {
    /// Writes it as JSON.
    pub(crate) fn of(self, run: &Run) -> Box<RawValue> {
        let text = match self {
            Self::Document => to_raw_value(&run.document()),
            Self::Outcome => to_raw_value(&run.outcome()),
        };
        text.expect("a run is JSON")
    }
}

/// A run as it is shown.
#[derive(Clone, Debug)]
pub struct RunView {
    /// The document of `GET /v1/workflows/{id}`, or what was asked for of it: JSON.
    pub document: Box<RawValue>,
    /// Its status.
    pub status: WorkflowStatus,
    /// A log position that this answer reflects.
    pub position: Position,
}

/// A run's definition as pinned, in both forms.
#[derive(Clone, Debug)]
pub struct PinnedDefinition {
    /// Compiled.
    pub definition: Arc<Definition>,
    /// Status of each step instance by full id, for diagrams.
    pub statuses: BTreeMap<String, String>,
}

/// What a shard says of itself.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct ShardInfo {
    pub shard: ShardId,
    /// The leader's term.
    pub epoch: u64,
    pub leads: bool,
    /// The node that says it.
    pub node: NodeId,
    /// The group's members as the leader knows them; empty from another.
    pub replicas: Vec<ReplicaInfo>,
    pub committed: Position,
    pub applied: Position,
    pub workflows: u64,
    pub bytes: u64,
    /// Commands waiting in the queue.
    pub queue_depth: usize,
    /// Runs held in memory.
    pub runs_in_memory: usize,
    /// What its members are being changed to, in words; from the leader.
    #[serde(default)]
    pub doing: Option<String>,
    /// The entry of the log after which it still has all.
    #[serde(default)]
    pub purged: u64,
}

/// A member of a shard's group.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub struct ReplicaInfo {
    pub node: NodeId,
    pub votes: bool,
    /// The last entry of the log that it has.
    pub position: u64,
    /// Whether that is the leader's last, or almost.
    pub in_sync: bool,
    /// Milliseconds it is behind, once it was reached.
    #[serde(default)]
    pub lag_ms: Option<u64>,
}

/// The door to one shard.
#[derive(Clone)]
pub struct ShardHandle {
    pub(crate) inner: Arc<crate::queue::Door>,
}

impl ShardHandle {
    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.inner.id()
    }

    /// Says what the shard's members are being changed to, in words for an operator.
    pub fn tell(&self, doing: Option<String>) {
        *self.inner.doing.lock() = doing;
    }

    /// Starts runs; one answer each, in order, once all are committed. A refused one harms no
    /// other. `Err` only when the shard took none of them.
    pub async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
        self.inner.submit(submissions).await
    }

    /// Gives a run a command and waits for its commit.
    pub async fn command(&self, id: &WorkflowId, command: Command) -> Result<CommandReply, CallError> {
        self.inner.command(id, command).await
    }

    /// Cancels a child that its parent no longer wants. One that has not been started is recorded
    /// as cancelled, so that a start which comes later finds it so.
    pub async fn call_off(&self, child: &WorkflowId, parent: Parent) -> Result<CommandReply, CallError> {
        self.inner.call_off(child, parent).await
    }

    /// Removes a run that has ended, with all its events, for good. Refused while it has not ended, or
    /// still owes a message to another run; with `at`, also when its last event is another by now.
    pub async fn purge(&self, id: &WorkflowId, at: Option<Sequence>) -> Result<CommandReply, CallError> {
        self.inner.purge(id, at).await
    }

    /// A run with all its events and the definitions that they name, as it leaves the cluster.
    pub async fn history(&self, id: &WorkflowId) -> Result<PastRun, CallError> {
        self.inner.history(id).await
    }

    /// Takes in runs that have ended elsewhere, and versions of templates (system shard): one answer
    /// each, in order, once all are committed. A refused one harms no other.
    pub async fn import(&self, lines: Vec<Line>) -> Result<Vec<Result<Imported, Rejected>>, CallError> {
        self.inner.import(lines).await
    }

    /// A run as committed, linearizable.
    pub async fn status(&self, id: &WorkflowId) -> Result<RunView, CallError> {
        self.inner.status(id).await
    }

    /// What is `shown` of it once it has ended or is suspended; all of it as it is after `wait`, when
    /// that did not come.
    pub async fn wait(&self, id: &WorkflowId, wait: Duration, shown: Shown) -> Result<RunView, CallError> {
        self.inner.wait(id, wait, shown).await
    }

    /// Why a run is not moving: the `waiting_for` list.
    pub async fn why(&self, id: &WorkflowId) -> Result<Vec<Value>, CallError> {
        self.inner.why(id).await
    }

    /// The definition a run is pinned to.
    pub async fn definition(&self, id: &WorkflowId) -> Result<PinnedDefinition, CallError> {
        self.inner.definition(id).await
    }

    /// Committed events of a run after a sequence, in order.
    pub async fn events(
        &self,
        id: &WorkflowId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CallError> {
        self.inner.events(id, after, limit).await
    }

    /// The last position known to be committed: every read that begins now reflects it.
    pub fn committed(&self) -> Position {
        self.inner.committed()
    }

    /// Every entry committed from now on, whoever leads; a slow reader is told that it lagged and
    /// should read the events again from where it was. One that was passed over, since a copy of the
    /// tables came in its place, is missed by its index. Records carry run numbers; the id of a run
    /// is in its first event, or from [`ShardHandle::run_id`]. What was committed before is seen by
    /// reads that reach the position that is given too.
    pub fn subscribe(&self) -> (Position, broadcast::Receiver<Batch<Committed>>) {
        self.inner.subscribe()
    }

    /// Events committed after an entry of the log, from whatever replica this is; waits up to `wait`
    /// while there are none. After no entry: where the log stands.
    pub async fn tail(&self, after: Option<u64>, wait: Duration) -> Result<Tail, CallError> {
        self.inner.tail(after, wait).await
    }

    /// Whether this replica leads, or is at most so far behind.
    pub fn keeps_up(&self, lag_max: Duration) -> bool {
        let group = self.group();
        group.behind(group.committed().index).is_some_and(|behind| behind <= lag_max)
    }

    /// A run's number in this shard, to pick its records out of the stream; from the tables alone,
    /// so `None` also while they do not have it yet.
    pub async fn stored_run_no(&self, id: &WorkflowId) -> Result<Option<RunNo>, ShardError> {
        self.inner.store.find(id).await
    }

    /// The id of the run with this number, for records of the stream; `None` when there is none.
    pub async fn run_id(&self, no: RunNo) -> Result<Option<WorkflowId>, CallError> {
        self.inner.run_id(no).await
    }

    /// Lists runs; reflects everything committed before the call.
    pub async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, CallError> {
        self.inner.list_runs(filter).await
    }

    /// Lists decisions; reflects everything committed before the call.
    pub async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, CallError> {
        self.inner.list_decisions(filter).await
    }

    /// Defines a template: the version it got, and whether that is new (the same definition as
    /// the newest version gives that version). System shard only.
    pub async fn define_template(
        &self,
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<Definition>,
    ) -> Result<(TemplateRecord, bool), CallError> {
        self.inner.define_template(name, source, definition).await
    }

    /// A template's newest version, or the one asked for. System shard only.
    pub async fn template(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        self.inner.template(name, version).await
    }

    /// The same to run it: refused with `ACTION_UNAVAILABLE` while it is paused. System shard only.
    pub async fn template_to_run(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        self.inner.template_to_run(name, version).await
    }

    /// The newest version of every template, by name. System shard only.
    pub async fn templates(&self) -> Result<Vec<TemplateRecord>, CallError> {
        self.inner.templates().await
    }

    /// Changes an entry of the catalogue, if it has the revision that the change names. System shard
    /// only.
    pub async fn change_entry(&self, change: EntryChange) -> Result<Changed, CallError> {
        self.inner.change_entry(change).await
    }

    /// An entry of the catalogue. System shard only.
    pub async fn entry(&self, kind: EntryKind, key: Arc<str>) -> Result<Option<CatalogueEntry>, CallError> {
        self.inner.entry(kind, key).await
    }

    /// Entries of a kind after a key, in the order of their keys; a page ends at `limit` or at
    /// [`crate::catalogue::PAGE_BYTES`]. System shard only.
    pub async fn entries(
        &self,
        kind: EntryKind,
        after: Option<Arc<str>>,
        limit: usize,
    ) -> Result<EntryPage, CallError> {
        self.inner.entries(kind, after, limit).await
    }

    /// Rows of a read-only query on this shard's tables.
    pub async fn sql(&self, query: &str, limit: usize) -> Result<Vec<Value>, CallError> {
        self.inner.sql(query, limit).await
    }

    /// Reads all of this replica's tables for damage, see [`crate::store::Store::scrub`].
    pub async fn scrub(&self, rests: u32) -> Result<ScrubReport, ShardError> {
        self.inner.store.scrub(rests).await
    }

    /// Has the replica act on what that found: one of three or more that has damage stops its node.
    pub fn act_on(&self, report: &ScrubReport) {
        self.inner.store.act_on(report);
    }

    /// Whether this node leads the shard and takes requests; else they are
    /// [`CallError::NotLeader`].
    pub fn serves(&self) -> bool {
        self.inner.serves()
    }

    /// The term in which it does.
    pub(crate) fn serving_term(&self) -> Option<u64> {
        *self.inner.serving.borrow()
    }

    /// Who leads the shard, when it is another node and known.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leader()
    }

    /// This node's part in the shard's log.
    pub fn group(&self) -> &Arc<Group> {
        self.inner.group()
    }

    /// Serves embedded replicas from this node's copy of the tables.
    pub fn sync_server(&self) -> &SyncServer {
        self.inner.sync_server()
    }

    /// What the shard says of itself.
    pub async fn info(&self) -> Result<ShardInfo, CallError> {
        self.inner.info().await
    }
}

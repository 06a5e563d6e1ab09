//! The shard's bounded queue, and the door in front of it.
//!
//! A full queue is [`CallError::Overloaded`], never a wait without end; what was taken in is
//! answered, or its outcome is said to be unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opcode_engine::child::Parent;
use opcode_engine::command::Command;
use opcode_engine::definition::Definition;
use opcode_engine::ids::{RunNo, Sequence, ShardId, WorkflowId};
use opcode_engine::{Code, Rejected};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::batch::{Batch, Committed, Position};
use crate::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use crate::definitions::Definitions;
use crate::error::{CallError, ShardError};
use crate::handle::{
    CommandReply, PinnedDefinition, ReplicaInfo, RunView, ShardInfo, Shown, Submission, Submitted,
};
use crate::history::{Checked, Imported};
use crate::log::{Group, Role, Tables};
use crate::peer::NodeId;
use crate::record::{EventRecord, Record, TemplateRecord};
use crate::remote::{Exports, Tail};
use crate::replica::sync_server::SyncServer;
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary, Store};

/// Most messages waiting in one shard's queue.
pub(crate) const QUEUE_MESSAGES_MAX: usize = 8_192;
/// Most submissions waiting in it: one message may carry many.
pub(crate) const QUEUE_SUBMISSIONS_MAX: usize = 50_000;
/// A replica so many entries behind is taken to be in sync: they are on their way.
const IN_SYNC_ENTRIES: u64 = 64;
/// Longest time a read-only SQL query may take.
const SQL_MS_MAX: u64 = 10_000;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, CallError>>;

/// What callers send to the loop.
pub(crate) enum Message {
    Submit {
        submissions: Vec<Submission>,
        reply: Reply<Vec<Result<Submitted, Rejected>>>,
    },
    Command {
        id: WorkflowId,
        command: Command,
        reply: Reply<CommandReply>,
    },
    Purge {
        id: WorkflowId,
        /// Its last event, where only a run that has stayed as it was is meant.
        at: Option<Sequence>,
        reply: Reply<CommandReply>,
    },
    Import {
        items: Vec<Checked>,
        reply: Reply<Vec<Result<Imported, Rejected>>>,
    },
    Query {
        id: WorkflowId,
        query: Query,
    },
    DefineTemplate {
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<Definition>,
        reply: Reply<(TemplateRecord, bool)>,
    },
    Template {
        name: String,
        version: Option<u32>,
        /// To run it: refused while it is paused.
        to_run: bool,
        reply: Reply<Option<TemplateRecord>>,
    },
    Templates {
        reply: Reply<Vec<TemplateRecord>>,
    },
    ChangeEntry {
        change: EntryChange,
        reply: Reply<Changed>,
    },
    Entry {
        kind: EntryKind,
        key: Arc<str>,
        reply: Reply<Option<CatalogueEntry>>,
    },
    Entries {
        kind: EntryKind,
        after: Option<Arc<str>>,
        limit: usize,
        reply: Reply<EntryPage>,
    },
}

impl Message {
    /// Whether it makes the log grow.
    fn is_work(&self) -> bool {
        match self {
            Self::Submit { .. }
            | Self::Command { .. }
            | Self::Import { .. }
            | Self::DefineTemplate { .. }
            | Self::ChangeEntry { .. } => true,
            // It makes room in the end, and is let in when there is none.
            Self::Purge { .. }
            | Self::Query { .. }
            | Self::Template { .. }
            | Self::Templates { .. }
            | Self::Entry { .. }
            | Self::Entries { .. } => false,
        }
    }

    /// Answers that it is not taken.
    pub(crate) fn refuse(self, gauges: &Gauges, error: impl FnOnce() -> CallError) {
        match self {
            Self::Submit { submissions, reply } => {
                gauges.queued_submissions.fetch_sub(submissions.len(), Ordering::AcqRel);
                drop(reply.send(Err(error())));
            }
            Self::Command { reply, .. } | Self::Purge { reply, .. } => drop(reply.send(Err(error()))),
            Self::Import { reply, .. } => drop(reply.send(Err(error()))),
            Self::Query { query, .. } => query.refuse(error()),
            Self::DefineTemplate { reply, .. } => drop(reply.send(Err(error()))),
            Self::Template { reply, .. } => drop(reply.send(Err(error()))),
            Self::Templates { reply } => drop(reply.send(Err(error()))),
            Self::ChangeEntry { reply, .. } => drop(reply.send(Err(error()))),
            Self::Entry { reply, .. } => drop(reply.send(Err(error()))),
            Self::Entries { reply, .. } => drop(reply.send(Err(error()))),
        }
    }
}

/// What may be asked about one run.
pub(crate) enum Query {
    Status(Reply<RunView>),
    /// Answered once the run has ended or is suspended.
    Settled(Reply<RunView>, Shown),
    Why(Reply<Vec<Value>>),
    Definition(Reply<PinnedDefinition>),
    RunNo(Reply<RunNo>),
}

impl Query {
    pub(crate) fn refuse(self, error: CallError) {
        match self {
            Self::Status(reply) | Self::Settled(reply, _) => drop(reply.send(Err(error))),
            Self::Why(reply) => drop(reply.send(Err(error))),
            Self::Definition(reply) => drop(reply.send(Err(error))),
            Self::RunNo(reply) => drop(reply.send(Err(error))),
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Status(reply) | Self::Settled(reply, _) => reply.is_closed(),
            Self::Why(reply) => reply.is_closed(),
            Self::Definition(reply) => reply.is_closed(),
            Self::RunNo(reply) => reply.is_closed(),
        }
    }
}

/// Numbers that the loop publishes for read-outs.
#[derive(Default)]
pub(crate) struct Gauges {
    pub(crate) runs_in_memory: AtomicUsize,
    pub(crate) queued_submissions: AtomicUsize,
    pub(crate) term: AtomicU64,
}

/// The near side of a shard's queue.
pub(crate) struct Door {
    pub(crate) id: ShardId,
    pub(crate) queue: mpsc::Sender<Message>,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) store: Store,
    pub(crate) group: Arc<Group>,
    pub(crate) gauges: Arc<Gauges>,
    /// Set when the shard stops taking requests.
    pub(crate) closed: Arc<AtomicBool>,
    /// The term in which it leads and takes requests.
    pub(crate) serving: watch::Receiver<Option<u64>>,
    /// What its members are being changed to, in words; the node that leads it says so.
    pub(crate) doing: Mutex<Option<String>>,
    pub(crate) sync_server: SyncServer,
    /// Copies of the tables that backups fetch.
    pub(crate) exports: Exports,
}

/// What stands for a child that was called off before it was started, until it is cancelled too.
fn never_started(child: WorkflowId, parent: Parent) -> Result<Submission, CallError> {
    const SOURCE: &str =
        r#"{"steps":[{"id":"never_started","type":"wait","config":{"signal":"never_started"}}]}"#;
    let definition = Definition::parse(SOURCE).map_err(|invalid| CallError::Rejected(invalid.into()))?;
    Ok(Submission {
        id: child,
        body_hash: None,
        request: None,
        definition: Arc::new(definition),
        template: None,
        params: Value::Null,
        agent_id: None,
        context: Value::Null,
        labels: std::collections::BTreeMap::new(),
        start_at: None,
        parent: Some(Box::new(parent)),
    })
}

fn unavailable(error: &ShardError) -> CallError {
    CallError::Unavailable { applied_unknown: false, message: error.to_string() }
}

impl Door {
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// Whether this node leads the shard and takes requests.
    pub(crate) fn serves(&self) -> bool {
        self.serving.borrow().is_some()
    }

    pub(crate) fn sync_server(&self) -> &SyncServer {
        &self.sync_server
    }

    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Who leads the shard, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        match *self.group.role().borrow() {
            Role::Follower { leader } => leader,
            Role::Leader { .. } => None,
        }
    }

    fn replicas(&self) -> Vec<ReplicaInfo> {
        let members = self.group.members();
        if members.matched.is_empty() {
            return Vec::new();
        }
        let replica = |node: &NodeId| {
            let position = members.matched.get(node).copied();
            ReplicaInfo {
                node: *node,
                votes: members.voters.contains(node),
                position: position.unwrap_or_default(),
                in_sync: position.is_some_and(|at| at + IN_SYNC_ENTRIES >= members.last_index),
                lag_ms: members.lag_ms.get(node).copied(),
            }
        };
        members.voters.union(&members.learners).map(replica).collect()
    }

    fn not_leader(&self) -> CallError {
        CallError::NotLeader { shard: self.id, leader: self.leader() }
    }

    fn send(&self, message: Message) -> Result<(), CallError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(CallError::Unavailable {
                applied_unknown: false,
                message: "the node is stopping".into(),
            });
        }
        if !self.serves() {
            return Err(self.not_leader());
        }
        if message.is_work() && !self.group.has_room() {
            return Err(CallError::StorageFull);
        }
        self.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => {
                CallError::Unavailable { applied_unknown: false, message: "the shard has stopped".into() }
            }
        })
    }

    /// Sends a message and waits for its answer; a loop that went away leaves it unknown.
    pub(crate) async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply))?;
        answer.await.unwrap_or_else(|_| {
            Err(CallError::Unavailable {
                applied_unknown: true,
                message: "the shard stopped before it answered".into(),
            })
        })
    }

    async fn query<T>(&self, id: &WorkflowId, query: impl FnOnce(Reply<T>) -> Query) -> Result<T, CallError> {
        self.ask(|reply| Message::Query { id: id.clone(), query: query(reply) }).await
    }

    pub(crate) async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
        let count = submissions.len();
        let queued = &self.gauges.queued_submissions;
        if queued.fetch_add(count, Ordering::AcqRel) + count > QUEUE_SUBMISSIONS_MAX {
            queued.fetch_sub(count, Ordering::AcqRel);
            return Err(CallError::Overloaded);
        }
        let (reply, answer) = oneshot::channel();
        if let Err(error) = self.send(Message::Submit { submissions, reply }) {
            queued.fetch_sub(count, Ordering::AcqRel);
            return Err(error);
        }
        answer.await.unwrap_or_else(|_| {
            Err(CallError::Unavailable {
                applied_unknown: true,
                message: "the shard stopped before it answered".into(),
            })
        })
    }

    pub(crate) async fn command(&self, id: &WorkflowId, command: Command) -> Result<CommandReply, CallError> {
        self.ask(|reply| Message::Command { id: id.clone(), command, reply }).await
    }

    pub(crate) async fn purge(
        &self,
        id: &WorkflowId,
        at: Option<Sequence>,
    ) -> Result<CommandReply, CallError> {
        self.ask(|reply| Message::Purge { id: id.clone(), at, reply }).await
    }

    pub(crate) async fn call_off(
        &self,
        child: &WorkflowId,
        parent: Parent,
    ) -> Result<CommandReply, CallError> {
        let call_off = Command::CalledOff(parent.clone());
        match self.command(child, call_off.clone()).await {
            Err(CallError::NotFound(_)) => {}
            other => return other,
        }
        let submission = never_started(child.clone(), Parent { waits: false, ..parent })?;
        if let [Err(rejected)] = self.submit(vec![submission]).await?.as_slice() {
            // Another run has the id: there is no child of this attempt, and will be none.
            tracing::debug!(%child, %rejected.message, "a child that is called off was never started");
        }
        self.command(child, call_off).await
    }

    pub(crate) async fn status(&self, id: &WorkflowId) -> Result<RunView, CallError> {
        self.query(id, Query::Status).await
    }

    pub(crate) async fn wait(
        &self,
        id: &WorkflowId,
        wait: Duration,
        shown: Shown,
    ) -> Result<RunView, CallError> {
        let settled = self.query(id, |reply| Query::Settled(reply, shown));
        match tokio::time::timeout(wait, settled).await {
            Ok(answer) => answer,
            Err(_) => self.status(id).await,
        }
    }

    pub(crate) async fn why(&self, id: &WorkflowId) -> Result<Vec<Value>, CallError> {
        self.query(id, Query::Why).await
    }

    pub(crate) async fn definition(&self, id: &WorkflowId) -> Result<PinnedDefinition, CallError> {
        self.query(id, Query::Definition).await
    }

    pub(crate) async fn run_no(&self, id: &WorkflowId) -> Result<RunNo, CallError> {
        self.query(id, Query::RunNo).await
    }

    /// Waits until the tables hold everything that was committed before the call: what is read
    /// from them afterwards lies behind no acknowledged write.
    pub(crate) async fn caught_up(&self) -> Result<(), CallError> {
        self.store.reached(self.group.committed()).await.map_err(|e| unavailable(&e))
    }

    pub(crate) async fn events(
        &self,
        id: &WorkflowId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CallError> {
        let no = self.run_no(id).await?;
        self.caught_up().await?;
        self.store.events(no, after, limit).await.map_err(|e| unavailable(&e))
    }

    pub(crate) fn committed(&self) -> Position {
        self.group.committed()
    }

    /// A run as the tables have it, which reflect the log up to `position` at least.
    pub(crate) async fn stored_view(
        &self,
        id: &WorkflowId,
        position: Position,
    ) -> Result<RunView, CallError> {
        let stored = self.store.load_run(id).await.map_err(|e| unavailable(&e))?;
        let stored = stored.ok_or_else(|| CallError::NotFound(id.to_string()))?;
        let run = self.definitions.replay(&self.store, stored).await.map_err(|e| unavailable(&e))?;
        Ok(RunView { document: Shown::Document.of(&run), status: run.status(), position })
    }

    /// A run's events as the tables have them.
    pub(crate) async fn stored_events(
        &self,
        id: &WorkflowId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CallError> {
        let no = self.store.find(id).await.map_err(|e| unavailable(&e))?;
        let no = no.ok_or_else(|| CallError::NotFound(id.to_string()))?;
        self.store.events(no, after, limit).await.map_err(|e| unavailable(&e))
    }

    pub(crate) async fn run_id(&self, no: RunNo) -> Result<Option<WorkflowId>, CallError> {
        self.caught_up().await?;
        self.stored_run_id(no).await
    }

    /// From the run's first event, which says who it is.
    pub(crate) async fn stored_run_id(&self, no: RunNo) -> Result<Option<WorkflowId>, CallError> {
        let first = self.store.events(no, Sequence(0), 1).await.map_err(|e| unavailable(&e))?;
        Ok(first.first().and_then(EventRecord::started_run))
    }

    pub(crate) fn subscribe(&self) -> (Position, broadcast::Receiver<Batch<Committed>>) {
        self.store.subscribe()
    }

    pub(crate) async fn tail(&self, after: Option<u64>, wait: Duration) -> Result<Tail, CallError> {
        let Some(after) = after else { return Ok(Tail { upto: self.committed(), ..Tail::default() }) };
        let Some(batches) = self.group.tail(after, wait).await.map_err(|e| unavailable(&e))? else {
            return Ok(Tail { upto: self.committed(), lagged: true, ..Tail::default() });
        };
        let upto = batches.last().map_or(Position { index: after, ..Position::default() }, Batch::position);
        let events = batches.iter().flat_map(|batch| batch.records().iter().filter_map(Record::as_event));
        Ok(Tail { events: events.cloned().collect(), upto, lagged: false })
    }

    pub(crate) async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, CallError> {
        self.caught_up().await?;
        self.store.list_runs(filter).await.map_err(|e| unavailable(&e))
    }

    pub(crate) async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, CallError> {
        self.caught_up().await?;
        self.store.list_decisions(filter).await.map_err(|e| unavailable(&e))
    }

    pub(crate) async fn define_template(
        &self,
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<Definition>,
    ) -> Result<(TemplateRecord, bool), CallError> {
        self.ask(|reply| Message::DefineTemplate { name, source, definition, reply }).await
    }

    pub(crate) async fn template(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        self.ask(|reply| Message::Template { name: name.to_owned(), version, to_run: false, reply }).await
    }

    pub(crate) async fn template_to_run(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        self.ask(|reply| Message::Template { name: name.to_owned(), version, to_run: true, reply }).await
    }

    pub(crate) async fn templates(&self) -> Result<Vec<TemplateRecord>, CallError> {
        self.ask(|reply| Message::Templates { reply }).await
    }

    pub(crate) async fn change_entry(&self, change: EntryChange) -> Result<Changed, CallError> {
        self.ask(|reply| Message::ChangeEntry { change, reply }).await
    }

    pub(crate) async fn entry(
        &self,
        kind: EntryKind,
        key: Arc<str>,
    ) -> Result<Option<CatalogueEntry>, CallError> {
        self.ask(|reply| Message::Entry { kind, key, reply }).await
    }

    pub(crate) async fn entries(
        &self,
        kind: EntryKind,
        after: Option<Arc<str>>,
        limit: usize,
    ) -> Result<EntryPage, CallError> {
        self.ask(|reply| Message::Entries { kind, after, limit, reply }).await
    }

    pub(crate) async fn sql(&self, query: &str, limit: usize) -> Result<Vec<Value>, CallError> {
        self.caught_up().await?;
        self.store.sql(query, limit, SQL_MS_MAX).await.map_err(|error| match error {
            // SQLite's own words for what the authorizer turns away.
            ShardError::Refused(message) if message.starts_with("not authorized") => CallError::Rejected(
                Rejected::new(Code::PermissionDenied, "the query does more than read: give one SELECT"),
            ),
            ShardError::Refused(message) => {
                CallError::Rejected(Rejected::new(Code::ValidationError, message))
            }
            other => unavailable(&other),
        })
    }

    pub(crate) async fn info(&self) -> Result<ShardInfo, CallError> {
        let stats = self.store.stats().await.map_err(|e| unavailable(&e))?;
        let term = self.group.leading_term();
        Ok(ShardInfo {
            shard: self.id,
            epoch: term.unwrap_or_else(|| self.gauges.term.load(Ordering::Relaxed)),
            leads: term.is_some(),
            node: self.group.node_id(),
            replicas: self.replicas(),
            committed: self.group.committed(),
            applied: self.store.applied_position(),
            workflows: stats.workflows,
            bytes: stats.bytes,
            queue_depth: QUEUE_MESSAGES_MAX.saturating_sub(self.queue.capacity()) + self.store.backlog(),
            runs_in_memory: self.gauges.runs_in_memory.load(Ordering::Relaxed),
            doing: self.doing.lock().clone().filter(|_| term.is_some()),
            purged: self.group.purged(),
        })
    }
}

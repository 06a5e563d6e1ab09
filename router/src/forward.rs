//! The way to a shard wherever it is led: this node's replica when it leads, else the leader's node.
//!
//! A node that is asked answers for itself and never asks on; who leads is learnt from those that
//! do not. What was certainly not applied is tried again until somebody leads, within a bound. What
//! need not be linearizable is first asked of the replica here, and last of whoever holds one.

use std::sync::Arc;
use std::time::Duration;

use opcode_engine::Rejected;
use opcode_engine::command::Command;
use opcode_engine::ids::{RunNo, Sequence, ShardId, WorkflowId};
use opcode_shard::batch::Position;
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use opcode_shard::handle::{
    CommandReply, PinnedDefinition, RunView, ShardInfo, Shown, Submission, Submitted,
};
use opcode_shard::history::{Imported, Line, PastRun};
use opcode_shard::peer::{NodeId, PeerError, Service};
use opcode_shard::record::{EventRecord, TemplateRecord};
use opcode_shard::remote::{Answer, Answered, Asked, Freshness, Request, Tail};
use opcode_shard::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};
use opcode_shard::{CallError, ShardHandle};
use serde_json::Value;
use tokio::time::Instant;

use crate::embedded;
use crate::state::RouterState;

/// How long a call looks for somebody who leads.
const LEADER_MAX: Duration = Duration::from_secs(4);
/// First pause between two tries; later ones are longer, up to eight times.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for an answer that waits for nothing but the log.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// The same for a replica's, which waits for its tables at most.
const REPLICA_MAX: Duration = Duration::from_secs(3);
/// How much longer for what is as large as a line of history.
const IMPORT_EXTRA: Duration = Duration::from_secs(20);
/// How often a node that was asked is looked at, whether it may still lead.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one that leads no more has for its answer.
const GRACE: Duration = Duration::from_millis(300);
/// How far behind a replica may be to be asked before the leader, in ms.
const FRESH_MS: u64 = 1_000;

/// A shard, from anywhere in the cluster.
#[derive(Clone)]
pub(crate) struct ShardClient {
    state: RouterState,
    shard: ShardId,
}

/// What was read, and what it reflects.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    pub(crate) value: T,
    /// Where the log stands with all that it shows.
    pub(crate) position: Position,
    /// How far the replica that was read lies behind, in ms; none when the leader was.
    pub(crate) lag_ms: Option<u64>,
}

impl<T> Seen<T> {
    fn of(answered: Answered, take: impl FnOnce(Answer) -> Result<T, CallError>) -> Result<Self, CallError> {
        let Answered { answer, position, lag_ms } = answered;
        Ok(Self { value: take(answer)?, position, lag_ms })
    }
}

/// What came of one try.
enum Try {
    Done(Box<Result<Answered, CallError>>),
    /// Another node may do it. What is in doubt may have been applied by this one nevertheless, and
    /// is only tried again when that does no harm.
    Again {
        leader: Option<NodeId>,
        is_in_doubt: bool,
        why: String,
    },
}

impl ShardClient {
    pub(crate) fn new(state: RouterState, shard: ShardId) -> Self {
        Self { state, shard }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.shard
    }

    /// This node's replica, while it keeps up with the shard.
    pub(crate) fn here(&self) -> Option<Arc<ShardHandle>> {
        self.state.local().get(self.shard).filter(|handle| handle.keeps_up(Duration::from_millis(FRESH_MS)))
    }

    /// This node's replica, when it leads.
    fn leading(&self) -> Option<Arc<ShardHandle>> {
        self.state.local().get(self.shard).filter(|handle| handle.serves())
    }

    /// Asks the leader. `extra` is how long the answer itself may wait for something.
    pub(crate) async fn ask(&self, request: Request, extra: Duration) -> Result<Answered, CallError> {
        let answered = self.ask_until_led(&request, extra).await;
        match answered {
            // What changes nothing was not applied, whatever came of it.
            Err(CallError::Unavailable { message, .. }) if request.only_reads() => {
                Err(CallError::Unavailable { applied_unknown: false, message })
            }
            other => other,
        }
    }

    async fn ask_until_led(&self, request: &Request, extra: Duration) -> Result<Answered, CallError> {
        let deadline = Instant::now() + LEADER_MAX;
        let mut hint = None;
        // One try of unknown fate leaves the whole in doubt, whatever comes of the later ones.
        let mut applied_unknown = false;
        for turn in 0_u32.. {
            let why = match self.attempt(request, hint, turn, ANSWER_MAX + extra).await {
                Try::Done(answer) => return *answer,
                Try::Again { leader, is_in_doubt, why } => {
                    applied_unknown |= is_in_doubt;
                    // A leader that was named is asked at once.
                    let is_news = leader.is_some() && leader != hint;
                    hint = leader;
                    if is_news && turn < 3 {
                        continue;
                    }
                    why
                }
            };
            if Instant::now() >= deadline {
                let message = format!("shard {} has no leader that can be reached: {why}", self.shard);
                return Err(CallError::Unavailable { applied_unknown, message });
            }
            let pause = PAUSE * (1 << turn.min(3));
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        }
        unreachable!("the deadline ends it")
    }

    /// Whom to ask: whoever leads as far as this node knows, else the holders in turn.
    fn candidate(&self, hint: Option<NodeId>, turn: u32) -> Option<NodeId> {
        let known = hint.or_else(|| self.state.local().get(self.shard).and_then(|handle| handle.leader()));
        if let Some(node) = known.filter(|_| turn.is_multiple_of(2)) {
            return Some(node);
        }
        let others = self.others();
        others.get(turn as usize % others.len().max(1)).copied().or(known)
    }

    async fn attempt(&self, request: &Request, hint: Option<NodeId>, turn: u32, within: Duration) -> Try {
        let answered = if let Some(handle) = self.leading() {
            request.clone().answer_at(&handle, Freshness::Strong).await
        } else {
            let Some(node) = self.candidate(hint, turn) else {
                let why = "nobody else holds it".into();
                return Try::Again { leader: None, is_in_doubt: false, why };
            };
            let called = tokio::select! {
                called = self.call(node, request, Freshness::Strong, within) => called,
                why = self.deposed(node) => Err(PeerError::Lost { node, why }),
            };
            match called {
                Ok(answered) => answered,
                Err(error @ (PeerError::Unreachable { .. } | PeerError::Refused { .. })) => {
                    return Try::Again { leader: None, is_in_doubt: false, why: error.to_string() };
                }
                Err(error @ PeerError::Lost { .. }) if request.may_repeat() => {
                    return Try::Again { leader: None, is_in_doubt: true, why: error.to_string() };
                }
                Err(error) => {
                    let message = error.to_string();
                    Err(CallError::Unavailable { applied_unknown: true, message })
                }
            }
        };
        match answered {
            Err(CallError::NotLeader { leader, .. }) => {
                let why = "who was asked does not lead it".into();
                Try::Again { leader, is_in_doubt: false, why }
            }
            Err(CallError::Unavailable { applied_unknown, message })
                if !applied_unknown || request.may_repeat() =>
            {
                Try::Again { leader: None, is_in_doubt: applied_unknown, why: message }
            }
            other => Try::Done(Box::new(other)),
        }
    }

    /// Waits until `node` can lead no more, as far as this node knows: one that hangs, or is cut off,
    /// would keep its callers waiting.
    async fn deposed(&self, node: NodeId) -> String {
        let why = self.seen_deposed(node).await;
        // One that has handed over its lead still answers for what it has committed.
        tokio::time::sleep(GRACE).await;
        why
    }

    async fn seen_deposed(&self, node: NodeId) -> String {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let leader = self.state.local().get(self.shard).and_then(|handle| match handle.serves() {
                true => Some(self.state.node_id()),
                false => handle.leader(),
            });
            if let Some(leader) = leader.filter(|leader| *leader != node) {
                return format!("node {leader} leads in its place");
            }
            if leader.is_none() && !self.state.cluster().is_alive(node) {
                return "it gives no sign of life".into();
            }
        }
    }

    async fn call(
        &self,
        node: NodeId,
        request: &Request,
        freshness: Freshness,
        within: Duration,
    ) -> Result<Result<Answered, CallError>, PeerError> {
        let refused = |why| PeerError::Refused { node, why };
        let body = request.encode(freshness).map_err(refused)?;
        let body = self.state.peers().call(node, Service::Shard, self.shard.0, body, within).await?;
        Asked::decode(&body).map_err(|why| PeerError::Lost { node, why })
    }

    /// Reads what need not be linearizable: from the replica here when it is good enough, else from
    /// the leader, else from whatever replica can be reached.
    async fn read(&self, request: Request, freshness: Freshness) -> Result<Answered, CallError> {
        if freshness == Freshness::Strong || !request.is_for_replicas() {
            return self.ask(request, Duration::ZERO).await;
        }
        if let Some(answered) = self.nearest(&request, freshness, FRESH_MS).await {
            return Ok(answered);
        }
        let error = match self.ask(request.clone(), Duration::ZERO).await {
            Err(error @ CallError::Unavailable { .. }) => error,
            other => return other,
        };
        if let Some(answered) = self.nearest(&request, freshness, u64::MAX).await {
            return Ok(answered);
        }
        for node in self.others() {
            if let Ok(Ok(answered)) = self.call(node, &request, freshness, REPLICA_MAX).await {
                return Ok(answered);
            }
        }
        Err(error)
    }

    /// The answer of a replica on this node that lies at most `lag_ms_max` behind. That something is
    /// not there, only the leader is to say.
    async fn nearest(&self, request: &Request, freshness: Freshness, lag_ms_max: u64) -> Option<Answered> {
        let answered = match self.state.local().get(self.shard) {
            Some(handle) => request.clone().answer_at(&handle, freshness).await.ok()?,
            None => embedded::answer(&*self.state.local().replica(self.shard)?, request, freshness).await?,
        };
        Some(answered).filter(|answered| {
            // One that was waited for until it had what the caller has seen is good, however old.
            matches!(freshness, Freshness::Reached(_)) || answered.lag_ms.unwrap_or(0) <= lag_ms_max
        })
    }

    /// The nodes that hold the shard, other than this one.
    fn others(&self) -> Vec<NodeId> {
        let map = self.state.map();
        let holders = map.shard(self.shard).into_iter().flat_map(|entry| entry.holders().collect::<Vec<_>>());
        holders.filter(|node| *node != self.state.node_id()).collect()
    }

    pub(crate) async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
        self.ask(Request::Submit(submissions), Duration::ZERO).await?.answer.submitted()
    }

    pub(crate) async fn command(&self, id: &WorkflowId, command: Command) -> Result<CommandReply, CallError> {
        self.ask(Request::Command(id.clone(), command), Duration::ZERO).await?.answer.commanded()
    }

    pub(crate) async fn purge(&self, id: &WorkflowId) -> Result<CommandReply, CallError> {
        self.ask(Request::Purge(id.clone(), None), Duration::ZERO).await?.answer.commanded()
    }

    /// The same of a run whose last event is this one; one that went on since is refused.
    pub(crate) async fn purge_at(&self, id: &WorkflowId, at: Sequence) -> Result<CommandReply, CallError> {
        self.ask(Request::Purge(id.clone(), Some(at)), Duration::ZERO).await?.answer.commanded()
    }

    /// Takes in what comes as history; asking twice does what asking once does.
    pub(crate) async fn import(
        &self,
        lines: Vec<Line>,
    ) -> Result<Vec<Result<Imported, Rejected>>, CallError> {
        self.ask(Request::Import(lines), IMPORT_EXTRA).await?.answer.imported()
    }

    /// All of a run, as it leaves the cluster.
    pub(crate) async fn history(&self, id: &WorkflowId) -> Result<PastRun, CallError> {
        let answered = self.ask(Request::History(id.clone()), IMPORT_EXTRA).await?;
        Ok(*answered.answer.history()?)
    }

    pub(crate) async fn status(
        &self,
        id: &WorkflowId,
        freshness: Freshness,
    ) -> Result<Seen<RunView>, CallError> {
        Seen::of(self.read(Request::Status(id.clone()), freshness).await?, Answer::view)
    }

    pub(crate) async fn wait(
        &self,
        id: &WorkflowId,
        wait: Duration,
        shown: Shown,
    ) -> Result<Seen<RunView>, CallError> {
        Seen::of(self.ask(Request::Wait(id.clone(), wait, shown), wait).await?, Answer::view)
    }

    pub(crate) async fn why(&self, id: &WorkflowId) -> Result<Seen<Vec<Value>>, CallError> {
        Seen::of(self.ask(Request::Why(id.clone()), Duration::ZERO).await?, Answer::values)
    }

    pub(crate) async fn definition(&self, id: &WorkflowId) -> Result<Seen<PinnedDefinition>, CallError> {
        Seen::of(self.ask(Request::Definition(id.clone()), Duration::ZERO).await?, Answer::definition)
    }

    pub(crate) async fn events(
        &self,
        id: &WorkflowId,
        after: Sequence,
        limit: usize,
        freshness: Freshness,
    ) -> Result<Seen<Vec<EventRecord>>, CallError> {
        let request = Request::Events(id.clone(), after, limit);
        Seen::of(self.read(request, freshness).await?, Answer::events)
    }

    pub(crate) async fn run_id(&self, no: RunNo, at: Position) -> Result<Option<WorkflowId>, CallError> {
        self.read(Request::RunId(no), Freshness::Reached(at)).await?.answer.run_id()
    }

    /// Events committed after an entry of the log, from this node's replica when it keeps up.
    pub(crate) async fn tail(&self, after: Option<u64>, wait: Duration) -> Result<Tail, CallError> {
        if let Some(handle) = self.here() {
            let tail = handle.tail(after, wait).await?;
            // The leader's log may still have what the one here has let go of.
            if !tail.lagged || handle.serves() {
                return Ok(tail);
            }
        }
        self.ask(Request::Tail(after, wait), wait).await?.answer.tail()
    }

    pub(crate) async fn list_runs(
        &self,
        filter: RunFilter,
        freshness: Freshness,
    ) -> Result<Seen<Vec<RunSummary>>, CallError> {
        Seen::of(self.read(Request::ListRuns(filter), freshness).await?, Answer::runs)
    }

    pub(crate) async fn list_decisions(
        &self,
        filter: DecisionFilter,
        freshness: Freshness,
    ) -> Result<Seen<Vec<DecisionRow>>, CallError> {
        Seen::of(self.read(Request::ListDecisions(filter), freshness).await?, Answer::decisions)
    }

    pub(crate) async fn define_template(
        &self,
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<opcode_engine::definition::Definition>,
    ) -> Result<Seen<(TemplateRecord, bool)>, CallError> {
        let request = Request::DefineTemplate { name, source, definition };
        Seen::of(self.ask(request, Duration::ZERO).await?, Answer::defined)
    }

    pub(crate) async fn template(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Seen<Option<TemplateRecord>>, CallError> {
        let request = Request::Template(name.to_owned(), version);
        Seen::of(self.ask(request, Duration::ZERO).await?, Answer::template)
    }

    /// The same to run it: refused while it is paused.
    pub(crate) async fn template_to_run(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        let request = Request::TemplateToRun(name.to_owned(), version);
        self.ask(request, Duration::ZERO).await?.answer.template()
    }

    pub(crate) async fn templates(&self) -> Result<Seen<Vec<TemplateRecord>>, CallError> {
        Seen::of(self.ask(Request::Templates, Duration::ZERO).await?, Answer::templates)
    }

    pub(crate) async fn change_entry(&self, change: EntryChange) -> Result<Seen<Changed>, CallError> {
        Seen::of(self.ask(Request::ChangeEntry(change), Duration::ZERO).await?, Answer::changed)
    }

    pub(crate) async fn entry(
        &self,
        kind: EntryKind,
        key: Arc<str>,
    ) -> Result<Seen<Option<CatalogueEntry>>, CallError> {
        Seen::of(self.ask(Request::Entry(kind, key), Duration::ZERO).await?, Answer::entry)
    }

    pub(crate) async fn entries(
        &self,
        kind: EntryKind,
        after: Option<Arc<str>>,
        limit: usize,
    ) -> Result<Seen<EntryPage>, CallError> {
        Seen::of(self.ask(Request::Entries(kind, after, limit), Duration::ZERO).await?, Answer::entries)
    }

    pub(crate) async fn sql(&self, query: &str, limit: usize) -> Result<Seen<Vec<Value>>, CallError> {
        Seen::of(self.ask(Request::Sql(query.to_owned(), limit), Duration::ZERO).await?, Answer::values)
    }

    pub(crate) async fn info(&self) -> Result<Seen<ShardInfo>, CallError> {
        Seen::of(self.ask(Request::Info, Duration::ZERO).await?, Answer::info)
    }
}

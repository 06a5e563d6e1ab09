//! The way to a shard wherever it is led: this node's replica when it leads, else the leader's node.
//!
//! A node that is asked answers for itself and never asks on; who leads is learnt from those that
//! do not. What was certainly not applied is tried again until somebody leads, within a bound.

use std::time::Duration;

use opcode_engine::Rejected;
use opcode_engine::command::Command;
use opcode_engine::ids::{RunNo, Sequence, ShardId, WorkflowId};
use opcode_shard::CallError;
use opcode_shard::batch::Position;
use opcode_shard::handle::{CommandReply, PinnedDefinition, RunView, ShardInfo, Submission, Submitted};
use opcode_shard::peer::{NodeId, PeerError, Service};
use opcode_shard::record::{EventRecord, TemplateRecord};
use opcode_shard::remote::{Answer, Asked, Request};
use opcode_shard::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};
use serde_json::Value;
use tokio::time::Instant;

use crate::state::RouterState;

/// How long a call looks for somebody who leads.
const LEADER_MAX: Duration = Duration::from_secs(4);
/// First pause between two tries; later ones are longer, up to eight times.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for an answer that waits for nothing but the log.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// A shard, from anywhere in the cluster.
#[derive(Clone)]
pub(crate) struct ShardClient {
    state: RouterState,
    shard: ShardId,
}

/// What came of one try.
enum Try {
    Done(Box<Result<Answer, CallError>>),
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

    /// The last position known here to be committed.
    pub(crate) fn committed(&self) -> Position {
        self.state.local().get(self.shard).map_or_else(Position::default, |handle| handle.committed())
    }

    /// This node's replica, when it leads.
    pub(crate) fn leading(&self) -> Option<std::sync::Arc<opcode_shard::ShardHandle>> {
        self.state.local().get(self.shard).filter(|handle| handle.serves())
    }

    pub(crate) async fn ask(&self, request: Request, extra: Duration) -> Result<Answer, CallError> {
        let deadline = Instant::now() + LEADER_MAX;
        let mut hint = None;
        // One try of unknown fate leaves the whole in doubt, whatever comes of the later ones.
        let mut applied_unknown = false;
        for turn in 0_u32.. {
            let why = match self.attempt(&request, hint, turn, ANSWER_MAX + extra).await {
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
        let map = self.state.map();
        let known = hint.or_else(|| self.state.local().get(self.shard).and_then(|handle| handle.leader()));
        if let Some(node) = known.filter(|_| turn.is_multiple_of(2)) {
            return Some(node);
        }
        let others: Vec<NodeId> = map
            .shard(self.shard)
            .into_iter()
            .flat_map(|entry| entry.holders().collect::<Vec<_>>())
            .filter(|node| *node != self.state.node_id())
            .collect();
        others.get(turn as usize % others.len().max(1)).copied().or(known)
    }

    async fn attempt(&self, request: &Request, hint: Option<NodeId>, turn: u32, within: Duration) -> Try {
        let answered = if let Some(handle) = self.leading() {
            request.clone().answer(&handle).await
        } else {
            let Some(node) = self.candidate(hint, turn) else {
                let why = "nobody else holds it".into();
                return Try::Again { leader: None, is_in_doubt: false, why };
            };
            match self.call(node, request, within).await {
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

    async fn call(
        &self,
        node: NodeId,
        request: &Request,
        within: Duration,
    ) -> Result<Result<Answer, CallError>, PeerError> {
        let refused = |why| PeerError::Refused { node, why };
        let body = request.encode().map_err(refused)?;
        let body = self.state.peers().call(node, Service::Shard, self.shard.0, body, within).await?;
        Asked::decode(&body).map_err(|why| PeerError::Lost { node, why })
    }

    pub(crate) async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
        self.ask(Request::Submit(submissions), Duration::ZERO).await?.submitted()
    }

    pub(crate) async fn command(&self, id: &WorkflowId, command: Command) -> Result<CommandReply, CallError> {
        self.ask(Request::Command(id.clone(), command), Duration::ZERO).await?.commanded()
    }

    pub(crate) async fn status(&self, id: &WorkflowId) -> Result<RunView, CallError> {
        self.ask(Request::Status(id.clone()), Duration::ZERO).await?.view()
    }

    pub(crate) async fn wait(&self, id: &WorkflowId, wait: Duration) -> Result<RunView, CallError> {
        self.ask(Request::Wait(id.clone(), wait), wait).await?.view()
    }

    pub(crate) async fn why(&self, id: &WorkflowId) -> Result<Vec<Value>, CallError> {
        self.ask(Request::Why(id.clone()), Duration::ZERO).await?.values()
    }

    pub(crate) async fn definition(&self, id: &WorkflowId) -> Result<PinnedDefinition, CallError> {
        self.ask(Request::Definition(id.clone()), Duration::ZERO).await?.definition()
    }

    pub(crate) async fn events(
        &self,
        id: &WorkflowId,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CallError> {
        self.ask(Request::Events(id.clone(), after, limit), Duration::ZERO).await?.events()
    }

    pub(crate) async fn run_id(&self, no: RunNo) -> Result<Option<WorkflowId>, CallError> {
        self.ask(Request::RunId(no), Duration::ZERO).await?.run_id()
    }

    pub(crate) async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, CallError> {
        self.ask(Request::ListRuns(filter), Duration::ZERO).await?.runs()
    }

    pub(crate) async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, CallError> {
        self.ask(Request::ListDecisions(filter), Duration::ZERO).await?.decisions()
    }

    pub(crate) async fn define_template(
        &self,
        name: std::sync::Arc<str>,
        source: std::sync::Arc<str>,
        definition: std::sync::Arc<opcode_engine::definition::Definition>,
    ) -> Result<(TemplateRecord, bool), CallError> {
        let request = Request::DefineTemplate { name, source, definition };
        self.ask(request, Duration::ZERO).await?.defined()
    }

    pub(crate) async fn template(
        &self,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateRecord>, CallError> {
        self.ask(Request::Template(name.to_owned(), version), Duration::ZERO).await?.template()
    }

    pub(crate) async fn templates(&self) -> Result<Vec<TemplateRecord>, CallError> {
        self.ask(Request::Templates, Duration::ZERO).await?.templates()
    }

    pub(crate) async fn sql(&self, query: &str, limit: usize) -> Result<Vec<Value>, CallError> {
        self.ask(Request::Sql(query.to_owned(), limit), Duration::ZERO).await?.values()
    }

    pub(crate) async fn info(&self) -> Result<ShardInfo, CallError> {
        self.ask(Request::Info, Duration::ZERO).await?.info()
    }
}

//! Calls to a shard from another node: what may be asked of a [`ShardHandle`], and what it
//! answers, as values that travel. [`wire`] makes bytes of them.
//!
//! The side that answers asks nobody else: what it does not lead it says so of.

mod export;
mod lead;
mod reading;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opcode_engine::Rejected;
use opcode_engine::child::Parent;
use opcode_engine::command::Command;
use opcode_engine::definition::Definition;
use opcode_engine::ids::{RunNo, Sequence, WorkflowId};
use serde_json::Value;

pub(crate) use self::export::Exports;
pub use self::export::answer_backup;
pub use self::reading::{Answered, Freshness};
use crate::batch::Position;
use crate::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use crate::definitions::Definitions;
use crate::error::CallError;
use crate::handle::{
    CommandReply, PinnedDefinition, RunView, ShardHandle, ShardInfo, Shown, Submission, Submitted,
};
use crate::history::{Imported, Line, PastRun};
use crate::record::{EventRecord, TemplateRecord};
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};
use lead::Lead;

/// Longest wait that another node may ask for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Most rows that another node may ask for at once.
const ROWS_MAX: usize = 20_000;

/// What is asked.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Request {
    Submit(Vec<Submission>),
    Command(WorkflowId, Command),
    CallOff(WorkflowId, Parent),
    /// With the last event of the run that is meant, if only one that has stayed as it was is.
    Purge(WorkflowId, Option<Sequence>),
    /// Runs and templates that come as history.
    Import(Vec<Line>),
    Status(WorkflowId),
    Wait(WorkflowId, Duration, Shown),
    Why(WorkflowId),
    Definition(WorkflowId),
    /// All of a run, as it leaves the cluster.
    History(WorkflowId),
    Events(WorkflowId, Sequence, usize),
    RunId(RunNo),
    ListRuns(RunFilter),
    ListDecisions(DecisionFilter),
    DefineTemplate {
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<Definition>,
    },
    Template(String, Option<u32>),
    /// The same to run it: refused while it is paused.
    TemplateToRun(String, Option<u32>),
    Templates,
    ChangeEntry(EntryChange),
    Entry(EntryKind, Arc<str>),
    /// Entries of a kind after a key, at most so many.
    Entries(EntryKind, Option<Arc<str>>, usize),
    Sql(String, usize),
    Info,
    /// What was committed after an entry of the log; after none: only where the log stands.
    Tail(Option<u64>, Duration),
}

/// What it is answered.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Answer {
    Submitted(Vec<Result<Submitted, Rejected>>),
    Commanded(CommandReply),
    Imported(Vec<Result<Imported, Rejected>>),
    History(Box<PastRun>),
    View(RunView),
    Values(Vec<Value>),
    Definition(PinnedDefinition),
    Events(Vec<EventRecord>),
    RunId(Option<WorkflowId>),
    Runs(Vec<RunSummary>),
    Decisions(Vec<DecisionRow>),
    Defined(TemplateRecord, bool),
    Template(Option<TemplateRecord>),
    Templates(Vec<TemplateRecord>),
    Changed(Changed),
    Entry(Option<CatalogueEntry>),
    Entries(EntryPage),
    Info(ShardInfo),
    Tail(Tail),
}

/// A piece of what a shard has committed.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Events in their order.
    pub events: Vec<EventRecord>,
    /// The place in the log after them.
    pub upto: Position,
    /// Whether the log no longer held what came next: then there are no events, and `upto` is where
    /// it stands now.
    pub lagged: bool,
}

/// An answer, or why there is none.
pub struct Asked;

impl Asked {
    /// Reads what [`answer_call`] has written; the error says what is broken.
    pub fn decode(bytes: &[u8]) -> Result<Result<Answered, CallError>, String> {
        wire::decode_answer(bytes)
    }
}

/// Answers a call of another node with the replica here.
pub async fn answer_call(
    handle: &ShardHandle,
    definitions: &Definitions,
    body: &[u8],
) -> Result<Bytes, String> {
    let (request, freshness) = wire::decode_request(body, definitions)?;
    wire::encode_answer(request.answer_at(handle, freshness).await)
}

impl Request {
    /// The request as bytes, for an answer as fresh as that; the error says which bound it breaks.
    pub fn encode(&self, freshness: Freshness) -> Result<Bytes, String> {
        wire::encode_request(self, freshness)
    }

    /// Whether asking twice does what asking once does.
    pub fn may_repeat(&self) -> bool {
        match self {
            Self::Submit(submissions) => {
                submissions.iter().all(|s| s.body_hash.is_some() || s.parent.is_some())
            }
            Self::Command(_, Command::Signal(signal)) => signal.signal_id.is_some(),
            Self::Command(_, command) => matches!(command, Command::ChildEnded { .. }),
            // The second time there is nothing to delete, which is another answer.
            Self::Purge(..) => false,
            Self::DefineTemplate { .. }
            | Self::ChangeEntry(_)
            | Self::Entry(..)
            | Self::Entries(..)
            | Self::CallOff(..)
            | Self::Status(_)
            | Self::Wait(..)
            | Self::Why(_)
            | Self::Definition(_)
            | Self::Import(_)
            | Self::History(_)
            | Self::Events(..)
            | Self::RunId(_)
            | Self::ListRuns(_)
            | Self::ListDecisions(_)
            | Self::Template(..)
            | Self::TemplateToRun(..)
            | Self::Templates
            | Self::Sql(..)
            | Self::Info
            | Self::Tail(..) => true,
        }
    }

    /// Whether it changes nothing.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Submit(_)
            | Self::Command(..)
            | Self::CallOff(..)
            | Self::Purge(..)
            | Self::Import(_)
            | Self::DefineTemplate { .. }
            | Self::ChangeEntry(_) => false,
            Self::Entry(..)
            | Self::Entries(..)
            | Self::Wait(..)
            | Self::Info
            | Self::Tail(..)
            | Self::Status(_)
            | Self::Why(_)
            | Self::Definition(_)
            | Self::History(_)
            | Self::Events(..)
            | Self::RunId(_)
            | Self::ListRuns(_)
            | Self::ListDecisions(_)
            | Self::Template(..)
            | Self::TemplateToRun(..)
            | Self::Templates
            | Self::Sql(..) => true,
        }
    }

    /// Whether this node must lead before it answers: it answers at once, and with what it read.
    fn wants_lead(&self) -> bool {
        self.only_reads() && !matches!(self, Self::Wait(..) | Self::Info | Self::Tail(..))
    }

    /// Asks the replica here. What is read is linearizable: before it, this node makes sure that
    /// it still leads, so that a leader that was replaced behind its back never answers.
    pub async fn answer(self, handle: &ShardHandle) -> Result<Answer, CallError> {
        let (lead, reads) = (Lead::now(handle), self.wants_lead());
        if reads {
            lead.confirm().await?;
        }
        let answer = self.answer_in(&lead, handle).await?;
        if reads {
            lead.holds()?;
        }
        Ok(answer)
    }

    async fn answer_in(self, lead: &Lead<'_>, handle: &ShardHandle) -> Result<Answer, CallError> {
        Ok(match self {
            // What is refused, or was the case already, was not committed by a majority now: like
            // what is read, it must not rest on what a leader knows that was replaced behind its
            // back.
            Self::Submit(submissions) => {
                let submitted = handle.submit(submissions).await?;
                confirm_unless_new(lead, &submitted, |run| !run.was_there).await?;
                Answer::Submitted(submitted)
            }
            Self::Command(id, command) => surely(lead, handle.command(&id, command).await).await?,
            Self::CallOff(child, parent) => surely(lead, handle.call_off(&child, parent).await).await?,
            Self::Purge(id, at) => surely(lead, handle.purge(&id, at).await).await?,
            Self::Import(lines) => {
                let imported = handle.import(lines).await?;
                confirm_unless_new(lead, &imported, |imported| imported.is_new).await?;
                Answer::Imported(imported)
            }
            Self::History(id) => Answer::History(Box::new(handle.history(&id).await?)),
            Self::Status(id) => Answer::View(handle.status(&id).await?),
            Self::Wait(id, wait, shown) => {
                let view = handle.wait(&id, wait.min(WAIT_MAX), shown).await?;
                if view.status.is_terminal() {
                    return Ok(Answer::View(view));
                }
                // It may have waited long.
                let lead = Lead::now(handle);
                lead.confirm().await?;
                let view = handle.status(&id).await?;
                lead.holds()?;
                Answer::View(view)
            }
            Self::Why(id) => Answer::Values(handle.why(&id).await?),
            Self::Definition(id) => Answer::Definition(handle.definition(&id).await?),
            Self::Events(id, after, limit) => {
                Answer::Events(handle.events(&id, after, limit.min(ROWS_MAX)).await?)
            }
            Self::RunId(no) => Answer::RunId(handle.run_id(no).await?),
            Self::ListRuns(filter) => {
                let limit = filter.limit.min(ROWS_MAX);
                Answer::Runs(leading(handle)?.list_runs(RunFilter { limit, ..filter }).await?)
            }
            Self::ListDecisions(filter) => {
                let limit = filter.limit.min(ROWS_MAX);
                Answer::Decisions(leading(handle)?.list_decisions(DecisionFilter { limit, ..filter }).await?)
            }
            Self::DefineTemplate { name, source, definition } => {
                let (record, is_new) = handle.define_template(name, source, definition).await?;
                confirm_unless_new(lead, &[Ok::<_, ()>(is_new)], |is_new| *is_new).await?;
                Answer::Defined(record, is_new)
            }
            Self::ChangeEntry(change) => {
                let changed = handle.change_entry(change).await;
                if !matches!(changed, Ok(Changed::Made(_))) {
                    lead.confirm().await?;
                }
                Answer::Changed(changed?)
            }
            Self::Entry(kind, key) => Answer::Entry(handle.entry(kind, key).await?),
            Self::Entries(kind, after, limit) => {
                Answer::Entries(handle.entries(kind, after, limit.min(ROWS_MAX)).await?)
            }
            Self::Template(name, version) => Answer::Template(handle.template(&name, version).await?),
            Self::TemplateToRun(name, version) => {
                Answer::Template(handle.template_to_run(&name, version).await?)
            }
            Self::Templates => Answer::Templates(handle.templates().await?),
            Self::Sql(query, limit) => {
                Answer::Values(leading(handle)?.sql(&query, limit.min(ROWS_MAX)).await?)
            }
            Self::Info => Answer::Info(leading(handle)?.info().await?),
            Self::Tail(after, wait) => Answer::Tail(handle.tail(after, wait.min(WAIT_MAX)).await?),
        })
    }
}

/// Makes sure of the lead, unless each of these was committed now.
async fn confirm_unless_new<T, E>(
    lead: &Lead<'_>,
    all: &[Result<T, E>],
    is_new: impl Fn(&T) -> bool,
) -> Result<(), CallError> {
    let are_new = all.iter().all(|one| one.as_ref().is_ok_and(&is_new));
    if are_new { Ok(()) } else { lead.confirm().await }
}

/// The answer to a command, once it is sure to come from who leads.
async fn surely(lead: &Lead<'_>, answered: Result<CommandReply, CallError>) -> Result<Answer, CallError> {
    let is_sure = match &answered {
        Ok(reply) => reply.is_sure,
        Err(error) => !matches!(error, CallError::NotFound(_) | CallError::Rejected(_)),
    };
    if !is_sure {
        lead.confirm().await?;
    }
    answered.map(Answer::Commanded)
}

/// What is read from tables alone must be read where the shard is led all the same.
fn leading(handle: &ShardHandle) -> Result<&ShardHandle, CallError> {
    match handle.serves() {
        true => Ok(handle),
        false => Err(CallError::NotLeader { shard: handle.id(), leader: handle.leader() }),
    }
}

/// Another answer than the question has.
fn mistaken(answer: &Answer) -> CallError {
    let message = format!("another node answered something else: {answer:.200?}");
    CallError::Unavailable { applied_unknown: true, message }
}

macro_rules! take {
    ($($name:ident: $variant:ident => $type:ty),* $(,)?) => {
        impl Answer {$(
            /// The answer to a request of this kind.
            pub fn $name(self) -> Result<$type, CallError> {
                match self {
                    Self::$variant(value) => Ok(value),
                    other => Err(mistaken(&other)),
                }
            }
        )*}
    };
}

take! {
    submitted: Submitted => Vec<Result<Submitted, Rejected>>,
    commanded: Commanded => CommandReply,
    imported: Imported => Vec<Result<Imported, Rejected>>,
    history: History => Box<PastRun>,
    view: View => RunView,
    values: Values => Vec<Value>,
    definition: Definition => PinnedDefinition,
    events: Events => Vec<EventRecord>,
    run_id: RunId => Option<WorkflowId>,
    runs: Runs => Vec<RunSummary>,
    decisions: Decisions => Vec<DecisionRow>,
    template: Template => Option<TemplateRecord>,
    templates: Templates => Vec<TemplateRecord>,
    changed: Changed => Changed,
    entry: Entry => Option<CatalogueEntry>,
    entries: Entries => EntryPage,
    info: Info => ShardInfo,
    tail: Tail => Tail,
}

impl Answer {
    /// The answer to [`Request::DefineTemplate`].
    pub fn defined(self) -> Result<(TemplateRecord, bool), CallError> {
        match self {
            Self::Defined(record, is_new) => Ok((record, is_new)),
            other => Err(mistaken(&other)),
        }
    }
}

//! Requests and answers as bytes: a version byte, then JSON. Definitions travel as text, once for
//! all submissions that run them, and are compiled where they arrive.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opcode_engine::Rejected;
use opcode_engine::child::{Outcome, Parent};
use opcode_engine::command::{Command, Reason, Signal};
use opcode_engine::definition::Definition;
use opcode_engine::event::EventType;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Answer, Answered, Freshness, Request, Tail};
use crate::batch::Position;
use crate::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind, EntryPage};
use crate::definitions::Definitions;
use crate::error::CallError;
use crate::handle::{CommandReply, PinnedDefinition, RunView, ShardInfo, Shown, Submission, Submitted};
use crate::history::{Imported, Line, PastRun};
use crate::record::{EventRecord, TemplateRecord};
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary};

/// The version that is written.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
enum RequestV1 {
    Submit {
        definitions: Vec<Arc<str>>,
        submissions: Vec<SubmissionV1>,
    },
    Signal(WorkflowId, Signal),
    Cancel(WorkflowId, Reason),
    Suspend(WorkflowId, Reason),
    Resume(WorkflowId, Reason),
    Retry {
        id: WorkflowId,
        from_step: Option<String>,
        params: Option<Value>,
        definition: Option<(Arc<str>, Arc<str>)>,
        reason: Reason,
    },
    Extend(WorkflowId, Value, Reason),
    CallOff(WorkflowId, Parent),
    Purge(WorkflowId),
    PurgeAt(WorkflowId, u64),
    Import(Vec<Line>),
    History(WorkflowId),
    ChildEnded {
        parent: WorkflowId,
        child: WorkflowId,
        step_id: Arc<str>,
        attempt: u32,
        outcome: Outcome,
    },
    Status(WorkflowId),
    Wait(WorkflowId, u64),
    Outcome(WorkflowId, u64),
    Why(WorkflowId),
    Definition(WorkflowId),
    Events(WorkflowId, u64, usize),
    RunId(u64),
    ListRuns(RunFilter),
    ListDecisions(DecisionFilter),
    DefineTemplate {
        name: Arc<str>,
        source: Arc<str>,
        definition: Arc<str>,
    },
    Template(String, Option<u32>),
    TemplateToRun(String, Option<u32>),
    Templates,
    ChangeEntry(EntryChange),
    Entry(EntryKind, Arc<str>),
    Entries(EntryKind, Option<Arc<str>>, usize),
    Sql(String, usize),
    Info,
    Tail(Option<u64>, u64),
    Read(Box<RequestV1>, Freshness),
}

#[derive(Serialize, Deserialize)]
struct SubmissionV1 {
    id: WorkflowId,
    body_hash: Option<u64>,
    /// Read over by a node of the release before, whose answer to a second try is then the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<u64>,
    /// Its place in the request's definitions.
    definition: usize,
    template: Option<(Arc<str>, Arc<str>)>,
    params: Value,
    agent_id: Option<Arc<str>>,
    context: Value,
    labels: BTreeMap<String, String>,
    start_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Box<Parent>>,
}

#[derive(Serialize, Deserialize)]
enum AnswerV1 {
    Submitted(Vec<Result<SubmittedV1, Rejected>>),
    Commanded(u64, Position),
    Imported(Vec<Result<Imported, Rejected>>),
    History(Box<PastRun>),
    View(Box<RawValue>, WorkflowStatus, Position),
    Values(Vec<Value>),
    Definition(Arc<str>, BTreeMap<String, String>),
    Events(Vec<EventV1>),
    RunId(Option<WorkflowId>),
    Runs(Vec<RunSummaryV1>),
    Decisions(Vec<DecisionRow>),
    Defined(TemplateRecord, bool),
    Template(Option<TemplateRecord>),
    Templates(Vec<TemplateRecord>),
    Changed(Changed),
    Entry(Option<CatalogueEntry>),
    Entries(EntryPage),
    Info(Box<ShardInfo>),
    Tail { events: Vec<EventV1>, upto: Position, lagged: bool },
    Seen { position: Position, lag_ms: Option<u64>, answer: Box<AnswerV1> },
    Rejected(Rejected),
    NotFound(String),
    Overloaded,
    StorageFull,
    NotLeader(ShardId, Option<u64>),
    Unavailable { applied_unknown: bool, message: String },
}

#[derive(Serialize, Deserialize)]
struct SubmittedV1 {
    workflow_id: WorkflowId,
    status: WorkflowStatus,
    created: bool,
    position: Position,
}

#[derive(Serialize, Deserialize)]
struct EventV1 {
    no: u64,
    sequence: u64,
    event_type: u8,
    step_id: Option<Arc<str>>,
    data: Box<RawValue>,
    agent_id: Option<Arc<str>>,
    timestamp: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct RunSummaryV1 {
    workflow_id: String,
    status: String,
    template: Option<String>,
    version: Option<String>,
    agent_id: Option<String>,
    labels: BTreeMap<String, String>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    error: Option<Box<RawValue>>,
}

fn write<T: Serialize>(value: &T) -> Result<Bytes, String> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes {
        [VERSION, json @ ..] => {
            serde_json::from_slice(json).map_err(|error| format!("a broken call: {error}"))
        }
        [version, ..] => Err(format!("a call of version {version}, this build knows {VERSION}")),
        [] => Err("an empty call".into()),
    }
}

fn compile(source: &str, definitions: &Definitions) -> Result<Arc<Definition>, String> {
    definitions.compiled(source).map_err(|invalid| format!("a definition that does not compile: {invalid:?}"))
}

pub(super) fn encode_request(request: &Request, freshness: Freshness) -> Result<Bytes, String> {
    let request = plain_request(request)?;
    match freshness {
        Freshness::Strong => write(&request),
        Freshness::Reached(_) | Freshness::Any => write(&RequestV1::Read(Box::new(request), freshness)),
    }
}

fn plain_request(request: &Request) -> Result<RequestV1, String> {
    let id = WorkflowId::clone;
    Ok(match request {
        Request::Submit(submissions) => submit(submissions),
        Request::Command(of, Command::Signal(signal)) => RequestV1::Signal(id(of), signal.clone()),
        Request::Command(of, Command::Cancel(reason)) => RequestV1::Cancel(id(of), reason.clone()),
        Request::Command(of, Command::Suspend(reason)) => RequestV1::Suspend(id(of), reason.clone()),
        Request::Command(of, Command::Resume(reason)) => RequestV1::Resume(id(of), reason.clone()),
        Request::Command(of, Command::Retry { from_step, params, definition, reason }) => RequestV1::Retry {
            id: id(of),
            from_step: from_step.clone(),
            params: params.clone(),
            definition: definition.as_ref().map(|(d, version)| (text_of(d), version.clone())),
            reason: reason.clone(),
        },
        Request::Command(of, Command::Extend { mutation, reason }) => {
            RequestV1::Extend(id(of), mutation.clone(), reason.clone())
        }
        Request::Command(of, Command::ChildEnded { child, step_id, attempt, outcome }) => {
            RequestV1::ChildEnded {
                parent: id(of),
                child: id(child),
                step_id: step_id.clone(),
                attempt: *attempt,
                outcome: outcome.clone(),
            }
        }
        Request::CallOff(of, parent) => RequestV1::CallOff(id(of), parent.clone()),
        Request::Purge(of, None) => RequestV1::Purge(id(of)),
        Request::Purge(of, Some(at)) => RequestV1::PurgeAt(id(of), at.0),
        Request::Import(lines) => RequestV1::Import(lines.clone()),
        Request::History(of) => RequestV1::History(id(of)),
        Request::Command(
            _,
            Command::Finished { .. }
            | Command::Evaluated { .. }
            | Command::ChildStarted(_)
            | Command::CalledOff(_)
            | Command::Wake
            | Command::Recover,
        ) => return Err("a command of the shard's own does not travel".into()),
        Request::Status(of) => RequestV1::Status(id(of)),
        Request::Wait(of, wait, Shown::Document) => RequestV1::Wait(id(of), millis(*wait)),
        Request::Wait(of, wait, Shown::Outcome) => RequestV1::Outcome(id(of), millis(*wait)),
        Request::Why(of) => RequestV1::Why(id(of)),
        Request::Definition(of) => RequestV1::Definition(id(of)),
        Request::Events(of, after, limit) => RequestV1::Events(id(of), after.0, *limit),
        Request::RunId(no) => RequestV1::RunId(no.0),
        Request::ListRuns(filter) => RequestV1::ListRuns(filter.clone()),
        Request::ListDecisions(filter) => RequestV1::ListDecisions(filter.clone()),
        Request::DefineTemplate { name, source, definition } => RequestV1::DefineTemplate {
            name: name.clone(),
            source: source.clone(),
            definition: text_of(definition),
        },
        Request::Template(name, version) => RequestV1::Template(name.clone(), *version),
        Request::TemplateToRun(name, version) => RequestV1::TemplateToRun(name.clone(), *version),
        Request::Templates => RequestV1::Templates,
        Request::ChangeEntry(change) => RequestV1::ChangeEntry(change.clone()),
        Request::Entry(kind, key) => RequestV1::Entry(*kind, key.clone()),
        Request::Entries(kind, after, limit) => RequestV1::Entries(*kind, after.clone(), *limit),
        Request::Sql(query, limit) => RequestV1::Sql(query.clone(), *limit),
        Request::Info => RequestV1::Info,
        Request::Tail(after, wait) => RequestV1::Tail(*after, millis(*wait)),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn text_of(definition: &Definition) -> Arc<str> {
    definition.source.to_string().into()
}

fn submit(submissions: &[Submission]) -> RequestV1 {
    let mut places = HashMap::new();
    let mut definitions = Vec::new();
    let submissions = submissions
        .iter()
        .map(|submission| {
            let place = *places.entry(submission.definition.hash).or_insert_with(|| {
                definitions.push(text_of(&submission.definition));
                definitions.len() - 1
            });
            SubmissionV1 {
                id: submission.id.clone(),
                body_hash: submission.body_hash,
                request: submission.request,
                definition: place,
                template: submission.template.clone(),
                params: submission.params.clone(),
                agent_id: submission.agent_id.clone(),
                context: submission.context.clone(),
                labels: submission.labels.clone(),
                start_at: submission.start_at,
                parent: submission.parent.clone(),
            }
        })
        .collect();
    RequestV1::Submit { definitions, submissions }
}

pub(super) fn decode_request(bytes: &[u8], cache: &Definitions) -> Result<(Request, Freshness), String> {
    match read::<RequestV1>(bytes)? {
        RequestV1::Read(request, freshness) => Ok((request_of(*request, cache)?, freshness)),
        request => Ok((request_of(request, cache)?, Freshness::Strong)),
    }
}

fn request_of(request: RequestV1, cache: &Definitions) -> Result<Request, String> {
    Ok(match request {
        RequestV1::Read(..) => return Err("a read within a read".into()),
        RequestV1::Submit { definitions, submissions } => {
            let compiled: Vec<Arc<Definition>> =
                definitions.iter().map(|source| compile(source, cache)).collect::<Result<_, _>>()?;
            let submission = |s: SubmissionV1| {
                let definition = compiled.get(s.definition).ok_or("a definition that is not there")?;
                Ok::<_, String>(Submission {
                    id: s.id,
                    body_hash: s.body_hash,
                    request: s.request,
                    definition: definition.clone(),
                    template: s.template,
                    params: s.params,
                    agent_id: s.agent_id,
                    context: s.context,
                    labels: s.labels,
                    start_at: s.start_at,
                    parent: s.parent,
                })
            };
            Request::Submit(submissions.into_iter().map(submission).collect::<Result<_, _>>()?)
        }
        RequestV1::Signal(id, signal) => Request::Command(id, Command::Signal(signal)),
        RequestV1::Cancel(id, reason) => Request::Command(id, Command::Cancel(reason)),
        RequestV1::Suspend(id, reason) => Request::Command(id, Command::Suspend(reason)),
        RequestV1::Resume(id, reason) => Request::Command(id, Command::Resume(reason)),
        RequestV1::Retry { id, from_step, params, definition, reason } => {
            let definition = match definition {
                Some((source, version)) => Some((compile(&source, cache)?, version)),
                None => None,
            };
            Request::Command(id, Command::Retry { from_step, params, definition, reason })
        }
        RequestV1::Extend(id, mutation, reason) => Request::Command(id, Command::Extend { mutation, reason }),
        RequestV1::CallOff(id, parent) => Request::CallOff(id, parent),
        RequestV1::Purge(id) => Request::Purge(id, None),
        RequestV1::PurgeAt(id, at) => Request::Purge(id, Some(Sequence(at))),
        RequestV1::Import(lines) => Request::Import(lines),
        RequestV1::History(id) => Request::History(id),
        RequestV1::ChildEnded { parent, child, step_id, attempt, outcome } => {
            Request::Command(parent, Command::ChildEnded { child, step_id, attempt, outcome })
        }
        RequestV1::Status(id) => Request::Status(id),
        RequestV1::Wait(id, ms) => Request::Wait(id, Duration::from_millis(ms), Shown::Document),
        RequestV1::Outcome(id, ms) => Request::Wait(id, Duration::from_millis(ms), Shown::Outcome),
        RequestV1::Why(id) => Request::Why(id),
        RequestV1::Definition(id) => Request::Definition(id),
        RequestV1::Events(id, after, limit) => Request::Events(id, Sequence(after), limit),
        RequestV1::RunId(no) => Request::RunId(RunNo(no)),
        RequestV1::ListRuns(filter) => Request::ListRuns(filter),
        RequestV1::ListDecisions(filter) => Request::ListDecisions(filter),
        RequestV1::DefineTemplate { name, source, definition } => {
            Request::DefineTemplate { name, source, definition: compile(&definition, cache)? }
        }
        RequestV1::Template(name, version) => Request::Template(name, version),
        RequestV1::TemplateToRun(name, version) => Request::TemplateToRun(name, version),
        RequestV1::Templates => Request::Templates,
        RequestV1::ChangeEntry(change) => Request::ChangeEntry(change),
        RequestV1::Entry(kind, key) => Request::Entry(kind, key),
        RequestV1::Entries(kind, after, limit) => Request::Entries(kind, after, limit),
        RequestV1::Sql(query, limit) => Request::Sql(query, limit),
        RequestV1::Info => Request::Info,
        RequestV1::Tail(after, ms) => Request::Tail(after, Duration::from_millis(ms)),
    })
}

pub(super) fn encode_answer(answer: Result<Answered, CallError>) -> Result<Bytes, String> {
    write(&match answer {
        Ok(Answered { answer, position, lag_ms }) => {
            AnswerV1::Seen { position, lag_ms, answer: Box::new(encode_good(answer)?) }
        }
        Err(CallError::Rejected(rejected)) => AnswerV1::Rejected(rejected),
        Err(CallError::NotFound(id)) => AnswerV1::NotFound(id),
        Err(CallError::Overloaded) => AnswerV1::Overloaded,
        Err(CallError::StorageFull) => AnswerV1::StorageFull,
        Err(CallError::NotLeader { shard, leader }) => AnswerV1::NotLeader(shard, leader),
        Err(CallError::Unavailable { applied_unknown, message }) => {
            AnswerV1::Unavailable { applied_unknown, message }
        }
    })
}

fn encode_good(answer: Answer) -> Result<AnswerV1, String> {
    Ok(match answer {
        Answer::Submitted(all) => {
            let submitted = |s: Submitted| SubmittedV1 {
                workflow_id: s.workflow_id,
                status: s.status,
                created: s.created,
                position: s.position,
            };
            AnswerV1::Submitted(all.into_iter().map(|one| one.map(submitted)).collect())
        }
        Answer::Commanded(reply) => AnswerV1::Commanded(reply.sequence.0, reply.position),
        Answer::Imported(all) => AnswerV1::Imported(all),
        Answer::History(run) => AnswerV1::History(run),
        Answer::View(view) => AnswerV1::View(view.document, view.status, view.position),
        Answer::Values(values) => AnswerV1::Values(values),
        Answer::Definition(pinned) => AnswerV1::Definition(text_of(&pinned.definition), pinned.statuses),
        Answer::Events(events) => AnswerV1::Events(events.into_iter().map(event).collect::<Result<_, _>>()?),
        Answer::RunId(id) => AnswerV1::RunId(id),
        Answer::Runs(runs) => AnswerV1::Runs(runs.into_iter().map(summary).collect()),
        Answer::Decisions(rows) => AnswerV1::Decisions(rows),
        Answer::Defined(record, is_new) => AnswerV1::Defined(record, is_new),
        Answer::Template(record) => AnswerV1::Template(record),
        Answer::Templates(records) => AnswerV1::Templates(records),
        Answer::Changed(changed) => AnswerV1::Changed(changed),
        Answer::Entry(entry) => AnswerV1::Entry(entry),
        Answer::Entries(page) => AnswerV1::Entries(page),
        Answer::Info(info) => AnswerV1::Info(Box::new(info)),
        Answer::Tail(Tail { events, upto, lagged }) => {
            let events = events.into_iter().map(event).collect::<Result<_, _>>()?;
            AnswerV1::Tail { events, upto, lagged }
        }
    })
}

fn event(event: EventRecord) -> Result<EventV1, String> {
    let data = String::from_utf8(event.data).map_err(|error| error.to_string())?;
    Ok(EventV1 {
        no: event.no.0,
        sequence: event.sequence.0,
        event_type: event.event_type.code(),
        step_id: event.step_id,
        data: RawValue::from_string(data).map_err(|error| error.to_string())?,
        agent_id: event.agent_id,
        timestamp: event.timestamp,
    })
}

fn summary(run: RunSummary) -> RunSummaryV1 {
    let RunSummary { workflow_id, status, template, version, agent_id, labels, .. } = run;
    let RunSummary { created_at, started_at, completed_at, error, .. } = run;
    RunSummaryV1 {
        workflow_id,
        status,
        template,
        version,
        agent_id,
        labels,
        created_at,
        started_at,
        completed_at,
        error,
    }
}

pub(super) fn decode_answer(bytes: &[u8]) -> Result<Result<Answered, CallError>, String> {
    Ok(Err(match read::<AnswerV1>(bytes)? {
        AnswerV1::Seen { position, lag_ms, answer } => {
            return Ok(Ok(Answered { answer: good(*answer)?, position, lag_ms }));
        }
        AnswerV1::Rejected(rejected) => CallError::Rejected(rejected),
        AnswerV1::NotFound(id) => CallError::NotFound(id),
        AnswerV1::Overloaded => CallError::Overloaded,
        AnswerV1::StorageFull => CallError::StorageFull,
        AnswerV1::NotLeader(shard, leader) => CallError::NotLeader { shard, leader },
        AnswerV1::Unavailable { applied_unknown, message } => {
            CallError::Unavailable { applied_unknown, message }
        }
        AnswerV1::Submitted(_)
        | AnswerV1::Commanded(..)
        | AnswerV1::Imported(_)
        | AnswerV1::History(_)
        | AnswerV1::View(..)
        | AnswerV1::Values(_)
        | AnswerV1::Definition(..)
        | AnswerV1::Events(_)
        | AnswerV1::RunId(_)
        | AnswerV1::Runs(_)
        | AnswerV1::Decisions(_)
        | AnswerV1::Defined(..)
        | AnswerV1::Template(_)
        | AnswerV1::Templates(_)
        | AnswerV1::Changed(_)
        | AnswerV1::Entry(_)
        | AnswerV1::Entries(_)
        | AnswerV1::Info(_)
        | AnswerV1::Tail { .. } => return Err("an answer that does not say what it reflects".into()),
    }))
}

fn good(answer: AnswerV1) -> Result<Answer, String> {
    Ok(match answer {
        AnswerV1::Submitted(all) => {
            let submitted = |s: SubmittedV1| Submitted {
                workflow_id: s.workflow_id,
                status: s.status,
                created: s.created,
                // Who answers has made sure of it.
                was_there: !s.created,
                position: s.position,
            };
            Answer::Submitted(all.into_iter().map(|one| one.map(submitted)).collect())
        }
        AnswerV1::Commanded(sequence, position) => {
            // Who answers makes sure of it first.
            Answer::Commanded(CommandReply { sequence: Sequence(sequence), position, is_sure: true })
        }
        AnswerV1::Imported(all) => Answer::Imported(all),
        AnswerV1::History(run) => Answer::History(run),
        AnswerV1::View(document, status, position) => Answer::View(RunView { document, status, position }),
        AnswerV1::Values(values) => Answer::Values(values),
        AnswerV1::Definition(source, statuses) => {
            let definition = compile(&source, &Definitions::default())?;
            Answer::Definition(PinnedDefinition { definition, statuses })
        }
        AnswerV1::Events(events) => Answer::Events(events.into_iter().map(record).collect::<Result<_, _>>()?),
        AnswerV1::RunId(id) => Answer::RunId(id),
        AnswerV1::Runs(runs) => Answer::Runs(runs.into_iter().map(run).collect()),
        AnswerV1::Decisions(rows) => Answer::Decisions(rows),
        AnswerV1::Defined(record, is_new) => Answer::Defined(record, is_new),
        AnswerV1::Template(record) => Answer::Template(record),
        AnswerV1::Templates(records) => Answer::Templates(records),
        AnswerV1::Changed(changed) => Answer::Changed(changed),
        AnswerV1::Entry(entry) => Answer::Entry(entry),
        AnswerV1::Entries(page) => Answer::Entries(page),
        AnswerV1::Info(info) => Answer::Info(*info),
        AnswerV1::Tail { events, upto, lagged } => {
            let events = events.into_iter().map(record).collect::<Result<_, _>>()?;
            Answer::Tail(Tail { events, upto, lagged })
        }
        AnswerV1::Seen { .. }
        | AnswerV1::Rejected(_)
        | AnswerV1::NotFound(_)
        | AnswerV1::Overloaded
        | AnswerV1::StorageFull
        | AnswerV1::NotLeader(..)
        | AnswerV1::Unavailable { .. } => return Err("an answer within an answer that is none".into()),
    })
}

fn record(event: EventV1) -> Result<EventRecord, String> {
    Ok(EventRecord {
        no: RunNo(event.no),
        sequence: Sequence(event.sequence),
        event_type: EventType::from_code(event.event_type)
            .ok_or_else(|| format!("no event type has the code {}", event.event_type))?,
        step_id: event.step_id,
        data: String::from(Box::<str>::from(event.data)).into_bytes(),
        agent_id: event.agent_id,
        timestamp: event.timestamp,
    })
}

fn run(run: RunSummaryV1) -> RunSummary {
    let RunSummaryV1 { workflow_id, status, template, version, agent_id, labels, .. } = run;
    let RunSummaryV1 { created_at, started_at, completed_at, error, .. } = run;
    RunSummary {
        workflow_id,
        status,
        template,
        version,
        agent_id,
        labels,
        created_at,
        started_at,
        completed_at,
        error,
    }
}

#[cfg(test)]
mod tests;

//! The outbox: what this shard's runs have to say to runs of other shards, until it is taken.
//!
//! Nothing is queued here that the log does not have. A start is owed by a running step, all else
//! by an event ([`opcode_engine::child`]), and leaves only once that is committed. A start that
//! was answered is an event of the step; what else was taken is a `Delivered` record, by which
//! the tables drop its row. A new leader finds the rows in its tables and the starts with the
//! runs that it recovers, and goes on; what its predecessor had sent and not noted goes out
//! again, and is found done at the other end.
//!
//! Each target shard has a lane of its own, with a bound on what is under way and a pause that
//! grows while the shard cannot be reached or is overloaded: one that is down holds up neither
//! this loop nor the messages to the others. Few messages are held; more wait as keys, and are read
//! from the tables when their turn comes.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::child::{self, Owed, Parent, child_id};
use opcode_engine::command::{Command, StepHandle};
use opcode_engine::ids::{RunNo, Sequence, ShardId, WorkflowId};
use opcode_engine::namespace::local;
use opcode_engine::{Code, Fault};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::dispatch::{Job, render};
use super::{Inbox, Loop};
use crate::actions::child::{ChildSpec, child_of};
use crate::crash;
use crate::error::{CallError, ShardError};
use crate::handle::Submission;
use crate::planted;
use crate::record::{EventRecord, Record};
use crate::relay::Relay;
use crate::remote::{Answer, Request};
use crate::trace::TRACEPARENT;
use crate::workers::Workers;

/// What a child's context has of its parent's, unless it has its own.
const INHERITED: [&str; 2] = ["intent", TRACEPARENT];
/// Messages under way to one shard.
const UNDER_WAY_MAX: usize = 32;
/// Messages held with all that they say; more wait as keys.
const HELD_MAX: usize = 1_000;
/// Messages read from the tables at a time.
const READ_MAX: usize = 128;
/// Pause after the first failure of a shard; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Something to send.
enum Item {
    /// The start of a step's child.
    Start(RunNo, StepHandle),
    /// What an event owes.
    Owed(Arc<Message>),
}

/// A message with its key: the event that owes it.
pub(super) struct Message {
    no: RunNo,
    sequence: Sequence,
    /// The run that says it.
    from: WorkflowId,
    owed: Owed,
}

/// What has come back.
pub(super) enum Sent {
    /// The child of an attempt was started, or is not to be, or cannot be just now.
    Start { no: RunNo, handle: StepHandle, to: ShardId, result: Result<Started, Unsent> },
    /// A message was taken, or could not be just now.
    Owed { message: Arc<Message>, to: ShardId, result: Result<(), String> },
    /// Messages were read from the tables.
    Read { keys: Vec<(RunNo, Sequence)>, result: Result<Vec<(WorkflowId, EventRecord)>, ShardError> },
}

/// A child that runs.
pub(super) struct Started {
    child: WorkflowId,
    waits: bool,
}

/// Why a child was not started.
pub(super) enum Unsent {
    /// It never will be.
    Refused(Fault),
    /// It may be later.
    Later(String),
}

/// Messages to one shard.
struct Lane {
    queue: VecDeque<Item>,
    slots: Arc<Semaphore>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Default for Lane {
    fn default() -> Self {
        let slots = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        Self { queue: VecDeque::new(), slots, failures: 0, not_before: None }
    }
}

impl Lane {
    /// A place for one more message; a shard that has failed is tried with one at a time.
    fn slot(&self, now: Instant) -> Option<OwnedSemaphorePermit> {
        let rests = self.not_before.is_some_and(|at| now < at);
        let is_busy = self.slots.available_permits() < UNDER_WAY_MAX;
        if rests || self.failures > 0 && is_busy {
            return None;
        }
        self.slots.clone().try_acquire_owned().ok()
    }

    fn failed(&mut self, now: Instant) {
        let pause = (PAUSE * (1 << self.failures.min(10))).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause.mul_f64(rand::random_range(0.5..1.0)));
    }

    fn succeeded(&mut self) {
        (self.failures, self.not_before) = (0, None);
    }
}

/// All that waits to be sent.
pub(super) struct Outbox {
    lanes: HashMap<ShardId, Lane>,
    /// Messages in lanes and under way, starts apart.
    held: usize,
    /// How many each run owes that are not delivered, held or waiting.
    owed_by: HashMap<RunNo, usize>,
    /// Keys of messages to be read from the tables.
    waiting: VecDeque<(RunNo, Sequence)>,
    is_reading: bool,
    /// No reading before this, after one that failed.
    read_from: Option<Instant>,
    meter: metrics::Gauge,
}

impl Outbox {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            lanes: HashMap::new(),
            held: 0,
            owed_by: HashMap::new(),
            waiting: VecDeque::new(),
            is_reading: false,
            read_from: None,
            meter: metrics::gauge!("opcode_outbox_messages", "shard" => shard.to_string()),
        }
    }

    /// Forgets everything: whoever leads next finds it in the tables and the runs.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.waiting.clear();
        self.owed_by.clear();
        (self.held, self.is_reading, self.read_from) = (0, false, None);
    }

    /// Begins with what the tables say is owed.
    pub(super) fn begin(&mut self, keys: Vec<(RunNo, Sequence)>) {
        for (no, _) in &keys {
            *self.owed_by.entry(*no).or_default() += 1;
        }
        self.waiting = if planted::is("lost-outbox-row") { VecDeque::new() } else { keys.into() };
    }

    /// Whether a run has something to say that is not delivered yet.
    pub(super) fn owes(&self, no: RunNo) -> bool {
        self.owed_by.contains_key(&no)
    }

    /// Takes note that one message of a run is delivered.
    fn delivered(&mut self, no: RunNo) {
        if let Some(count) = self.owed_by.get_mut(&no) {
            *count -= 1;
            if *count == 0 {
                self.owed_by.remove(&no);
            }
        }
    }

    fn push(&mut self, to: ShardId, item: Item) {
        self.lanes.entry(to).or_default().queue.push_back(item);
    }
}

impl Loop {
    /// The child of a step may be started.
    pub(super) fn start_child(&mut self, no: RunNo, handle: StepHandle) {
        let Some(child) = self.child(no, handle) else {
            self.step_done(no, handle);
            return;
        };
        self.outbox.push(self.relay.shard_of(&child), Item::Start(no, handle));
    }

    /// The id of an attempt's child; `None` when the attempt is no longer current.
    fn child(&self, no: RunNo, handle: StepHandle) -> Option<WorkflowId> {
        let run = &self.runs.slots.get(&no)?.run;
        Some(child_id(run.id(), &run.step_of(handle)?, handle.attempt))
    }

    /// A message is owed, by an event that is committed.
    pub(super) fn owe(&mut self, no: RunNo, sequence: Sequence, owed: Owed) {
        *self.outbox.owed_by.entry(no).or_default() += 1;
        let Some(slot) = self.runs.slots.get(&no).filter(|_| self.outbox.held < HELD_MAX) else {
            self.outbox.waiting.push_back((no, sequence));
            return;
        };
        let from = slot.run.id().clone();
        self.hold(Message { no, sequence, from, owed });
    }

    fn hold(&mut self, message: Message) {
        let to = self.relay.shard_of(message.to());
        self.outbox.held += 1;
        self.outbox.push(to, Item::Owed(Arc::new(message)));
    }

    /// Sends what may be sent now: not when stopping, and not when another may lead by now.
    pub(super) fn send_messages(&mut self) {
        if !self.may_start() {
            return;
        }
        let now = Instant::now();
        self.read_messages(now);
        let targets: Vec<ShardId> =
            self.outbox.lanes.iter().filter(|(_, lane)| !lane.queue.is_empty()).map(|(to, _)| *to).collect();
        for to in targets {
            while let Some(lane) = self.outbox.lanes.get_mut(&to)
                && !lane.queue.is_empty()
                && let Some(slot) = lane.slot(now)
                && let Some(item) = lane.queue.pop_front()
            {
                match item {
                    Item::Start(no, handle) => self.send_start(no, handle, to, slot),
                    Item::Owed(message) => self.send_owed(message, to, slot),
                }
            }
        }
        let owed = self.outbox.held + self.outbox.waiting.len();
        self.outbox.meter.set(owed as f64);
    }

    /// Reads messages that wait as keys, when there is room for them.
    fn read_messages(&mut self, now: Instant) {
        let is_full = self.outbox.held + READ_MAX > HELD_MAX;
        let rests = self.outbox.read_from.is_some_and(|at| now < at);
        if self.outbox.is_reading || is_full || rests || self.outbox.waiting.is_empty() {
            return;
        }
        self.outbox.is_reading = true;
        let count = READ_MAX.min(self.outbox.waiting.len());
        let keys: Vec<_> = self.outbox.waiting.drain(..count).collect();
        let (store, position) = (self.store.clone(), self.committer.position());
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        tokio::spawn(async move {
            let result = async {
                store.reached(position).await?;
                store.owed(keys.clone()).await
            }
            .await;
            // A loop that is gone leaves them to its successor.
            let _ = inbox.send(Inbox::Sent { sent: Sent::Read { keys, result }, epoch });
        });
    }

    fn send_start(&mut self, no: RunNo, handle: StepHandle, to: ShardId, slot: OwnedSemaphorePermit) {
        let (Some(child), Some(job)) = (self.child(no, handle), self.job(no, handle)) else {
            // Cancelled or timed out while it waited.
            self.step_done(no, handle);
            return;
        };
        let run = &self.runs.slots[&no].run;
        let above = run.parent().map_or(0, |parent| parent.depth);
        let starting = Starting {
            child,
            parent: Parent {
                workflow_id: run.id().clone(),
                step_id: run.step_of(handle).unwrap_or_default(),
                attempt: handle.attempt,
                depth: above + 1,
                waits: true,
            },
            agent_id: run.agent_id().cloned(),
            inherited: INHERITED.map(|key| (key, run.context().get(key).cloned())),
            relay: self.relay.clone(),
            definitions: self.definitions.clone(),
            workers: self.workers.clone(),
        };
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        let task = tokio::spawn(async move {
            let result = match job {
                Ok(job) => starting.start(job).await,
                Err(fault) => Err(Unsent::Refused(fault)),
            };
            drop(slot);
            // A loop that is gone leaves the start to its successor.
            let _ = inbox.send(Inbox::Sent { sent: Sent::Start { no, handle, to, result }, epoch });
        });
        self.tasks.insert((no, handle), task.abort_handle());
    }

    fn send_owed(&mut self, message: Arc<Message>, to: ShardId, slot: OwnedSemaphorePermit) {
        let asked = self.relay.ask(self.relay.shard_of(message.to()), message.request());
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        tokio::spawn(async move {
            crash::point("outbox.message.sent");
            let answer = asked.await;
            crash::point("outbox.message.taken");
            let result = match answer {
                Ok(_) => Ok(()),
                // The other side knows better and always will.
                Err(error @ (CallError::Rejected(_) | CallError::NotFound(_))) => {
                    tracing::warn!(from = %message.from, %error, "a message was turned away");
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
            drop(slot);
            // A loop that is gone leaves the message to its successor.
            let _ = inbox.send(Inbox::Sent { sent: Sent::Owed { message, to, result }, epoch });
        });
    }

    /// Takes note of what became of a message.
    pub(super) fn on_sent(&mut self, sent: Sent) {
        match sent {
            Sent::Read { keys, result } => self.on_read(keys, result),
            Sent::Owed { message, to, result } => {
                self.heard(to, result.as_ref().err());
                if result.is_ok() {
                    self.outbox.held -= 1;
                    let (no, sequence) = (message.no, message.sequence);
                    self.outbox.delivered(no);
                    self.committer.push(Record::Delivered { no, sequence });
                } else {
                    self.outbox.push(self.relay.shard_of(message.to()), Item::Owed(message));
                }
            }
            Sent::Start { no, handle, to, result } => {
                let later = match &result {
                    Err(Unsent::Later(why)) => Some(why),
                    Ok(_) | Err(Unsent::Refused(_)) => None,
                };
                self.heard(to, later);
                if self.tasks.remove(&(no, handle)).is_none() {
                    // Given up while the answer was on its way; its child is called off.
                    return;
                }
                if later.is_some() {
                    self.start_child(no, handle);
                    return;
                }
                self.step_done(no, handle);
                let command = match result {
                    Ok(Started { waits: true, .. }) => Command::ChildStarted(handle),
                    Ok(Started { child, .. }) => {
                        let result = Ok(json!({ "workflow_id": child.local() }));
                        Command::Finished { handle, result, emissions: Vec::new() }
                    }
                    Err(Unsent::Refused(fault)) => {
                        Command::Finished { handle, result: Err(fault), emissions: Vec::new() }
                    }
                    Err(Unsent::Later(_)) => unreachable!("it is in its lane again"),
                };
                if let Err(rejected) = self.decide(no, command) {
                    tracing::error!(shard = %self.id, ?rejected, "a child's start was refused");
                }
            }
        }
    }

    /// Tells a lane whether its shard has answered.
    fn heard(&mut self, to: ShardId, failure: Option<&String>) {
        let lane = self.outbox.lanes.entry(to).or_default();
        match failure {
            None => lane.succeeded(),
            Some(why) => {
                lane.failed(Instant::now());
                tracing::debug!(shard = %self.id, %to, why, "a message waits");
            }
        }
    }

    fn on_read(
        &mut self,
        keys: Vec<(RunNo, Sequence)>,
        result: Result<Vec<(WorkflowId, EventRecord)>, ShardError>,
    ) {
        self.outbox.is_reading = false;
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(shard = %self.id, %error, "messages could not be read");
                self.outbox.waiting.extend(keys);
                self.outbox.read_from = Some(Instant::now() + PAUSE_MAX);
                return;
            }
        };
        for (from, record) in found {
            let (no, sequence) = (record.no, record.sequence);
            match record.decode().map(|event| child::owed(&event)) {
                Ok(Some(owed)) => self.hold(Message { no, sequence, from, owed }),
                Ok(None) => {
                    self.outbox.delivered(no);
                    self.committer.push(Record::Delivered { no, sequence });
                }
                Err(why) => tracing::error!(shard = %self.id, %from, why, "a message is unreadable"),
            }
        }
    }
}

impl Message {
    /// The run that it is for.
    fn to(&self) -> &WorkflowId {
        match &self.owed {
            Owed::CallOff { child, .. } => child,
            Owed::Ended { parent, .. } => &parent.workflow_id,
        }
    }

    fn request(&self) -> Request {
        match &self.owed {
            Owed::CallOff { child, step_id, attempt } => Request::CallOff(
                child.clone(),
                Parent {
                    workflow_id: self.from.clone(),
                    step_id: step_id.clone(),
                    attempt: *attempt,
                    // Neither tells one attempt from another.
                    depth: 0,
                    waits: false,
                },
            ),
            Owed::Ended { parent, outcome } => {
                let ended = Command::ChildEnded {
                    child: self.from.clone(),
                    step_id: parent.step_id.clone(),
                    attempt: parent.attempt,
                    outcome: outcome.clone(),
                };
                Request::Command(parent.workflow_id.clone(), ended)
            }
        }
    }
}

/// All that a start needs beside the step's params.
struct Starting {
    child: WorkflowId,
    parent: Parent,
    agent_id: Option<Arc<str>>,
    inherited: [(&'static str, Option<serde_json::Value>); INHERITED.len()],
    relay: Arc<dyn Relay>,
    definitions: Arc<crate::definitions::Definitions>,
    workers: Workers,
}

impl Starting {
    /// Has the child started by the shard that owns it, once however often it is asked.
    async fn start(self, mut job: Job) -> Result<Started, Unsent> {
        if self.parent.depth > child::DEPTH_MAX {
            let message = format!("children nest at most {} deep", child::DEPTH_MAX);
            return Err(Unsent::Refused(Fault::new(Code::NonRetryable, message)));
        }
        if let Some((template, scope)) = job.costly.take() {
            let permit = self.workers.evaluation().await;
            job.call.params =
                render(self.workers.actions(), template, scope).await.map_err(Unsent::Refused)?;
            drop(permit);
        }
        let spec = child_of(&job.call.params).map_err(Unsent::Refused)?;
        let child = self.child.clone();
        let waits = spec.waits;
        let relay = self.relay.clone();
        let submission = self.submission(spec).await?;
        let asked = relay.ask(relay.shard_of(&child), Request::Submit(vec![submission]));
        crash::point("child.start.sent");
        let answer = asked.await;
        crash::point("child.start.taken");
        match answer.and_then(Answer::submitted) {
            Ok(mut submitted) => match submitted.pop() {
                Some(Ok(_)) => Ok(Started { child, waits }),
                Some(Err(rejected)) => {
                    let message = format!("child {} was refused: {}", child.local(), rejected.message);
                    let details = json!({ "workflow_id": child.local(), "problems": rejected.problems });
                    Err(Unsent::Refused(Fault::new(rejected.code, message).with_details(details)))
                }
                None => Err(Unsent::Later("an answer about nothing".into())),
            },
            Err(CallError::Rejected(rejected)) => {
                Err(Unsent::Refused(Fault::new(rejected.code, rejected.message)))
            }
            Err(error) => Err(Unsent::Later(error.to_string())),
        }
    }

    /// Whether the child has been started already.
    async fn is_there(&self) -> Result<bool, CallError> {
        let request = Request::Status(self.child.clone());
        match self.relay.ask(self.relay.shard_of(&self.child), request).await {
            Ok(_) => Ok(true),
            Err(CallError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the shard of templates has of one of the parent's namespace.
    async fn template(&self, spec: &ChildSpec) -> Result<Answer, CallError> {
        let Some(name) = self.parent.workflow_id.namespace().qualify(&*spec.template).map(Cow::into_owned)
        else {
            return Ok(Answer::Template(None));
        };
        let request = Request::TemplateToRun(name.clone(), spec.version);
        match self.relay.ask(ShardId::SYSTEM, request).await {
            // It may have been started before the pause, by a start whose answer was lost.
            Err(CallError::Rejected(paused))
                if paused.code == Code::ActionUnavailable && self.is_there().await? =>
            {
                self.relay.ask(ShardId::SYSTEM, Request::Template(name, spec.version)).await
            }
            other => other,
        }
    }

    /// Finds the template, whose definition the child is then pinned to: the shard that takes the
    /// first start keeps it, and a later start finds the child.
    async fn submission(self, spec: ChildSpec) -> Result<Submission, Unsent> {
        let record = match self.template(&spec).await.and_then(Answer::template) {
            Ok(Some(record)) => record,
            Ok(None) => {
                let version = spec.version.map_or_else(String::new, |v| format!(" of version v{v}"));
                let message = format!("there is no template `{}`{version}", spec.template);
                return Err(Unsent::Refused(Fault::new(Code::NotFound, message)));
            }
            Err(CallError::Rejected(rejected)) => {
                return Err(Unsent::Refused(Fault::new(rejected.code, rejected.message)));
            }
            Err(error) => return Err(Unsent::Later(error.to_string())),
        };
        let definition = match self.definitions.get(record.definition) {
            Some(known) => known,
            None => {
                let (definitions, source) = (self.definitions.clone(), record.source.clone());
                let compiled = crate::simulation::blocking(move || definitions.compiled(&source)).await;
                compiled.map_err(|panic| Unsent::Later(panic.to_string()))?.map_err(|invalid| {
                    let message = format!("the template `{}` no longer compiles", local(&record.name));
                    let details = json!({ "problems": invalid.problems });
                    Unsent::Refused(Fault::new(Code::ValidationError, message).with_details(details))
                })?
            }
        };
        let mut context = spec.context;
        for (key, value) in self.inherited {
            if let Some(value) = value {
                context.entry(key).or_insert(value);
            }
        }
        Ok(Submission {
            id: self.child,
            body_hash: None,
            request: None,
            definition,
            template: Some((record.name, format!("v{}", record.version).into())),
            params: spec.params,
            agent_id: spec.agent_id.or(self.agent_id),
            context: context.into(),
            labels: spec.labels,
            start_at: None,
            parent: Some(Box::new(Parent { waits: spec.waits, ..self.parent })),
        })
    }
}

//! One turn of the loop: messages and results become decisions, decisions become records.

use std::sync::atomic::Ordering;

use opcode_engine::child;
use opcode_engine::command::{Command, Decision, Start};
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Sequence, WorkflowId};
use opcode_engine::namespace::local;
use opcode_engine::run::Run;
use opcode_engine::{Code, Rejected};

use super::commit::{PortionNo, Release};
use super::runs::{Key, Parked};
use super::{Inbox, Loop};
use crate::batch::{Batch, Committed, Position};
use crate::catalogue::{Changed, EntryChange, EntryKind};
use crate::error::{CallError, ShardError};
use crate::handle::{CommandReply, PinnedDefinition, RunView, Shown, Submission, Submitted};
use crate::log::Tables;
use crate::planted;
use crate::queue::{Message, Query, Reply};
use crate::record::{EventRecord, Record, TemplateRecord};

/// Messages taken in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// Results and loaded runs taken in one turn.
const INBOX_PER_TURN: usize = 4_096;
/// Timers fired in one turn.
pub(super) const TIMERS_PER_TURN: usize = 4_096;
/// Records committed and not yet applied, above which nothing new is accepted.
const BACKLOG_RECORDS_MAX: usize = 400_000;

/// Something asked of one run.
pub(super) enum Ask {
    Command(Command, Reply<CommandReply>),
    /// Of a run whose last event is this, where it is said.
    Purge(Option<Sequence>, Reply<CommandReply>),
    Query(Query),
}

impl Ask {
    pub(super) fn refuse(self, error: CallError) {
        match self {
            Self::Command(_, reply) | Self::Purge(_, reply) => drop(reply.send(Err(error))),
            Self::Query(query) => query.refuse(error),
        }
    }
}

/// A submission whose ids have been looked up in the tables.
pub(super) struct CheckedSubmission {
    submissions: Vec<Submission>,
    /// What is kept in memory until then.
    ids: Vec<WorkflowId>,
    found: Result<Vec<Run>, ShardError>,
    reply: Reply<Vec<Result<Submitted, Rejected>>>,
}

impl Loop {
    /// Whether new requests are taken: not while the disk is far behind.
    pub(super) fn accepts(&self) -> bool {
        !self.committer.is_full() && self.store.backlog() < BACKLOG_RECORDS_MAX
    }

    /// Takes what else has come, decides it all, and sends the next batch on its way.
    pub(super) fn turn(&mut self) {
        self.now = self.clock.now();
        for _ in 0..INBOX_PER_TURN {
            let Ok(item) = self.inbox.try_recv() else { break };
            self.on_inbox(item);
        }
        self.fire_timers();
        self.continue_pure();
        for _ in 0..MESSAGES_PER_TURN {
            if !self.accepts() {
                break;
            }
            let Ok(message) = self.queue.try_recv() else { break };
            self.on_message(message);
        }
        self.dispatch_ready();
        self.send_messages();
        self.committer.flush();
        self.recover_some();
        self.recover_interrupted();
        self.evict();
    }

    /// The fate of the batch that was under way.
    pub(super) fn on_reported(
        &mut self,
        result: Result<Batch<Committed>, ShardError>,
    ) -> Result<(), ShardError> {
        match result {
            Ok(batch) => {
                let position = batch.position();
                self.gauges.term.store(position.term, Ordering::Relaxed);
                for release in self.committer.committed(batch) {
                    self.release(release, position);
                }
                Ok(())
            }
            Err(error) => {
                self.committer.failed();
                Err(error)
            }
        }
    }

    pub(super) fn on_inbox(&mut self, item: Inbox) {
        self.now = self.clock.now();
        match item {
            Inbox::Loaded { key, epoch, result } => {
                if epoch == self.epoch {
                    self.on_loaded(key, result);
                }
            }
            Inbox::Checked { submission, epoch } => {
                if epoch == self.epoch {
                    self.on_checked(submission);
                } else {
                    let message = "the shard lost its log for a moment".to_owned();
                    drop(
                        submission
                            .reply
                            .send(Err(CallError::Unavailable { applied_unknown: false, message })),
                    );
                }
            }
            Inbox::LookedUp { looked_up, epoch } if epoch == self.epoch => self.on_looked_up(*looked_up),
            Inbox::LookedUp { looked_up, .. } => {
                let message = "the shard lost its log for a moment".to_owned();
                looked_up.refuse(CallError::Unavailable { applied_unknown: false, message });
            }
            Inbox::Sent { sent, epoch } => {
                if epoch == self.epoch {
                    self.on_sent(sent);
                }
            }
            Inbox::Result { no, handle, epoch, command } => {
                if epoch == self.epoch {
                    self.step_done(no, handle);
                    if let Err(rejected) = self.decide(no, command) {
                        tracing::error!(shard = %self.id, ?rejected, "a step's result was refused");
                    }
                }
            }
        }
    }

    pub(super) fn release(&mut self, release: Release, position: Position) {
        match release {
            Release::Answer(answer) => answer(Ok(position)),
            Release::Step(no, handle) => self.ready.push_back((no, handle)),
            Release::Child(no, handle) => self.start_child(no, handle),
            Release::Message(no, sequence, owed) => self.owe(no, sequence, *owed),
        }
    }

    pub(super) fn on_message(&mut self, message: Message) {
        match message {
            Message::Submit { submissions, reply } => {
                self.gauges.queued_submissions.fetch_sub(submissions.len(), Ordering::AcqRel);
                self.on_submit(submissions, reply);
            }
            Message::Command { id, command, reply } => self.ask(id, Ask::Command(command, reply)),
            Message::Purge { id, at, reply } => self.ask(id, Ask::Purge(at, reply)),
            Message::Import { items, reply } => self.on_import(items, reply),
            Message::Query { id, query } => self.ask(id, Ask::Query(query)),
            Message::DefineTemplate { name, source, definition, reply } => {
                let (record, is_new) = self.templates.define(name, source, &definition, self.now);
                if is_new {
                    self.committer.push(Record::Template(record.clone()));
                    self.templates_portion = self.committer.open_no();
                }
                self.answer_after(self.templates_portion, reply, move |_| (record, is_new));
            }
            Message::Template { name, version, to_run, reply } => {
                self.on_template(&name, version, to_run, reply);
            }
            Message::Templates { reply } => {
                let all = self.templates.newest();
                self.answer_after(self.templates_portion, reply, move |_| all);
            }
            Message::ChangeEntry { change, reply } => self.on_change_entry(change, reply),
            Message::Entry { kind, key, reply } => {
                let found = self.catalogue.get(kind, &key);
                self.answer_after(self.catalogue_portion, reply, move |_| found);
            }
            Message::Entries { kind, after, limit, reply } => {
                let page = self.catalogue.page(kind, after.as_deref(), limit);
                self.answer_after(self.catalogue_portion, reply, move |_| page);
            }
        }
    }

    fn on_template(
        &mut self,
        name: &str,
        version: Option<u32>,
        to_run: bool,
        reply: Reply<Option<TemplateRecord>>,
    ) {
        let found = self.templates.get(name, version);
        if !to_run {
            return self.answer_after(self.templates_portion, reply, move |_| found);
        }
        let after = self.templates_portion.max(self.catalogue_portion);
        if found.is_some() && self.catalogue.get(EntryKind::Pause, name).is_some() {
            let message = format!("the template `{}` is paused: no run of it starts", local(name));
            let rejected = Rejected::new(Code::ActionUnavailable, message);
            return self.refuse_after(after, reply, CallError::Rejected(rejected));
        }
        self.answer_after(after, reply, move |_| found);
    }

    fn on_change_entry(&mut self, change: EntryChange, reply: Reply<Changed>) {
        let changed = match self.catalogue.change(change, self.now) {
            Ok(changed) => changed,
            // A limit may be reached by what is not committed yet.
            Err(rejected) => {
                return self.refuse_after(self.catalogue_portion, reply, CallError::Rejected(rejected));
            }
        };
        if let Changed::Made(entry) = &changed {
            self.committer.push(Record::Entry(entry.clone()));
            self.catalogue_portion = self.committer.open_no();
        }
        self.answer_after(self.catalogue_portion, reply, move |_| changed);
    }

    fn ask(&mut self, id: opcode_engine::ids::WorkflowId, ask: Ask) {
        match self.runs.ids.get(&id) {
            Some(no) => self.on_ask(*no, ask),
            None => self.load(Key::Id(id), Parked::Ask(ask)),
        }
    }

    pub(super) fn on_ask(&mut self, no: RunNo, ask: Ask) {
        if self.runs.slots[&no].is_purged {
            return self.refuse_purged(no, ask);
        }
        match ask {
            Ask::Purge(at, reply) => self.purge(no, at, reply),
            Ask::Command(Command::Signal(mut signal), reply)
                if planted::is("signal-twice") && signal.signal_id.is_some() =>
            {
                signal.signal_id = None;
                self.on_ask(no, Ask::Command(Command::Signal(signal), reply));
            }
            Ask::Command(command, reply) => match self.decide(no, command) {
                Ok(sequence) => {
                    // Also when nothing was written: an answer may rest on events not yet committed.
                    let after = self.runs.slots[&no].last_portion;
                    let is_sure = self.committer.is_to_commit(after);
                    self.answer_after(after, reply, move |position| CommandReply {
                        sequence,
                        position,
                        is_sure,
                    });
                }
                Err(rejected) => {
                    let after = self.runs.slots[&no].last_portion;
                    self.refuse_after(after, reply, CallError::Rejected(rejected));
                }
            },
            Ask::Query(query) => self.on_query(no, query),
        }
    }

    fn on_query(&mut self, no: RunNo, query: Query) {
        let now = self.now;
        let slot = self.runs.slots.get_mut(&no).expect("asked of a run in memory");
        slot.touched = now;
        let (after, status) = (slot.last_portion, slot.run.status());
        match query {
            Query::Status(reply) => {
                let document = Shown::Document.of(&slot.run);
                self.answer_after(after, reply, move |position| RunView { document, status, position });
            }
            Query::Settled(reply, shown) if is_settled(status) => {
                let document = shown.of(&slot.run);
                self.answer_after(after, reply, move |position| RunView { document, status, position });
            }
            waits @ Query::Settled(..) => slot.watchers.push(waits),
            Query::Why(reply) => {
                let why = slot.run.why(now);
                self.answer_after(after, reply, move |_| why);
            }
            Query::Definition(reply) => {
                let definition = slot.run.definition().clone();
                let statuses = slot.run.step_statuses();
                self.answer_after(after, reply, move |_| PinnedDefinition { definition, statuses });
            }
            Query::RunNo(reply) => self.answer_after(after, reply, move |_| no),
        }
        self.runs.consider(no, after);
    }

    /// Answers once batch `after` is committed.
    pub(super) fn answer_after<T: Send + 'static>(
        &mut self,
        after: PortionNo,
        reply: Reply<T>,
        make: impl FnOnce(Position) -> T + Send + 'static,
    ) {
        // A caller that has gone away wants no answer.
        let answer = Box::new(move |result: Result<_, CallError>| drop(reply.send(result.map(make))));
        let position = self.committer.position();
        if let Some(release) = self.committer.release_after(after, Release::Answer(answer)) {
            self.release(release, position);
        }
    }

    /// Refuses once batch `after` is committed: a refusal may rest on it too.
    pub(super) fn refuse_after<T: Send + 'static>(
        &mut self,
        after: PortionNo,
        reply: Reply<T>,
        error: CallError,
    ) {
        let answer = Box::new(move |result: Result<_, CallError>| drop(reply.send(result.and(Err(error)))));
        let position = self.committer.position();
        if let Some(release) = self.committer.release_after(after, Release::Answer(answer)) {
            self.release(release, position);
        }
    }

    /// The same for a question.
    pub(super) fn refuse_query_after(&mut self, after: PortionNo, query: Query, error: CallError) {
        match query {
            Query::Status(reply) | Query::Settled(reply, _) => self.refuse_after(after, reply, error),
            Query::Why(reply) => self.refuse_after(after, reply, error),
            Query::Definition(reply) => self.refuse_after(after, reply, error),
            Query::RunNo(reply) => self.refuse_after(after, reply, error),
        }
    }

    /// Takes submissions; those with ids from clients are looked up in the tables first.
    fn on_submit(&mut self, submissions: Vec<Submission>, reply: Reply<Vec<Result<Submitted, Rejected>>>) {
        let named = submissions.iter().filter(|s| s.body_hash.is_some() || s.parent.is_some());
        let named: Vec<_> = named.map(|s| s.id.clone()).collect();
        let is_unknown = |id: &&WorkflowId| !self.runs.ids.contains_key(*id);
        let unknown: Vec<_> = named.iter().filter(is_unknown).cloned().collect();
        if unknown.is_empty() {
            self.start_all(submissions, reply);
            return;
        }
        // Those in memory too: one that went meanwhile would be started again.
        self.runs.pin(&named);
        let (store, definitions) = (self.store.clone(), self.definitions.clone());
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        tokio::spawn(async move {
            let found = async {
                let mut found = Vec::new();
                for stored in store.load_runs(unknown).await? {
                    found.push(definitions.replay(&store, stored).await?);
                }
                Ok(found)
            }
            .await;
            let submission = CheckedSubmission { submissions, ids: named, found, reply };
            // A loop that is gone has dropped every reply with it.
            let _ = inbox.send(Inbox::Checked { submission, epoch });
        });
    }

    fn on_checked(&mut self, checked: CheckedSubmission) {
        self.runs.unpin(&checked.ids);
        match checked.found {
            Ok(found) => {
                for run in found {
                    self.take_in(run);
                }
                self.start_all(checked.submissions, checked.reply);
            }
            Err(error) => {
                let message = format!("the ids could not be looked up: {error}");
                drop(checked.reply.send(Err(CallError::Unavailable { applied_unknown: false, message })));
            }
        }
    }

    fn start_all(&mut self, submissions: Vec<Submission>, reply: Reply<Vec<Result<Submitted, Rejected>>>) {
        let mut after = PortionNo::default();
        let results: Vec<_> = submissions
            .into_iter()
            .map(|submission| {
                let request = submission.request;
                let (no, is_new) = self.start_one(submission)?;
                let slot = &self.runs.slots[&no];
                after = after.max(slot.last_portion);
                let created = is_new || (request.is_some() && slot.run.request() == request);
                Ok((slot.run.id().clone(), slot.run.status(), created, !is_new))
            })
            .collect();
        self.answer_after(after, reply, move |position| {
            results
                .into_iter()
                .map(|result| {
                    result.map(|(workflow_id, status, created, was_there)| Submitted {
                        workflow_id,
                        status,
                        created,
                        was_there,
                        position,
                    })
                })
                .collect()
        });
    }

    /// Starts a run, or finds the one that the same submission started before.
    fn start_one(&mut self, submission: Submission) -> Result<(RunNo, bool), Rejected> {
        if let Some(no) = self.runs.ids.get(&submission.id) {
            let slot = &self.runs.slots[no];
            if slot.is_purged {
                let message = format!("workflow {} is being deleted: send it again", submission.id.local());
                return Err(Rejected::new(Code::Conflict, message));
            }
            if let Some(parent) = &submission.parent {
                return match slot.run.parent() {
                    Some(known) if known.is_same(parent) => Ok((*no, false)),
                    Some(_) | None => Err(Rejected::new(
                        Code::Conflict,
                        format!(
                            "workflow {} exists already and is no child of this step",
                            submission.id.local()
                        ),
                    )),
                };
            }
            return if slot.run.body_hash().is_some() && slot.run.body_hash() == submission.body_hash {
                Ok((*no, false))
            } else {
                let message = format!(
                    "workflow {} exists already, from another submission: use another id, or send the same body again",
                    submission.id
                );
                Err(Rejected::new(Code::ValidationError, message))
            };
        }
        let no = RunNo(self.runs.last_no + 1);
        let definition = submission.definition;
        let start = Start {
            no,
            id: submission.id,
            definition: definition.clone(),
            template: submission.template,
            params: submission.params,
            agent_id: submission.agent_id,
            context: submission.context,
            labels: submission.labels,
            start_at: submission.start_at,
            body_hash: submission.body_hash,
            request: submission.request,
            parent: submission.parent,
        };
        let (run, decision) = Run::start(start, self.now)?;
        self.runs.last_no = no.0;
        if !self.runs.recorded.contains(&definition.hash) {
            self.record_definition(&definition);
        }
        self.definitions.insert(definition);
        self.runs.insert(run, self.committer.open_no(), self.now);
        self.gather(no, decision);
        self.settle(no);
        Ok((no, true))
    }

    pub(super) fn record_definition(&mut self, definition: &opcode_engine::definition::Definition) {
        self.committer.push(Record::Definition { hash: definition.hash, source: definition.source.clone() });
        if self.runs.recorded.len() >= super::runs::RECORDED_MAX {
            // Recording one again is harmless: the tables keep the first.
            self.runs.recorded.clear();
        }
        self.runs.recorded.insert(definition.hash);
    }

    /// Decides a command on a run in memory, and everything that follows from it by itself.
    /// Returns the sequence to answer with.
    pub(super) fn decide(&mut self, no: RunNo, command: Command) -> Result<Sequence, Rejected> {
        let Some(slot) = self.runs.slots.get_mut(&no).filter(|slot| !slot.is_purged) else {
            return Ok(Sequence(0));
        };
        let decision = slot.run.handle(command, self.now)?;
        let sequence = decision.sequence;
        self.gather(no, decision);
        self.settle(no);
        Ok(sequence.unwrap_or_else(|| self.runs.slots[&no].run.sequence()))
    }

    /// Puts a decision's events into the batch.
    pub(super) fn gather(&mut self, no: RunNo, decision: Decision) {
        self.committer.between_decisions();
        for definition in &decision.definitions {
            self.record_definition(definition);
            self.definitions.insert(definition.clone());
        }
        if decision.events.is_empty() {
            return;
        }
        for event in &decision.events {
            self.meters.decided(event.body.event_type());
            let mut record = EventRecord::encode(no, event);
            if planted::is("reuse-sequence") && event.sequence.0 == 5 {
                record.sequence = Sequence(4);
            }
            self.committer.push(Record::Event(record));
            if let Some(owed) = child::owed(event) {
                let release = Release::Message(no, event.sequence, Box::new(owed));
                let after = self.committer.open_no();
                let early = self.committer.release_after(after, release);
                assert!(early.is_none(), "an open portion is not committed");
            }
        }
        let slot = self.runs.slots.get_mut(&no).expect("decided by a run in memory");
        slot.last_portion = self.committer.open_no();
        slot.touched = self.now;
    }

    /// After a run has moved: its effects, its timer, its watchers.
    pub(super) fn settle(&mut self, no: RunNo) {
        self.take_effects(no);
        let Some(slot) = self.runs.slots.get_mut(&no) else { return };
        let due = slot.run.next_due();
        self.runs.timers.set(no, slot.timer, due);
        slot.timer = due;
        let (after, status) = (slot.last_portion, slot.run.status());
        if is_settled(status) && !slot.watchers.is_empty() {
            for watcher in std::mem::take(&mut slot.watchers) {
                self.on_query(no, watcher);
            }
        }
        self.runs.consider(no, after);
    }
}

/// It has ended, or waits for the outside.
fn is_settled(status: WorkflowStatus) -> bool {
    status.is_terminal() || status == WorkflowStatus::Suspended
}

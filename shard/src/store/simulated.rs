//! Tables of a simulation: the same facts as in libSQL's file, in memory, from the same entries.
//!
//! They stand for the C library alone. Around them all is as it is: the queue in front of them,
//! how far they tell to have come, and what is asked of them. They lag like a file, answer a moment
//! after they have looked, and forget at a crash what was not checkpointed. Of an entry that does
//! not follow on the one before they make the same damage as libSQL's writer does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, Timestamp, WorkflowId};
use opcode_engine::view::{self, Change};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3Default;

use super::apply::Standing;
use super::reader::Readers;
use super::writer::{Shared, WorkNow};
use super::{Inner, Store, StoreOptions, StoredRun};
use crate::catalogue::{CatalogueEntry, EntryKind};
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry};
use crate::record::{EventRecord, Record, TemplateRecord};

/// Longest time between two looks at what there is to apply, and at a read before and after it
/// takes its snapshot.
const LAG_MS_MAX: u64 = 20;
const READ_MS_MAX: u64 = 2;
/// About every how many looks what was applied is checkpointed.
const CHECKPOINT_ONE_IN: u32 = 60;
/// Bytes of a copy: it stands for the state behind its number, and takes some time to send.
const COPY_BYTES: usize = 3 * 1024 * 1024 / 2;

/// What the disks of the simulation hold, by the file's path; and all copies ever made.
static DISKS: Mutex<BTreeMap<PathBuf, Tables>> = Mutex::new(BTreeMap::new());
static COPIES: Mutex<Vec<State>> = Mutex::new(Vec::new());

/// One file: what is on stable storage, and what whoever has it open sees.
#[derive(Default)]
struct Tables {
    durable: State,
    open: Weak<SimulatedTables>,
}

/// All rows, cheap to copy.
#[derive(Clone, Debug, Default)]
struct State {
    standing: Option<Standing>,
    runs: BTreeMap<RunNo, Arc<RunRow>>,
    ids: BTreeMap<WorkflowId, RunNo>,
    definitions: BTreeMap<[u8; 32], Arc<str>>,
    templates: Vec<TemplateRecord>,
    catalogue: BTreeMap<(EntryKind, Arc<str>), CatalogueEntry>,
    outbox: BTreeSet<(RunNo, Sequence)>,
    /// The highest number of all runs that were purged, and how many were.
    purged: (u64, u64),
}

#[derive(Clone, Debug)]
struct RunRow {
    id: WorkflowId,
    status: WorkflowStatus,
    due: Option<Timestamp>,
    steps_due: BTreeMap<Arc<str>, Timestamp>,
    events: Vec<EventRecord>,
    /// For each event the hash of all events up to it.
    hashes: Vec<u64>,
}

/// A run as the tables have it, for those who check a simulation.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SimulatedRun {
    pub no: RunNo,
    pub id: WorkflowId,
    pub status: WorkflowStatus,
    pub events: Vec<EventRecord>,
}

/// How far a run has come in the tables, for those who look often.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct RunLook<'a> {
    pub no: RunNo,
    pub id: &'a WorkflowId,
    pub status: WorkflowStatus,
    /// For each event the hash of all events up to it.
    pub hashes: &'a [u64],
}

/// The runs in the tables at a path, ascending by number, as whoever has them open sees them.
pub fn tables(path: &Path) -> Vec<SimulatedRun> {
    let run = |(no, row): (&RunNo, &Arc<RunRow>)| SimulatedRun {
        no: *no,
        id: row.id.clone(),
        status: row.status,
        events: row.events.clone(),
    };
    with_state(path, |state| state.runs.iter().map(run).collect())
}

/// Shows the same runs without a copy of anything.
pub fn look<T>(path: &Path, look: impl FnOnce(&mut dyn Iterator<Item = RunLook<'_>>) -> T) -> T {
    with_state(path, |state| {
        look(&mut state.runs.iter().map(|(no, row)| RunLook {
            no: *no,
            id: &row.id,
            status: row.status,
            hashes: &row.hashes,
        }))
    })
}

fn with_state<T>(path: &Path, see: impl FnOnce(&State) -> T) -> T {
    let disks = DISKS.lock();
    let Some(tables) = disks.get(path) else { return see(&State::default()) };
    match tables.open.upgrade() {
        Some(open) => see(&open.state.lock()),
        None => see(&tables.durable),
    }
}

/// The hash of an event that follows on those whose hash is `before`.
fn chained(before: u64, event: &EventRecord) -> u64 {
    let mut hash = Xxh3Default::new();
    let numbers = [before, event.no.0, event.sequence.0, event.event_type as u64];
    numbers.iter().for_each(|number| hash.update(&number.to_le_bytes()));
    hash.update(&event.timestamp.0.to_le_bytes());
    for text in [&event.step_id, &event.agent_id] {
        let bytes = text.as_deref().unwrap_or_default().as_bytes();
        hash.update(&bytes.len().to_le_bytes());
        hash.update(bytes);
    }
    hash.update(&event.data);
    hash.digest()
}

/// Tables while a process has them open.
pub(super) struct SimulatedTables {
    path: PathBuf,
    state: Mutex<State>,
}

/// Opens what is on stable storage at the path.
pub(super) fn open(options: StoreOptions) -> Store {
    let mut disks = DISKS.lock();
    let disk = disks.entry(options.path.clone()).or_default();
    let tables = SimulatedTables { path: options.path.clone(), state: Mutex::new(disk.durable.clone()) };
    let tables = Arc::new(tables);
    disk.open = Arc::downgrade(&tables);
    let shared = Arc::new(Shared::new(options.path.clone()));
    shared.begin_at(disk.durable.standing.as_ref());
    tokio::spawn(tables.clone().write(shared.clone()));
    let readers = Arc::new(Readers::new(options.path.clone()));
    let (committed, _) = tokio::sync::broadcast::channel(super::SUBSCRIBER_BATCHES_MAX);
    let simulated = Some(tables);
    let told = Mutex::default();
    let damage = tokio::sync::Notify::new();
    Store {
        inner: Arc::new(Inner { options, shared, readers, committed, damage, told, writer: None, simulated }),
    }
}

/// Tells what the copy at `from` holds.
pub(super) fn check(from: &Path) -> Result<Applied, ShardError> {
    copied(from).map(|state| state.standing.map(|standing| standing.applied).unwrap_or_default())
}

fn copied(from: &Path) -> Result<State, ShardError> {
    let failed = |source| ShardError::Io { what: format!("reading {}", from.display()), source };
    let bytes = std::fs::read(from).map_err(failed)?;
    let number = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or(u64::MAX);
    let copies = COPIES.lock();
    let copy = usize::try_from(number).ok().and_then(|number| copies.get(number));
    copy.cloned().ok_or_else(|| ShardError::Damaged(format!("{} is no copy", from.display())))
}

impl SimulatedTables {
    /// The writer: applies, checkpoints, installs copies, until it is told to end.
    async fn write(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..=LAG_MS_MAX))).await;
            let WorkNow { stop, install, entries } = shared.work_now();
            if stop == Some(false) {
                return;
            }
            if let Some((from, reply)) = install {
                // Whoever asked may have gone.
                let _ = reply.send(self.install(&from, &shared));
            }
            if let Err(error) = self.apply(&entries, &shared) {
                return shared.fail(&error.to_string());
            }
            if stop == Some(true) || rand::random_ratio(1, CHECKPOINT_ONE_IN) {
                self.checkpoint(&shared);
            }
            if stop == Some(true) && entries.is_empty() {
                return shared.has_closed();
            }
        }
    }

    fn apply(&self, entries: &[CommittedEntry], shared: &Shared) -> Result<(), ShardError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        for entry in entries {
            state.apply(entry)?;
        }
        let records = entries.iter().map(|entry| entry.batch.records().len()).sum();
        let standing = state.standing.as_ref().expect("an entry was applied, or was before");
        shared.applied(records, standing);
        Ok(())
    }

    fn checkpoint(&self, shared: &Shared) {
        let state = self.state.lock().clone();
        shared.has_checkpointed(state.standing.as_ref());
        DISKS.lock().entry(self.path.clone()).or_default().durable = state;
    }

    /// Writes a file that stands for what is here now.
    pub(super) fn copy(&self, to: &Path) -> Result<Applied, ShardError> {
        let state = self.state.lock().clone();
        let standing = state.standing.clone();
        let standing = standing.ok_or_else(|| ShardError::Damaged("nothing is applied".into()))?;
        let mut copies = COPIES.lock();
        let mut bytes = vec![0; COPY_BYTES];
        bytes[..8].copy_from_slice(&(copies.len() as u64).to_le_bytes());
        copies.push(state);
        std::fs::write(to, bytes)
            .map_err(|source| ShardError::Io { what: format!("writing {}", to.display()), source })?;
        Ok(standing.applied)
    }

    fn install(&self, from: &Path, shared: &Shared) -> Result<Applied, ShardError> {
        let copy = copied(from)?;
        let mut state = self.state.lock();
        let place = |state: &State| state.standing.as_ref().map(|standing| standing.position);
        if place(&copy) <= place(&state) {
            return Err(ShardError::Refused("the copy is no further than the tables".into()));
        }
        *state = copy.clone();
        drop(state);
        shared.begin_at(copy.standing.as_ref());
        DISKS.lock().entry(self.path.clone()).or_default().durable = copy;
        Ok(shared.opened())
    }

    /// Looks at a snapshot, with time before and after it.
    async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=READ_MS_MAX))).await;
        let answer = look(&self.state.lock());
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=READ_MS_MAX))).await;
        answer
    }

    pub(super) async fn find(&self, id: &WorkflowId) -> Result<Option<RunNo>, ShardError> {
        Ok(self.look(|state| state.ids.get(id).copied()).await)
    }

    pub(super) async fn load_run(&self, id: &WorkflowId) -> Result<Option<StoredRun>, ShardError> {
        Ok(self.look(|state| state.ids.get(id).and_then(|no| state.run(*no))).await)
    }

    pub(super) async fn load_runs(&self, ids: Vec<WorkflowId>) -> Result<Vec<StoredRun>, ShardError> {
        let runs = |state: &State| ids.iter().filter_map(|id| state.run(*state.ids.get(id)?)).collect();
        Ok(self.look(runs).await)
    }

    pub(super) async fn load_run_no(&self, no: RunNo) -> Result<Option<StoredRun>, ShardError> {
        Ok(self.look(|state| state.run(no)).await)
    }

    pub(super) async fn load_run_nos(&self, nos: Vec<RunNo>) -> Result<Vec<Option<StoredRun>>, ShardError> {
        Ok(self.look(|state| nos.iter().map(|no| state.run(*no)).collect()).await)
    }

    pub(super) async fn last_run_no(&self) -> Result<RunNo, ShardError> {
        let last = |state: &State| state.runs.keys().next_back().map_or(0, |no| no.0).max(state.purged.0);
        Ok(RunNo(self.look(last).await))
    }

    pub(super) async fn purged_count(&self) -> Result<u64, ShardError> {
        Ok(self.look(|state| state.purged.1).await)
    }

    pub(super) async fn live_runs(&self) -> Result<Vec<RunNo>, ShardError> {
        let is_live = |row: &RunRow| matches!(row.status, WorkflowStatus::Pending | WorkflowStatus::Active);
        let live =
            |state: &State| state.runs.iter().filter(|(_, row)| is_live(row)).map(|(no, _)| *no).collect();
        Ok(self.look(live).await)
    }

    pub(super) async fn timers(&self) -> Result<Vec<(Timestamp, RunNo)>, ShardError> {
        let earliest = |row: &RunRow| row.steps_due.values().copied().chain(row.due).min();
        let timers = |state: &State| {
            let mut timers: Vec<_> =
                state.runs.iter().filter_map(|(no, row)| Some((earliest(row)?, *no))).collect();
            timers.sort_unstable();
            timers
        };
        Ok(self.look(timers).await)
    }

    pub(super) async fn outbox(&self) -> Result<Vec<(RunNo, Sequence)>, ShardError> {
        Ok(self.look(|state| state.outbox.iter().copied().collect()).await)
    }

    pub(super) async fn owed(
        &self,
        keys: Vec<(RunNo, Sequence)>,
    ) -> Result<Vec<(WorkflowId, EventRecord)>, ShardError> {
        let found = |state: &State| {
            let event = |(no, sequence): &(RunNo, Sequence)| {
                let row = state.runs.get(no)?;
                let place = usize::try_from(sequence.0.checked_sub(1)?).ok()?;
                Some((row.id.clone(), row.events.get(place)?.clone()))
            };
            keys.iter().map(event).collect::<Option<Vec<_>>>()
        };
        let missing = || ShardError::Damaged("an event owes a message and is not there".into());
        self.look(found).await.ok_or_else(missing)
    }

    pub(super) async fn definition(&self, hash: DefinitionHash) -> Result<Option<Arc<str>>, ShardError> {
        Ok(self.look(|state| state.definitions.get(&hash.0).cloned()).await)
    }

    pub(super) async fn events(
        &self,
        no: RunNo,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<EventRecord>, ShardError> {
        let events = |state: &State| {
            let all = state.runs.get(&no).map_or(&[][..], |row| &row.events);
            all.iter().filter(|event| event.sequence > after).take(limit).cloned().collect()
        };
        Ok(self.look(events).await)
    }

    pub(super) async fn templates(&self) -> Result<Vec<TemplateRecord>, ShardError> {
        Ok(self.look(|state| state.templates.clone()).await)
    }

    pub(super) async fn catalogue(&self) -> Result<Vec<CatalogueEntry>, ShardError> {
        Ok(self.look(|state| state.catalogue.values().cloned().collect()).await)
    }
}

impl State {
    fn run(&self, no: RunNo) -> Option<StoredRun> {
        let row = self.runs.get(&no)?;
        Some(StoredRun { no, id: row.id.clone(), events: row.events.clone() })
    }

    /// Applies the next entry; one that is in already is passed over.
    fn apply(&mut self, entry: &CommittedEntry) -> Result<(), ShardError> {
        let position = entry.batch.position();
        let before = self.standing.as_ref().map(|standing| standing.position);
        if before.is_some_and(|before| position.index <= before.index) {
            return Ok(());
        }
        let follows = before.map_or(position.index <= 1, |before| {
            position.index == before.index + 1 && position.term >= before.term
        });
        if !follows {
            return Err(ShardError::Damaged(format!("the log's entry {position:?} came after {before:?}")));
        }
        let (mut delivered, mut purged) = (Vec::new(), Vec::new());
        for record in entry.batch.records().iter() {
            match record {
                Record::Event(event) => self.event(event)?,
                Record::History(event) => {
                    self.event(event)?;
                    self.outbox.remove(&(event.no, event.sequence));
                }
                Record::Definition { hash, source } => {
                    self.definitions.entry(hash.0).or_insert_with(|| source.clone());
                }
                Record::Template(template) => self.templates.push(template.clone()),
                Record::Delivered { no, sequence } => delivered.push((*no, *sequence)),
                Record::Entry(entry) => {
                    self.catalogue.retain(|_, other| other.body.is_some());
                    self.catalogue.insert((entry.kind, entry.key.clone()), entry.clone());
                }
                Record::Purged { no } => purged.push(*no),
            }
        }
        for key in delivered {
            self.outbox.remove(&key);
        }
        for no in purged {
            let gone = self.runs.remove(&no);
            let gone = gone.ok_or_else(|| ShardError::Damaged(format!("run {} is purged twice", no.0)))?;
            self.ids.remove(&gone.id);
            self.outbox.retain(|(of, _)| *of != no);
            self.purged = (self.purged.0.max(no.0), self.purged.1 + 1);
        }
        let last = self.standing.take().map(|standing| standing.applied.membership).unwrap_or_default();
        let membership = entry.membership.clone().unwrap_or(last);
        let applied = Applied { log_id: entry.log_id.clone(), membership };
        self.standing = Some(Standing { position, applied });
        Ok(())
    }

    fn event(&mut self, event: &EventRecord) -> Result<(), ShardError> {
        let damaged = |why: String| ShardError::Damaged(format!("run {}: {why}", event.no.0));
        let changes = view::changes(event.event_type, event.step_id.as_ref(), &event.data, event.timestamp)
            .map_err(damaged)?;
        if let Some(Change::RunStarted(started)) = changes.first() {
            let id = WorkflowId::parse_kept(&started.workflow_id).map_err(|why| damaged(why.to_string()))?;
            if self.runs.contains_key(&event.no) || self.ids.insert(id.clone(), event.no).is_some() {
                return Err(damaged(format!("{id} begins twice")));
            }
            let (status, due) = (started.status, started.due);
            let row = RunRow {
                id,
                status,
                due,
                steps_due: BTreeMap::new(),
                events: Vec::new(),
                hashes: Vec::new(),
            };
            self.runs.insert(event.no, Arc::new(row));
        }
        let row = self.runs.get_mut(&event.no).ok_or_else(|| damaged("it has events but no row".into()))?;
        let row = Arc::make_mut(row);
        if event.sequence.0 != row.events.len() as u64 + 1 {
            let last = row.events.len();
            return Err(damaged(format!("event {} came after event {last}", event.sequence.0)));
        }
        row.hashes.push(chained(row.hashes.last().copied().unwrap_or_default(), event));
        row.events.push(event.clone());
        for change in changes {
            match change {
                Change::Run { status, due, .. } => {
                    row.status = status;
                    row.due = due.unwrap_or(row.due);
                }
                Change::Step(step) => {
                    let id = event.step_id.clone().ok_or_else(|| damaged("an event names no step".into()))?;
                    match step.due {
                        Some(due) => row.steps_due.insert(id, due),
                        None => row.steps_due.remove(&id),
                    };
                }
                Change::MessageOwed => {
                    self.outbox.insert((event.no, event.sequence));
                }
                Change::RunStarted(_)
                | Change::Definition(_)
                | Change::DecisionRequested(_)
                | Change::DecisionClosed { .. }
                | Change::DecisionsWithdrawn => {}
            }
        }
        Ok(())
    }
}

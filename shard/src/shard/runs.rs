//! Runs in memory: loaded when something comes for them, let go when they are idle or ended.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use opcode_engine::command::{Command, StepHandle};
use opcode_engine::ids::{DefinitionHash, RunNo, Timestamp, WorkflowId};
use opcode_engine::run::Run;
use tokio::time::Instant;

use super::commit::PortionNo;
use super::turn::Ask;
use super::{Inbox, Loop};
use crate::definitions::Definitions;
use crate::error::{CallError, ShardError};
use crate::planted;
use crate::queue::Query;
use crate::store::{Store, StoredRun};

/// How long a run that waits stays in memory after it was last touched.
const IDLE_MS: u64 = 2_000;
/// How long one that has ended stays: whoever submitted it mostly asks for its end right then, and
/// would have it loaded again.
const ENDED_MS: u64 = 500;
/// With more runs in memory than this, those that wait or have ended are let go at once.
const RUNS_IN_MEMORY_MAX: usize = 2_000;
/// How often runs are looked at for letting go, and how many at a time.
const EVICTION_EVERY_MS: u64 = 10;
const EVICTIONS_PER_TURN: usize = 10_000;
/// Room for runs that is kept whatever happens.
const ROOM_MIN: usize = 4_096;
/// Hashes of definitions remembered as written to the log.
pub(super) const RECORDED_MAX: usize = 10_000;
/// A run whose timer is due sooner than this stays in memory.
const SOON_MS: u64 = 2_000;
/// How long after it was elected a leader leaves alone what its predecessor had in flight: that
/// one stops starting steps when it has not heard a majority for [`crate::log::QUORUM_MAX`].
const SAFE_DELAY: Duration = Duration::from_secs(2);
/// Live runs loaded at a time after a start.
const RECOVERIES_AT_A_TIME: usize = 128;
/// Runs that one read loads to be woken: what a read costs is mostly its begin.
const LOADED_AT_A_TIME: usize = 64;

/// A run in memory.
pub(super) struct Slot {
    pub(super) run: Run,
    /// The portion of records that holds its last event.
    pub(super) last_portion: PortionNo,
    /// Its entry in the timers.
    pub(super) timer: Option<Timestamp>,
    /// Steps waiting for a commit, for a worker, or in a worker's hands.
    pub(super) steps_out: usize,
    /// Who waits for it to settle.
    pub(super) watchers: Vec<Query>,
    /// When something last happened to it.
    pub(super) touched: Timestamp,
    /// It is there no more, and stays here until the tables know that too: until then it would be
    /// loaded from them again.
    pub(super) is_purged: bool,
}

/// A run fresh from the tables.
pub(super) struct Loaded {
    pub(super) run: Run,
}

/// How a run is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Id(WorkflowId),
    No(RunNo),
}

/// What waits for a run to be loaded.
pub(super) enum Parked {
    Ask(Ask),
    /// It is live after a start, or its timer is due.
    Wake,
}

/// When which run is next due: one entry a run, also for runs that are not in memory.
#[derive(Default)]
pub(super) struct Timers {
    due: BTreeSet<(Timestamp, RunNo)>,
}

impl Timers {
    /// Moves a run's entry.
    pub(super) fn set(&mut self, no: RunNo, old: Option<Timestamp>, new: Option<Timestamp>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, no));
        }
        if let Some(new) = new {
            self.due.insert((new, no));
        }
    }

    /// How long until the first is due, if there is one.
    pub(super) fn next_wait(&self, now: Timestamp) -> Option<Duration> {
        self.due.first().map(|(due, _)| Duration::from_millis(due.since_ms(now)))
    }

    /// Takes the first run that is due, with since when.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, RunNo)> {
        let first = *self.due.first()?;
        if first.0 > now {
            return None;
        }
        self.due.pop_first();
        Some(first)
    }
}

/// Everything the loop knows of runs.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) slots: HashMap<RunNo, Slot>,
    pub(super) ids: HashMap<WorkflowId, RunNo>,
    pub(super) timers: Timers,
    /// The highest number given out.
    pub(super) last_no: u64,
    /// Candidates for letting go, with the portion that must be in the tables first.
    idle: VecDeque<(RunNo, PortionNo)>,
    /// Live runs still to be loaded after a start.
    recovering: VecDeque<RunNo>,
    /// Runs with steps that another leader may still have in its hands.
    interrupted: Vec<RunNo>,
    /// Ids that are being looked up in the tables, and how often: a run of such an id stays, since
    /// the look-up may have come before it, and would have it started again.
    pinned: HashMap<WorkflowId, usize>,
    next_eviction: Timestamp,
    /// Definitions that this process has written to the log.
    pub(super) recorded: HashSet<DefinitionHash>,
}

impl Runs {
    /// Takes a run in. One that is there already stays.
    pub(super) fn insert(&mut self, run: Run, last_portion: PortionNo, now: Timestamp) -> RunNo {
        let no = run.no();
        if !self.slots.contains_key(&no) {
            self.ids.insert(run.id().clone(), no);
            let timer = run.next_due();
            self.timers.set(no, None, timer);
            let slot = Slot {
                run,
                last_portion,
                timer,
                steps_out: 0,
                watchers: Vec::new(),
                touched: now,
                is_purged: false,
            };
            self.slots.insert(no, slot);
        }
        no
    }

    /// Keeps runs of these ids in memory while the tables are asked for them.
    pub(super) fn pin(&mut self, ids: &[WorkflowId]) {
        for id in ids {
            *self.pinned.entry(id.clone()).or_default() += 1;
        }
    }

    /// Ends what [`Self::pin`] began.
    pub(super) fn unpin(&mut self, ids: &[WorkflowId]) {
        for id in ids {
            if let Some(count) = self.pinned.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    self.pinned.remove(id);
                }
            }
        }
    }

    /// Marks a run as a candidate for letting go.
    pub(super) fn consider(&mut self, no: RunNo, last_portion: PortionNo) {
        self.idle.push_back((no, last_portion));
    }
}

/// What the tables say of live work, read when the loop begins.
async fn read_live(store: &Store) -> Result<(RunNo, Vec<RunNo>, Vec<(Timestamp, RunNo)>), ShardError> {
    Ok((store.last_run_no().await?, store.live_runs().await?, store.timers().await?))
}

/// A run from what was read of it.
async fn loaded(
    store: &Store,
    definitions: &Definitions,
    stored: Result<Option<StoredRun>, ShardError>,
) -> Result<Option<Box<Loaded>>, ShardError> {
    match stored? {
        None => Ok(None),
        Some(stored) => Ok(Some(Box::new(Loaded { run: definitions.replay(store, stored).await? }))),
    }
}

impl Loop {
    /// Drops everything optimistic; who waits for what is not in the log's hands is told that
    /// nothing was applied.
    pub(super) fn drop_all(&mut self) {
        const WHY: &str = "the shard lost its log for a moment";
        let refusal = || CallError::Unavailable { applied_unknown: false, message: WHY.into() };
        self.epoch += 1;
        self.committer.abandon(WHY, false);
        self.tasks.drain().for_each(|(_, task)| task.abort());
        self.ready.clear();
        self.continuing.clear();
        self.outbox.clear();
        for item in std::mem::take(&mut self.loading).into_values().flatten() {
            if let Parked::Ask(ask) = item {
                ask.refuse(refusal());
            }
        }
        for watcher in std::mem::take(&mut self.runs).slots.into_values().flat_map(|slot| slot.watchers) {
            watcher.refuse(refusal());
        }
    }

    /// Begins from the log as the leader of `term`: waits until every earlier proposal's fate is
    /// decided and the tables have it, then goes on with all live runs.
    pub(super) async fn begin(&mut self, term: u64) -> Result<(), ShardError> {
        self.drop_all();
        let position = self.committer.barrier(term).await?;
        self.store.reached(position).await?;
        let (last_no, live, timers) = read_live(&self.store).await?;
        self.runs.last_no = last_no.0;
        self.runs.recovering = live.into();
        for (due, no) in timers {
            self.runs.timers.set(no, None, Some(due));
        }
        self.outbox.begin(self.store.outbox().await?);
        self.templates_portion = PortionNo::default();
        self.templates = super::templates::Templates::load(self.store.templates().await?);
        self.catalogue_portion = PortionNo::default();
        self.catalogue = super::catalogue::Catalogue::load(self.store.catalogue().await?);
        self.now = self.clock.now();
        // Another node's leader may have steps in flight, and starts none once it has had time to
        // learn that it leads no more; with this node alone there was none.
        let is_alone = self.group.is_alone().await?;
        let is_alone = is_alone || planted::is("step-twice-after-failover");
        self.recover_from = Instant::now() + if is_alone { Duration::ZERO } else { SAFE_DELAY };
        self.recover_some();
        Ok(())
    }

    /// Starts loading the next live runs, once there is room for some.
    pub(super) fn recover_some(&mut self) {
        if self.loading.len() > RECOVERIES_AT_A_TIME / 2 {
            return;
        }
        let mut next = Vec::new();
        while self.loading.len() + next.len() < RECOVERIES_AT_A_TIME
            && let Some(no) = self.runs.recovering.pop_front()
        {
            if !self.runs.slots.contains_key(&no) {
                next.push(no);
            }
        }
        self.load_to_wake(&next);
    }

    /// Reads runs from the tables, each to be woken once it is here.
    fn load_to_wake(&mut self, nos: &[RunNo]) {
        let mut unread = Vec::new();
        for no in nos {
            let waiting = self.loading.entry(Key::No(*no)).or_default();
            waiting.push(Parked::Wake);
            if waiting.len() == 1 {
                unread.push(*no);
            }
        }
        for some in unread.chunks(LOADED_AT_A_TIME) {
            let (store, definitions) = (self.store.clone(), self.definitions.clone());
            let (inbox, epoch, nos) = (self.inbox_in.clone(), self.epoch, some.to_vec());
            tokio::spawn(async move {
                let mut read = store.load_run_nos(nos.clone()).await.map(Vec::into_iter);
                for no in nos {
                    let stored = match &mut read {
                        Ok(read) => Ok(read.next().flatten()),
                        // One of them is damaged, and harms no other.
                        Err(_) => store.load_run_no(no).await,
                    };
                    let result = loaded(&store, &definitions, stored).await;
                    // A loop that is gone needs no run.
                    let _ = inbox.send(Inbox::Loaded { key: Key::No(no), epoch, result });
                }
            });
        }
    }

    /// Reads a run from the tables, with `parked` to follow once it is here.
    pub(super) fn load(&mut self, key: Key, parked: Parked) {
        let waiting = self.loading.entry(key.clone()).or_default();
        waiting.push(parked);
        if waiting.len() > 1 {
            return;
        }
        let (store, definitions) = (self.store.clone(), self.definitions.clone());
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        tokio::spawn(async move {
            let stored = match &key {
                Key::Id(id) => store.load_run(id).await,
                Key::No(no) => store.load_run_no(*no).await,
            };
            let result = loaded(&store, &definitions, stored).await;
            // A loop that is gone needs no run.
            let _ = inbox.send(Inbox::Loaded { key, epoch, result });
        });
    }

    /// A run has come from the tables: takes it in, recovers it, and goes on with what waited.
    pub(super) fn on_loaded(&mut self, key: Key, result: Result<Option<Box<Loaded>>, ShardError>) {
        let parked = self.loading.remove(&key).unwrap_or_default();
        let no = match result {
            Ok(Some(loaded)) => self.take_in(loaded.run),
            // It may have been submitted while the tables were being read.
            Ok(None) => match &key {
                Key::Id(id) => self.runs.ids.get(id).copied(),
                Key::No(no) => self.runs.slots.contains_key(no).then_some(*no),
            },
            Err(error) => {
                tracing::error!(shard = %self.id, ?key, %error, "a run could not be loaded");
                for item in parked {
                    if let Parked::Ask(ask) = item {
                        let message = format!("the run could not be loaded: {error}");
                        ask.refuse(CallError::Unavailable { applied_unknown: false, message });
                    }
                }
                return;
            }
        };
        for item in parked {
            match (item, no) {
                (Parked::Ask(ask), Some(no)) => self.on_ask(no, ask),
                (Parked::Ask(ask), None) => {
                    let id = match &key {
                        Key::Id(id) => id.to_string(),
                        Key::No(no) => no.0.to_string(),
                    };
                    ask.refuse(CallError::NotFound(id));
                }
                (Parked::Wake, Some(no)) => self.wake(no),
                (Parked::Wake, None) => {}
            }
        }
    }

    /// Takes a replayed run into memory. Only a run with nothing in flight is ever let go, so
    /// what it has in flight now was interrupted by a crash.
    pub(super) fn take_in(&mut self, run: Run) -> Option<RunNo> {
        let no = run.no();
        if self.runs.slots.contains_key(&no) {
            return Some(no);
        }
        let is_terminal = run.status().is_terminal();
        self.runs.insert(run, PortionNo::default(), self.now);
        if !is_terminal {
            let may_be_running = self.runs.slots[&no].run.was_interrupted();
            if may_be_running && Instant::now() < self.recover_from {
                self.runs.interrupted.push(no);
            } else {
                self.recover(no);
            }
        }
        self.runs.consider(no, PortionNo::default());
        Some(no)
    }

    fn recover(&mut self, no: RunNo) {
        // A recovery has nothing to be refused for.
        if let Err(rejected) = self.decide(no, Command::Recover) {
            tracing::error!(shard = %self.id, ?rejected, "a recovery was refused");
        }
    }

    /// Takes up the steps that were in another leader's hands, once that one must have stopped.
    pub(super) fn recover_interrupted(&mut self) {
        if self.runs.interrupted.is_empty() || Instant::now() < self.recover_from {
            return;
        }
        for no in std::mem::take(&mut self.runs.interrupted) {
            match self.runs.slots.contains_key(&no) {
                true => self.recover(no),
                // It has been let go since, and is recovered as it comes in.
                false => self.load(Key::No(no), Parked::Wake),
            }
        }
    }

    /// Loads or wakes every run whose timer is due.
    pub(super) fn fire_timers(&mut self) {
        let mut absent = Vec::new();
        for _ in 0..super::turn::TIMERS_PER_TURN {
            let Some((due, no)) = self.runs.timers.pop(self.now) else { break };
            self.meters.fired(due, self.now);
            match self.runs.slots.get_mut(&no) {
                Some(slot) => {
                    slot.timer = None;
                    self.wake(no);
                }
                None => absent.push(no),
            }
        }
        self.load_to_wake(&absent);
    }

    pub(super) fn wake(&mut self, no: RunNo) {
        if let Err(rejected) = self.decide(no, Command::Wake) {
            tracing::error!(shard = %self.id, ?rejected, "a wake was refused");
        }
    }

    /// Lets go of runs that are ended or idle, once the tables have all of them.
    pub(super) fn evict(&mut self) {
        if self.now < self.runs.next_eviction {
            return;
        }
        self.runs.next_eviction = self.now.plus_ms(EVICTION_EVERY_MS);
        let first_unapplied = self.committer.first_unapplied(self.store.applied_position());
        for _ in 0..EVICTIONS_PER_TURN.min(self.runs.idle.len()) {
            let Some((no, portion)) = self.runs.idle.pop_front() else { break };
            let Some(slot) = self.runs.slots.get(&no) else { continue };
            if slot.last_portion != portion {
                // Touched since: a later entry stands for it.
                continue;
            }
            if portion >= first_unapplied {
                // Entries are in the order of their portions: those behind are no further.
                self.runs.idle.push_front((no, portion));
                break;
            }
            if !self.may_go(no) {
                self.runs.idle.push_back((no, portion));
                continue;
            }
            if let Some(slot) = self.runs.slots.remove(&no) {
                self.runs.ids.remove(slot.run.id());
            }
        }
        let held = self.runs.slots.len();
        // After a burst the maps give their room back too.
        if self.runs.slots.capacity() > ROOM_MIN && self.runs.slots.capacity() / 8 > held {
            self.runs.slots.shrink_to(held * 2);
            self.runs.ids.shrink_to(held * 2);
        }
        self.gauges.runs_in_memory.store(held, Ordering::Relaxed);
        self.meter.set(held as f64);
    }

    fn may_go(&mut self, no: RunNo) -> bool {
        let crowded = self.runs.slots.len() > RUNS_IN_MEMORY_MAX;
        let now = self.now;
        let Some(slot) = self.runs.slots.get_mut(&no) else { return false };
        if slot.is_purged {
            // A look into the tables that is under way may have begun before they knew.
            let id = slot.run.id();
            let is_looked_for = self.loading.contains_key(&Key::No(no))
                || self.loading.contains_key(&Key::Id(id.clone()))
                || self.runs.pinned.contains_key(id);
            return !is_looked_for;
        }
        slot.watchers.retain(|w| !w.is_closed());
        let is_pinned = !self.runs.pinned.is_empty() && self.runs.pinned.contains_key(slot.run.id());
        if slot.steps_out > 0 || !slot.watchers.is_empty() || is_pinned {
            return false;
        }
        let stays_ms = if slot.run.status().is_terminal() { ENDED_MS } else { IDLE_MS };
        let is_idle = crowded || now.since_ms(slot.touched) >= stays_ms;
        let is_due_soon = slot.timer.is_some_and(|due| due.since_ms(now) < SOON_MS);
        is_idle && !is_due_soon
    }

    /// Steps of a run that no longer exist for it.
    pub(super) fn step_done(&mut self, no: RunNo, handle: StepHandle) {
        self.tasks.remove(&(no, handle));
        if let Some(slot) = self.runs.slots.get_mut(&no) {
            slot.steps_out = slot.steps_out.saturating_sub(1);
        }
    }
}

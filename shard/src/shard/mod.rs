//! One shard's loop: sole owner of its runs, a cache of the log.
//!
//! It decides commands on runs in memory and folds the events in at once, ahead of the disk
//! ([`turn`]); gathers records into batches and releases what rests on them once they are
//! committed ([`commit`]); hands steps to workers ([`dispatch`]) and messages to other shards
//! ([`outbox`]); loads runs that are not in
//! memory and lets go of idle ones ([`runs`]). If the log is lost, everything optimistic is
//! dropped and loaded again. On a replica that does not lead, the loop refuses and waits.

mod catalogue;
mod commit;
mod dispatch;
mod import;
mod outbox;
mod purge;
mod removal;
mod runs;
mod templates;
mod turn;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opcode_engine::command::StepHandle;
use opcode_engine::ids::{RunNo, ShardId, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::batch::{Batch, Committed};
use crate::clock::Clock;
use crate::definitions::Definitions;
use crate::error::{CallError, ShardError};
use crate::handle::ShardHandle;
use crate::log::{Group, GroupOptions, LogStore, QUORUM_MAX, Role};
use crate::meters::LoopMeters;
use crate::peer::Peers;
use crate::queue::{Door, Gauges, Message, QUEUE_MESSAGES_MAX};
use crate::relay::Relay;
use crate::replica::sync_server::SyncServer;
use crate::store::{Store, StoreOptions};
use crate::ticks;
use crate::workers::Workers;

pub use removal::{finish_removals, remove};

use catalogue::Catalogue;
use commit::Committer;
use outbox::{Outbox, Sent};
use runs::{Key, Loaded, Parked, Runs};
use templates::Templates;

/// Longest wait for one proposal; after it everything is reloaded.
const PROPOSE_MS_MAX: u64 = 10_000;
/// How often a loop looks after itself: lets runs go that have become idle.
const TEND_EVERY: Duration = Duration::from_millis(100);
/// The same while there is nothing to let go.
const TEND_IDLE_EVERY: Duration = Duration::from_secs(1);
/// How often the log is purged.
const PURGE_EVERY: Duration = Duration::from_secs(2);
/// Longest wait for steps in flight when the shard stops.
const DRAIN_MAX: Duration = Duration::from_secs(7);

/// From so many voters on, one that has damaged tables stops.
const REPLACEABLE_FROM: usize = 3;

/// How to start a shard.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Which shard.
    pub shard: ShardId,
    /// This node's number in the group.
    pub node_id: u64,
    /// The cluster's id, checked against the files.
    pub cluster_id: String,
    /// The libSQL file; copies for other members are made beside it.
    pub tables_path: PathBuf,
    /// Where it is written down which generations were served to embedded replicas. It outlives
    /// the tables: copies of them may be anywhere.
    pub generations_path: PathBuf,
    /// Whether an empty log begins a group of this node alone; else it waits to be added to one.
    pub founds: bool,
}

/// What a node shares between its shards.
#[derive(Clone)]
pub struct Shared {
    /// The node-wide log store.
    pub log: Arc<LogStore>,
    /// The node-wide worker pool with its actions.
    pub workers: Workers,
    /// Compiled definitions.
    pub definitions: Arc<Definitions>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// The way to other nodes.
    pub peers: Arc<dyn Peers>,
    /// The way to other shards.
    pub relay: Arc<dyn Relay>,
}

impl ShardOptions {
    fn group(&self) -> GroupOptions {
        GroupOptions {
            group: self.shard,
            node_id: self.node_id,
            founds: self.founds,
            copies_dir: self.tables_path.with_file_name("copies"),
            propose_timeout_ms: PROPOSE_MS_MAX,
        }
    }

    fn folder(&self) -> PathBuf {
        self.tables_path.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
    }
}

/// A replica of a shard on this node; it takes requests while it leads.
pub struct Shard {
    handle: ShardHandle,
    log: Arc<LogStore>,
    /// Where its files are.
    folder: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ShardError>>,
}

impl Shard {
    /// Opens the tables and takes its part in the log. Alone in its group, it has gone on with
    /// what was under way and takes requests on return; else it does so when it is elected.
    pub async fn start(options: ShardOptions, shared: Shared) -> Result<Self, ShardError> {
        let store = Store::open(StoreOptions {
            path: options.tables_path.clone(),
            shard: options.shard,
            cluster_id: options.cluster_id.clone(),
        })
        .await?;
        let tables = Arc::new(store.clone());
        let group = Group::start(options.group(), shared.log.clone(), tables, shared.peers).await?;
        let (serving_in, serving) = watch::channel(None);
        let (queue_in, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (inbox_in, inbox) = mpsc::unbounded_channel();
        let (gauges, closed) = (Arc::<Gauges>::default(), Arc::<AtomicBool>::default());
        let (stop, stopping) = watch::channel(false);
        let door = Door {
            id: options.shard,
            queue: queue_in,
            definitions: shared.definitions.clone(),
            store: store.clone(),
            group: group.clone(),
            gauges: gauges.clone(),
            closed: closed.clone(),
            serving: serving.clone(),
            doing: parking_lot::Mutex::default(),
            sync_server: SyncServer::new(store.clone(), options.node_id, options.generations_path.clone()),
            exports: crate::remote::Exports::default(),
        };
        let shard = Loop {
            id: options.shard,
            clock: shared.clock,
            definitions: shared.definitions,
            workers: shared.workers,
            committer: Committer::new(options.shard, group.clone()),
            role: group.role(),
            serving: serving_in,
            recover_from: tokio::time::Instant::now(),
            group: group.clone(),
            store,
            queue,
            inbox,
            inbox_in,
            gauges,
            closed,
            stopping,
            runs: Runs::default(),
            templates: Templates::default(),
            templates_portion: commit::PortionNo::default(),
            catalogue: Catalogue::default(),
            catalogue_portion: commit::PortionNo::default(),
            loading: HashMap::new(),
            ready: VecDeque::new(),
            continuing: VecDeque::new(),
            tasks: HashMap::new(),
            outbox: Outbox::new(options.shard),
            relay: shared.relay,
            epoch: 0,
            now: Timestamp(0),
            draining: false,
            purged_at: tokio::time::Instant::now(),
            meter: metrics::gauge!("opcode_runs_in_memory", "shard" => options.shard.to_string()),
            meters: LoopMeters::new(options.shard),
        };
        let task = tokio::spawn(shard.run());
        let handle = ShardHandle { inner: Arc::new(door) };
        let mut started = Self { handle, log: shared.log, folder: options.folder(), stop, task };
        if group.is_alone().await? {
            started.serves(serving).await?;
        }
        Ok(started)
    }

    /// Waits until requests are taken; an error when the loop ends before.
    async fn serves(&mut self, mut serving: watch::Receiver<Option<u64>>) -> Result<(), ShardError> {
        tokio::select! {
            Ok(_) = serving.wait_for(Option::is_some) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// The door to it.
    pub fn handle(&self) -> ShardHandle {
        self.handle.clone()
    }

    /// Waits until the shard has stopped by itself, which only a fault makes it do.
    pub async fn failed(&mut self) -> ShardError {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => ShardError::Stopped("asked to".into()),
            Err(panic) => ShardError::Stopped(format!("its loop panicked: {panic}")),
        }
    }

    /// Takes no more requests, lets steps in flight end for a while, commits what they did,
    /// checkpoints, and stops.
    pub async fn stop(self) -> Result<(), ShardError> {
        // A loop that has ended already has dropped its receiver; its result is in the task.
        let _ = self.stop.send(true);
        self.task
            .await
            .unwrap_or_else(|panic| Err(ShardError::Stopped(format!("its loop panicked: {panic}"))))
    }

    /// Stops, and removes all that this node has of the shard: for one that it holds no more, once
    /// the group counts on it no more. The folder of the tables goes with everything in it.
    pub async fn destroy(self) -> Result<(), ShardError> {
        let (log, shard, folder) = (self.log.clone(), self.handle.id(), self.folder.clone());
        self.stop().await?;
        removal::remove(&log, shard, &folder).await
    }
}

/// The next moment for housekeeping.
fn next_tending(is_idle: bool) -> tokio::time::Instant {
    ticks::next(if is_idle { TEND_IDLE_EVERY } else { TEND_EVERY })
}

/// What the loop's own tasks send back to it; each is bounded by what the loop has started.
enum Inbox {
    /// A run has been read from the tables.
    Loaded { key: Key, epoch: u64, result: Result<Option<Box<Loaded>>, ShardError> },
    /// Ids of a submission have been looked up.
    Checked { submission: turn::CheckedSubmission, epoch: u64 },
    /// Ids of what comes as history have been looked up.
    LookedUp { looked_up: Box<import::LookedUp>, epoch: u64 },
    /// What came of a message, or of looking some up.
    Sent { sent: Sent, epoch: u64 },
    /// A worker's result.
    Result { no: RunNo, handle: StepHandle, epoch: u64, command: opcode_engine::command::Command },
}

struct Loop {
    id: ShardId,
    clock: Arc<Clock>,
    definitions: Arc<Definitions>,
    workers: Workers,
    committer: Committer,
    group: Arc<Group>,
    store: Store,
    queue: mpsc::Receiver<Message>,
    inbox: mpsc::UnboundedReceiver<Inbox>,
    inbox_in: mpsc::UnboundedSender<Inbox>,
    gauges: Arc<Gauges>,
    closed: Arc<AtomicBool>,
    stopping: watch::Receiver<bool>,
    runs: Runs,
    templates: Templates,
    /// The portion that holds the last template defined.
    templates_portion: commit::PortionNo,
    catalogue: Catalogue,
    /// The portion that holds the catalogue's last change.
    catalogue_portion: commit::PortionNo,
    loading: HashMap<Key, Vec<Parked>>,
    /// Committed steps that wait for a worker.
    ready: VecDeque<(RunNo, StepHandle)>,
    /// Pure steps left for a later turn, so that one run cannot hold the loop.
    continuing: VecDeque<(RunNo, StepHandle)>,
    /// Steps in workers' hands.
    tasks: HashMap<(RunNo, StepHandle), AbortHandle>,
    /// What this shard's runs have to say to others.
    outbox: Outbox,
    relay: Arc<dyn Relay>,
    /// Grows at every reload: what was begun before it no longer counts.
    epoch: u64,
    now: Timestamp,
    /// What this node is in the group.
    role: watch::Receiver<Role>,
    /// The term in which requests are taken.
    serving: watch::Sender<Option<u64>>,
    /// Before this time, what another leader may have in flight is left alone.
    /// Not by the clock on the wall, which may jump over it.
    recover_from: tokio::time::Instant,
    /// Stopping: no step is started any more.
    draining: bool,
    /// When the log was last purged.
    purged_at: tokio::time::Instant,
    /// Runs in memory.
    meter: metrics::Gauge,
    meters: LoopMeters,
}

/// How a time as leader, or as follower, ended.
enum Turned {
    /// The shard is to stop.
    Stopping,
    /// This node leads, in a term of its own.
    Leads(u64),
    /// It leads no more, or cannot tell what of its work was committed: all over again.
    Deposed,
}

impl Loop {
    async fn run(mut self) -> Result<(), ShardError> {
        let result = loop {
            let turned = match self.follow().await {
                Ok(Turned::Leads(term)) => self.lead(term).await,
                other => other,
            };
            let served = self.serving.send_replace(None);
            match turned {
                Ok(Turned::Stopping) => break self.drain(served).await,
                Ok(Turned::Leads(_) | Turned::Deposed) => self.drop_all(),
                Err(error) => break Err(error),
            }
        };
        self.closed.store(true, Ordering::Release);
        self.committer.abandon("the shard has stopped", true);
        result
    }

    /// Refuses what comes in, until this node leads and hears a majority.
    async fn follow(&mut self) -> Result<Turned, ShardError> {
        loop {
            if let Role::Leader { term } = *self.role.borrow_and_update()
                && self.group.has_quorum()
            {
                return Ok(Turned::Leads(term));
            }
            // One that leads waits to hear a majority, which nobody tells it of.
            let tend = next_tending(self.group.leading_term().is_none());
            tokio::select! {
                biased;
                _ = self.stopping.changed() => return Ok(Turned::Stopping),
                changed = self.role.changed() => {
                    changed.map_err(|_| ShardError::Stopped("its group has ended".into()))?;
                }
                why = self.store.failure() => return Err(ShardError::Stopped(format!("its tables: {why}"))),
                () = self.store.damage() => self.on_damage()?,
                Some(message) = self.queue.recv() => {
                    message.refuse(&self.gauges, || CallError::NotLeader { shard: self.id, leader: None });
                }
                // What was begun as leader ends now, and counts no more.
                Some(_) = self.inbox.recv() => {}
                () = tokio::time::sleep_until(tend) => self.tend(),
            }
        }
    }

    /// Leads in `term`: begins from the log, then takes requests until it leads no more.
    async fn lead(&mut self, term: u64) -> Result<Turned, ShardError> {
        let mut stopping = self.stopping.clone();
        let begun = tokio::select! {
            begun = self.begin(term) => begun,
            _ = stopping.changed() => return Ok(Turned::Stopping),
        };
        match begun {
            Ok(()) => {}
            Err(ShardError::NotLeader | ShardError::Unknown(_)) => return Ok(Turned::Deposed),
            Err(error) => return Err(error),
        }
        tracing::info!(shard = %self.id, term, "leads");
        self.serving.send_replace(Some(term));
        let ended = self.serve(term).await;
        // The log says what became of the batch in its hands.
        while self.committer.is_under_way() && !matches!(ended, Ok(Turned::Stopping)) {
            let reported = self.committer.reported().await;
            match self.on_reported(reported) {
                Ok(()) | Err(ShardError::NotLeader | ShardError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        ended
    }

    async fn serve(&mut self, term: u64) -> Result<Turned, ShardError> {
        loop {
            let tend = next_tending(self.runs.slots.is_empty());
            let waits_for_worker = !self.ready.is_empty() && self.may_start();
            let accepts = self.accepts();
            let idle = self.continuing.is_empty();
            let due = self.runs.timers.next_wait(self.clock.now());
            tokio::select! {
                biased;
                _ = self.stopping.changed() => return Ok(Turned::Stopping),
                changed = self.role.changed() => {
                    changed.map_err(|_| ShardError::Stopped("its group has ended".into()))?;
                    if *self.role.borrow_and_update() != (Role::Leader { term }) {
                        tracing::info!(shard = %self.id, term, "leads no more");
                        return Ok(Turned::Deposed);
                    }
                }
                result = self.committer.reported() => match self.on_reported(result) {
                    Ok(()) => {}
                    Err(error @ (ShardError::NotLeader | ShardError::Unknown(_))) => {
                        tracing::warn!(shard = %self.id, %error, "a batch was not committed: loading anew");
                        return Ok(Turned::Deposed);
                    }
                    Err(error) => return Err(error),
                },
                Some(item) = self.inbox.recv() => self.on_inbox(item),
                why = self.store.failure() => return Err(ShardError::Stopped(format!("its tables: {why}"))),
                () = self.store.damage() => self.on_damage()?,
                permit = self.workers.permit(), if waits_for_worker => self.dispatch(permit),
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
                Some(message) = self.queue.recv(), if accepts => self.on_message(message),
                () = tokio::time::sleep_until(tend) => self.tend(),
                () = std::future::ready(()), if !idle => {}
            }
            self.turn();
        }
    }

    /// A read has found damage that cannot be mended from what is here. Others that are enough go on with
    /// what was written, and this replica is in their way; with fewer, all but what is damaged goes on.
    fn on_damage(&self) -> Result<(), ShardError> {
        if self.group.members().voters.len() < REPLACEABLE_FROM {
            return Ok(());
        }
        let why = "its tables are damaged (the log says where), and the other replicas have it all: \
                   let this node begin anew with an empty folder";
        Err(ShardError::Stopped(why.into()))
    }

    /// Housekeeping off the path: purges the log below what the tables have checkpointed. (The
    /// turn that follows every tick lets idle runs go.)
    fn tend(&mut self) {
        if self.purged_at.elapsed() < PURGE_EVERY {
            return;
        }
        self.purged_at = tokio::time::Instant::now();
        let group = self.group.clone();
        tokio::spawn(async move {
            if let Err(error) = group.purge().await {
                tracing::warn!(%error, "the log could not be purged");
            }
        });
    }

    /// Stops: no new requests, no new steps; what is in flight may end, if this node leads still in
    /// the term in which it `served`, and hears a majority. Without one nothing is committed any
    /// more: those who wait are told that they cannot know.
    async fn drain(&mut self, served: Option<u64>) -> Result<(), ShardError> {
        self.closed.store(true, Ordering::Release);
        self.queue.close();
        self.draining = true;
        let deadline = tokio::time::Instant::now() + DRAIN_MAX;
        loop {
            let term = self.group.leading_term().filter(|_| self.group.has_quorum());
            if term.is_none() || term != served {
                self.drop_all();
                break;
            }
            while let Ok(message) = self.queue.try_recv() {
                self.on_message(message);
            }
            self.turn();
            if self.tasks.is_empty() && self.committer.is_idle() && self.loading.is_empty() {
                break;
            }
            tokio::select! {
                result = self.committer.reported() => self.ended(result)?,
                Some(item) = self.inbox.recv() => self.on_inbox(item),
                () = tokio::time::sleep_until(deadline) => break,
                // Nobody tells it of a majority that it does not hear any more.
                () = tokio::time::sleep_until(next_tending(false)) => {}
            }
        }
        // Steps still in flight are told to their successor by the log: it interrupts them.
        self.tasks.drain().for_each(|(_, task)| task.abort());
        while let Ok(message) = self.queue.try_recv() {
            message.refuse(&self.gauges, || CallError::NotLeader { shard: self.id, leader: None });
        }
        while !self.committer.is_idle() {
            match tokio::time::timeout(QUORUM_MAX, self.committer.reported()).await {
                Ok(result) => self.ended(result)?,
                Err(_) => self.drop_all(),
            }
            self.committer.flush();
        }
        self.store.close().await?;
        self.group.shutdown().await;
        Ok(())
    }

    /// The fate of a batch while stopping: what the log did not take is told to those who wait.
    fn ended(&mut self, result: Result<Batch<Committed>, ShardError>) -> Result<(), ShardError> {
        match self.on_reported(result) {
            Err(ShardError::NotLeader | ShardError::Unknown(_)) => {
                self.drop_all();
                Ok(())
            }
            other => other,
        }
    }
}

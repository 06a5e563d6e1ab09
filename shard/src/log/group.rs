//! A group: openraft over the node's log store, a shard's tables, and the way to the other members.
//!
//! It acts on committed results only, answers within a bound, and never outlives openraft's core
//! in silence: a core that has died while the process lives stops the process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{BasicNode, ChangeMembers, Config, LogId, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;

use super::archive::KeptForBackups;
use super::arrivals::Arrivals;
use super::copies::remove_leftovers;
use super::elections::{Electorate, LEASE, stand_in_turn};
use super::floor::{Floor, watch_floor};
use super::heard::Heard;
use super::index::GroupState;
use super::lag::Lag;
use super::network::Network;
use super::rounds::Rounds;
use super::state_machine::{StateMachine, decode_applied, position};
use super::storage::GroupLog;
use super::type_config::{Proposal, TypeConfig, log_id};
use super::wire::{Answer, Request, decode_request, encode_answer};
use super::{GroupOptions, LogStore, Tables};
use crate::batch::{Batch, Committed, Gathered, Position};
use crate::error::ShardError;
use crate::meters;
use crate::peer::{NodeId, Peers, Service};
use crate::{planted, simulation};

/// Also the timeout of an append to a follower.
pub(super) const HEARTBEAT_MS: u64 = 250;
/// What openraft makes of it: how often a group looks at its timers, and sends its heartbeats.
pub(super) const TICK: Duration = Duration::from_millis(HEARTBEAT_MS * 3 / 2);
/// A copy of the tables may take its time.
const SNAPSHOT_MS_MAX: u64 = 60_000;
/// Longest wait for a purge, which waits for nothing but openraft's own turn.
const PURGE_MAX: Duration = Duration::from_secs(10);
/// A leader that has not heard a majority for this long starts nothing new.
pub const QUORUM_MAX: Duration = Duration::from_millis(1_500);
/// Longest wait for a change of members to be committed.
const MEMBERS_MAX: Duration = Duration::from_secs(30);
/// Entries that stay in the log for members that lag, beyond what the tables have checkpointed.
const KEPT_ENTRIES: u64 = 1_000;
/// The same in a simulation, whose logs are short: so that members fall behind them.
const KEPT_ENTRIES_SIMULATED: u64 = 30;
/// Bytes that they take at most: a member that lags further gets a copy of the tables.
const KEPT_BYTES: u64 = if cfg!(test) { 256 * 1024 } else { 32 * 1024 * 1024 };

/// What this node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads, and everything that was committed before has been handed to its tables.
    Leader {
        /// The term it leads in.
        term: u64,
    },
    /// It does not.
    Follower {
        /// Who does, if that is known.
        leader: Option<NodeId>,
    },
}

/// Who is in a group, as far as this member knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote.
    pub voters: BTreeSet<NodeId>,
    /// Those that only follow.
    pub learners: BTreeSet<NodeId>,
    /// How far each member that was ever reached in this term has the log; on the leader alone.
    pub matched: BTreeMap<NodeId, u64>,
    /// Milliseconds that each of those is behind, in time.
    pub lag_ms: BTreeMap<NodeId, u64>,
    /// The last entry of this node's log.
    pub last_index: u64,
    /// Who shall vote, while a change of voters is under way. A leader that dies in the middle of it
    /// leaves it to the next one to end it.
    pub changing_to: Option<BTreeSet<NodeId>>,
}

/// When this node, as leader, last heard a majority.
pub(super) type LastQuorum = Arc<Mutex<Option<Instant>>>;

/// What the leader's log ended with, over time.
type SharedLag = Arc<Mutex<Lag>>;

/// This node's part in a replicated log.
pub struct Group {
    pub(super) id: u32,
    pub(super) node_id: NodeId,
    pub(super) raft: Raft<TypeConfig>,
    pub(super) store: Arc<LogStore>,
    pub(super) log: GroupLog,
    pub(super) tables: Arc<dyn Tables>,
    pub(super) network: Network,
    handed_over: watch::Receiver<Position>,
    propose_max: Duration,
    /// Held by whoever writes; closed while the lead is handed over.
    pub(super) writes: RwLock<()>,
    stopping: Arc<AtomicBool>,
    role: watch::Receiver<Role>,
    last_quorum: LastQuorum,
    lag: SharedLag,
    /// What its leader has told it, as a follower.
    pub(super) heard: Arc<Mutex<Heard>>,
    pub(super) rounds: Rounds,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) copies_dir: PathBuf,
    /// What this node had before it gave the group away once; `None` when it never did, or has
    /// come as far again.
    pub(super) floor: Floor,
    pub(super) kept_for_backups: KeptForBackups,
    /// From where on those who follow the log want it kept.
    pub(super) held_from: AtomicU64,
}

pub(super) fn stopped(error: impl std::fmt::Display) -> ShardError {
    ShardError::Stopped(error.to_string())
}

impl Group {
    /// Starts this node's part over `store`. An empty log founds a group of this node alone when
    /// the options say so, else it waits to be added to one. Entries above what the tables hold
    /// are handed to them again once they are known to be committed.
    pub async fn start(
        options: GroupOptions,
        store: Arc<LogStore>,
        tables: Arc<dyn Tables>,
        peers: Arc<dyn Peers>,
    ) -> Result<Arc<Self>, ShardError> {
        let GroupOptions { group: id, node_id, founds, copies_dir, propose_timeout_ms } = options;
        let (handing_over, handed_over) = watch::channel(Position::default());
        let log = GroupLog::open(store.clone(), id.0, handed_over.clone())?;
        remove_leftovers(&copies_dir, id.0);
        let (_, membership) = decode_applied(&tables.applied())
            .map_err(|what| ShardError::Damaged(format!("the tables of shard {id}: {what}")))?;
        let machine = StateMachine::new(tables.clone(), handing_over)
            .map_err(|what| ShardError::Damaged(format!("the tables of shard {id}: {what}")))?;
        let is_alone = membership.voter_ids().eq([node_id]);
        check_tables(&id.to_string(), log.state(), machine.last(), is_alone)?;
        let empty = log.state() == GroupState::default();
        let floor = log.state().floor.map(log_id).filter(|floor| log.state().last.map(log_id) < Some(*floor));
        let config = Arc::new(config(&id.to_string())?);
        let last_quorum = LastQuorum::default();
        let network =
            Network { group: id.0, peers, copies_dir: copies_dir.clone(), last_quorum: last_quorum.clone() };
        let raft =
            Raft::new(node_id, config, network.clone(), log.clone(), machine).await.map_err(stopped)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (role_in, role) = watch::channel(Role::Follower { leader: None });
        tokio::spawn(watch_core(id.to_string(), raft.clone(), store.clone(), stopping.clone()));
        let lag = SharedLag::default();
        let changes = metrics::counter!("opcode_leader_changes_total", "shard" => meters::label(id));
        let watched = (role_in, last_quorum.clone(), lag.clone(), log.clone());
        tokio::spawn(watch_role(raft.metrics(), watched, changes));
        let group = Arc::new(Self {
            id: id.0,
            node_id,
            raft,
            store,
            log,
            tables,
            network,
            handed_over,
            propose_max: Duration::from_millis(propose_timeout_ms),
            writes: RwLock::default(),
            stopping,
            role,
            last_quorum,
            lag,
            heard: Arc::default(),
            rounds: Rounds::default(),
            arrivals: Arc::default(),
            copies_dir,
            floor: Arc::new(Mutex::new(floor)),
            kept_for_backups: KeptForBackups::default(),
            held_from: AtomicU64::new(u64::MAX),
        });
        tokio::spawn(stand_in_turn(Electorate {
            raft: group.raft.clone(),
            log: group.log.clone(),
            me: node_id,
            network: group.network.clone(),
            heard: group.heard.clone(),
            floor: group.floor.clone(),
            stopping: group.stopping.clone(),
        }));
        if floor.is_some() {
            tokio::spawn(watch_floor(group.raft.clone(), group.floor.clone()));
        }
        let started = group.begin(empty && founds).await;
        if started.is_err() {
            group.shutdown().await;
        }
        started.map(|()| group)
    }

    /// Founds the group, or stands for election at once where nobody else could.
    async fn begin(&self, founds: bool) -> Result<(), ShardError> {
        if founds {
            let members = BTreeMap::from([(self.node_id, BasicNode::default())]);
            match self.raft.initialize(members).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(stopped(error)),
            }
        }
        if self.is_alone().await? && self.floor.lock().is_none() {
            self.raft.trigger().elect().await.map_err(stopped)?;
        }
        Ok(())
    }

    /// Whether this node is the group's only voter.
    pub async fn is_alone(&self) -> Result<bool, ShardError> {
        let node = self.node_id;
        self.raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([node]))
            .await
            .map_err(stopped)
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// What this node is in the group, from now on.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// Waits until this node leads, and gives the term.
    pub async fn leads(&self, within: Duration) -> Result<u64, ShardError> {
        let mut role = self.role();
        let leads = role.wait_for(|role| matches!(role, Role::Leader { .. }));
        match tokio::time::timeout(within, leads).await {
            Ok(Ok(role)) => match *role {
                Role::Leader { term } => Ok(term),
                Role::Follower { .. } => unreachable!("only a leader was waited for"),
            },
            Ok(Err(_)) => Err(ShardError::Stopped("the group has ended".into())),
            Err(_) => Err(ShardError::NotLeader),
        }
    }

    /// The term this node leads in, if it leads.
    pub fn leading_term(&self) -> Option<u64> {
        match *self.role.borrow() {
            Role::Leader { term } => Some(term),
            Role::Follower { .. } => None,
        }
    }

    /// The term that this node knows of.
    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow().current_term
    }

    /// Whether this node, as leader, has heard a majority lately: else it must start nothing.
    pub fn has_quorum(&self) -> bool {
        self.last_quorum.lock().is_some_and(|heard| heard.elapsed() <= QUORUM_MAX)
    }

    /// Whether this node's disk has room for new work.
    pub fn has_room(&self) -> bool {
        self.store.has_room()
    }

    /// How long ago this node, as leader, last heard a majority.
    pub(super) fn quorum_age(&self, now: Instant) -> Option<Duration> {
        self.last_quorum.lock().map(|heard| now.saturating_duration_since(heard))
    }

    /// Appends a batch that was decided in `term` and waits until it is committed; it has been
    /// enqueued to the tables by then. One at a time. On [`ShardError::Unknown`] it may yet be
    /// committed; on [`ShardError::NotLeader`] it never will be.
    pub async fn propose(&self, batch: Batch<Gathered>, term: u64) -> Result<Batch<Committed>, ShardError> {
        let records = batch.records().clone();
        let proposal = Proposal::encode(&records, term).map_err(ShardError::Refused)?;
        let position = self.write(proposal).await?;
        if position.term != term && !planted::is("skip-term-check") {
            // The state machine has passed over it, here and on every member.
            return Err(ShardError::NotLeader);
        }
        Ok(Batch::committed(records, position))
    }

    /// Appends a change of the membership group and waits until it is committed and applied.
    pub async fn propose_change(&self, change: Bytes) -> Result<Position, ShardError> {
        self.write(Proposal::change(&change).map_err(ShardError::Refused)?).await
    }

    async fn write(&self, proposal: Proposal) -> Result<Position, ShardError> {
        let _open = self.writes.read().await;
        self.write_at_once(proposal, self.propose_max).await
    }

    /// Writes whether the lead is being handed over or not.
    pub(super) async fn write_at_once(
        &self,
        proposal: Proposal,
        within: Duration,
    ) -> Result<Position, ShardError> {
        if self.raft.metrics().borrow().state != ServerState::Leader {
            return Err(ShardError::NotLeader);
        }
        if planted::is("acknowledge-before-quorum") {
            let (raft, metrics) = (self.raft.clone(), self.raft.metrics().borrow().clone());
            tokio::spawn(async move { raft.client_write(proposal).await });
            let index = metrics.last_log_index.unwrap_or_default() + 1;
            return Ok(Position { term: metrics.current_term, index });
        }
        let written = tokio::time::timeout(within, self.raft.client_write(proposal)).await;
        match written {
            Ok(Ok(response)) => Ok(position(response.log_id)),
            // Also what was in the log already is answered so when the lead is lost.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(ShardError::Unknown("the lead was lost before it was committed".into()))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(ShardError::Unknown(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(error)),
            Err(_) => Err(ShardError::Unknown(format!("no commit within {within:?}"))),
        }
    }

    /// Who is in the group.
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let last_index = metrics.last_log_index.unwrap_or_default();
        let reached = metrics.replication.iter().flatten();
        let matched: BTreeMap<NodeId, u64> =
            reached.filter_map(|(node, matched)| Some((*node, (*matched)?.index))).collect();
        let (lag, now) = (self.lag.lock(), Instant::now());
        let lag_ms = matched.iter().map(|(node, at)| (*node, lag.millis(now, *at, last_index))).collect();
        Members {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            matched,
            lag_ms,
            last_index,
            changing_to: match membership.get_joint_config().as_slice() {
                [_, .., last] => Some(last.clone()),
                [] | [_] => None,
            },
        }
    }

    /// Adds a member that only follows; being one already is fine.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ShardError> {
        let _open = self.writes.read().await;
        let added = self.raft.add_learner(node, BasicNode::default(), false);
        membership_changed(tokio::time::timeout(MEMBERS_MAX, added).await)
    }

    /// Makes these the voters; voters that are not listed only follow from then on. Each must have
    /// been added before.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ShardError> {
        let _open = self.writes.read().await;
        let changed = self.raft.change_membership(voters, true);
        membership_changed(tokio::time::timeout(MEMBERS_MAX, changed).await)
    }

    /// Takes followers out of the group.
    pub async fn remove(&self, learners: BTreeSet<NodeId>) -> Result<(), ShardError> {
        let _open = self.writes.read().await;
        let removed = self.raft.change_membership(ChangeMembers::RemoveNodes(learners), false);
        membership_changed(tokio::time::timeout(MEMBERS_MAX, removed).await)
    }

    /// Answers a message of another member; the error is a refusal.
    pub async fn answer(&self, service: Service, from: NodeId, body: Bytes) -> Result<Bytes, String> {
        let members = decode_request(&body)?;
        let answer = match (service, members) {
            (Service::Raft, Request::Append(request)) => {
                let (now, committed) = (Instant::now(), request.leader_commit.map_or(0, |id| id.index));
                let answer = self.raft.append_entries(request).await.map_err(|error| error.to_string())?;
                self.heard.lock().note(now, committed, &answer);
                Answer::Appended(answer)
            }
            (Service::Raft, Request::Vote(request)) => {
                self.heed_floor(request.last_log_id)?;
                Answer::Voted(self.raft.vote(request).await.map_err(|error| error.to_string())?)
            }
            (Service::Raft, Request::Poll { last }) => self.would_vote(last).await?,
            (Service::Raft, Request::Lead { term, last }) => self.take_over(from, term, last).await?,
            (Service::Copy, Request::Piece(piece)) => self.take_piece(piece).await?,
            (
                Service::Raft
                | Service::Copy
                | Service::Shard
                | Service::Cluster
                | Service::Backup
                | Service::Node
                | Service::Audit,
                _,
            ) => {
                return Err(format!("node {from} sent a message where it does not belong"));
            }
        };
        encode_answer(&answer)
    }

    /// The last committed position that has been handed to the tables.
    pub fn committed(&self) -> Position {
        *self.handed_over.borrow()
    }

    /// Purges what the tables have checkpointed; call now and then. With other members in the
    /// group, the last entries stay for those that lag.
    pub async fn purge(&self) -> Result<(), ShardError> {
        let Some(applied) = self.tables.checkpointed() else { return Ok(()) };
        let (Some(upto), membership) = decode_applied(&applied).map_err(ShardError::Damaged)? else {
            return Ok(());
        };
        let metrics = self.raft.metrics();
        let (purged, last) = {
            let metrics = metrics.borrow();
            (metrics.purged.map(|id| id.index), metrics.last_log_index.unwrap_or_default())
        };
        let is_alone = membership.nodes().count() <= 1;
        let kept = if simulation::is_on() { KEPT_ENTRIES_SIMULATED } else { KEPT_ENTRIES };
        let kept_from = self.store.first_of_last(self.id, kept, KEPT_BYTES).unwrap_or(last + 1);
        let index = if is_alone { upto.index } else { upto.index.min(kept_from.saturating_sub(1)) };
        let index = index.min(self.first_for_backups().map_or(u64::MAX, |first| first.saturating_sub(1)));
        let index = index.min(self.held(last).saturating_sub(1));
        if index == 0 || purged.is_some_and(|purged| purged >= index) {
            return Ok(());
        }
        // openraft purges below its last snapshot only.
        self.raft.trigger().snapshot().await.map_err(stopped)?;
        let marked =
            |metrics: &RaftMetrics<u64, BasicNode>| metrics.snapshot.is_some_and(|s| s.index >= index);
        let unpurged = |error| ShardError::Unknown(format!("the log was not purged: {error}"));
        self.raft.wait(Some(PURGE_MAX)).metrics(marked, "marked").await.map_err(unpurged)?;
        self.raft.trigger().purge_log(index).await.map_err(stopped)?;
        let is_purged =
            |metrics: &RaftMetrics<u64, BasicNode>| metrics.purged.is_some_and(|p| p.index >= index);
        self.raft.wait(Some(PURGE_MAX)).metrics(is_purged, "purged").await.map_err(unpurged)?;
        metrics::gauge!("opcode_log_purged_index", "group" => self.id.to_string()).set(index as f64);
        Ok(())
    }

    /// Stops this node's part; what was committed stays.
    pub async fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "a group did not stop as it should");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // openraft's core ends with its last handle, or with the runtime.
        self.stopping.store(true, Ordering::Release);
    }
}

type WriteError = RaftError<u64, ClientWriteError<u64, BasicNode>>;

fn membership_changed<T>(
    changed: Result<Result<T, WriteError>, tokio::time::error::Elapsed>,
) -> Result<(), ShardError> {
    match changed {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ShardError::NotLeader),
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
            Err(ShardError::Refused(error.to_string()))
        }
        Ok(Err(RaftError::Fatal(error))) => Err(stopped(error)),
        Err(_) => Err(ShardError::Unknown("the change of members has not been committed yet".into())),
    }
}

fn config(name: &str) -> Result<Config, ShardError> {
    let lease = u64::try_from(LEASE.as_millis()).expect("a moment");
    Config {
        cluster_name: format!("shard-{name}"),
        heartbeat_interval: HEARTBEAT_MS,
        // The upper one is also the lease; who stands when, `elections` says.
        election_timeout_min: lease - 1,
        election_timeout_max: lease,
        enable_elect: false,
        install_snapshot_timeout: SNAPSHOT_MS_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        // Purged by `purge` alone.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
    .validate()
    .map_err(|error| ShardError::Refused(format!("the group's settings: {error}")))
}

/// Tables and log of one shard belong together: nothing may be missing between them.
fn check_tables(
    shard: &str,
    log: GroupState,
    applied: Option<LogId<u64>>,
    is_alone: bool,
) -> Result<(), ShardError> {
    let applied_to = applied.map(|id| id.index);
    let purged_to = log.purged.map(|id| id.index);
    if applied_to < purged_to {
        return Err(ShardError::Damaged(format!(
            "the tables of shard {shard} end at entry {applied_to:?}, but its log starts behind entry \
             {purged_to:?}: the tables are older than the log, or lost"
        )));
    }
    // Tables that came as a copy may be ahead of the log; one that never voted is not theirs.
    let may_be_ahead = !is_alone && log.vote.is_some();
    if applied > log.last.map(log_id) && !may_be_ahead {
        return Err(ShardError::Damaged(format!(
            "the tables of shard {shard} hold entry {applied_to:?}, but its log ends at {:?}: the log is \
             older than the tables, or lost",
            log.last.map(|id| id.index)
        )));
    }
    Ok(())
}

/// Tells what this node is in the group, and notes when it last heard a majority.
async fn watch_role(
    mut metrics: watch::Receiver<RaftMetrics<u64, BasicNode>>,
    (role, last_quorum, lag, log): (watch::Sender<Role>, LastQuorum, SharedLag, GroupLog),
    changes: metrics::Counter,
) {
    let mut looked = Instant::now();
    let mut led_by = None;
    loop {
        // A report was made at some time since the last look, and the process may have been stopped
        // for long in between: what it says of the quorum is no younger than that look.
        let reported_from = std::mem::replace(&mut looked, Instant::now());
        let now_is = {
            let metrics = metrics.borrow_and_update();
            let is_alone = metrics.membership_config.voter_ids().count() == 1;
            let heard = match is_alone {
                true => Some(looked),
                false => metrics
                    .millis_since_quorum_ack
                    .and_then(|ms| reported_from.checked_sub(Duration::from_millis(ms))),
            };
            let leads = metrics.running_state.is_ok()
                && metrics.state == ServerState::Leader
                && metrics.last_applied.is_some_and(|last| last.leader_id.term == metrics.current_term);
            if let Some(leader) = metrics.current_leader
                && led_by.replace(leader).is_some_and(|before| before != leader)
            {
                changes.increment(1);
            }
            log.set_alone(metrics.membership_config.nodes().count() == 1);
            lag.lock().note(looked, metrics.last_log_index.unwrap_or_default());
            *last_quorum.lock() = heard.filter(|_| leads);
            match leads {
                true => Role::Leader { term: metrics.current_term },
                false => Role::Follower { leader: metrics.current_leader.filter(|id| *id != metrics.id) },
            }
        };
        role.send_if_modified(|role| std::mem::replace(role, now_is) != now_is);
        if metrics.changed().await.is_err() {
            role.send_replace(Role::Follower { leader: None });
            return;
        }
    }
}

/// Waits for openraft's core to end, and stops the process unless it was told to.
async fn watch_core(group: String, raft: Raft<TypeConfig>, store: Arc<LogStore>, stopping: Arc<AtomicBool>) {
    let (mut server, metrics) = (raft.server_metrics(), raft.metrics());
    drop(raft);
    // Those of the server change seldom, and end with the core, after it has said why.
    while server.changed().await.is_ok() {}
    let why = match &metrics.borrow().running_state {
        Ok(()) => "it is gone".to_owned(),
        Err(Fatal::Stopped) => return,
        Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => error.to_string(),
    };
    if !stopping.load(Ordering::Acquire) {
        store.shared.give_up(&format!("the core of shard {group}'s group has died: {why}"));
    }
}

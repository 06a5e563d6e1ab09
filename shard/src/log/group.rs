//! A group: openraft over the node's log store and a shard's tables.
//!
//! It acts on committed results only, answers within a bound, and never outlives openraft's core
//! in silence: a core that has died while the process lives stops the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{BasicNode, Config, LogId, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;

use super::index::GroupState;
use super::network::NoPeers;
use super::state_machine::{HandedOver, StateMachine, decode_applied, position};
use super::storage::GroupLog;
use super::type_config::{Proposal, TypeConfig, log_id};
use super::{GroupOptions, LogStore, Tables};
use crate::batch::{Batch, Committed, Gathered, Position};
use crate::error::ShardError;

/// Also the timeout of an append to a follower.
const HEARTBEAT_MS: u64 = 250;
const ELECTION_MS_MIN: u64 = 1_000;
const ELECTION_MS_MAX: u64 = 2_000;
/// A copy of the tables may take its time.
const SNAPSHOT_MS_MAX: u64 = 10_000;
/// Longest wait for a group of one member to lead and to hand over what was committed.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a purge, which waits for nothing but openraft's own turn.
const PURGE_MAX: Duration = Duration::from_secs(10);

/// A shard's replicated log.
pub struct Group {
    raft: Raft<TypeConfig>,
    tables: Arc<dyn Tables>,
    handed_over: HandedOver,
    propose_max: Duration,
    stopping: Arc<AtomicBool>,
}

impl Group {
    /// Starts the group over `store`; an empty one is initialised with this node alone. Entries
    /// above what the tables hold are handed to them again. Returns once this node leads and all
    /// that was committed has been enqueued.
    pub async fn start(
        options: GroupOptions,
        store: Arc<LogStore>,
        tables: Arc<dyn Tables>,
    ) -> Result<Self, ShardError> {
        let shard = options.shard;
        let log = GroupLog::open(store.clone(), shard.0)?;
        let handed_over: HandedOver = Arc::new(Mutex::new(Position::default()));
        let machine = StateMachine::new(tables.clone(), handed_over.clone())
            .map_err(|what| ShardError::Damaged(format!("the tables of shard {shard}: {what}")))?;
        check_tables(shard.0, log.state(), machine.last())?;
        let empty = log.state() == GroupState::default();
        let config = Arc::new(config(shard.0)?);
        let stopped = |error: &dyn std::fmt::Display| ShardError::Stopped(error.to_string());
        let raft = Raft::new(options.node_id, config, NoPeers, log, machine);
        let raft = raft.await.map_err(|error| stopped(&error))?;
        let stopping = Arc::new(AtomicBool::new(false));
        tokio::spawn(watch_core(shard.0, raft.clone(), store, stopping.clone()));
        let group = Self {
            raft,
            tables,
            handed_over,
            propose_max: Duration::from_millis(options.propose_timeout_ms),
            stopping,
        };
        let started = group.lead(options.node_id, empty).await;
        if started.is_err() {
            group.shutdown().await;
        }
        started.map(|()| group)
    }

    /// Waits until this node, the only member, leads, and has handed over all that is committed.
    async fn lead(&self, node_id: u64, empty: bool) -> Result<(), ShardError> {
        if empty {
            let members = BTreeMap::from([(node_id, BasicNode::default())]);
            match self.raft.initialize(members).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(ShardError::Stopped(error.to_string())),
            }
        } else {
            self.raft.trigger().elect().await.map_err(|error| ShardError::Stopped(error.to_string()))?;
        }
        let leads = |metrics: &RaftMetrics<u64, BasicNode>| {
            metrics.state == ServerState::Leader
                && metrics.last_applied.is_some_and(|last| {
                    last.leader_id.term == metrics.current_term && Some(last.index) == metrics.last_log_index
                })
        };
        self.raft
            .wait(Some(START_MAX))
            .metrics(leads, "this node leads and has handed over its log")
            .await
            .map_err(|error| ShardError::Stopped(format!("the group does not start: {error}")))?;
        Ok(())
    }

    /// Appends a batch and waits until it is committed; it has been enqueued to the tables by
    /// then. One at a time. On [`ShardError::Unknown`] it may yet be committed.
    pub async fn propose(&self, batch: Batch<Gathered>) -> Result<Batch<Committed>, ShardError> {
        let records = batch.records().clone();
        let proposal = Proposal::encode(&records).map_err(ShardError::Refused)?;
        let written = tokio::time::timeout(self.propose_max, self.raft.client_write(proposal)).await;
        match written {
            Ok(Ok(response)) => Ok(Batch::committed(records, position(response.log_id))),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(ShardError::NotLeader),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(ShardError::Unknown(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(ShardError::Stopped(error.to_string())),
            Err(_) => Err(ShardError::Unknown(format!("no commit within {:?}", self.propose_max))),
        }
    }

    /// The term this node leads in, if it leads.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.running_state.is_ok() && metrics.state == ServerState::Leader)
            .then_some(metrics.current_term)
    }

    /// The last committed position that has been handed to the tables.
    pub fn committed(&self) -> Position {
        *self.handed_over.lock()
    }

    /// Purges what the tables have checkpointed; call now and then.
    pub async fn purge(&self) -> Result<(), ShardError> {
        let Some(applied) = self.tables.checkpointed() else { return Ok(()) };
        let (Some(upto), _) = decode_applied(&applied).map_err(ShardError::Damaged)? else { return Ok(()) };
        if self.raft.metrics().borrow().purged.is_some_and(|purged| purged >= upto) {
            return Ok(());
        }
        let stopped = |error: Fatal<u64>| ShardError::Stopped(error.to_string());
        self.raft.trigger().snapshot().await.map_err(stopped)?;
        self.raft
            .wait(Some(PURGE_MAX))
            .metrics(|metrics| metrics.purged.is_some_and(|purged| purged >= upto), "purged")
            .await
            .map_err(|error| ShardError::Unknown(format!("the log was not purged: {error}")))?;
        Ok(())
    }

    /// Stops the group; what was committed stays.
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

fn config(shard: u32) -> Result<Config, ShardError> {
    Config {
        cluster_name: format!("shard-{shard}"),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        install_snapshot_timeout: SNAPSHOT_MS_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    }
    .validate()
    .map_err(|error| ShardError::Refused(format!("the group's settings: {error}")))
}

/// Tables and log of one shard belong together: nothing may be missing between them.
fn check_tables(shard: u32, log: GroupState, applied: Option<LogId<u64>>) -> Result<(), ShardError> {
    let applied_to = applied.map(|id| id.index);
    let purged_to = log.purged.map(|id| id.index);
    if applied_to < purged_to {
        return Err(ShardError::Damaged(format!(
            "the tables of shard {shard} end at entry {applied_to:?}, but its log starts behind entry \
             {purged_to:?}: the tables are older than the log, or lost"
        )));
    }
    if applied > log.last.map(log_id) {
        return Err(ShardError::Damaged(format!(
            "the tables of shard {shard} hold entry {applied_to:?}, but its log ends at {:?}: the log is \
             older than the tables, or lost",
            log.last.map(|id| id.index)
        )));
    }
    Ok(())
}

/// Waits for openraft's core to end, and stops the process unless it was told to.
async fn watch_core(shard: u32, raft: Raft<TypeConfig>, store: Arc<LogStore>, stopping: Arc<AtomicBool>) {
    let mut metrics = raft.metrics();
    drop(raft);
    let why = loop {
        match &metrics.borrow_and_update().running_state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => break error.to_string(),
        }
        if metrics.changed().await.is_err() {
            break "it is gone".to_owned();
        }
    };
    if !stopping.load(Ordering::Acquire) {
        store.shared.give_up(&format!("the core of shard {shard}'s group has died: {why}"));
    }
}

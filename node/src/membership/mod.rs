//! Membership: which nodes there are and which shards they hold, agreed on in a small group.
//!
//! [`change`] says what a change does to the map; `state_machine` keeps it; [`placement`] decides
//! who should hold what; [`controller`] runs where the group is led, and brings the map in line
//! with the nodes; [`agent`] runs on every node, and brings its shards in line with the map, `lead`
//! those that it leads. Whose turn it is among a group's members is said by [`step`].

pub(crate) mod agent;
pub(crate) mod change;
pub(crate) mod controller;
mod lead;
pub(crate) mod placement;
mod state_machine;
pub(crate) mod step;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use opcode_engine::ids::ShardId;
use opcode_router::shard_map::ShardMap;
use opcode_shard::error::ShardError;
use opcode_shard::log::{Applied, Group, GroupOptions, LogStore, Role, Tables};
use opcode_shard::peer::{NodeId, PeerError, Peers, Service};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use change::{Change, Outcome, Refusal};
use state_machine::MapTables;

/// The membership group's tables, in the data folder.
const MAP_FILE: &str = "membership.json";
/// Longest wait for a change to be committed.
const CHANGE_MAX: Duration = Duration::from_secs(5);
/// How often a change is tried again while the group has no leader.
const AGAIN_EVERY: Duration = Duration::from_millis(200);

/// What nodes tell each other over [`Service::Cluster`].
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Change(Change),
    /// Who leads the group?
    Leader,
}

/// What they answer.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(u64),
    Refused(Refusal),
    /// Another leads the group; who, if that is known.
    NotLeader(Option<NodeId>),
    /// It may have been taken.
    Unknown(String),
    /// The node that asks has left the cluster for good.
    Removed,
}

/// This node's part in the membership group.
pub(crate) struct Membership {
    pub(crate) node_id: NodeId,
    pub(crate) group: Arc<Group>,
    tables: Arc<MapTables>,
    peers: Arc<dyn Peers>,
    /// What the node knew of the others before the log told it.
    seed: Option<Arc<ShardMap>>,
    /// Another node has said that this one was removed.
    told_removed: AtomicBool,
}

/// What a membership begins with.
pub(crate) enum Begin {
    /// A new cluster of this node, with this map.
    Found(Box<ShardMap>),
    /// A cluster that this node has joined; its map then.
    Joined(Option<Arc<ShardMap>>),
}

/// What a stopped node knows of its cluster, from its folder: how far its part in the membership
/// group has come, and the map then.
pub(crate) fn known_to(data_dir: &Path, cluster_id: &str) -> Result<(Applied, Option<Arc<ShardMap>>)> {
    let tables = MapTables::open(data_dir.join(MAP_FILE), cluster_id)?;
    let map = tables.map().borrow().clone();
    Ok((tables.applied(), map))
}

/// A change as the membership group's log holds it.
pub(crate) fn encode_change(change: &Change) -> Vec<u8> {
    state_machine::encode(change)
}

impl Membership {
    /// Takes part in the group; one that founds it returns with the map agreed on.
    pub(crate) async fn start(
        data_dir: &Path,
        cluster_id: &str,
        node_id: NodeId,
        begin: Begin,
        log: Arc<LogStore>,
        peers: Arc<dyn Peers>,
    ) -> Result<Arc<Self>> {
        let tables = Arc::new(MapTables::open(data_dir.join(MAP_FILE), cluster_id)?);
        let options = GroupOptions {
            group: ShardId::MEMBERSHIP,
            node_id,
            founds: matches!(begin, Begin::Found(_)),
            copies_dir: data_dir.join("membership-copies"),
            propose_timeout_ms: u64::try_from(CHANGE_MAX.as_millis()).expect("seconds"),
        };
        let group = Group::start(options, log, tables.clone(), peers.clone())
            .await
            .context("the membership group")?;
        let (seed, found) = match begin {
            Begin::Found(map) => (None, Some(map)),
            Begin::Joined(seed) => (seed, None),
        };
        let membership =
            Arc::new(Self { node_id, group, tables, peers, seed, told_removed: AtomicBool::new(false) });
        if let Some(map) = found
            && membership.known_map().is_none()
            && membership.group.is_alone().await?
        {
            membership.group.leads(CHANGE_MAX).await.context("the membership group has no leader")?;
            if membership.known_map().is_none() {
                let change = Change::Found(map);
                membership.submit(change).await?.map_err(anyhow::Error::msg)?;
            }
        }
        Ok(membership)
    }

    fn known_map(&self) -> Option<Arc<ShardMap>> {
        self.tables.map().borrow().clone()
    }

    /// Whether the log has told the map, which then is at least as new as any that was followed
    /// before a restart.
    pub(crate) fn knows_map(&self) -> bool {
        self.tables.map().borrow().is_some()
    }

    /// The map, from the log or as it was when this node joined, whichever is newer: a node that
    /// has just joined learns from the log how the map came about.
    pub(crate) fn map(&self) -> Option<Arc<ShardMap>> {
        let known = self.known_map().into_iter().chain(self.seed.clone());
        known.max_by_key(|map| map.version)
    }

    /// Whether a node has left the cluster for good: nothing that it says counts any more. It may
    /// not know, and would stand for election in groups that go on without it.
    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.tables.peek(|map| map.is_some_and(|map| map.is_removed(node)))
    }

    /// The map from the log, as it changes.
    pub(crate) fn maps(&self) -> watch::Receiver<Option<Arc<ShardMap>>> {
        self.tables.map()
    }

    /// Whether this node has left the cluster for good, by its own log or as others say.
    pub(crate) fn was_removed(&self) -> bool {
        self.told_removed.load(Ordering::Relaxed) || self.is_removed(self.node_id)
    }

    /// Asks around who leads, for a node that hears of no leader: one that was removed while it was
    /// away hears of nothing else, and is told so.
    pub(crate) async fn ask_around(&self) {
        let Some(map) = self.map() else { return };
        for node in map.nodes.keys().copied().filter(|node| *node != self.node_id) {
            if let Answer::Removed = self.ask(node, &Message::Leader).await {
                return;
            }
        }
    }

    /// The map once this node knows it and it has at least `version`; the error says that it did not
    /// come in time.
    pub(crate) async fn map_from(&self, version: u64) -> Result<Arc<ShardMap>, String> {
        if let Some(map) = self.map().filter(|map| map.version >= version) {
            return Ok(map);
        }
        let mut maps = self.maps();
        let is_it = |map: &Option<Arc<ShardMap>>| map.as_ref().is_some_and(|map| map.version >= version);
        match tokio::time::timeout(CHANGE_MAX, maps.wait_for(is_it)).await {
            Ok(Ok(map)) => map.clone().ok_or_else(|| "there is no map".into()),
            Ok(Err(_)) => Err("the node is stopping: nothing was changed".into()),
            Err(_) => Err("this node does not know the newest map: nothing was changed".into()),
        }
    }

    /// Whether this node leads the group.
    pub(crate) fn leads(&self) -> bool {
        self.group.leading_term().is_some()
    }

    /// Who leads the group, if that is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        match *self.group.role().borrow() {
            Role::Leader { .. } => Some(self.node_id),
            Role::Follower { leader } => leader,
        }
    }

    /// Has a change made by whoever leads the group. The inner error is a refusal that changed
    /// nothing; the outer one says that nobody could be found to decide, or that it is unknown
    /// whether it was taken.
    pub(crate) async fn submit(&self, change: Change) -> Result<Outcome> {
        let deadline = tokio::time::Instant::now() + CHANGE_MAX;
        let mut hint = None;
        loop {
            let leader = if self.leads() { Some(self.node_id) } else { hint.take().or(self.leader()) };
            let answer = match leader {
                Some(node) if node == self.node_id => self.decide(change.clone()).await,
                Some(node) => self.ask(node, &Message::Change(change.clone())).await,
                None => Answer::NotLeader(None),
            };
            match answer {
                Answer::Done(number) => return Ok(Ok(number)),
                Answer::Refused(why) => return Ok(Err(why)),
                Answer::Unknown(why) => anyhow::bail!("it is not known whether the change was taken: {why}"),
                Answer::Removed => anyhow::bail!("this node was removed: nothing was changed"),
                Answer::NotLeader(leader) => hint = leader.filter(|node| *node != self.node_id),
            }
            if tokio::time::Instant::now() >= deadline {
                anyhow::bail!("the membership group has no leader that can be reached: nothing was changed");
            }
            tokio::time::sleep(AGAIN_EVERY).await;
        }
    }

    async fn ask(&self, node: NodeId, message: &Message) -> Answer {
        let body = serde_json::to_vec(message).expect("a message is JSON");
        let answered = self.peers.call(node, Service::Cluster, 0, body.into(), CHANGE_MAX).await;
        let answer = match answered {
            Ok(body) => {
                serde_json::from_slice(&body).unwrap_or_else(|error| Answer::Unknown(error.to_string()))
            }
            Err(PeerError::Unreachable { .. } | PeerError::Refused { .. }) => Answer::NotLeader(None),
            Err(error @ PeerError::Lost { .. }) => Answer::Unknown(error.to_string()),
        };
        if let Answer::Removed = answer {
            self.told_removed.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Decides a change as the group's leader.
    async fn decide(&self, change: Change) -> Answer {
        match self.group.propose_change(state_machine::encode(&change).into()).await {
            Ok(position) => match self.tables.outcome(position) {
                Some(Ok(number)) => Answer::Done(number),
                Some(Err(why)) => Answer::Refused(why),
                None => Answer::Unknown("its outcome is not remembered".into()),
            },
            Err(ShardError::NotLeader) => Answer::NotLeader(self.leader()),
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    /// Answers another node; an error is a refusal.
    pub(crate) async fn answer(&self, from: NodeId, body: &[u8]) -> Result<Bytes, String> {
        let answer = match serde_json::from_slice(body).map_err(|error| error.to_string())? {
            _ if self.is_removed(from) => Answer::Removed,
            Message::Change(change) if !change.may_be_asked_for() => {
                Answer::Refused("no node may ask for such a change".into())
            }
            Message::Change(change) => self.decide(change).await,
            Message::Leader => Answer::NotLeader(self.leader()),
        };
        Ok(serde_json::to_vec(&answer).expect("an answer is JSON").into())
    }
}

//! On every node: brings its shards in line with the map. Starts the replicas that it shall hold,
//! stops those that it shall hold no more, and, for the shards that it leads, brings the group's
//! members to the nodes of the map and the lead to the node that should have it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opcode_engine::ids::ShardId;
use opcode_router::LocalShards;
use opcode_router::shard_map::{ShardEntry, ShardMap};
use opcode_shard::Shard;
use opcode_shard::peer::NodeId;

use super::Membership;
use super::change::Change;
use crate::shards::Starter;
use crate::transport::Transport;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Entries that a follower may be behind before it is made a voter.
const BEHIND_MAX: u64 = 100;
/// How long this node has led a shard, and the others have been there, before it gives the lead
/// to the node that should have it.
const STABLE_FOR: Duration = Duration::from_secs(5);
/// Longest wait for the lead of one shard to go over when the node stops.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// The node's replicas.
pub(crate) struct Agent {
    pub(crate) membership: Arc<Membership>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) local: Arc<LocalShards>,
    pub(crate) starter: Starter,
    pub(crate) running: HashMap<ShardId, Shard>,
    led_since: HashMap<ShardId, Instant>,
    /// The newest version of the map that was followed: a node that has joined is told the map, and
    /// then learns from the log how it came about.
    newest: u64,
}

impl Agent {
    pub(crate) fn new(
        membership: Arc<Membership>,
        transport: Arc<Transport>,
        local: Arc<LocalShards>,
        starter: Starter,
    ) -> Self {
        let (running, led_since) = (HashMap::new(), HashMap::new());
        Self { membership, transport, local, starter, running, led_since, newest: 0 }
    }

    /// Works until a replica fails, and says why. Dropped at any point, it leaves the replicas as
    /// they are.
    pub(crate) async fn run(&mut self) -> anyhow::Error {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                error = failed(&mut self.running) => return error,
            }
            let Some(map) = self.membership.map() else { continue };
            if let Err(error) = self.follow(&map).await {
                return error;
            }
            for entry in map.all_shards() {
                if let Err(error) = self.tend(&map, entry).await {
                    tracing::warn!(shard = %entry.shard, error = format!("{error:#}"), "will try again");
                }
            }
        }
    }

    /// Starts and stops replicas as the map says.
    pub(crate) async fn follow(&mut self, map: &ShardMap) -> anyhow::Result<()> {
        if map.version < self.newest {
            return Ok(());
        }
        let me = self.membership.node_id;
        let addresses = map.nodes.iter().map(|(node, entry)| (*node, entry.peer_addr.clone())).collect();
        self.transport.set_addresses(addresses);
        self.transport.connect_all();
        let held: BTreeSet<ShardId> =
            map.all_shards().filter(|e| e.holders().any(|node| node == me)).map(|e| e.shard).collect();
        let gone: Vec<ShardId> = self.running.keys().copied().filter(|shard| !held.contains(shard)).collect();
        for shard in gone {
            if let Some(replica) = self.running.remove(&shard) {
                tracing::info!(%shard, "this node holds the shard no more");
                self.local.remove(shard);
                // A node that was thrown out keeps its files: nobody has said that others have them.
                match map.nodes.contains_key(&me) {
                    true => replica.destroy().await?,
                    false => replica.stop().await?,
                }
            }
        }
        if map.version > self.newest && map.nodes.contains_key(&me) && self.membership.knows_map() {
            for entry in map.all_shards().filter(|entry| !held.contains(&entry.shard)) {
                self.starter.remove_leftover(entry.shard).await?;
            }
        }
        self.newest = map.version;
        let missing =
            map.all_shards().filter(|e| held.contains(&e.shard) && !self.running.contains_key(&e.shard));
        let starts = missing.map(|entry| self.starter.start(entry, me));
        for replica in futures::future::try_join_all(starts).await? {
            let handle = replica.handle();
            self.running.insert(handle.id(), replica);
            self.local.insert(handle);
        }
        Ok(())
    }

    /// Takes one step for a shard that this node leads.
    async fn tend(&mut self, map: &ShardMap, entry: &ShardEntry) -> anyhow::Result<()> {
        let Some(handle) = self.running.get(&entry.shard).map(Shard::handle).filter(|h| h.serves()) else {
            self.led_since.remove(&entry.shard);
            return Ok(());
        };
        let led_since = *self.led_since.entry(entry.shard).or_insert_with(Instant::now);
        let me = self.membership.node_id;
        let group = handle.group();
        let members = group.members();
        if members.is_changing {
            return Ok(());
        }
        let target: BTreeSet<NodeId> = entry.replicas.iter().copied().collect();
        let known: BTreeSet<NodeId> = members.voters.union(&members.learners).copied().collect();
        if let Some(new) = target.difference(&known).next() {
            tracing::info!(shard = %entry.shard, node = new, "a replica is added");
            return Ok(group.add_learner(*new).await?);
        }
        let has_log = |node: &NodeId| {
            *node == me || members.matched.get(node).is_some_and(|at| at + BEHIND_MAX >= members.last_index)
        };
        if target != members.voters {
            if !target.iter().all(has_log) {
                return Ok(());
            }
            // Whoever leads must be among the voters until another does.
            let voters: BTreeSet<NodeId> = target.iter().copied().chain([me]).collect();
            if voters != members.voters {
                tracing::info!(shard = %entry.shard, ?voters, "its voters change");
                return Ok(group.set_voters(voters).await?);
            }
            let successor = target.iter().find(|node| self.transport.is_alive(**node));
            return match successor {
                Some(node) => Ok(group.hand_over(*node).await?),
                None => Ok(()),
            };
        }
        let gone: BTreeSet<NodeId> = members.learners.difference(&target).copied().collect();
        if !gone.is_empty() {
            return Ok(group.remove(gone).await?);
        }
        if !entry.retiring.is_empty() {
            let settled = Change::Settled { shard: entry.shard, epoch: entry.epoch };
            return self.membership.submit(settled).await?.map(|_| ()).map_err(anyhow::Error::msg);
        }
        let preferred = entry.replicas.first().copied().filter(|node| *node != me);
        match preferred {
            Some(node)
                if led_since.elapsed() >= STABLE_FOR
                    && map.nodes.contains_key(&node)
                    && self.transport.is_alive(node)
                    && has_log(&node) =>
            {
                tracing::info!(shard = %entry.shard, to = node, "the lead goes where it belongs");
                Ok(group.hand_over(node).await?)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Gives the lead of every shard to another that can take it, then stops all replicas.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let leaving = self.running.values().map(|replica| leave(replica.handle(), &self.transport));
        futures::future::join_all(leaving).await;
        for result in futures::future::join_all(self.running.into_values().map(Shard::stop)).await {
            result?;
        }
        Ok(())
    }
}

/// Hands the lead of one shard over, if somebody can take it.
async fn leave(handle: opcode_shard::ShardHandle, transport: &Transport) {
    let group = handle.group();
    if group.leading_term().is_none() {
        return;
    }
    let members = group.members();
    let best = members
        .matched
        .iter()
        .filter(|(node, _)| members.voters.contains(node) && transport.is_alive(**node))
        .filter(|(node, _)| **node != group.node_id())
        .max_by_key(|(_, at)| **at);
    if let Some((node, _)) = best {
        match tokio::time::timeout(LEAVE_MAX, group.hand_over(*node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(shard = %handle.id(), %error, "the lead was not handed over"),
            Err(_) => tracing::warn!(shard = %handle.id(), "nobody took the lead in time"),
        }
    }
}

/// Waits for the first replica that fails; says which and why.
async fn failed(running: &mut HashMap<ShardId, Shard>) -> anyhow::Error {
    if running.is_empty() {
        return std::future::pending().await;
    }
    let failures = running.iter_mut().map(|(id, shard)| {
        Box::pin(async move { anyhow::Error::new(shard.failed().await).context(format!("shard {id}")) })
    });
    futures::future::select_all(failures).await.0
}

//! On every node: brings its shards in line with the map. Starts the replicas that it shall hold,
//! stops those that it shall hold no more, and, for the shards that it leads, brings the group's
//! members to the nodes of the map and the lead to the node that should have it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opcode_engine::ids::ShardId;
use opcode_router::LocalShards;
use opcode_router::shard_map::ShardMap;
use opcode_shard::{Shard, ShardHandle};

use super::Membership;
use super::lead::{Leads, leave};
use crate::shards::Starter;
use crate::transport::Transport;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why an agent works no more.
pub(crate) enum Ended {
    /// A replica failed.
    Failed(anyhow::Error),
    /// The cluster has taken this node out.
    Removed,
}

/// The node's replicas.
pub(crate) struct Agent {
    pub(crate) membership: Arc<Membership>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) local: Arc<LocalShards>,
    pub(crate) starter: Starter,
    pub(crate) running: HashMap<ShardId, Shard>,
    leads: Leads,
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
        let leads = Leads::new(membership.clone(), transport.clone());
        Self { membership, transport, local, starter, running: HashMap::new(), leads, newest: 0 }
    }

    /// Works until a replica fails or the cluster has taken this node out. Dropped at any point, it
    /// leaves the replicas as they are.
    pub(crate) async fn run(&mut self) -> Ended {
        let mut look = opcode_shard::ticks::every(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                error = failed(&mut self.running) => return Ended::Failed(error),
            }
            let Some(map) = self.membership.map() else { continue };
            if let Err(error) = self.follow(&map).await {
                return Ended::Failed(error);
            }
            if self.membership.was_removed() {
                return Ended::Removed;
            }
            let handles: Vec<ShardHandle> = self.running.values().map(Shard::handle).collect();
            self.leads.look(&map, handles, Instant::now());
        }
    }

    /// Starts and stops replicas as the map says.
    pub(crate) async fn follow(&mut self, map: &ShardMap) -> anyhow::Result<()> {
        if map.version < self.newest {
            return Ok(());
        }
        let me = self.membership.node_id;
        self.transport.set_addresses(map.peer_addresses());
        self.transport.connect_all();
        let held: BTreeSet<ShardId> =
            map.all_shards().filter(|e| e.holders().any(|node| node == me)).map(|e| e.shard).collect();
        let gone: Vec<ShardId> = self.running.keys().copied().filter(|shard| !held.contains(shard)).collect();
        for shard in gone {
            if let Some(replica) = self.running.remove(&shard) {
                tracing::info!(%shard, "this node holds the shard no more");
                self.leads.forget(shard);
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

    /// Gives the lead of every shard to another that can take it, then stops all replicas.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.leads.end().await;
        let leaving = self.running.values().map(|replica| leave(replica.handle(), &self.transport));
        futures::future::join_all(leaving).await;
        for result in futures::future::join_all(self.running.into_values().map(Shard::stop)).await {
            result?;
        }
        Ok(())
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

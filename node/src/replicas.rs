//! Embedded replicas of shards that this node is no member of, for reads here: which ones it
//! keeps, and from whom. They are in `DATA_DIR/replicas`, and may be deleted whenever it is down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use opcode_engine::ids::ShardId;
use opcode_router::LocalShards;
use opcode_router::shard_map::{ShardEntry, ShardMap};
use opcode_shard::peer::NodeId;
use opcode_shard::replica::sync_client::{ReadReplica, ReplicaOptions, ReplicaThreads};
use tokio::sync::watch;

/// How often it looks when the map does not change: a replica may have been given up meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The shards to keep replicas of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    These(BTreeSet<ShardId>),
}

impl Wanted {
    /// `all`, or numbers of shards with commas between; empty is none.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "all" {
            return Ok(Self::All);
        }
        let numbers = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let parsed = numbers.map(|word| {
            word.parse().map(ShardId).with_context(|| {
                format!("replicas: `{word}` is no shard; give `all`, or numbers with commas between")
            })
        });
        parsed.collect::<Result<_>>().map(Self::These)
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::These(shards) if shards.is_empty())
    }

    fn contains(&self, shard: ShardId) -> bool {
        match self {
            Self::All => true,
            Self::These(shards) => shards.contains(&shard),
        }
    }
}

/// Keeps a node's replicas.
pub(crate) struct Keeper {
    pub(crate) wanted: Wanted,
    pub(crate) map: watch::Receiver<Arc<ShardMap>>,
    pub(crate) node_id: NodeId,
    /// What it shows the members; empty where they ask for nothing.
    pub(crate) auth_token: String,
    pub(crate) local: Arc<LocalShards>,
    pub(crate) data_dir: PathBuf,
    /// How to make sure of members that speak HTTPS, as this node does; none where it does not.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Keeper {
    /// Starts and stops replicas as the map says, until it is dropped.
    pub(crate) async fn run(mut self) {
        let dir = self.data_dir.join("replicas");
        if self.wanted.is_empty() {
            // Of an earlier start with other settings.
            remove(&dir);
            return;
        }
        let threads = match ReplicaThreads::start() {
            Ok(threads) => threads,
            Err(error) => {
                tracing::warn!(%error, "there are no threads for replicas");
                return;
            }
        };
        let mut kept: BTreeSet<ShardId> = BTreeSet::new();
        loop {
            let map = self.map.borrow_and_update().clone();
            let shall: BTreeMap<ShardId, &ShardEntry> =
                map.shards.iter().filter(|entry| self.shall_keep(entry)).map(|e| (e.shard, e)).collect();
            for shard in kept.iter().filter(|shard| !shall.contains_key(shard)) {
                tracing::info!(%shard, "a replica of it is kept here no more");
                self.local.remove_replica(*shard);
                remove(&dir.join(shard.to_string()));
            }
            for shard in shall.keys().filter(|shard| !kept.contains(shard)) {
                tracing::info!(%shard, "a replica of it is kept here");
                let options = ReplicaOptions {
                    shard: *shard,
                    cluster_id: map.cluster_id.clone(),
                    dir: dir.join(shard.to_string()),
                    auth_token: self.auth_token.clone(),
                    members: members(self.map.clone(), *shard, self.node_id, self.tls.is_some()),
                    tls: self.tls.clone(),
                };
                self.local.insert_replica(ReadReplica::start(options, &threads));
            }
            kept = shall.into_keys().collect();
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_EVERY, self.map.changed()).await {
                return;
            }
        }
    }

    fn shall_keep(&self, entry: &ShardEntry) -> bool {
        self.wanted.contains(entry.shard) && entry.holders().all(|node| node != self.node_id)
    }
}

fn remove(dir: &std::path::Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %dir.display(), %error, "old replicas are still there");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The members' URLs as the map has them, each node beginning with another member.
fn members(
    map: watch::Receiver<Arc<ShardMap>>,
    shard: ShardId,
    me: NodeId,
    is_https: bool,
) -> Arc<dyn Fn() -> Vec<String> + Send + Sync> {
    let scheme = if is_https { "https" } else { "http" };
    Arc::new(move || {
        let map = map.borrow();
        let entry = map.shard(shard);
        let nodes = entry.into_iter().flat_map(ShardEntry::holders).filter_map(|node| map.nodes.get(&node));
        let mut urls: Vec<String> =
            nodes.map(|node| format!("{scheme}://{}/v1/shards/{shard}", node.addr)).collect();
        let first = usize::try_from(me).unwrap_or(0) % urls.len().max(1);
        urls.rotate_left(first);
        urls
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_replicas_are_wanted() {
        let these = |numbers: &[u32]| Wanted::These(numbers.iter().copied().map(ShardId).collect());
        for (text, wanted) in
            [("all", Wanted::All), ("", these(&[])), ("0, 3", these(&[0, 3])), ("7", these(&[7]))]
        {
            assert_eq!(Wanted::parse(text).unwrap(), wanted, "{text}");
        }
        for text in ["ALL", "1;2", "-1", "x", "1,two", "99999999999"] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
        assert!(these(&[]).is_empty() && !Wanted::All.is_empty());
    }
}

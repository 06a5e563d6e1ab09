//! Calls between nodes: one connection to each peer, many calls side by side over it.
//!
//! Whoever connects says hello first: which cluster, which node, which start of it, and whom it
//! means to reach. Nothing else is read before that has been checked. Bodies are opaque here.

mod frame;
mod hello;
mod incoming;
mod outgoing;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_shard::peer::{NodeId, PeerError, PeerService, Peers, Service};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use hello::Identity;
use outgoing::{Link, Outgoing};

/// A node that was not heard for this long counts as away.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);

/// What connections in and out share.
struct Shared {
    me: RwLock<Identity>,
    addresses: RwLock<BTreeMap<NodeId, String>>,
    /// The newest start of each node that was seen.
    incarnations: Mutex<HashMap<NodeId, u64>>,
    heard: RwLock<HashMap<NodeId, AtomicU64>>,
    begun: Instant,
}

impl Shared {
    /// Takes note that `node` is there.
    fn hear(&self, node: NodeId) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(heard) = self.heard.read().get(&node) {
            heard.store(now, Ordering::Relaxed);
            return;
        }
        self.heard.write().insert(node, AtomicU64::new(now));
    }

    /// Takes note of a start of a node; an older one than was seen is refused.
    fn admit(&self, node: NodeId, incarnation: u64) -> Result<(), String> {
        let mut seen = self.incarnations.lock();
        let newest = seen.entry(node).or_insert(incarnation);
        if *newest > incarnation {
            return Err(format!("node {node} has been started again since: this process is its past"));
        }
        *newest = incarnation;
        Ok(())
    }
}

/// The node's calls to others and answers to them.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    links: Mutex<HashMap<NodeId, Link>>,
    accepting: JoinHandle<()>,
}

impl Transport {
    /// Listens, and answers calls with `service`.
    pub(crate) fn start(listener: TcpListener, me: Identity, service: Arc<dyn PeerService>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            me: RwLock::new(me),
            addresses: RwLock::default(),
            incarnations: Mutex::default(),
            heard: RwLock::default(),
            begun: Instant::now(),
        });
        let accepting = tokio::spawn(incoming::accept(listener, shared.clone(), service));
        Arc::new(Self { shared, links: Mutex::default(), accepting })
    }

    /// Says where nodes are; those that are not named cannot be reached.
    pub(crate) fn set_addresses(&self, addresses: BTreeMap<NodeId, String>) {
        self.links.lock().retain(|node, link| addresses.get(node).is_some_and(|to| *to == link.address));
        *self.shared.addresses.write() = addresses;
    }

    /// Whether a node was heard lately.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        let heard = self.shared.heard.read();
        let Some(at) = heard.get(&node) else { return false };
        let at = Duration::from_millis(at.load(Ordering::Relaxed));
        self.shared.begun.elapsed().saturating_sub(at) <= ALIVE_WITHIN
    }

    /// Keeps a connection to every node whose address is known, so that it is known who is there.
    pub(crate) fn connect_all(&self) {
        let me = self.shared.me.read().node_id;
        let nodes: Vec<NodeId> = self.shared.addresses.read().keys().copied().collect();
        for node in nodes.into_iter().filter(|node| *node != me) {
            // A link connects as soon as it exists; without an address there is none.
            let _ = self.send(node, None);
        }
    }

    /// Ends every connection and listens no more.
    pub(crate) fn shutdown(&self) {
        self.accepting.abort();
        self.links.lock().clear();
    }

    fn send(&self, to: NodeId, call: Option<Outgoing>) -> Result<(), PeerError> {
        let unreachable = |why: &str| PeerError::Unreachable { node: to, why: why.to_owned() };
        if to == self.shared.me.read().node_id {
            return Err(unreachable("it is this node"));
        }
        let mut links = self.links.lock();
        let link = match links.entry(to) {
            Entry::Occupied(link) => link.into_mut(),
            Entry::Vacant(place) => {
                let address = self.shared.addresses.read().get(&to).cloned();
                let address = address.ok_or_else(|| unreachable("its address is not known"))?;
                place.insert(Link::open(to, address, self.shared.clone()))
            }
        };
        match call {
            Some(call) => link.send(call).map_err(|()| unreachable("too much waits for it")),
            None => Ok(()),
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peers for Transport {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(to, Some(Outgoing { service, group, body, reply }));
        Box::pin(async move {
            sent?;
            match tokio::time::timeout(within, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(PeerError::Lost { node: to, why: "the connection has ended".into() }),
                Err(_) => Err(PeerError::Lost { node: to, why: format!("no answer within {within:?}") }),
            }
        })
    }
}

#[cfg(test)]
mod tests;

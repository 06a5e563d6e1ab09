//! Calls between nodes: many side by side over few connections to each peer.
//!
//! Whoever connects says hello first: which cluster, which node, which start of it, and whom it
//! means to reach. Nothing else is read before that has been checked. Bodies are opaque here.
//!
//! A peer has a connection for each [`Lane`], so that a vote or a heartbeat never waits behind a
//! copy of the tables. A call is [`PeerError::Unreachable`] only when no byte of it has left.

mod frame;
mod hello;
mod incoming;
mod outgoing;
mod security;
mod strangers;
mod visit;

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
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) use hello::{Identity, Start};
use outgoing::{Claim, Link, Outgoing};
pub(crate) use security::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, Mutual, Security, host_of, linger};
pub(crate) use strangers::Strangers;
pub(crate) use visit::{Visit, visit};

/// A node that was not heard for this long counts as away.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);
/// Nodes whose newest start is remembered; more are not let in.
const STARTS_MAX: usize = 4_096;
/// Calls of one connection that are under way; more are told that there are too many.
const CALLS_MAX: usize = 16 * 1024;
/// A body from this size on has no place among small ones.
const SMALL_BYTES_MAX: usize = 128 * 1024;

/// Connections to one peer, by what may wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Small messages of groups: heartbeats, votes, small appends; and membership.
    Consensus,
    /// Calls to shards.
    Calls,
    /// Whatever is large: copies of tables, large appends.
    Bulk,
}

impl Lane {
    fn of(service: Service, bytes: usize) -> Self {
        match service {
            Service::Copy | Service::Backup | Service::Audit => Self::Bulk,
            Service::Raft | Service::Shard | Service::Cluster | Service::Node if bytes > SMALL_BYTES_MAX => {
                Self::Bulk
            }
            Service::Raft | Service::Cluster => Self::Consensus,
            Service::Shard | Service::Node => Self::Calls,
        }
    }
}

/// What connections in and out share.
struct Shared {
    me: Identity,
    security: Security,
    addresses: RwLock<BTreeMap<NodeId, String>>,
    /// The newest start of each node that was seen; connections of earlier ones end.
    starts: Mutex<HashMap<NodeId, watch::Sender<Start>>>,
    heard: RwLock<HashMap<NodeId, AtomicU64>>,
    begun: Instant,
}

impl Shared {
    fn new(me: Identity, security: Security) -> Self {
        Self {
            me,
            security,
            addresses: RwLock::default(),
            starts: Mutex::default(),
            heard: RwLock::default(),
            begun: Instant::now(),
        }
    }

    /// Takes note that `node` is there.
    fn hear(&self, node: NodeId) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(heard) = self.heard.read().get(&node) {
            heard.store(now, Ordering::Relaxed);
            return;
        }
        self.heard.write().insert(node, AtomicU64::new(now));
    }

    /// Takes note of a start of a node. One earlier than was seen is refused, and so is the second
    /// of two that came from copies of one folder.
    fn admit(&self, node: NodeId, start: Start) -> Result<watch::Receiver<Start>, String> {
        let mut starts = self.starts.lock();
        if starts.len() >= STARTS_MAX && !starts.contains_key(&node) {
            return Err(format!("{STARTS_MAX} other nodes have been here"));
        }
        let newest = starts.entry(node).or_insert_with(|| watch::Sender::new(start));
        let seen = *newest.borrow();
        if seen.incarnation > start.incarnation {
            return Err(format!(
                "node {node} has been started again since, as {seen}: this process is its past, {start}; \
                 stop it, and use no copy of a data folder that is in use"
            ));
        }
        if seen.incarnation == start.incarnation && seen.process != start.process {
            return Err(format!(
                "node {node} runs already, as {seen}, and this process is {start}: a copy of its data \
                 folder is in use; stop one of them"
            ));
        }
        if seen != start {
            newest.send_replace(start);
        }
        Ok(newest.subscribe())
    }
}

/// The node's calls to others and answers to them.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    links: Mutex<HashMap<(NodeId, Lane), Link>>,
    accepting: JoinHandle<()>,
}

impl Transport {
    /// Listens, and answers calls with `service`.
    pub(crate) fn start(
        listener: TcpListener,
        me: Identity,
        security: Security,
        service: Arc<dyn PeerService>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared::new(me, security));
        let accepting = tokio::spawn(incoming::accept(listener, shared.clone(), service));
        Arc::new(Self { shared, links: Mutex::default(), accepting })
    }

    /// Says where nodes are; those that are not named cannot be reached.
    pub(crate) fn set_addresses(&self, addresses: BTreeMap<NodeId, String>) {
        self.links.lock().retain(|(node, _), link| addresses.get(node).is_some_and(|to| *to == link.address));
        *self.shared.addresses.write() = addresses;
    }

    /// Whether a node was heard lately; this one always.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        if node == self.shared.me.node_id {
            return true;
        }
        let heard = self.shared.heard.read();
        let Some(at) = heard.get(&node) else { return false };
        let at = Duration::from_millis(at.load(Ordering::Relaxed));
        self.shared.begun.elapsed().saturating_sub(at) <= ALIVE_WITHIN
    }

    /// Keeps a connection to every node whose address is known, so that it is known who is there.
    pub(crate) fn connect_all(&self) {
        let me = self.shared.me.node_id;
        let nodes: Vec<NodeId> = self.shared.addresses.read().keys().copied().collect();
        for node in nodes.into_iter().filter(|node| *node != me) {
            // A link connects as soon as it exists; without an address there is none.
            let _ = self.with_link(node, Lane::Consensus, |_| ());
        }
    }

    /// Ends every connection and listens no more.
    pub(crate) fn shutdown(&self) {
        self.accepting.abort();
        self.links.lock().clear();
    }

    /// Does something with the link to a node, which is opened when there is none.
    fn with_link<T>(&self, to: NodeId, lane: Lane, then: impl FnOnce(&Link) -> T) -> Result<T, &'static str> {
        if to == self.shared.me.node_id {
            return Err("it is this node");
        }
        let mut links = self.links.lock();
        let link = match links.entry((to, lane)) {
            Entry::Occupied(link) => link.into_mut(),
            Entry::Vacant(place) => {
                let address = self.shared.addresses.read().get(&to).cloned();
                let address = address.ok_or("its address is not known")?;
                place.insert(Link::open(to, address, self.shared.clone()))
            }
        };
        Ok(then(link))
    }

    fn send(&self, to: NodeId, call: Outgoing) -> Result<(), PeerError> {
        let bytes = call.body.len();
        if bytes > frame::BODY_BYTES_MAX {
            let why = format!("{bytes} bytes are over the limit of {}", frame::BODY_BYTES_MAX);
            return Err(PeerError::Refused { node: to, why });
        }
        let sent = self.with_link(to, Lane::of(call.service, bytes), |link| link.send(call));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(unreachable(to, "too much waits for it")),
            Err(why) => Err(unreachable(to, why)),
        }
    }
}

fn unreachable(node: NodeId, why: impl Into<String>) -> PeerError {
    PeerError::Unreachable { node, why: why.into() }
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
        let claim = Claim::default();
        let deadline = tokio::time::Instant::now() + within;
        let sent = self.send(to, Outgoing { service, group, body, deadline, claim: claim.clone(), reply });
        Box::pin(async move {
            sent?;
            let why = match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_)) => "the connection has ended".to_owned(),
                Err(_) => format!("no answer within {within:?}"),
            };
            // One that can still be taken back has not left.
            match claim.take() {
                true => Err(unreachable(to, why)),
                false => Err(PeerError::Lost { node: to, why }),
            }
        })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

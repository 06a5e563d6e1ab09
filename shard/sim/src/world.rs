//! What lies between the nodes: time, the network, and the record of all that happens.
//!
//! One owner of time: the world's milliseconds, which the driver moves and every node follows. A
//! message leaves a node, is delayed, lost, doubled or held up, and comes to the other one in a
//! later millisecond. All of it goes into the trace, whose hash tells one run from another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_shard::peer::{NodeId, PeerError, Peers, Service};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use xxhash_rust::xxh3::Xxh3Default;

/// The number that clients have as a member of the network.
pub const CLIENTS: NodeId = 1_000;
/// Longest time that a message held up by a pause or a slow link is kept.
pub const STRAGGLER_MS_MAX: u64 = 2_000;

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Chance that a message is lost.
    pub loss: f64,
    /// Chance that a request comes twice, where its protocol must bear it.
    pub doubling: f64,
    /// Chance that a message takes much longer than usual.
    pub straggling: f64,
    /// Usual delay.
    pub delay_ms_max: u64,
}

impl Weather {
    /// A quiet network.
    pub const FAIR: Self = Self { loss: 0.0, doubling: 0.0, straggling: 0.0, delay_ms_max: 2 };
}

/// A request as it comes to a node.
pub struct Incoming {
    pub from: NodeId,
    pub service: Service,
    pub group: u32,
    pub body: Bytes,
    pub call: u64,
}

type Answer = Result<Bytes, PeerError>;

enum Due {
    Request(NodeId, Incoming),
    Answer(u64, Answer),
}

/// A call that waits for its answer.
struct Call {
    from: NodeId,
    to: NodeId,
    service: Service,
    group: u32,
    sent_ms: u64,
    reply: oneshot::Sender<Answer>,
}

/// What a member knows of another one: when the last question was sent that was answered, and when
/// the answer came.
#[derive(Clone, Copy, Debug)]
struct Heard {
    sent_ms: u64,
    came_ms: u64,
}

/// When a member of a group has last heard a majority of it, as an outsider can tell.
#[derive(Clone, Copy, Debug)]
pub struct Quorum {
    /// Since when nothing more is known of that majority: no real member can know of more.
    pub age_ms: u64,
    /// An answer has come in this very moment, and the member may not have seen it yet.
    pub is_news: bool,
}

struct Inner {
    now_ms: u64,
    rng: StdRng,
    sent: u64,
    due: BTreeMap<(u64, u64), Due>,
    calls: BTreeMap<u64, Call>,
    doors: BTreeMap<NodeId, mpsc::UnboundedSender<Incoming>>,
    weather: Weather,
    /// Links that carry nothing, each in one direction.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// By group and by who asked whom.
    heard: BTreeMap<(u32, NodeId, NodeId), Heard>,
    /// Nodes that stand still, or did so until a moment ago: until when.
    dazed: BTreeMap<NodeId, u64>,
    trace: Xxh3Default,
    messages: u64,
    copies: u64,
}

/// The world.
pub struct World {
    inner: Mutex<Inner>,
    is_verbose: bool,
}

impl World {
    /// A world at its beginning.
    pub fn new(seed: u64, is_verbose: bool) -> Arc<Self> {
        let inner = Inner {
            now_ms: 0,
            rng: StdRng::seed_from_u64(seed),
            sent: 0,
            due: BTreeMap::new(),
            calls: BTreeMap::new(),
            doors: BTreeMap::new(),
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            heard: BTreeMap::new(),
            dazed: BTreeMap::new(),
            trace: Xxh3Default::new(),
            messages: 0,
            copies: 0,
        };
        Arc::new(Self { inner: Mutex::new(inner), is_verbose })
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.inner.lock().now_ms
    }

    /// A number below `bound`, from the world's own generator.
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.lock().rng.random_range(0..bound.max(1))
    }

    /// True once in so many times.
    pub fn one_in(&self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Writes down that something happened.
    pub fn note(&self, what: &str) {
        let mut inner = self.inner.lock();
        let now_ms = inner.now_ms;
        inner.trace.update(&now_ms.to_le_bytes());
        inner.trace.update(what.as_bytes());
        if self.is_verbose {
            println!("{:>9.3} {what}", now_ms as f64 / 1000.0);
        }
    }

    /// The hash of all that has happened.
    pub fn trace(&self) -> u64 {
        self.inner.lock().trace.digest()
    }

    /// How many messages were carried, and how many of them were pieces of copies of tables.
    pub fn messages(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.messages, inner.copies)
    }

    /// When `node` last heard a majority of a group of `members`, itself among them.
    pub fn quorum(&self, node: NodeId, group: u32, members: usize) -> Quorum {
        let inner = self.inner.lock();
        let from_node = (group, node, 0)..(group, node + 1, 0);
        let mut heard: Vec<Heard> = inner.heard.range(from_node).map(|(_, heard)| *heard).collect();
        heard.sort_unstable_by_key(|heard| std::cmp::Reverse(heard.sent_ms));
        let is_news = heard.iter().any(|heard| heard.came_ms == inner.now_ms);
        let last_ms = match (members / 2).checked_sub(1) {
            None => inner.now_ms,
            Some(others) => heard.get(others).map_or(0, |heard| heard.sent_ms),
        };
        Quorum { age_ms: inner.now_ms - last_ms, is_news }
    }

    /// Takes note that a node stands still now, or goes on after it has: what it had in its hands
    /// leaves them a little later.
    pub fn is_dazed_until(&self, node: NodeId, until_ms: u64) {
        self.inner.lock().dazed.insert(node, until_ms);
    }

    /// Whether a node stands still, or has done so until a moment ago.
    pub fn is_dazed(&self, node: NodeId) -> bool {
        let inner = self.inner.lock();
        inner.dazed.get(&node).is_some_and(|until_ms| inner.now_ms <= *until_ms)
    }

    /// Opens a node's door, or closes it: what it had asked is never answered then.
    pub fn set_door(&self, node: NodeId, door: Option<mpsc::UnboundedSender<Incoming>>) {
        let mut inner = self.inner.lock();
        match door {
            Some(door) => drop(inner.doors.insert(node, door)),
            None => {
                inner.doors.remove(&node);
                inner.calls.retain(|_, call| call.from != node);
            }
        }
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// Cuts the link from one node to another.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.inner.lock().cut.insert((from, to));
    }

    /// Mends every link.
    pub fn mend(&self) {
        self.inner.lock().cut.clear();
    }

    /// How many milliseconds it is until a message is due: `most` at most, and at least one.
    pub fn quiet_ms(&self, most: u64) -> u64 {
        let inner = self.inner.lock();
        let next = inner.due.first_key_value().map_or(u64::MAX, |((at_ms, _), _)| *at_ms);
        next.saturating_sub(inner.now_ms).clamp(1, most)
    }

    /// Some milliseconds go by: what is due then is delivered.
    pub fn advance(&self, by_ms: u64) {
        let mut inner = self.inner.lock();
        inner.now_ms += by_ms;
        let now_ms = inner.now_ms;
        let later = inner.due.split_off(&(now_ms + 1, 0));
        let due = std::mem::replace(&mut inner.due, later);
        for event in due.into_values() {
            match event {
                Due::Request(to, incoming) => inner.deliver(to, incoming),
                Due::Answer(call, answer) => inner.answered(call, answer),
            }
        }
    }

    /// A node has answered a request.
    pub fn answer(&self, node: NodeId, call: u64, answer: Result<Bytes, String>) {
        let mut inner = self.inner.lock();
        let answer = answer.map_err(|why| PeerError::Refused { node, why });
        let Some(to) = inner.calls.get(&call).map(|call| call.from) else { return };
        match inner.way(node, to) {
            Some(at) => inner.post(at, Due::Answer(call, answer)),
            None => inner.lose(call),
        }
    }

    /// Sends a request; the receiver is of its answer.
    fn ask(
        &self,
        from: NodeId,
        to: NodeId,
        service: Service,
        group: u32,
        body: &Bytes,
    ) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut inner = self.inner.lock();
        inner.sent += 1;
        let call = inner.sent;
        let sent_ms = inner.now_ms;
        inner.calls.insert(call, Call { from, to, service, group, sent_ms, reply });
        let incoming = || Incoming { from, service, group, body: body.clone(), call };
        if !inner.doors.contains_key(&to) && !inner.cut.contains(&(from, to)) {
            let why = "nobody listens".to_owned();
            let at = inner.now_ms + 1;
            inner.post(at, Due::Answer(call, Err(PeerError::Unreachable { node: to, why })));
            return answer;
        }
        match inner.way(from, to) {
            Some(at) => inner.post(at, Due::Request(to, incoming())),
            None => inner.lose(call),
        }
        let doubling = inner.weather.doubling;
        if service == Service::Raft
            && doubling > 0.0
            && inner.rng.random_bool(doubling)
            && let Some(at) = inner.way(from, to)
        {
            inner.post(at, Due::Request(to, incoming()));
        }
        answer
    }

    fn forget(&self, node: NodeId) {
        // A caller that has stopped waiting has dropped its receiver.
        self.inner.lock().calls.retain(|_, call| call.from != node || !call.reply.is_closed());
    }
}

impl Inner {
    fn post(&mut self, at_ms: u64, due: Due) {
        self.sent += 1;
        let number = self.sent;
        self.due.insert((at_ms, number), due);
    }

    /// When a message that leaves now arrives; never, when it is lost.
    fn way(&mut self, from: NodeId, to: NodeId) -> Option<u64> {
        let Weather { loss, straggling, delay_ms_max, .. } = self.weather;
        if self.cut.contains(&(from, to)) || (loss > 0.0 && self.rng.random_bool(loss)) {
            return None;
        }
        let usual = 1 + self.rng.random_range(0..=delay_ms_max);
        let straggles = straggling > 0.0 && self.rng.random_bool(straggling);
        let more = if straggles { self.rng.random_range(0..STRAGGLER_MS_MAX) } else { 0 };
        Some(self.now_ms + usual + more)
    }

    /// A message is gone: sometimes the caller hears at once that the connection broke.
    fn lose(&mut self, call: u64) {
        let Some(node) = self.calls.get(&call).map(|call| call.to) else { return };
        if self.rng.random_bool(0.3) {
            let why = "the connection broke".to_owned();
            let at = self.now_ms + 1;
            self.post(at, Due::Answer(call, Err(PeerError::Lost { node, why })));
        }
    }

    fn record(&mut self, kind: u8, numbers: [u64; 3], body: &[u8]) {
        self.messages += 1;
        self.trace.update(&[kind]);
        self.trace.update(&self.now_ms.to_le_bytes());
        for number in numbers {
            self.trace.update(&number.to_le_bytes());
        }
        self.trace.update(body);
    }

    fn deliver(&mut self, to: NodeId, incoming: Incoming) {
        let Incoming { from, service, group, call, .. } = incoming;
        self.copies += u64::from(service == Service::Copy);
        self.record(service as u8, [from, to, u64::from(group)], &incoming.body);
        let taken = self.doors.get(&to).is_some_and(|door| door.send(incoming).is_ok());
        if !taken {
            self.lose(call);
        }
    }

    fn answered(&mut self, call: u64, answer: Answer) {
        let Some(Call { from, to, service, group, sent_ms, reply }) = self.calls.remove(&call) else {
            return;
        };
        if matches!(service, Service::Raft | Service::Copy) && answer.is_ok() {
            let heard = self.heard.entry((group, from, to)).or_insert(Heard { sent_ms, came_ms: 0 });
            *heard = Heard { sent_ms: heard.sent_ms.max(sent_ms), came_ms: self.now_ms };
        }
        let empty = Bytes::new();
        self.record(0, [from, to, call], answer.as_ref().unwrap_or(&empty));
        // Whoever asked may have stopped waiting.
        let _ = reply.send(answer);
    }
}

/// One node's way to the others.
pub struct SimulatedPeers {
    pub world: Arc<World>,
    pub node: NodeId,
}

impl Peers for SimulatedPeers {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        group: u32,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (world, node) = (self.world.clone(), self.node);
        Box::pin(async move {
            let answer = world.ask(node, to, service, group, &body);
            let lost = |why: &str| PeerError::Lost { node: to, why: why.into() };
            match tokio::time::timeout(within, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(lost("the node it was asked of is gone")),
                Err(_) => {
                    world.forget(node);
                    Err(lost("no answer in time"))
                }
            }
        })
    }
}

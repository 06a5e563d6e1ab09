//! Members that lag behind what the log still has: they get a copy of the tables, real ones here.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use opcode_engine::event::EventType;
use opcode_engine::ids::{RunNo, Sequence, Timestamp};
use openraft::{LogId, Vote};
use tokio::sync::watch;

use super::super::state_machine::{decode_applied, snapshot_meta};
use super::super::type_config::encode_log_id;
use super::super::wire::{Answer, Piece, Request, decode_answer, encode_request};
use super::members::{ELECTED, Port, Switch};
use super::*;
use crate::batch::Position;
use crate::peer::{NodeId, Service};
use crate::record::EventRecord;
use crate::store::{Store, StoreOptions};

/// Bytes of an event: a few dozen of them are more than what is kept for members that lag.
const EVENT_BYTES: usize = 20_000;

/// A member with everything that it keeps.
struct Node {
    dir: tempfile::TempDir,
    log: Arc<LogStore>,
    tables: Store,
}

/// Three members; node 1 has founded the group.
struct Cluster {
    switch: Arc<Switch>,
    nodes: Vec<Node>,
}

/// The event of run 1 with this sequence.
fn event(sequence: u64) -> Batch<Gathered> {
    Batch::gathered(vec![Record::Event(EventRecord {
        no: RunNo(1),
        sequence: Sequence(sequence),
        event_type: EventType::Custom,
        step_id: None,
        data: format!("{{\"name\":\"{}\"}}", "x".repeat(EVENT_BYTES)).into_bytes(),
        agent_id: None,
        timestamp: Timestamp(0),
    })])
}

impl Node {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(log_options(dir.path())).unwrap();
        let (path, cluster_id) = (dir.path().join("tables.db"), "c".into());
        let tables = Store::open(StoreOptions { path, shard: ShardId(0), cluster_id }).await.unwrap();
        Self { dir, log, tables }
    }
}

impl Cluster {
    async fn start() -> Self {
        let nodes = futures::future::join_all((0..3).map(|_| Node::open())).await;
        let cluster = Self { switch: Arc::default(), nodes };
        for node in 1..=3 {
            cluster.start_node(node, node == 1).await;
        }
        let first = cluster.group(1);
        first.leads(ELECTED).await.unwrap();
        for node in [2, 3] {
            first.add_learner(node).await.unwrap();
        }
        first.set_voters(BTreeSet::from([1, 2, 3])).await.unwrap();
        cluster
    }

    async fn start_node(&self, node_id: NodeId, founds: bool) {
        let node = self.node(node_id);
        let options = GroupOptions { node_id, founds, ..group_options(node.dir.path(), 0) };
        let port = Arc::new(Port { node: node_id, switch: self.switch.clone() });
        let tables = Arc::new(node.tables.clone());
        let group = Group::start(options, node.log.clone(), tables, port).await.unwrap();
        self.switch.groups.lock().insert(node_id, group);
    }

    fn node(&self, node: NodeId) -> &Node {
        &self.nodes[usize::try_from(node).unwrap() - 1]
    }

    fn group(&self, node: NodeId) -> Arc<Group> {
        self.switch.groups.lock()[&node].clone()
    }

    /// Appends the next event through whoever leads, again and again until it is committed.
    async fn append(&self, sequence: u64) -> Position {
        let deadline = Instant::now() + ELECTED;
        let mut is_unknown = false;
        loop {
            for node in 1..=3 {
                let group = self.group(node);
                let Some(term) = group.leading_term() else { continue };
                if is_unknown {
                    // What was committed of it is before this, as it is for a shard's loop.
                    let Ok(barrier) = group.propose(Batch::gathered(Vec::new()), term).await else {
                        continue;
                    };
                    self.has(node, barrier.position()).await;
                    if self.events(node).await == sequence {
                        return barrier.position();
                    }
                }
                match group.propose(event(sequence), term).await {
                    Ok(batch) => return batch.position(),
                    Err(ShardError::NotLeader) => {}
                    Err(ShardError::Unknown(_)) => is_unknown = true,
                    Err(error) => panic!("event {sequence}: {error}"),
                }
            }
            assert!(Instant::now() < deadline, "nobody takes event {sequence}");
            tokio::task::yield_now().await;
        }
    }

    async fn events(&self, node: NodeId) -> u64 {
        let events = self.node(node).tables.events(RunNo(1), Sequence(0), 100_000).await.unwrap();
        for (event, wanted) in events.iter().zip(1..) {
            assert_eq!(event.sequence.0, wanted, "a gap on node {node}");
        }
        events.len() as u64
    }

    /// Waits until a member has all that is in the log up to `position`.
    async fn has(&self, node: NodeId, position: Position) {
        let reached = tokio::time::timeout(ELECTED, self.node(node).tables.reached(position)).await;
        reached.unwrap_or_else(|_| panic!("node {node} never came to {position:?}")).unwrap();
    }

    fn log_bytes(&self, node: NodeId) -> u64 {
        self.node(node).log.bytes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_long_comes_back_by_a_copy_and_the_log_has_stayed_small() {
    let cluster = Cluster::start().await;
    let last = cluster.append(1).await;
    for node in 1..=3 {
        cluster.has(node, last).await;
    }
    cluster.switch.cut_off(3);
    let mut sequence = 1;
    for round in 0..4 {
        let mut last = Position::default();
        for _ in 0..25 {
            sequence += 1;
            last = cluster.append(sequence).await;
        }
        for node in [1, 2] {
            cluster.has(node, last).await;
            let checkpointed = || cluster.node(node).tables.checkpointed();
            let applied = move || {
                checkpointed()
                    .is_some_and(|applied| decode_applied(&applied).unwrap().0.unwrap().index >= last.index)
            };
            eventually("the tables are checkpointed", applied);
            cluster.group(node).purge().await.unwrap();
            eventually("old segments go", || cluster.log_bytes(node) < 1024 * 1024);
        }
        eprintln!("round {round}: logs of {} and {} bytes", cluster.log_bytes(1), cluster.log_bytes(2));
    }
    assert_eq!(cluster.events(3).await, 1);
    // It comes back under load.
    cluster.switch.cut.lock().clear();
    let mut last = Position::default();
    for _ in 0..20 {
        sequence += 1;
        last = cluster.append(sequence).await;
    }
    cluster.has(3, last).await;
    assert_eq!(cluster.events(3).await, sequence);
    let copies = || std::fs::read_dir(cluster.node(3).dir.path().join("copies")).unwrap().count();
    eventually("no file of a copy is left", || copies() == 0);
    // One more change of leader, to it or to another, and everything is there.
    let leader = (1..=3).find(|node| cluster.group(*node).leading_term().is_some()).unwrap();
    cluster.switch.cut_off(leader);
    eventually("it starts nothing any more", || !cluster.group(leader).has_quorum());
    let others: Vec<NodeId> = (1..=3).filter(|node| *node != leader).collect();
    let waiting = others.iter().map(|node| {
        let group = cluster.group(*node);
        Box::pin(async move { group.leads(ELECTED).await.map(|term| (group, term)) })
    });
    let (group, term) = futures::future::select_all(waiting).await.0.unwrap();
    sequence += 1;
    let last = group.propose(event(sequence), term).await.unwrap().position();
    cluster.switch.cut.lock().clear();
    for node in 1..=3 {
        cluster.has(node, last).await;
        assert_eq!(cluster.events(node).await, sequence, "node {node}");
    }
    for node in 1..=3 {
        cluster.group(node).shutdown().await;
    }
}

/// A copy in one piece, as another member would send it.
fn piece(bytes: &[u8], total: u64, applied: &Applied) -> Piece {
    let (last, membership) = decode_applied(applied).unwrap();
    Piece {
        vote: Vote::new_committed(99, 2),
        meta: snapshot_meta(last, membership),
        copy: rand::random(),
        total,
        checksum: xxhash_rust::xxh3::xxh3_64(bytes),
        offset: 0,
        bytes: Bytes::copy_from_slice(bytes),
    }
}

async fn ask(group: &Group, piece: Piece) -> Result<Answer, String> {
    let answer = group.answer(Service::Copy, 2, encode_request(&Request::Piece(piece)).unwrap()).await?;
    decode_answer(&answer)
}

async fn send(group: &Group, bytes: &[u8], total: u64, applied: &Applied) -> Result<Answer, String> {
    ask(group, piece(bytes, total, applied)).await
}

/// Tables of which a copy is checked only once they are told to.
struct Slow {
    tables: Store,
    go_on: watch::Receiver<bool>,
}

impl Tables for Slow {
    fn applied(&self) -> Applied {
        self.tables.applied()
    }
    fn enqueue(&self, entries: Vec<CommittedEntry>) {
        self.tables.enqueue(entries);
    }
    fn backlog(&self) -> usize {
        self.tables.backlog()
    }
    fn copy(&self, to: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        self.tables.copy(to)
    }
    fn check(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        let (mut go_on, checked) = (self.go_on.clone(), self.tables.check(from));
        Box::pin(async move {
            go_on.wait_for(|go_on| *go_on).await.unwrap();
            checked.await
        })
    }
    fn install(&self, from: PathBuf) -> BoxFuture<'static, Result<Applied, ShardError>> {
        self.tables.install(from)
    }
    fn checkpointed(&self) -> Option<Applied> {
        self.tables.checkpointed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_takes_its_time_is_asked_for_again_and_not_sent_again() {
    let mut cluster = Cluster::start().await;
    let last = cluster.append(1).await;
    cluster.has(1, last).await;
    let path = cluster.node(1).dir.path().join("a copy");
    let applied = cluster.node(1).tables.copy(path.clone()).await.unwrap();
    let (whole, total) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().len());

    // A fourth that waits to be added, whose disk is slow.
    cluster.nodes.push(Node::open().await);
    let (go_on, waits) = watch::channel(false);
    let node = cluster.node(4);
    let options = GroupOptions { node_id: 4, founds: false, ..group_options(node.dir.path(), 0) };
    let tables = Arc::new(Slow { tables: node.tables.clone(), go_on: waits });
    let port = Arc::new(Port { node: 4, switch: cluster.switch.clone() });
    let group = Group::start(options, node.log.clone(), tables, port).await.unwrap();

    let sent = piece(&whole, total, &applied);
    let again = Piece { offset: total, bytes: Bytes::new(), ..sent.clone() };
    assert_eq!(ask(&group, again.clone()).await, Ok(Answer::Received(0)), "nothing has come yet");
    assert_eq!(ask(&group, sent).await, Ok(Answer::Received(total)), "it is being put in place");
    assert_eq!(ask(&group, again.clone()).await, Ok(Answer::Received(total)));
    go_on.send_replace(true);
    for _ in 0..2 {
        let installed = ask(&group, again.clone()).await;
        assert!(matches!(installed, Ok(Answer::Installed(_))), "{installed:?}");
    }
    assert_eq!(cluster.events(4).await, 1);
    group.shutdown().await;
    for node in 1..=3 {
        cluster.group(node).shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_no_good_is_refused_and_the_member_goes_on() {
    let cluster = Cluster::start().await;
    for sequence in 1..=3 {
        cluster.append(sequence).await;
    }
    let last = cluster.append(4).await;
    for node in 1..=3 {
        cluster.has(node, last).await;
    }
    let path = cluster.node(1).dir.path().join("a copy");
    let applied = cluster.node(1).tables.copy(path.clone()).await.unwrap();
    let whole = std::fs::read(path).unwrap();
    let mut holed = whole.clone();
    holed[whole.len() / 2..][..4096].fill(0x5a);
    let beyond = {
        let (last, _) = decode_applied(&applied).unwrap();
        let LogId { leader_id, index } = last.unwrap();
        Applied { log_id: encode_log_id(LogId { leader_id, index: index + 1_000 }), ..applied.clone() }
    };
    let total = whole.len() as u64;
    let group = cluster.group(3);
    let noise = vec![7; 9_000];
    let refused = [
        ("noise", send(&group, &noise, 9_000, &applied).await, "not a database"),
        ("a hole", send(&group, &holed, total, &applied).await, ""),
        ("it ends before what was announced", send(&group, &whole, total, &beyond).await, "ends elsewhere"),
        ("nothing", send(&group, &[], 0, &applied).await, "a piece of 0 bytes"),
        ("more than it was to be", send(&group, &whole, total - 1, &applied).await, "a piece of"),
        ("more than fits", send(&group, &whole, u64::MAX / 2, &applied).await, "bytes are to be written"),
    ];
    for (what, answer, why) in refused {
        let refused = answer.expect_err(what);
        assert!(refused.contains(why), "{what}: {refused}");
    }
    let copies = || std::fs::read_dir(cluster.node(3).dir.path().join("copies")).unwrap().count();
    eventually("no file of a copy is left", || copies() == 0);
    let last = cluster.append(5).await;
    cluster.has(3, last).await;
    assert_eq!(cluster.events(3).await, 5);
    // A good one that is no further than the member is taken for what it is: not needed.
    send(&group, &whole, total, &applied).await.unwrap();
    eventually("no file of a copy is left", || copies() == 0);
    assert_eq!(cluster.events(3).await, 5);
    for node in 1..=3 {
        cluster.group(node).shutdown().await;
    }
}

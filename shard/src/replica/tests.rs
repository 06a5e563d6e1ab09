//! Copies of tables by a model of the stock client, which checks what that asserts and more: after
//! every transaction, a copy is the tables as they were at one moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::feed::{FRAME_BYTES, PAGE_BYTES, ROLL_FRAMES_MAX, Wish};
use super::sync_server::{Pull, SyncError, SyncServer};
use crate::log::Tables;
use crate::store::Store;
use crate::store::tests::{at, custom, entry, open};

/// Frames that the stock client asks for at a time.
const PULL: u32 = 128;

/// A node's replica of the shard and its server.
struct Node {
    dir: TempDir,
    id: u64,
    store: Store,
    server: SyncServer,
    last: u64,
}

impl Node {
    async fn start(id: u64) -> Self {
        Self::open(TempDir::new().unwrap(), id, 0).await
    }

    async fn open(dir: TempDir, id: u64, last: u64) -> Self {
        let store = open(&dir).await;
        let server = SyncServer::new(store.clone(), id, dir.path().join("generations/3.json"));
        Self { dir, id, store, server, last }
    }

    /// Applies entries up to `last`, one event each: so many events as the last applied position
    /// says is what any consistent copy has.
    async fn apply(&mut self, last: u64) {
        // One run each node would make the layouts alike; which run an event is of must not differ.
        let entries = (self.last + 1..=last).map(|index| entry(index, vec![custom(1, index)])).collect();
        self.store.enqueue(entries);
        self.store.reached(at(last)).await.unwrap();
        self.last = last;
    }

    async fn restart(self) -> Self {
        let Self { dir, id, store, server, last } = self;
        drop((store, server));
        Self::open(dir, id, last).await
    }

    /// Has the writer roll, and waits until it has.
    async fn roll(&self) {
        let feed = self.store.feed();
        let mut changes = feed.watch();
        changes.borrow_and_update();
        feed.want_base();
        self.store.look_at_feed();
        tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
    }
}

/// What the stock client does, in memory.
#[derive(Default)]
struct Client {
    generation: u32,
    frame: u32,
    pages: BTreeMap<u32, Vec<u8>>,
    size: u32,
    pulled: usize,
    steps: usize,
}

impl Client {
    async fn new(node: &Node) -> Self {
        let generation = node.server.info().await.unwrap();
        let pages = BTreeMap::from([(1, SyncServer::export().to_vec())]);
        Self { generation, pages, size: 1, ..Self::default() }
    }

    /// Follows until there is nothing more; an error leaves the copy as of its last commit.
    async fn sync(&mut self, node: &Node, pull: u32) -> Result<(), SyncError> {
        let (mut session, mut next) = (BTreeMap::new(), self.frame + 1);
        loop {
            match node.server.pull(self.generation, next, next.saturating_add(pull)).await? {
                Pull::Frames(frames) => {
                    assert!(!frames.is_empty() && frames.len().is_multiple_of(FRAME_BYTES));
                    assert!(frames.len() <= pull as usize * FRAME_BYTES);
                    for frame in frames.chunks(FRAME_BYTES) {
                        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                        let page = frame[FRAME_BYTES - PAGE_BYTES..].to_vec();
                        let before = session.insert(number(0), page);
                        assert!(before.is_none(), "a page twice in a transaction: clients cannot take it");
                        if number(4) > 0 {
                            self.pages.append(&mut session);
                            (self.frame, self.size) = (next, number(4));
                            self.pages.retain(|page, _| *page <= self.size);
                            self.check();
                        }
                        next += 1;
                        self.pulled += 1;
                    }
                }
                Pull::End(generation) if generation <= self.generation => return Ok(()),
                Pull::End(_) => {
                    assert!(session.is_empty(), "an end in the middle of a transaction");
                    (self.generation, self.frame, next) = (self.generation + 1, 0, 1);
                    self.steps += 1;
                }
            }
        }
    }

    /// The copy is sound, and has as many events as it says that it has applied.
    fn check(&self) -> u64 {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("copy.db");
        let mut bytes: Vec<u8> = Vec::new();
        for page in 1..=self.size {
            bytes.extend(self.pages.get(&page).unwrap_or_else(|| panic!("page {page} is missing")));
        }
        // Without a WAL of its own.
        bytes[18..20].copy_from_slice(&[1, 1]);
        std::fs::write(&path, bytes).unwrap();
        let (events, applied) = counts(&path);
        assert_eq!(events, applied, "a mixture of two moments");
        applied
    }
}

fn counts(path: &Path) -> (u64, u64) {
    let sound = crate::store::tests::text(path, "PRAGMA integrity_check");
    assert_eq!(sound, "ok");
    let count = |sql: &str| crate::store::tests::text(path, sql).parse().unwrap();
    (
        count("SELECT CAST(count(*) AS TEXT) FROM event_rows"),
        count("SELECT CAST(coalesce(max(position), 0) AS TEXT) FROM applied"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_follows_over_rolls_and_generations() {
    let mut node = Node::start(2).await;
    node.apply(20).await;
    let mut client = Client::new(&node).await;
    let first = client.generation;
    client.sync(&node, PULL).await.unwrap();
    assert_eq!(client.check(), 20);
    let base = client.pulled;
    for last in 21..=40 {
        node.apply(last).await;
        if last % 5 == 0 {
            node.roll().await;
        }
        client.sync(&node, PULL).await.unwrap();
        assert_eq!(client.check(), last);
    }
    assert!(client.pulled < base + 20 * 8, "it got {} frames, not only those that changed", client.pulled);
    for last in 41..=120 {
        node.apply(last).await;
        client.sync(&node, PULL).await.unwrap();
    }
    assert_eq!(client.check(), 120);
    assert!(client.generation > first, "generations come to an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_changes_nodes_or_lags_or_went_another_way_converges() {
    let mut nodes = [Node::start(1).await, Node::start(2).await];
    nodes[0].apply(30).await;
    // The same entries in other transactions: another layout, and other frames.
    for last in [7, 8, 19, 26] {
        nodes[1].apply(last).await;
    }
    let mut clients = [Client::new(&nodes[0]).await, Client::new(&nodes[1]).await];
    for client in &mut clients {
        client.sync(&nodes[0], PULL).await.unwrap();
        assert_eq!(client.check(), 30);
    }
    // The other node is behind: a copy of it is as well, and sound.
    for client in &mut clients {
        client.sync(&nodes[1], PULL).await.unwrap();
        assert_eq!(client.check(), 26);
    }
    // One that made its numbers up.
    clients[0].generation += 100_000;
    clients[0].frame = 77;
    nodes[1].apply(90).await;
    let steps = clients[0].steps;
    for client in &mut clients {
        client.sync(&nodes[1], PULL).await.unwrap();
        assert_eq!(client.check(), 90);
    }
    assert!(clients[0].steps - steps <= 3 * 16, "{} steps", clients[0].steps - steps);
    // One that was away while more came than is kept.
    for last in 91..=200 {
        nodes[1].apply(last).await;
        clients[0].sync(&nodes[1], PULL).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = clients[1].sync(&nodes[1], PULL).await {
        assert!(matches!(error, SyncError::Gone), "{error}");
        assert!(Instant::now() < deadline, "it is healed at last");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(clients[1].check(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_and_a_file_in_anothers_place_begin_new_generations() {
    let mut node = Node::start(3).await;
    node.apply(10).await;
    let mut client = Client::new(&node).await;
    client.sync(&node, PULL).await.unwrap();
    let before = client.generation;
    node.apply(12).await;
    let mut node = node.restart().await;
    node.apply(14).await;
    client.sync(&node, PULL).await.unwrap();
    assert_eq!(client.check(), 14);
    assert!(client.generation > before);

    let mut ahead = Node::start(4).await;
    ahead.apply(60).await;
    let copy = node.dir.path().join("copy");
    ahead.store.copy(copy.clone()).await.unwrap();
    node.store.install(copy).await.unwrap();
    node.last = 60;
    let (before, deadline) = (client.generation, Instant::now() + Duration::from_secs(60));
    while let Err(error) = client.sync(&node, PULL).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(client.check(), 60);
    assert!(client.generation > before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_that_make_no_sense_change_nothing() {
    let mut node = Node::start(2).await;
    node.apply(20).await;
    let mut client = Client::new(&node).await;
    client.sync(&node, PULL).await.unwrap();
    let (generation, end) = (client.generation, client.frame + 1);
    for (generation, from, to) in
        [(0, 1, 2), (generation, 0, 5), (generation, 5, 5), (generation, 9, 3), (generation, u32::MAX, 1)]
    {
        let refused = node.server.pull(generation, from, to).await;
        assert!(matches!(refused, Err(SyncError::Invalid(_))), "{generation}/{from}/{to}: {refused:?}");
    }
    let last = node.server.pull(u32::MAX, 1, u32::MAX).await;
    assert!(matches!(last, Err(SyncError::Refused(_))), "{last:?}");
    // Beyond the end, it has been elsewhere; at the end it has everything.
    assert_eq!(node.server.pull(generation, end, u32::MAX).await.unwrap(), Pull::End(generation));
    for from in [end + 1, u32::MAX - 1] {
        match node.server.pull(generation, from, u32::MAX).await.unwrap() {
            Pull::End(other) => assert!(other > generation),
            Pull::Frames(_) => panic!("there are no frames from {from} on"),
        }
    }
    // As much as is asked for, and no more than there is or is good.
    match node.server.pull(generation, 1, u32::MAX).await.unwrap() {
        Pull::Frames(frames) => assert!(frames.len() <= 256 * FRAME_BYTES),
        end => panic!("{end:?}"),
    }
    for n in 0..100 {
        // Neither numbers nor memory run out for others.
        let _ = node.server.pull(1_000_000 + n * 1_000, 1 + n, 500 + n).await;
    }
    node.apply(25).await;
    client.sync(&node, PULL).await.unwrap();
    assert_eq!(client.check(), 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_nobody_syncs_from_pays_nothing() {
    let mut node = Node::start(1).await;
    node.apply(20).await;
    let feed = Arc::clone(node.store.feed());
    assert!(!feed.is_on());
    assert_eq!(feed.wish(Instant::now()), Wish::Rest);
    node.server.info().await.unwrap();
    assert!(feed.is_on());
    let later = Instant::now() + Duration::from_secs(301);
    assert_eq!(feed.wish(later), Wish::End);
    feed.end();
    assert_eq!(feed.wish(later), Wish::Rest);
    let names: Vec<String> = std::fs::read_dir(node.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.contains("frames")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dawdles_is_not_waited_for_longer_than_a_bound() {
    let mut node = Node::start(1).await;
    node.apply(20).await;
    let mut client = Client::new(&node).await;
    let generation = client.generation;
    let before = node.store.checkpointed();
    let wal = node.dir.path().join("shard.db-wal");
    // A transaction more than the bound, with its indexes, may be there before it is looked at.
    let most = u64::from(ROLL_FRAMES_MAX + 32) * FRAME_BYTES as u64;
    let (mut last, mut is_there, mut longest) = (20, true, 0);
    while is_there {
        last += 1;
        node.apply(last).await;
        longest = longest.max(std::fs::metadata(&wal).unwrap().len());
        assert!(longest <= most, "the WAL has {longest} bytes");
        // Its first frame, over and over: it reads the base and never gets anywhere.
        is_there = matches!(node.server.pull(generation, 1, 2).await, Ok(Pull::Frames(_)));
    }
    assert!(longest > most / 2, "it was waited for while the WAL grew to {longest} bytes");
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.store.checkpointed() == before {
        assert!(Instant::now() < deadline, "the log cannot be purged");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.sync(&node, PULL).await.unwrap();
    assert_eq!(client.check(), last, "it begins anew, with everything");
}

/// Everything at once, in an order that a seed gives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_between_a_copy_is_one_moment_of_the_tables() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut nodes = vec![Node::start(1).await, Node::start(2).await];
        for node in &mut nodes {
            node.apply(5).await;
        }
        let mut clients = vec![Client::new(&nodes[0]).await, Client::new(&nodes[1]).await];
        for _ in 0..120 {
            let (node, client) = (random.random_range(0..2), random.random_range(0..2));
            match random.random_range(0..20) {
                0..8 => {
                    let last = nodes[node].last + random.random_range(1..6);
                    nodes[node].apply(last).await;
                }
                8 | 9 => {
                    if nodes[node].store.feed().is_on() {
                        nodes[node].roll().await;
                    }
                }
                10 => {
                    let restarted = nodes.remove(node).restart().await;
                    nodes.insert(node, restarted);
                }
                11..14 => {
                    let pull = random.random_range(1..200);
                    // An error is told; what the client has stays sound.
                    let _ = clients[client].sync(&nodes[node], pull).await;
                }
                _ => {
                    let pull = random.random_range(1..200);
                    let _ = clients[client].sync(&nodes[client], pull).await;
                }
            }
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        for client in &mut clients {
            while let Err(error) = client.sync(&nodes[1], PULL).await {
                assert!(Instant::now() < deadline, "seed {seed}: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(client.check(), nodes[1].last, "seed {seed}");
        }
    }
}

//! A node: the real log store, groups and shards on a runtime of its own, over a simulated disk.
//!
//! The runtime's time is paused and moves only when the driver says so, a millisecond at a time.
//! Power that goes is the runtime dropped, with every task where it stood; a node that is stopped
//! is not driven for a while, and finds all that time gone by at once when it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use opcode_engine::ids::ShardId;
use opcode_shard::actions::Actions;
use opcode_shard::clock::Clock;
use opcode_shard::definitions::Definitions;
use opcode_shard::log::{LogOptions, LogStore};
use opcode_shard::peer::{NodeId, Service};
use opcode_shard::vault::{Keys, MemoryStore, Vault};
use opcode_shard::workers::Workers;
use opcode_shard::{Shard, ShardError, ShardHandle, ShardOptions, Shared};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::disk::SimulatedDisk;
use crate::relay::{Leaders, NodeRelay};
use crate::sink::Sink;
use crate::world::{Incoming, SimulatedPeers, World};

/// Bytes of a log segment: small, so that segments are rolled and freed.
const SEGMENT_BYTES: u64 = 64 * 1024;

/// How long after it stood still a node has in its hands what it took up before.
const DAZED_MS: u64 = 20;

/// What a node is made of and keeps over its restarts.
#[derive(Clone)]
pub struct Plan {
    pub id: NodeId,
    pub nodes: Vec<NodeId>,
    pub shards: u32,
    /// Steps of all its shards at a time.
    pub workers: usize,
    pub world: Arc<World>,
    pub disk: SimulatedDisk,
    pub dir: PathBuf,
    pub sink: Arc<Sink>,
    /// The wall's time as this node sees it.
    pub wall_ms: Arc<AtomicI64>,
    /// Whether every shard has all its voters.
    pub is_founded: Arc<AtomicBool>,
}

/// One life of a node, from its start to its crash.
pub struct Life {
    runtime: Runtime,
    failure: Arc<Mutex<Option<String>>>,
    handles: Arc<Mutex<BTreeMap<ShardId, ShardHandle>>>,
}

/// A node, up or down.
pub struct Node {
    pub plan: Plan,
    life: Option<Life>,
    /// Milliseconds that have gone by while it was stopped.
    behind_ms: u64,
    is_stopped: bool,
}

/// All shards of a node.
pub fn shard_ids(shards: u32) -> impl Iterator<Item = ShardId> {
    (0..shards).map(ShardId).chain([ShardId::SYSTEM])
}

impl Node {
    pub fn new(plan: Plan) -> Self {
        Self { plan, life: None, behind_ms: 0, is_stopped: false }
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Starts it on what its disk has.
    pub fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads and sockets");
        let (door, incoming) = mpsc::unbounded_channel();
        let failure = Arc::new(Mutex::new(None));
        let handles = Arc::new(Mutex::new(BTreeMap::new()));
        let member = Member {
            plan: self.plan.clone(),
            failure: failure.clone(),
            handles: handles.clone(),
            definitions: Arc::new(Definitions::default()),
        };
        runtime.spawn(live(Arc::new(member), incoming));
        self.plan.world.set_door(self.plan.id, Some(door));
        self.life = Some(Life { runtime, failure, handles });
        self.behind_ms = 0;
    }

    /// The power goes.
    pub fn crash(&mut self) {
        self.plan.world.set_door(self.plan.id, None);
        if let Some(life) = self.life.take() {
            life.handles.lock().clear();
            drop(life);
        }
        self.plan.disk.crash();
        self.go_on();
    }

    /// It stands still from now on, until it goes on.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.plan.world.is_dazed_until(self.plan.id, u64::MAX);
    }

    /// Goes on after it stood still, if it did.
    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.is_stopped) {
            self.plan.world.is_dazed_until(self.plan.id, self.plan.world.now_ms() + DAZED_MS);
        }
    }

    /// Some milliseconds go by. The reason is given when the node cannot go on.
    pub fn tick(&mut self, by_ms: u64) -> Option<String> {
        let life = self.life.as_ref()?;
        self.behind_ms += by_ms;
        if self.is_stopped {
            return None;
        }
        let behind = Duration::from_millis(std::mem::take(&mut self.behind_ms));
        life.runtime.block_on(async {
            if behind > Duration::from_millis(by_ms) {
                tokio::time::advance(behind).await;
            } else {
                tokio::time::sleep(behind).await;
            }
        });
        life.failure.lock().take()
    }

    /// Whether it leads a shard, as far as it knows.
    pub fn leads(&self, shard: ShardId) -> bool {
        let Some(life) = self.life.as_ref().filter(|_| !self.is_stopped) else { return false };
        let handle = life.handles.lock().get(&shard).cloned();
        handle.is_some_and(|handle| handle.group().leading_term().is_some())
    }

    /// Has it give the lead of a shard to another node, or try to.
    pub fn hand_over(&self, shard: ShardId, to: NodeId) {
        let Some(life) = &self.life else { return };
        let Some(handle) = life.handles.lock().get(&shard).cloned() else { return };
        let (world, node) = (self.plan.world.clone(), self.plan.id);
        life.runtime.spawn(async move {
            let result = handle.group().hand_over(to).await;
            let outcome = result.map_or_else(|error| error.to_string(), |()| "done".to_owned());
            world.note(&format!("node {node} hands shard {shard} over to node {to}: {outcome}"));
        });
    }

    /// Where the tables of a shard are.
    pub fn tables(&self, shard: ShardId) -> PathBuf {
        tables(&self.plan, shard)
    }
}

fn tables(plan: &Plan, shard: ShardId) -> PathBuf {
    plan.dir.join(shard.to_string()).join("tables.db")
}

struct Member {
    plan: Plan,
    failure: Arc<Mutex<Option<String>>>,
    handles: Arc<Mutex<BTreeMap<ShardId, ShardHandle>>>,
    definitions: Arc<Definitions>,
}

/// A node's life.
async fn live(member: Arc<Member>, mut incoming: mpsc::UnboundedReceiver<Incoming>) {
    tokio::spawn({
        let member = member.clone();
        async move {
            while let Some(request) = incoming.recv().await {
                tokio::spawn(member.clone().answer(request));
            }
        }
    });
    if let Err(error) = member.clone().run().await {
        member.failure.lock().get_or_insert_with(|| error.to_string());
    }
    // Until the driver has looked.
    std::future::pending::<()>().await;
}

impl Member {
    async fn run(self: Arc<Self>) -> Result<(), ShardError> {
        let plan = &self.plan;
        let options = LogOptions { dir: "/log".into(), segment_bytes: SEGMENT_BYTES };
        let failure = self.failure.clone();
        let on_failure = Box::new(move |why: &str| {
            failure.lock().get_or_insert_with(|| why.to_owned());
        });
        let log = LogStore::open_on(Arc::new(plan.disk.clone()), options, on_failure)?;
        let shared = self.shared(Arc::new(log));
        let mut shards = Vec::new();
        for shard in shard_ids(plan.shards) {
            let path = tables(plan, shard);
            std::fs::create_dir_all(path.parent().expect("it is in a folder"))
                .map_err(|source| ShardError::Io { what: "making a folder".into(), source })?;
            let options = ShardOptions {
                shard,
                node_id: plan.id,
                cluster_id: "simulated".into(),
                generations_path: path.with_extension("generations"),
                tables_path: path,
                founds: plan.id == plan.nodes[0] && !plan.is_founded.load(Ordering::Relaxed),
            };
            let started = Shard::start(options, shared.clone()).await?;
            self.handles.lock().insert(shard, started.handle());
            shards.push(started);
        }
        if !plan.is_founded.load(Ordering::Relaxed) && plan.id == plan.nodes[0] {
            self.found().await?;
        }
        let failures = shards.iter_mut().map(|shard| Box::pin(shard.failed()));
        let (error, _, _) = futures::future::select_all(failures).await;
        Err(error)
    }

    fn shared(&self, log: Arc<LogStore>) -> Shared {
        let plan = &self.plan;
        let peers = || SimulatedPeers { world: plan.world.clone(), node: plan.id };
        let leaders = Leaders {
            peers: peers(),
            nodes: plan.nodes.clone(),
            shards: plan.shards,
            local: self.handles.clone(),
            known: Arc::default(),
        };
        let world = plan.sink.clone().world(plan.id, plan.world.clone(), self.handles.clone());
        Shared {
            log,
            workers: Workers::new(Actions::simulated(world), plan.workers).with_vault(vault()),
            definitions: self.definitions.clone(),
            clock: Arc::new(Clock::simulated(plan.wall_ms.clone())),
            peers: Arc::new(peers()),
            relay: Arc::new(NodeRelay(Arc::new(leaders))),
        }
    }

    /// Makes every node a voter of every shard.
    async fn found(&self) -> Result<(), ShardError> {
        let plan = &self.plan;
        let voters: BTreeSet<NodeId> = plan.nodes.iter().copied().collect();
        let handles: Vec<ShardHandle> = self.handles.lock().values().cloned().collect();
        for handle in handles {
            handle.group().leads(Duration::from_secs(10)).await?;
            for node in plan.nodes.iter().filter(|node| **node != plan.id) {
                handle.group().add_learner(*node).await?;
            }
            if voters.len() > 1 {
                handle.group().set_voters(voters.clone()).await?;
            }
        }
        plan.is_founded.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn answer(self: Arc<Self>, request: Incoming) {
        let Incoming { from, service, group, body, call } = request;
        let handle = self.handles.lock().get(&ShardId(group)).cloned();
        let answer = match (handle, service) {
            (None, _) => Err("this node holds no such shard".to_owned()),
            (Some(handle), Service::Raft | Service::Copy) => handle.group().answer(service, from, body).await,
            (Some(handle), Service::Shard) => {
                opcode_shard::remote::answer_call(&handle, &self.definitions, &body).await
            }
            (Some(_), Service::Backup) => Err("nobody backs a simulation up".to_owned()),
            (Some(_), Service::Cluster | Service::Node) => Err("there is no membership here".to_owned()),
            (Some(_), Service::Audit) => Err("there is no audit log here".to_owned()),
        };
        self.plan.world.answer(self.plan.id, call, answer);
    }
}

/// A vault with one secret, which every post takes with it. It is always sealed the same, so that no
/// randomness of a seed goes into it.
fn vault() -> Arc<Vault> {
    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const TOKEN: &str = r#"{"secret":{"v":1,"key":"3daaf918a97adff4","nonce":"AAECAwQFBgcICQoL","sealed":"NGu7NqaErHr/OLq+1Nge/nxrLAWhXxyaMQizCov4pg=="},"created_at":0,"updated_at":0}"#;
    let mut keys = Keys::default();
    keys.add_key_file(KEY).expect("a key in hex");
    let store = MemoryStore::default();
    store.insert("TOKEN", TOKEN);
    Vault::new(keys, Arc::new(store))
}

//! One simulation from its beginning to its verdict: the driver moves the time, node by node and
//! in the same order always, strikes and heals, and has everything checked.
//!
//! Time goes on to where the next message is due, by some milliseconds at most: what a node sends
//! meanwhile comes to the others after that, as if it had been on its way a little longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use opcode_engine::ids::WorkflowId;
use opcode_shard::peer::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Runtime;
use tokio::time::Duration;

use crate::checkers::{self, Committed};
use crate::clients::{Client, define_template};
use crate::disk::SimulatedDisk;
use crate::faults::{Faults, Theme};
use crate::history::{History, Kind};
use crate::node::{Node, Plan};
use crate::relay::Leaders;
use crate::sink::Sink;
use crate::world::{CLIENTS, STRAGGLER_MS_MAX, SimulatedPeers, World};

/// What the wall shows at the beginning.
const WALL_MS: i64 = 1_800_000_000_000;
/// Longest time for the shards to have all their voters, and for the template to be there.
const SETUP_MS_MAX: u64 = 30_000;
/// Everything ends within this time of healing.
const END_MS_MAX: u64 = 30_000;
/// How often it is looked at whether all is over.
const LOOK_AT_END_EVERY_MS: u64 = 50;
/// How often what was committed is looked at.
const LOOK_EVERY_MS: u64 = 1_000;
/// Longest time that goes by at once.
const STEP_MS_MAX: u64 = 4;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// Seconds in which things go wrong.
    pub seconds: u64,
    /// What goes wrong; the seed picks it when it is not said.
    pub theme: Option<Theme>,
    /// Whether to print what happens.
    pub is_verbose: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub trace: u64,
    pub summary: String,
    pub violations: Vec<String>,
}

struct Simulation {
    world: Arc<World>,
    nodes: Vec<Node>,
    shards: u32,
    faults: Faults,
    clients: Runtime,
    leaders: Arc<Leaders>,
    history: Arc<History>,
    sink: Arc<Sink>,
    committed: Committed,
    next_look_ms: u64,
    /// Held once more by each run that a client is still at.
    at_work: Arc<()>,
    is_founded: Arc<AtomicBool>,
    /// Reasons that nodes gave for not going on.
    fallen: BTreeMap<NodeId, u64>,
}

/// Runs one simulation. Once in a process: its randomness has been seeded from the seed.
pub fn run(options: &Options) -> Report {
    let dir = scratch(options.seed);
    let mut simulation = Simulation::new(options, &dir);
    let verdict = simulation.go(options.seconds * 1_000);
    if let Err(why) = verdict
        && !simulation.history.is_broken()
    {
        simulation.history.violated(why);
    }
    let (trace, (messages, pieces)) = (simulation.world.trace(), simulation.world.messages());
    let summary = format!(
        "{} nodes, {} shards, {}, {} faults, {} falls, {} runs, {} posts, {messages} messages, {pieces} pieces \
         of copies, {:.1} s, {:?}",
        simulation.nodes.len(),
        simulation.shards,
        simulation.faults.plan(),
        simulation.faults.count,
        simulation.fallen.values().sum::<u64>(),
        simulation.history.runs().len(),
        simulation.sink.count(),
        simulation.world.now_ms() as f64 / 1_000.0,
        simulation.history.counts(),
    );
    let violations = simulation.history.violations();
    drop(simulation);
    // What is left there is of no use to anybody.
    let _ = std::fs::remove_dir_all(dir);
    Report { trace, summary, violations }
}

/// A folder for copies of tables on their way, which are files.
fn scratch(seed: u64) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    base.join(format!("opcode-sim-{}-{seed}", std::process::id()))
}

impl Simulation {
    fn new(options: &Options, dir: &Path) -> Self {
        let world = World::new(options.seed, options.is_verbose);
        let count = [1, 3, 3, 3, 5][usize::try_from(world.below(5)).unwrap_or_default()];
        let shards = 1 + u32::try_from(world.below(3)).unwrap_or_default();
        // With few workers steps queue up, and a leader that is deposed has some that it must not start.
        let workers = [1, 2, 16][usize::try_from(world.below(3)).unwrap_or_default()];
        let ids: Vec<NodeId> = (1..=count).collect();
        let history = Arc::new(History::new(world.clone()));
        let sink = Sink::new(history.clone(), shards, ids.len());
        let is_founded = Arc::new(AtomicBool::new(false));
        let node = |id: &NodeId| {
            Node::new(Plan {
                id: *id,
                nodes: ids.clone(),
                shards,
                workers,
                world: world.clone(),
                disk: SimulatedDisk::new(StdRng::seed_from_u64(options.seed ^ *id)),
                dir: dir.join(id.to_string()),
                sink: sink.clone(),
                wall_ms: Arc::new(AtomicI64::new(WALL_MS)),
                is_founded: is_founded.clone(),
            })
        };
        let nodes: Vec<Node> = ids.iter().map(node).collect();
        let clients = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let leaders = Arc::new(Leaders {
            peers: SimulatedPeers { world: world.clone(), node: CLIENTS },
            nodes: ids,
            shards,
            local: Arc::default(),
            known: Arc::default(),
        });
        Self {
            faults: Faults::new(&world, nodes.len(), shards, options.theme),
            history,
            world,
            nodes,
            shards,
            clients: clients.expect("a runtime without threads and sockets"),
            leaders,
            sink,
            committed: Committed::default(),
            next_look_ms: 0,
            at_work: Arc::default(),
            is_founded,
            fallen: BTreeMap::new(),
        }
    }

    /// A moment goes by for everybody; an error once a promise is broken.
    fn tick(&mut self) -> Result<(), String> {
        let by_ms = self.world.quiet_ms(STEP_MS_MAX);
        self.world.advance(by_ms);
        for (which, node) in self.nodes.iter_mut().enumerate() {
            node.plan.wall_ms.fetch_add(by_ms.cast_signed(), Ordering::Relaxed);
            if let Some(why) = node.tick(by_ms) {
                let id = node.plan.id;
                self.world.note(&format!("node {id} cannot go on: {why}"));
                if !is_the_disks_fault(&why) {
                    self.history.violated(format!("node {id} fell: {why}"));
                }
                *self.fallen.entry(id).or_default() += 1;
                node.crash();
                self.faults.fell(&self.world, which);
            }
        }
        self.clients.block_on(async { tokio::time::sleep(Duration::from_millis(by_ms)).await });
        if self.world.now_ms() >= self.next_look_ms {
            self.next_look_ms = self.world.now_ms() + LOOK_EVERY_MS;
            self.committed.look(&self.nodes, self.shards, &self.history);
        }
        // What comes after it may be no more than what follows from it.
        if self.history.is_broken() { Err("it ends here".into()) } else { Ok(()) }
    }

    fn go(&mut self, trouble_ms: u64) -> Result<(), String> {
        for node in &mut self.nodes {
            node.start();
        }
        self.set_up()?;
        let is_over = Arc::new(AtomicBool::new(false));
        for number in 0..2 + self.world.below(5) {
            let client = self.client(number, &is_over);
            self.clients.spawn(client.run());
        }
        let until_ms = self.world.now_ms() + trouble_ms;
        while self.world.now_ms() < until_ms {
            self.faults.tick(&self.world, &mut self.nodes);
            self.tick()?;
        }
        is_over.store(true, Ordering::Relaxed);
        self.faults.heal(&self.world, &mut self.nodes);
        self.sink.heal();
        self.end()?;
        self.committed.look(&self.nodes, self.shards, &self.history);
        checkers::check(&self.nodes, self.shards, &self.history, &self.sink);
        Ok(())
    }

    fn client(&self, number: u64, is_over: &Arc<AtomicBool>) -> Client {
        Client {
            number,
            leaders: self.leaders.clone(),
            history: self.history.clone(),
            world: self.world.clone(),
            is_over: is_over.clone(),
            at_work: self.at_work.clone(),
        }
    }

    fn set_up(&mut self) -> Result<(), String> {
        let template = self.clients.spawn(define_template(self.leaders.clone()));
        while !(self.is_founded.load(Ordering::Relaxed) && template.is_finished()) {
            if self.world.now_ms() > SETUP_MS_MAX {
                return Err("the shards did not begin in time".into());
            }
            self.tick()?;
        }
        self.world.note("all is set up");
        Ok(())
    }

    /// Waits until every run has ended and every replica has it.
    fn end(&mut self) -> Result<(), String> {
        let healed_ms = self.world.now_ms();
        // Who was about to send something has sent it, and what is on its way may yet begin a run
        // that nobody knows of.
        let mut quiet_ms = healed_ms;
        while self.world.now_ms() <= quiet_ms + STRAGGLER_MS_MAX {
            if Arc::strong_count(&self.at_work) > 1 {
                quiet_ms = self.world.now_ms();
            }
            if self.world.now_ms() - healed_ms > END_MS_MAX {
                return Err(format!("a client has no answer yet {END_MS_MAX} ms after all healed"));
            }
            self.faults.tick(&self.world, &mut self.nodes);
            self.tick()?;
        }
        let finisher = Arc::new(self.client(u64::MAX, &Arc::default()));
        let runs = self.history.runs().into_iter().filter(|(_, known)| known.may_exist);
        let runs: BTreeSet<(String, Kind)> = runs.map(|(id, known)| (id, known.kind)).collect();
        let finishing = self.clients.spawn(async move {
            let each = runs.into_iter().map(|(id, kind)| {
                let finisher = finisher.clone();
                async move {
                    let run = WorkflowId::parse(&id).unwrap_or_else(|why| panic!("a client's id: {why}"));
                    while !finisher.finish(&run, kind).await {}
                }
            });
            futures::future::join_all(each).await;
        });
        let mut look_at_ms = 0;
        loop {
            if self.world.now_ms() >= look_at_ms {
                look_at_ms = self.world.now_ms() + LOOK_AT_END_EVERY_MS;
                let late = self.world.now_ms() - healed_ms > END_MS_MAX;
                let settled = self.is_settled().and_then(|()| match finishing.is_finished() {
                    true => Ok(()),
                    false => Err("all runs have ended, and a client was not told".to_owned()),
                });
                match settled {
                    Ok(()) => return Ok(()),
                    Err(why) if late => return Err(format!("{why}, {END_MS_MAX} ms after all healed")),
                    Err(_) => {}
                }
            }
            self.faults.tick(&self.world, &mut self.nodes);
            self.tick()?;
        }
    }

    /// Whether every run has ended, children that nobody waits for too, on every replica.
    fn is_settled(&self) -> Result<(), String> {
        checkers::have_ended(&self.nodes, self.shards)?;
        checkers::are_equal(&self.nodes, self.shards)
    }
}

/// Whether a node fell for a reason that was put there.
fn is_the_disks_fault(why: &str) -> bool {
    ["the disk", "the power is gone", "the sync failed", "storage"].iter().any(|known| why.contains(known))
}

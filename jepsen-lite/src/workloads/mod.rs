//! What clients do. Each workload has clients of its own, which work until they are told to stop,
//! and a check of what only it knows.

pub(crate) mod chains;
pub(crate) mod families;
pub(crate) mod hooks;
pub(crate) mod imports;
pub(crate) mod lists;
pub(crate) mod objects;
pub(crate) mod registers;
pub(crate) mod schedules;
pub(crate) mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use parking_lot::RwLock;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checkers::Verdict;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::history::History;
use crate::sink::Sink;

/// Events of one page.
const PAGE: usize = 1_000;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Workload {
    /// Chains of steps that compute, post to a sink, or ask first; each submitted once.
    Chains,
    /// Reads of each consistency of runs that take signals.
    Registers,
    /// Submissions, signals, cancels and strong reads of the same runs at the same time, which must
    /// be linearizable.
    Objects,
    /// Waits of a time, and waits for signals that may come early, late or twice.
    Waits,
    /// Runs that start others, on any shard, and wait for them or don't.
    Families,
    /// Lists over all shards, page by page.
    Lists,
    /// Schedules that fire each second, or every other.
    Schedules,
    /// Runs that have ended elsewhere and come in as history, again and again.
    Imports,
    /// A webhook that is to be told of every run's end.
    Hooks,
}

/// What the clients of all workloads are given.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) urls: Arc<RwLock<Vec<String>>>,
    pub(crate) sink: String,
    /// Whether there is a second namespace, which half of the chains are in.
    pub(crate) has_tenant: bool,
    pub(crate) history: History,
    pub(crate) seed: u64,
    /// Longest wait for an answer; short, so that a paused node makes unknown outcomes.
    pub(crate) timeout: Duration,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Setting {
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(self.urls.clone(), self.history.clone(), self.timeout)
    }

    /// Randomness of one client of a workload.
    pub(crate) fn rng(&self, workload: Workload, client: usize) -> StdRng {
        let number = workload as u64 * 1_000 + client as u64;
        StdRng::seed_from_u64(self.seed.wrapping_add(1 + number))
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.stop.borrow()
    }
}

/// A beat that a client works to, so that what it did can be checked in bounded time.
fn pace(every: Duration) -> tokio::time::Interval {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pace
}

/// Those of all workloads that were asked for, and what they know.
pub(crate) struct Workloads {
    wanted: Vec<Workload>,
    registers: registers::Registers,
    objects: objects::Objects,
    waits: waits::Waits,
    families: families::Families,
    lists: lists::Lists,
    schedules: schedules::Schedules,
    imports: imports::Imports,
    hooks: hooks::Hooks,
}

impl Workloads {
    /// Of these kinds; of all, if none is named.
    pub(crate) fn new(wanted: &[Workload]) -> Self {
        let wanted = if wanted.is_empty() { Workload::value_variants() } else { wanted };
        Self {
            wanted: wanted.to_vec(),
            registers: Default::default(),
            objects: Default::default(),
            waits: Default::default(),
            families: Default::default(),
            lists: Default::default(),
            schedules: Default::default(),
            imports: Default::default(),
            hooks: Default::default(),
        }
    }

    fn has(&self, workload: Workload) -> bool {
        self.wanted.contains(&workload)
    }

    /// Starts all clients; `clients` of them share `rate` submissions of chains in a second.
    pub(crate) async fn start(
        &self,
        setting: &Setting,
        clients: usize,
        rate: u64,
    ) -> Result<Vec<JoinHandle<()>>> {
        let mut all = Vec::new();
        if self.has(Workload::Chains) {
            let every = Duration::from_micros(1_000_000 * clients as u64 / rate.max(1));
            all.extend(chains::clients(setting, clients, every)?);
        }
        if self.has(Workload::Registers) {
            all.extend(self.registers.clients(setting)?);
        }
        if self.has(Workload::Objects) {
            all.extend(self.objects.clients(setting)?);
        }
        if self.has(Workload::Waits) {
            all.extend(self.waits.clients(setting)?);
        }
        if self.has(Workload::Families) {
            all.extend(self.families.clients(setting).await?);
        }
        if self.has(Workload::Lists) {
            all.extend(self.lists.clients(setting)?);
        }
        if self.has(Workload::Schedules) {
            all.extend(self.schedules.clients(setting).await?);
        }
        if self.has(Workload::Imports) {
            all.extend(self.imports.clients(setting)?);
        }
        if self.has(Workload::Hooks) {
            all.extend(self.hooks.clients(setting).await?);
        }
        Ok(all)
    }

    /// What each workload has to say of what is there, when all was healed at a moment.
    pub(crate) async fn check(&self, cluster: &Cluster, sink: &Sink, healed: Instant) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = Vec::new();
        if self.has(Workload::Registers) {
            verdicts.push(("reads are as fresh as they were asked for", self.registers.check(cluster).await));
        }
        if self.has(Workload::Objects) {
            verdicts.push(("every run is linearizable", self.objects.check(cluster).await));
        }
        if self.has(Workload::Waits) {
            verdicts.push(("timers and signals take effect once", self.waits.check(cluster, sink).await));
        }
        if self.has(Workload::Families) {
            let verdict = self.families.check(cluster, sink, healed).await;
            verdicts.push(("children start once and are told of once", verdict));
        }
        if self.has(Workload::Lists) {
            verdicts.push(("lists have all there is, once", self.lists.check(cluster).await));
        }
        if self.has(Workload::Schedules) {
            verdicts.push(("every slot of a schedule has one run", self.schedules.check(cluster).await));
        }
        if self.has(Workload::Imports) {
            verdicts.push(("what came in as history is as it was sent", self.imports.check(cluster).await));
        }
        if self.has(Workload::Hooks) {
            verdicts.push(("the end of every run is told", self.hooks.check(cluster).await));
        }
        verdicts
    }
}

/// Every event of a run, in pages.
async fn events(cluster: &Cluster, id: &str) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let path = format!("/v1/workflows/{id}/events?limit={PAGE}&after={}", all.len());
        let (status, page) = cluster.get_healed(&path).await?;
        ensure!(status == 200, "the events of {id}: {status}: {page}");
        let items = page["items"].as_array().cloned().unwrap_or_default();
        if items.is_empty() {
            return Ok(all);
        }
        all.extend(items);
        let is_gapless = all.iter().zip(1_u64..).all(|(event, wanted)| event["sequence"] == wanted);
        ensure!(is_gapless, "the events of {id} have a gap");
    }
}

//! A run from its first request to its last verdict.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::Args;
use crate::backups::Backups;
use crate::checkers::bounds::Watch;
use crate::checkers::{self, Evidence};
use crate::cluster::Cluster;
use crate::history::History;
use crate::nemesis::{self, random};
use crate::report::Report;
use crate::sink::Sink;
use crate::trials;
use crate::workloads::{Setting, Workloads};

/// How long clients wait for an answer: long where the time until it is measured, else so short
/// that a paused node makes unknown outcomes.
const TIMEOUT_OF_TRIALS: Duration = Duration::from_secs(6);
const TIMEOUT: Duration = Duration::from_millis(800);

/// One run.
pub(crate) struct Course<'a> {
    pub(crate) args: &'a Args,
    pub(crate) seed: u64,
    pub(crate) cluster: &'a Cluster,
    pub(crate) sink: &'a Sink,
    /// Whether the nodes' disks and clocks can be made wrong.
    pub(crate) has_shim: bool,
    /// What does the same again.
    pub(crate) command: &'a str,
}

impl Course<'_> {
    /// Does everything, writes the report if one is wanted, and fails with the promises broken.
    pub(crate) async fn run(&self) -> Result<()> {
        let (history, usage, backups) = (History::default(), Watch::default(), Backups::default());
        let workloads = Workloads::new(&self.args.workloads);
        let harmed = self.work(&history, &workloads, &usage, &backups).await;
        let told = checkers::check(harmed.map(|healed| Evidence {
            cluster: self.cluster,
            sink: self.sink,
            history: &history,
            workloads: &workloads,
            watch: &usage,
            backups: &backups,
            healed,
        }))
        .await;
        if let Some(path) = &self.args.report {
            let page = self.report(&history, &usage, told.clone()).await.html();
            std::fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
            println!("the report: {}", path.display());
        }
        let broken: Vec<String> = told
            .iter()
            .filter(|(_, held, _)| !held)
            .map(|(what, _, text)| format!("{what}: {text}"))
            .collect();
        ensure!(broken.is_empty(), "{}", broken.join("\n"));
        println!("every promise was kept");
        Ok(())
    }

    /// Has clients work while harm is done; when all was healed.
    async fn work(
        &self,
        history: &History,
        workloads: &Workloads,
        usage: &Watch,
        backups: &Backups,
    ) -> Result<Instant> {
        let args = self.args;
        let (stop_in, stop) = watch::channel(false);
        let is_timed = args.trials.is_some() || args.grow;
        let setting = Setting {
            urls: self.cluster.urls.clone(),
            sink: self.sink.url.clone(),
            has_tenant: self.cluster.make_namespace().await?,
            history: history.clone(),
            seed: self.seed,
            timeout: if is_timed { TIMEOUT_OF_TRIALS } else { TIMEOUT },
            stop: stop.clone(),
        };
        let clients = workloads.start(&setting, args.clients, args.rate).await?;
        let watched = usage.run(self.cluster, history, stop.clone());
        let backed_up = async {
            // They would be in the way of what is measured.
            if !is_timed {
                backups.run(self.cluster, history, stop.clone()).await;
            }
        };
        let harmed = async {
            let harmed = self.harm(history).await;
            // Whatever came of it, the clients stop, and so does the watch.
            stop_in.send_replace(true);
            harmed
        };
        let (harmed, (), ()) = tokio::join!(harmed, watched, backed_up);
        harmed?;
        let healed = Instant::now();
        for client in clients {
            client.await.context("a client panicked")?;
        }
        nemesis::files::whole(self.cluster).await?;
        println!("all replicas are in sync {} ms after healing", healed.elapsed().as_millis());
        Ok(healed)
    }

    async fn harm(&self, history: &History) -> Result<()> {
        let (args, cluster) = (self.args, self.cluster);
        let mut rng = StdRng::seed_from_u64(self.seed);
        if args.grow {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return trials::grow_and_shrink(cluster, history).await;
        }
        if let Some(count) = args.trials {
            let most = Duration::from_secs(args.lasts);
            for fault in &args.faults {
                let trials = trials::run(cluster, history, *fault, count, most, &mut rng).await?;
                let of =
                    |what: fn(&trials::Trial) -> Duration| trials::spread(trials.iter().map(what).collect());
                println!("{fault:?}: every shard acknowledges writes again: {}", of(|t| t.writes_again));
                println!("{fault:?}: longest gap of a shard: {}", of(|t| t.longest_gap));
                println!("{fault:?}: whole again after healing: {}", of(|t| t.whole_again));
            }
            return Ok(());
        }
        let plan = random::Plan {
            allowed: &args.faults,
            at_once: args.at_once.into(),
            has_shim: self.has_shim,
            every: args.every.map(Duration::from_millis),
        };
        let (end_in, end) = watch::channel(false);
        let length = Duration::from_secs(args.seconds);
        let ends = async move {
            tokio::time::sleep(length).await;
            end_in.send_replace(true);
            // The nemesis ends by itself, once all is healed; or before, when healing fails.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            faults = random::run(cluster, history, rng, end, &plan) => println!("{}", faults?),
            () = ends => {}
        }
        Ok(())
    }

    async fn report(
        &self,
        history: &History,
        usage: &Watch,
        verdicts: Vec<(String, bool, String)>,
    ) -> Report {
        let (operations, operations_left_out) = history.operations().await;
        let usages = usage.usages();
        let harms = history.harms().await;
        let ends = operations.iter().map(|one| one.begun + one.took);
        let ends = ends.chain(usages.iter().map(|one| one.at)).chain(harms.iter().filter_map(|harm| harm.to));
        let length = ends.max().unwrap_or_default();
        Report {
            title: format!("jepsen-lite, seed {}: {} nodes", self.seed, self.cluster.len()),
            command: self.command.to_owned(),
            verdicts,
            harms,
            length,
            operations,
            operations_left_out,
            answers: history.answers().await,
            usages,
        }
    }
}

//! Faults and checkers against the real binary, over HTTP.
//!
//! It knows none of the engine's types: an oracle must not share its bugs. Clients submit chains
//! of steps, many of which post to a sink that this program serves, and answer decisions; a nemesis
//! kills (`-9`), pauses, cuts off or restarts nodes, and when all is healed the checkers look at
//! what was promised: everything acknowledged exists and ends, nothing recorded is done again, one
//! key for each logical step, logs without gaps and the same on every node, one outcome, reads as
//! fresh as they were asked for.

mod checkers;
mod cluster;
mod history;
mod nemesis;
mod node;
mod proxy;
mod registers;
mod sink;
mod trials;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;

use cluster::{Cluster, ClusterOptions};
use nemesis::Fault;

/// Kills, pauses and cuts off nodes under load and checks that they keep their promises.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  jepsen-lite                              30 s of kills and pauses of one node, a seed of its own
  jepsen-lite --nodes 3 --shards 8 --seconds 300 --seed 7
                                           a long run over a cluster, from a seed
  jepsen-lite --nodes 3 --shards 8 --trials 20 --fault kill
                                           20 times: the busiest leader is killed, how long until
                                           every shard acknowledges writes again
  jepsen-lite --binary target/debug/opcode"
)]
struct Args {
    /// The binary to test [default: `opcode` beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Shards [default: as the binary wants it]
    #[arg(long)]
    shards: Option<u32>,
    /// Length of the faulty part
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed of all that is random here [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Submissions of all clients in a second, at most
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// Only these faults; repeat for more
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,
    /// So many timed trials of each of the faults, instead of random ones
    #[arg(long, value_name = "N", requires = "faults")]
    trials: Option<usize>,
    /// Begin with one node, grow to three and five, and shrink back, under load
    #[arg(long, conflicts_with_all = ["trials", "nodes"])]
    grow: bool,
    /// The binary that a rolling restart starts, for upgrades [default: the same]
    #[arg(long, value_name = "FILE")]
    upgrade_to: Option<PathBuf>,
    /// Keep the nodes' folders
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jepsen-lite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // A second installation in one process is the only way this fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let beside = std::env::current_exe()?.with_file_name("opcode");
    let binary = args.binary.clone().unwrap_or(beside);
    if !binary.is_file() {
        bail!("{}: no such binary; build it with `cargo build --release -p opcode`", binary.display());
    }
    let seed = args.seed.unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()) ^ d.as_secs())
    });
    println!("seed {seed}: {} nodes, {} clients", args.nodes, args.clients);

    let home = tempfile::tempdir().context("a temporary folder")?;
    let options = ClusterOptions {
        binary,
        home: home.path().to_path_buf(),
        nodes: args.nodes.into(),
        is_many: args.nodes > 1 || args.grow,
        shards: args.shards,
    };
    let sink = sink::Sink::start().await?;
    let cluster = Cluster::start(options).await?;
    if let Some(newer) = &args.upgrade_to {
        cluster.set_binary(newer);
    }
    let result = test(&args, seed, &cluster, &sink).await;
    if args.keep {
        println!("the nodes' folders: {}", home.keep().display());
    }
    result.map_err(|error| {
        let mut replay =
            format!("jepsen-lite --seed {seed} --nodes {} --clients {}", args.nodes, args.clients);
        if args.grow {
            replay.push_str(" --grow");
        } else if let Some(count) = args.trials {
            replay.push_str(&format!(" --trials {count}"));
        } else {
            replay.push_str(&format!(" --seconds {}", args.seconds));
        }
        for fault in args.faults.iter().filter_map(clap::ValueEnum::to_possible_value) {
            replay.push_str(&format!(" --fault {}", fault.get_name()));
        }
        error.context(format!("a promise was broken; again with: {replay}"))
    })
}

async fn test(args: &Args, seed: u64, cluster: &Cluster, sink: &sink::Sink) -> Result<()> {
    let history = history::History::default();
    let (stop_in, stop) = watch::channel(false);
    let timeout = Duration::from_millis(if args.trials.is_some() || args.grow { 6_000 } else { 800 });
    let mut clients: Vec<_> = (0..args.clients)
        .map(|client| {
            let workload = workload::Workload {
                client,
                urls: cluster.urls.clone(),
                at: client,
                sink: sink.url.clone(),
                history: history.clone(),
                rng: StdRng::seed_from_u64(seed.wrapping_add(1 + client as u64)),
                pace: Duration::from_micros(1_000_000 * args.clients as u64 / args.rate.max(1)),
                timeout,
            };
            tokio::spawn(workload.run(stop.clone()))
        })
        .collect();
    let registers = registers::Registers::default();
    clients.extend(registers.clients(cluster, seed, timeout, &stop));
    match args.trials {
        Some(count) => {
            for fault in &args.faults {
                let trials = trials::run(cluster, &history, *fault, count).await?;
                let of =
                    |what: fn(&trials::Trial) -> Duration| trials::spread(trials.iter().map(what).collect());
                println!("{fault:?}: every shard acknowledges writes again: {}", of(|t| t.writes_again));
                println!("{fault:?}: longest gap of a shard: {}", of(|t| t.longest_gap));
                println!("{fault:?}: whole again after healing: {}", of(|t| t.whole_again));
            }
            stop_in.send_replace(true);
        }
        None if args.grow => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trials::grow_and_shrink(cluster, &history).await?;
            stop_in.send_replace(true);
        }
        None => {
            let length = Duration::from_secs(args.seconds);
            tokio::spawn(async move {
                tokio::time::sleep(length).await;
                stop_in.send_replace(true);
                stop_in.closed().await;
            });
            println!(
                "{}",
                nemesis::run(cluster, StdRng::seed_from_u64(seed), stop.clone(), &args.faults).await?
            );
        }
    }
    for client in clients {
        client.await.context("a client panicked")?;
    }
    cluster.whole().await?;
    println!("{}", history.summary().await);
    let answers = history.answers().await;
    let strange = answers.keys().find(|answer| answer.starts_with('5') && !answer.starts_with("503"));
    ensure!(strange.is_none(), "a client was answered {strange:?}");
    println!("{}", registers.check(cluster).await?);
    let summary = checkers::check(cluster, sink, &history).await?;
    println!("{summary}\nevery promise was kept");
    Ok(())
}

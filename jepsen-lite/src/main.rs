//! Faults and checkers against the real binary, over HTTP.
//!
//! It knows none of the engine's types: an oracle must not share its bugs. Clients submit chains
//! of posts to a sink that this program serves and answer decisions, a nemesis kills (`-9`) or
//! pauses the node, and when all is healed the checkers look at what was promised: everything
//! acknowledged exists and ends, nothing recorded is done again, one key for each logical step,
//! logs without gaps, one outcome.

mod checkers;
mod history;
mod nemesis;
mod node;
mod sink;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Kills and pauses a node under load and checks that it keeps its promises.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  jepsen-lite                              30 s of kills and pauses, a seed of its own
  jepsen-lite --seconds 300 --seed 7       a long run, from a seed
  jepsen-lite --binary target/debug/opcode"
)]
struct Args {
    /// The binary to test [default: `opcode` beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Length of the faulty part
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seed of all that is random here [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Clients
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Keep the node's folder
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
    println!("seed {seed}: {} s of faults, {} clients", args.seconds, args.clients);

    let home = tempfile::tempdir().context("a temporary folder")?;
    let sink = sink::Sink::start().await?;
    let node = node::Node::start(binary.clone(), home.path().join("data"))?;
    let history = history::History::default();
    let mut clients = Vec::new();
    let stop = tokio_stop(Duration::from_secs(args.seconds));
    for client in 0..args.clients {
        let workload = workload::Workload {
            client,
            address: node.address(),
            sink: sink.url.clone(),
            history: history.clone(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(1 + client as u64)),
        };
        clients.push(tokio::spawn(workload.run(stop.clone())));
    }
    let faults = nemesis::run(&node, StdRng::seed_from_u64(seed), stop.clone()).await?;
    for client in clients {
        client.await.context("a client panicked")?;
    }
    node.ensure_running().await?;
    println!("{faults}; {}", history.summary().await);

    let result = checkers::check(&node, &sink, &history).await;
    if args.keep {
        println!("the node's folder: {}", home.keep().display());
    }
    match result {
        Ok(summary) => {
            println!("{summary}\nevery promise was kept");
            Ok(())
        }
        Err(error) => {
            let replay =
                format!("jepsen-lite --seed {seed} --seconds {} --clients {}", args.seconds, args.clients);
            Err(error.context(format!("a promise was broken; again with: {replay}")))
        }
    }
}

/// True after `length`.
fn tokio_stop(length: Duration) -> tokio::sync::watch::Receiver<bool> {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        tokio::time::sleep(length).await;
        sender.send_replace(true);
        sender.closed().await;
    });
    receiver
}

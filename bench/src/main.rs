//! Load benchmarks over the HTTP contract: open-loop arrivals, percentiles, server CPU a step.
//!
//! `batch` offers runs at a rate, in batch submissions, whatever the answers do: waiting counts as
//! latency. `closed` keeps a number of runs open and times each from submission to result. `idle`
//! watches nodes that have nothing to do. All start nodes of their own on fresh folders, unless they
//! are given one.

mod load;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

/// Load benchmarks of OPCODE cluster.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  opcode-bench batch --runs 50000 --rate 5000
  opcode-bench closed --open 64 --runs 20000 --work chain10
  opcode-bench batch --nodes 3 --shards 8 --runs 20000 --rate 1000
  opcode-bench idle --nodes 3 --shards 16
  opcode-bench batch --server http://127.0.0.1:4100 --runs 1000"
)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Offer runs at a rate, in batches (open loop)
    Batch {
        #[command(flatten)]
        target: Target,
        /// Runs to submit
        #[arg(long, default_value_t = 20_000)]
        runs: usize,
        /// Runs offered a second
        #[arg(long, default_value_t = 4_000)]
        rate: u64,
        /// Runs in one request
        #[arg(long, default_value_t = 100)]
        batch: usize,
    },
    /// Keep runs open, one request each, from submission to result (closed loop)
    Closed {
        #[command(flatten)]
        target: Target,
        /// Runs to submit
        #[arg(long, default_value_t = 5_000)]
        runs: usize,
        /// Runs open at a time
        #[arg(long, default_value_t = 64)]
        open: usize,
    },
    /// Watch nodes that have nothing to do
    Idle {
        #[command(flatten)]
        target: Target,
        /// Seconds they may settle before
        #[arg(long, default_value_t = 15)]
        settle: u64,
        /// Seconds to watch
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}

#[derive(Args)]
struct Target {
    /// A node that runs already; without it one is started on a fresh folder
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The binary to start [default: `opcode` beside this program]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Nodes to start; a cluster of them when there are several
    #[arg(long, default_value_t = 1, value_name = "N")]
    nodes: usize,
    /// Shards [default: as the binary wants it]
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Replicas of each shard, with nodes enough [default: as the binary wants it]
    #[arg(long, value_name = "N")]
    replication_factor: Option<usize>,
    /// Where the fresh folder is made [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What each run does
    #[arg(long, value_enum, default_value_t = Work::Chain10)]
    work: Work,
    /// Write the figures as JSON here too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Ten steps without side effects, one after another, each with a result of about 100 bytes
    Chain10,
    /// The same ten steps side by side
    Fan10,
    /// One step
    One,
}

impl Work {
    fn steps(self) -> usize {
        match self {
            Self::Chain10 | Self::Fan10 => 10,
            Self::One => 1,
        }
    }

    /// The definition; every step records about 100 bytes.
    fn definition(self) -> Value {
        let message = "x".repeat(64);
        let steps: Vec<Value> = (0..self.steps())
            .map(|n| {
                let before = match self {
                    Self::Chain10 if n > 0 => vec![format!("s{}", n - 1)],
                    Self::Chain10 | Self::Fan10 | Self::One => Vec::new(),
                };
                json!({"id": format!("s{n}"), "action": "workflow.log", "depends_on": before,
                       "params": {"message": message, "level": "debug"}})
            })
            .collect();
        json!({"steps": steps})
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opcode-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // A second installation in one process is the only way this fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let (target, text, json) = match cli.scenario {
        Scenario::Batch { target, runs, rate, batch } => {
            let server = server::Server::open(&target).await?;
            let report = load::batch(&server, target.work, runs, rate, batch.max(1)).await?;
            (target, report.to_string(), serde_json::to_vec_pretty(&report)?)
        }
        Scenario::Closed { target, runs, open } => {
            let server = server::Server::open(&target).await?;
            let report = load::closed(&server, target.work, runs, open.max(1)).await?;
            (target, report.to_string(), serde_json::to_vec_pretty(&report)?)
        }
        Scenario::Idle { target, settle, seconds } => {
            let server = server::Server::open(&target).await?;
            let (settle, watch) = (Duration::from_secs(settle), Duration::from_secs(seconds.max(1)));
            let report = load::idle(&server, settle, watch).await?;
            (target, report.to_string(), serde_json::to_vec_pretty(&report)?)
        }
    };
    println!("{text}");
    if let Some(path) = target.json {
        std::fs::write(&path, json)?;
    }
    Ok(())
}

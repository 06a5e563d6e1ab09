//! Benchmarks: load over the HTTP contract, and the shard's own parts in process.
//!
//! One command per scenario ([`scenarios`]). Each repetition begins on a fresh folder, checks that
//! every run it counts completed, and gives figures ([`figures`]); the report ([`report`]) has their
//! medians and extremes. `compare` puts two reports side by side, `plot` draws some. Nothing here is
//! a guess: what cannot be told, such as the syncs of a device without counters, is left out.

mod api;
mod compare;
mod decided;
mod figures;
mod folder;
mod latencies;
mod load;
mod machine;
mod meter;
mod pipeline;
mod plot;
mod process;
mod report;
mod scenarios;
mod server;
mod slow_disk;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use figures::Figures;
use report::Report;
use scenarios::Scenario;

// As the binary does, so that what runs in process costs what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Files that may be open: a connection for each run that is waited for.
const FILES_MAX: u64 = 65_536;

/// Benchmarks of OPCODE cluster.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  opcode-bench chain10 --rate 4000 --repeat 5 --json chain10.json
  opcode-bench chain10 --nodes 3 --shards 8 --rate 1000
  opcode-bench fan10 --server http://127.0.0.1:4100 --runs 1000
  opcode-bench many-open --runs 1000000
  opcode-bench compare bench/baselines/chain10.json chain10.json
  opcode-bench plot *.json --out figures.svg"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Repetitions, each on a fresh folder; the report has their medians
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    repeat: usize,
    /// Write the report as JSON here too
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where fresh folders are made [default: the system's temporary folder]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Put two reports side by side
    Compare(compare::Compare),
    /// Draw reports as SVG
    Plot(plot::Plot),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opcode-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    match &cli.command {
        Command::Scenario(scenario) => measure(scenario, &cli).await,
        Command::Compare(compare) => compare.run(),
        Command::Plot(plot) => plot.run(),
    }
}

async fn measure(scenario: &Scenario, cli: &Cli) -> Result<()> {
    // A second installation in one process is the only way this fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // With fewer, a scenario that needs more fails and says so.
    let _ = rlimit::increase_nofile_limit(FILES_MAX);
    let repeat = cli.repeat.max(1);
    let mut repetitions = Vec::with_capacity(repeat);
    for number in 1..=repeat {
        if repeat > 1 {
            load::progress("repetition", number, repeat);
        }
        let mut figures = Figures::default();
        scenario.run(cli.dir.as_deref(), &mut figures).await?;
        repetitions.push(figures);
    }
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let report = Report::new(command, scenario.binary().as_deref(), repetitions);
    println!("{report}");
    match &cli.json {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

//! Faults and checkers against the real binary, over HTTP.
//!
//! It knows none of the engine's types: an oracle must not share its bugs. Clients submit chains
//! of steps, many of which post to a sink that this program serves, answer decisions, send signals,
//! start families of runs, read and list (`workloads/`); a nemesis kills, pauses, cuts off, slows
//! down, damages, drains or restarts nodes (`nemesis/`); and when all is healed the checkers look at
//! what was promised (`checkers/`): everything acknowledged exists and ends, nothing recorded is
//! done again, one key for each logical step, logs without gaps and the same on every node, one
//! outcome, every run linearizable, reads as fresh as they were asked for.

mod backups;
mod checkers;
mod client;
mod cluster;
mod course;
mod history;
mod nemesis;
mod node;
mod proxy;
mod report;
mod sink;
mod trials;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cluster::{Cluster, ClusterOptions};
use nemesis::{Fault, shim};
use workloads::Workload;

/// Harms the nodes of a cluster under load and checks that they keep their promises.
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
  jepsen-lite --nodes 5 --at-once 3 --seconds 60 --report run.html
                                           three faults at a time; a page with all that happened
  jepsen-lite --nodes 3 --shards 8 --seconds 3600 --every 10000
                                           an hour with a fault every ten seconds
  jepsen-lite --nodes 3 --fault flip-log --fault fail-sync --seconds 60
                                           damaged files and disks that fail, one after another
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
    /// So many random faults at a time, of those that can be
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5),
        conflicts_with_all = ["trials", "grow"])]
    at_once: u8,
    /// Milliseconds from the begin of one random fault to the next, or as soon as it is healed
    /// [default: as long a calm as chance has it]
    #[arg(long, value_name = "MS", conflicts_with_all = ["trials", "grow"])]
    every: Option<u64>,
    /// Only these workloads; repeat for more
    #[arg(long = "workload", value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    /// So many timed trials of each of the faults, instead of random ones
    #[arg(long, value_name = "N", requires = "faults")]
    trials: Option<usize>,
    /// Seconds that a fault of a trial lasts at most, and the calm before and after it
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "trials")]
    lasts: u64,
    /// Begin with one node, grow to three and five, and shrink back, under load
    #[arg(long, conflicts_with_all = ["trials", "nodes"])]
    grow: bool,
    /// The binary that a rolling restart starts, for upgrades [default: the same]
    #[arg(long, value_name = "FILE")]
    upgrade_to: Option<PathBuf>,
    /// Write all that happened as a page of HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keep the nodes' folders also when every promise was kept
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
    let command = replay(std::env::args(), args.seed, seed);

    let home = tempfile::tempdir().context("a temporary folder")?;
    // As the nodes' processes see it: the shim compares paths.
    let folder = home.path().canonicalize()?;
    let library = match shim::compile(&folder, &binary) {
        Ok(library) => Some(library),
        Err(why) => {
            let wanted = args.faults.iter().find(|fault| fault.needs_shim());
            ensure!(wanted.is_none(), "{wanted:?} cannot be done: {why:#}");
            println!("disks do not fail and clocks go right in this run: {why:#}");
            None
        }
    };
    let has_shim = library.is_some();
    let options = ClusterOptions {
        binary,
        home: folder,
        nodes: args.nodes.into(),
        is_many: args.nodes > 1 || args.grow,
        shards: args.shards,
        shim: library,
    };
    let sink = sink::Sink::start().await?;
    let cluster = Cluster::start(options).await?;
    if let Some(newer) = &args.upgrade_to {
        cluster.set_binary(newer);
    }
    let course =
        course::Course { args: &args, seed, cluster: &cluster, sink: &sink, has_shim, command: &command };
    // The nodes end with their cluster, which is dropped on this way out too.
    let result = tokio::select! {
        result = course.run() => result,
        () = interrupted() => bail!("interrupted; its nodes are stopped"),
    };
    // What broke a promise is found in the nodes' logs and files.
    if args.keep || result.is_err() {
        println!("the nodes' folders: {}", home.keep().display());
    }
    result.map_err(|error| error.context(format!("a promise was broken; again with: {command}")))
}

/// Returns when this program is asked to end.
async fn interrupted() {
    let asked = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            // Without a handler the signal ends the program at once.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = asked(SignalKind::interrupt()) => {}
        () = asked(SignalKind::terminate()) => {}
    }
}

/// The command line that does the same again: that of this run, with its seed.
fn replay(words: impl Iterator<Item = String>, given: Option<u64>, seed: u64) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    let quoted = |word: String| match word.chars().all(is_plain) && !word.is_empty() {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let mut command: Vec<String> =
        ["jepsen-lite".to_owned()].into_iter().chain(words.skip(1).map(quoted)).collect();
    if given.is_none() {
        command.extend(["--seed".to_owned(), seed.to_string()]);
    }
    command.join(" ")
}

#[cfg(test)]
mod tests {
    use super::replay;

    #[test]
    fn a_run_is_replayed_by_its_own_words_and_its_seed() {
        let words = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>().into_iter();
        assert_eq!(replay(words("x/jepsen-lite|--nodes|3"), None, 9), "jepsen-lite --nodes 3 --seed 9");
        let given = replay(words("jepsen-lite|--seed|9|--report|it's a b"), Some(9), 9);
        assert_eq!(given, "jepsen-lite --seed 9 --report 'it'\\''s a b'");
    }
}

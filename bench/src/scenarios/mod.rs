//! The scenarios, each a command: what it takes, and the figures that come of one repetition.

mod append;
mod chains;
mod clusters;
mod decisions;
mod http;
mod idle;
mod latency;
mod many_open;
mod reads;
mod recovery;
mod replay;
mod slow_disk;
mod timers;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;

use crate::figures::Figures;
use crate::server::Target;
use crate::work::Work;

/// What is measured.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Scenario {
    /// Runs of ten pure steps, one after another, over HTTP
    #[command(after_help = "Examples:
  opcode-bench chain10 --rate 4000 --batch 100
  opcode-bench chain10 --rate 1500 --batch 1       each run alone, from when it was due to its result
  opcode-bench chain10 --open 64 --batch 1         closed loop, 64 runs open
  opcode-bench chain10 --open 10000 --runs 100000  10 000 runs open, 100 in a request")]
    Chain10(chains::Chains),
    /// The same ten steps side by side
    #[command(after_help = "Examples:
  opcode-bench fan10 --rate 4000 --batch 100
  opcode-bench fan10 --open 64 --batch 1")]
    Fan10(chains::Chains),
    /// Runs of ten real HTTP calls to a service on the loopback
    #[command(after_help = "Examples:
  opcode-bench http --rate 100 --runs 3000
  opcode-bench http --open 64 --batch 1 --runs 3000 --pool-size 64")]
    Http(http::Http),
    /// One run at a time, beside the time of one sync
    #[command(after_help = "Examples:
  opcode-bench latency --shards 1 --repeat 5")]
    Latency(latency::Latency),
    /// Very many runs that wait: memory, disk, restart, waking
    #[command(after_help = "Examples:
  opcode-bench many-open --runs 100000
  opcode-bench many-open --runs 1000000 --settle 30 --wake-all 256")]
    ManyOpen(many_open::ManyOpen),
    /// Decisions resolved over HTTP, from resolved to the run's end
    #[command(after_help = "Examples:
  opcode-bench decisions --runs 20000 --open 64")]
    Decisions(decisions::Decisions),
    /// Timers: how late they fire, spread or all at once
    #[command(after_help = "Examples:
  opcode-bench timers --pending 1000000 --lead 240 --window 120
  opcode-bench timers --at-once 100000 --lead 40")]
    Timers(timers::Timers),
    /// Folding runs from their events, in memory and from disk
    #[command(after_help = "Examples:
  opcode-bench replay --runs 50000 --repeat 5")]
    Replay(replay::Replay),
    /// A node killed under load: until it is ready, and until it acknowledges
    #[command(after_help = "Examples:
  opcode-bench recovery --suspended 100000 --seconds 10")]
    Recovery(recovery::Recovery),
    /// Reading the status of runs, by consistency, from leader and replica
    #[command(after_help = "Examples:
  opcode-bench reads --clusters 1,3 --open 32")]
    Reads(reads::Reads),
    /// The same load on one node with 1 to 16 shards
    #[command(after_help = "Examples:
  opcode-bench shards --rate 4000 --batch 500 --repeat 5
  opcode-bench shards --open 1000 --batch 1 --counts 1,16")]
    Shards(clusters::Shards),
    /// The same load on 1 to 3 nodes, with 1 and 3 replicas
    #[command(after_help = "Examples:
  opcode-bench nodes --shards 8 --rate 1000 --repeat 5
  opcode-bench nodes --shards 8 --open 1000 --counts 3 --replicas 3")]
    Nodes(clusters::Nodes),
    /// One shard's log and tables alone, against libSQL alone (the limit)
    #[command(after_help = "Examples:
  opcode-bench append --runs 100000 --repeat 5 --dir /var/tmp")]
    Append(append::Append),
    /// Shards over a log whose syncs take 5 ms, against a writer that syncs each event
    #[command(after_help = "Examples:
  opcode-bench slow-disk --shards 16 --sync 5 --repeat 5")]
    SlowDisk(slow_disk::SlowSyncs),
    /// Nodes that have nothing to do
    #[command(after_help = "Examples:
  opcode-bench idle --shards 8
  opcode-bench idle --nodes 3 --shards 16")]
    Idle(idle::Idle),
}

impl Scenario {
    /// Measures once, in fresh folders under `dir`.
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Chain10(chains) => chains.run(Work::Chain10, dir, figures).await,
            Self::Fan10(chains) => chains.run(Work::Fan10, dir, figures).await,
            Self::Http(http) => http.run(dir, figures).await,
            Self::Latency(latency) => latency.run(dir, figures).await,
            Self::ManyOpen(many_open) => many_open.run(dir, figures).await,
            Self::Decisions(decisions) => decisions.run(dir, figures).await,
            Self::Timers(timers) => timers.run(dir, figures).await,
            Self::Replay(replay) => replay.run(dir, figures).await,
            Self::Recovery(recovery) => recovery.run(dir, figures).await,
            Self::Reads(reads) => reads.run(dir, figures).await,
            Self::Shards(shards) => shards.run(dir, figures).await,
            Self::Nodes(nodes) => nodes.run(dir, figures).await,
            Self::Append(append) => append.run(dir, figures).await,
            Self::SlowDisk(slow_disk) => slow_disk.run(dir, figures).await,
            Self::Idle(idle) => idle.run(dir, figures).await,
        }
    }

    /// The server's binary, where one is started.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        self.target().and_then(Target::binary)
    }

    fn target(&self) -> Option<&Target> {
        match self {
            Self::Chain10(chains) | Self::Fan10(chains) => Some(&chains.target),
            Self::Http(http) => Some(&http.target),
            Self::Latency(latency) => Some(&latency.target),
            Self::ManyOpen(many_open) => Some(&many_open.target),
            Self::Decisions(decisions) => Some(&decisions.target),
            Self::Timers(timers) => Some(&timers.target),
            Self::Recovery(recovery) => Some(&recovery.target),
            Self::Reads(reads) => Some(&reads.target),
            Self::Shards(shards) => Some(&shards.target),
            Self::Nodes(nodes) => Some(&nodes.target),
            Self::Idle(idle) => Some(&idle.target),
            Self::Replay(_) | Self::Append(_) | Self::SlowDisk(_) => None,
        }
    }
}

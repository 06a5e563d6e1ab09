//! `cargo sim`: simulates seeds, each in a process of its own, and tells how to replay a failure.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use opcode_sim::driver::{Options, run};
use opcode_sim::entropy;
use opcode_sim::faults::Theme;
use parking_lot::Mutex;

/// Deterministic simulation of whole clusters.
#[derive(Debug, Parser)]
struct Arguments {
    /// The seed to simulate.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds to simulate, A..B: from A on, to below B.
    #[arg(long, value_parser = range)]
    seeds: Option<std::ops::Range<u64>>,
    /// Simulated seconds in which things go wrong.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// What goes wrong; each seed picks something when it is not said.
    #[arg(long)]
    theme: Option<Theme>,
    /// Simulate each seed twice and compare.
    #[arg(long)]
    check: bool,
    /// Seeds at a time; as many as there are cores when it is not said.
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no more seeds once one has broken a promise.
    #[arg(long)]
    first: bool,
    /// Begin no more seeds after so many seconds of the machine's time.
    #[arg(long)]
    within: Option<u64>,
    /// Print what happens as it does.
    #[arg(long)]
    verbose: bool,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let parts = text.split_once("..").ok_or("give A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok(number(parts.0)?..number(parts.1)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (&arguments.seeds, arguments.check) {
        (None, false) => one(&arguments),
        (Some(seeds), _) => many(&arguments, seeds.clone()),
        (None, true) => {
            let seed = arguments.seed.unwrap_or_default();
            many(&arguments, seed..seed + 1)
        }
    }
}

/// One seed, in this process.
fn one(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_default();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    entropy::seed(seed);
    opcode_shard::simulation::begin();
    let Arguments { seconds, theme, verbose: is_verbose, .. } = *arguments;
    let report = run(&Options { seed, seconds, theme, is_verbose });
    println!("seed {seed}: trace {:016x}; {}", report.trace, report.summary);
    if report.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    for violation in &report.violations {
        println!("seed {seed}: BROKEN: {violation}");
    }
    println!("replay it: cargo sim {} --verbose", for_one(arguments, seed).join(" "));
    ExitCode::FAILURE
}

/// Many seeds, each in a process of its own: what is seeded in a process stays so.
fn many(arguments: &Arguments, seeds: std::ops::Range<u64>) -> ExitCode {
    let begun = Instant::now();
    let (next, count, is_over) = (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicBool::new(false));
    let failed = Mutex::new(BTreeSet::new());
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || arguments.within.is_some_and(|s| begun.elapsed() > Duration::from_secs(s))
            {
                break;
            }
            if !keeps_its_promises(arguments, seed) {
                failed.lock().insert(seed);
                is_over.store(arguments.first, Ordering::Relaxed);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or(cores).max(1) {
            scope.spawn(work);
        }
    });
    let (seconds, count, failed) = (begun.elapsed().as_secs_f64(), count.into_inner(), failed.into_inner());
    println!("{count} seeds in {seconds:.1} s, {:.2} a second; failed: {failed:?}", count as f64 / seconds);
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Simulates a seed, twice when that is asked for, and prints what came of it.
fn keeps_its_promises(arguments: &Arguments, seed: u64) -> bool {
    let (is_kept, text) = child(arguments, seed);
    print!("{text}");
    let second = if arguments.check { Some(child(arguments, seed).1) } else { None };
    let Some(second) = second.filter(|second| *second != text) else { return is_kept };
    println!("seed {seed}: BROKEN: the second run was another one: {second}");
    false
}

/// The arguments that simulate one of the seeds.
fn for_one(arguments: &Arguments, seed: u64) -> Vec<String> {
    let mut all = vec![format!("--seed={seed}"), format!("--seconds={}", arguments.seconds)];
    let theme = arguments.theme.and_then(|theme| theme.to_possible_value());
    all.extend(theme.map(|theme| format!("--theme={}", theme.get_name())));
    all
}

/// Simulates a seed in a process; whether all promises were kept, and what it printed.
fn child(arguments: &Arguments, seed: u64) -> (bool, String) {
    let command = std::env::current_exe()
        .and_then(|program| Command::new(program).args(for_one(arguments, seed)).output());
    match command {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                text += &String::from_utf8_lossy(&output.stderr);
            }
            (output.status.success(), text)
        }
        Err(error) => (false, format!("seed {seed}: it could not be run: {error}\n")),
    }
}

//! OPCODE, Restate and DBOS on the same work, in turns, on the same machine.
//!
//! Each round starts every engine once for each number of open runs, on a fresh folder, puts it under
//! load, and ends it; rounds begin with another engine each time. What is printed are medians over
//! the rounds with the least and the most, and ratios of engines measured in the same round. Only one
//! engine runs at a time. What cannot be measured is named, with the reason.

mod engine;
mod process;
mod summary;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use opcode_peers::load::Load;
use serde_json::json;

use engine::{Engine, Programs};
use summary::{Outcome, Trial};

/// Versions of the peers' crates, which this program was built with.
const LOCK: &str = include_str!("../Cargo.lock");

/// OPCODE beside Restate and DBOS, on the same work in the same run.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// The `opcode` binary
    #[arg(long, value_name = "FILE")]
    opcode: PathBuf,
    /// The `restate-server` binary [default: the one that install.sh installed]
    #[arg(long, value_name = "FILE")]
    restate: Option<PathBuf>,
    /// Folder of PostgreSQL's programs [default: the newest where Debian puts them]
    #[arg(long, value_name = "DIR")]
    postgres: Option<PathBuf>,
    /// Times that everything is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runs open at a time, with commas between
    #[arg(long, default_values_t = [1, 64, 1000], value_delimiter = ',', value_name = "N")]
    open: Vec<usize>,
    /// What to measure, with commas between [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ENGINE")]
    engines: Vec<Engine>,
    /// Seconds of load before runs count
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    warmup: f64,
    /// Seconds while runs count
    #[arg(long, default_value_t = 15.0, value_name = "S")]
    window: f64,
    /// Steps with side effects that OPCODE runs at a time, for its `http.post` steps
    #[arg(long, default_value_t = 64, value_name = "N")]
    opcode_pool_size: usize,
    /// Where the fresh folders are made: a real disk [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write every figure as JSON here too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures everything; whether nothing failed. What is not installed is no failure.
async fn run(cli: Cli) -> Result<bool> {
    ensure!(cli.opcode.is_file(), "{}: no such binary", cli.opcode.display());
    ensure!(cli.open.iter().all(|&open| open > 0), "at least one run has to be open");
    // For the engines and services too, which inherit it: each open run is a connection.
    rlimit::increase_nofile_limit(u64::MAX).context("the limit of open files can be raised")?;
    let parent = cli.dir.clone().unwrap_or_else(std::env::temp_dir);
    let parent = parent.canonicalize().with_context(|| format!("the folder {}", parent.display()))?;
    let programs = Programs {
        opcode: cli.opcode.canonicalize()?,
        opcode_pool_size: cli.opcode_pool_size,
        restate: cli.restate.clone().or_else(installed_restate),
        postgres: cli.postgres.clone().or_else(debian_postgres),
    };
    let seconds = |s: f64| Duration::try_from_secs_f64(s).context("a number of seconds");
    let (warmup, window) = (seconds(cli.warmup)?, seconds(cli.window)?);
    let engines = if cli.engines.is_empty() { Engine::value_variants() } else { &cli.engines };
    let (missing, mut there): (Vec<_>, Vec<_>) =
        engines.iter().copied().partition(|&engine| programs.missing(engine).is_some());
    let not_measured: Vec<(Engine, String)> =
        missing.into_iter().filter_map(|engine| Some((engine, programs.missing(engine)?))).collect();

    let mut trials = Vec::new();
    for round in 1..=cli.rounds {
        for &open in &cli.open {
            for &engine in &there {
                let load = Load { open, warmup, window };
                let outcome = match engine::measure(engine, &programs, load, &parent).await {
                    Ok(measured) => Outcome::Measured(measured),
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                };
                let trial = Trial { round, open, engine: engine.name(), is_ours: engine.is_ours(), outcome };
                eprintln!("{trial}");
                trials.push(trial);
            }
        }
        if !there.is_empty() {
            there.rotate_left(1);
        }
    }

    let about = about(&programs, &cli);
    println!("{}", serde_json::to_string_pretty(&about)?);
    print!("{}", summary::text(&trials));
    for (engine, why) in &not_measured {
        println!("{}: NOT MEASURED: {why}", engine.name());
    }
    if let Some(path) = &cli.json {
        let missing: Vec<_> =
            not_measured.iter().map(|(e, why)| json!({"engine": e.name(), "why": why})).collect();
        let all = json!({"about": about, "not_measured": missing, "medians": summary::medians(&trials),
                         "ratios": summary::ratios(&trials), "trials": trials});
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(trials.iter().all(|trial| matches!(trial.outcome, Outcome::Measured(_))))
}

/// Machine, versions and settings, for the report.
fn about(programs: &Programs, cli: &Cli) -> serde_json::Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({
        "machine": format!("{cores} cores, {}", model.unwrap_or("unknown processor")),
        "opcode": version(&programs.opcode),
        "restate": programs.restate.as_deref().map(version),
        "restate_sdk": crate_version("restate-sdk"),
        "dbos": crate_version("dbos"),
        "postgres": programs.postgres.as_deref().map(|folder| version(&folder.join("postgres"))),
        "rounds": cli.rounds,
        "warmup_s": cli.warmup,
        "window_s": cli.window,
        "opcode_pool_size": cli.opcode_pool_size,
    })
}

/// What a program says of its version.
fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output();
    said.map_or_else(|_| "unknown".to_owned(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The version of a crate that this program was built with.
fn crate_version(name: &str) -> Option<&'static str> {
    let package =
        LOCK.split("[[package]]").find(|package| package.contains(&format!("name = \"{name}\"\n")))?;
    package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}

/// What `install.sh` put in its place.
fn installed_restate() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".installed/node_modules/@restatedev");
    entries(&packages)
        .into_iter()
        .map(|package| package.join("bin/restate-server"))
        .find(|file| file.is_file())
}

/// The newest of the versions that Debian keeps side by side.
fn debian_postgres() -> Option<PathBuf> {
    let number = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = entries(Path::new("/usr/lib/postgresql"));
    let newest = versions.into_iter().filter(|folder| folder.join("bin/initdb").is_file()).max_by_key(number);
    newest.map(|folder| folder.join("bin"))
}

/// What is in a folder; nothing, where there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

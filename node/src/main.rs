//! The binary `opcode`: composition root and command line.
//!
//! `dev` and `serve` run a node; everything else is a client of the HTTP contract, but for the
//! few commands that look at a stopped node's data folder.

mod addresses;
mod audit;
mod cli;
mod cluster;
mod config;
mod https;
mod incarnation;
mod isolation;
mod join;
mod membership;
mod memory;
mod node;
mod observed;
mod otlp;
mod replicas;
mod secret_file;
mod services;
mod shards;
mod telemetry;
mod token_file;
mod transport;
mod trust;
mod vault;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use cli::{ClientCommand, GlobalArgs};
use config::NodeFlags;

/// OPCODE cluster: a sharded, replicated workflow engine.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  opcode dev                              run a node on this laptop
  opcode run order.json --wait            submit a definition and wait for its end
  opcode wf list --status failed          find what failed
  opcode wf why ID                        ask why a run is not moving";

#[derive(Subcommand)]
enum Command {
    /// Run one node for a laptop: shell and loopback HTTP on, fs.* confined to this folder
    #[command(
        after_help = "Examples:\n  opcode dev\n  opcode dev --listen 127.0.0.1:4200 --data-dir /tmp/opcode"
    )]
    Dev {
        #[command(flatten)]
        node: Box<NodeFlags>,
    },
    /// Run a node
    #[command(after_help = "Examples:\n  opcode serve --data-dir /var/lib/opcode\n  \
                            opcode serve --data-dir data --allow-shell --fs-root /srv/files")]
    Serve {
        #[command(flatten)]
        node: Box<NodeFlags>,
    },
    /// Print each configuration value and where it came from
    #[command(
        after_help = "Examples:\n  opcode config\n  OPCODE_SHARDS=8 opcode config --config opcode.toml"
    )]
    Config {
        #[command(flatten)]
        node: Box<NodeFlags>,
    },
    /// Check a stopped node's tables against its events, and write them anew where they differ
    #[command(after_help = "Examples:\n  opcode rebuild --check --data-dir opcode-data")]
    Rebuild(cli::rebuild::Rebuild),
    #[command(flatten)]
    Client(ClientCommand),
    /// Run jq for a node, on stdin and stdout
    #[command(hide = true)]
    JqWorker,
}

fn main() -> ExitCode {
    // What starts programs is not for people, and has to be quick.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == isolation::LAUNCH) {
        return opcode_shard::isolation::launch_main(std::env::args_os().skip(2));
    }
    let cli = Cli::parse();
    let with_globals = |mut node: Box<NodeFlags>| {
        node.token_file.clone_from(&cli.global.token_file);
        node.ca_file.clone_from(&cli.global.ca_file);
        node
    };
    let result = match cli.command {
        Command::Dev { node } => run_node(&with_globals(node), true),
        Command::Serve { node } => run_node(&with_globals(node), false),
        Command::Config { node } => print_config(&with_globals(node)),
        Command::Rebuild(rebuild) => in_runtime(cli::rebuild::run(rebuild)),
        Command::Client(command) => match runtime() {
            Ok(runtime) => return runtime.block_on(cli::run(command, &cli.global)),
            Err(error) => Err(error),
        },
        Command::JqWorker => {
            opcode_shard::workers::jq_pool::jq_worker_main().context("jq worker").map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("opcode: {error:#}");
        ExitCode::FAILURE
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(memory::give_back)
        .build()
        .context("no threads can be started")
}

fn in_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
}

fn run_node(flags: &NodeFlags, dev: bool) -> Result<ExitCode> {
    let loaded = config::load(flags, dev)?;
    telemetry::start_logs(&loaded.config.log_level)?;
    // The allocator asks for huge pages, of which a node with many small heaps uses little: three
    // times the memory when idle. Where this is not to be had, nothing is lost but that.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    let roots = loaded.config.fs_roots.clone();
    let ready = move |url: &str| {
        println!("OPCODE is ready at {url}");
        if dev {
            let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            println!(
                "  dev mode: shell.exec and plugins are on, http.* may reach this machine, fs.* is confined to {}",
                roots.join(", ")
            );
            println!("  try: opcode run FILE --wait");
        }
    };
    in_runtime(node::run(loaded.config, ready))?;
    Ok(ExitCode::SUCCESS)
}

fn print_config(flags: &NodeFlags) -> Result<ExitCode> {
    let loaded = config::load(flags, false)?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["KEY", "VALUE", "FROM"]);
    for (key, value, origin) in loaded.origins()? {
        table.add_row([key, value.to_string(), origin]);
    }
    println!("{table}");
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["ISOLATION OF PROGRAMS HERE", ""]);
    in_runtime(isolation::report(&loaded.config))?.into_iter().for_each(|(name, value)| {
        table.add_row([name, value]);
    });
    println!("\n{table}");
    Ok(ExitCode::SUCCESS)
}

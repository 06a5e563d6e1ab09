//! The client side of `opcode`: one file a subject, all of it over the HTTP contract.

mod client;
mod cluster;
mod decision;
mod output;
pub(crate) mod rebuild;
mod run;
mod template;
mod validate;
mod wf;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Subcommand};

use client::{Client, Failure};
use output::{Format, Output};

/// Exit codes, as the specification of the command line lists them.
pub(crate) mod exit {
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const WORKFLOW_FAILED: u8 = 3;
    pub(crate) const NOT_FOUND: u8 = 4;
    pub(crate) const NOT_ALLOWED: u8 = 5;
    pub(crate) const TIMEOUT: u8 = 6;
    pub(crate) const UNAVAILABLE: u8 = 7;
    pub(crate) const CONFLICT: u8 = 8;
}

/// Flags of every client command.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalArgs {
    /// The node to ask
    #[arg(
        long,
        global = true,
        env = "OPCODE_SERVER",
        default_value = "http://127.0.0.1:4100",
        value_name = "URL"
    )]
    server: String,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print ids and results only
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// Commands that are clients of a node, or need none.
#[derive(Subcommand)]
pub(crate) enum ClientCommand {
    /// Submit a definition file or a template
    Run(run::Run),
    /// Check definition files without a node: every problem at once
    Validate(validate::Validate),
    /// Look at and steer workflows
    #[command(subcommand)]
    Wf(wf::Wf),
    /// Define, list and show templates
    #[command(subcommand)]
    Template(template::Template),
    /// List and resolve decisions
    #[command(subcommand)]
    Decision(decision::Decision),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Run a read-only query on every shard's tables
    #[command(
        after_help = "Examples:\n  opcode sql \"SELECT status, count(*) FROM workflows GROUP BY status\"\n  \
                            opcode sql \"SELECT * FROM event_log WHERE type = 'step_failed'\" -o json"
    )]
    Sql(cluster::Sql),
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  opcode completions bash > ~/.local/share/bash-completion/completions/opcode"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Examples:\n  opcode man | man -l -")]
    Man,
}

/// Runs a command to its exit code; what went wrong goes to stderr in one message.
pub(crate) async fn run(command: ClientCommand, global: &GlobalArgs) -> ExitCode {
    // A second installation in one process is the only way this fails.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let output = Output { format: global.output, quiet: global.quiet };
    let result = match Client::new(&global.server) {
        Ok(client) => dispatch(command, &client, output).await,
        Err(failure) => Err(failure),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("opcode: {failure}");
            ExitCode::from(failure.exit)
        }
    }
}

async fn dispatch(command: ClientCommand, client: &Client, output: Output) -> Result<ExitCode, Failure> {
    match command {
        ClientCommand::Run(args) => run::run(args, client, output).await,
        ClientCommand::Validate(args) => validate::run(&args, output),
        ClientCommand::Wf(command) => wf::run(command, client, output).await,
        ClientCommand::Template(command) => template::run(command, client, output).await,
        ClientCommand::Decision(command) => decision::run(command, client, output).await,
        ClientCommand::Cluster(command) => cluster::run(command, client, output).await,
        ClientCommand::Sql(args) => cluster::sql(args, client, output).await,
        ClientCommand::Completions { shell } => {
            clap_complete::generate(shell, &mut crate::Cli::command(), "opcode", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        ClientCommand::Man => {
            clap_mangen::Man::new(crate::Cli::command())
                .render(&mut std::io::stdout())
                .map_err(|e| Failure::new(exit::ERROR, format!("the page cannot be printed: {e}")))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A value given as JSON, or as `@file`.
fn json_or_file(text: &str, what: &str) -> Result<serde_json::Value, Failure> {
    let (source, name) = match text.strip_prefix('@') {
        Some(path) => (read(path)?, path),
        None => (text.to_owned(), what),
    };
    serde_json::from_str(&source).map_err(|e| Failure::new(exit::ERROR, format!("{name}: not JSON: {e}")))
}

/// A file's text; `-` is stdin.
fn read(path: &str) -> Result<String, Failure> {
    let text =
        if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.map_err(|e| Failure::new(exit::ERROR, format!("{path}: {e}")))
}

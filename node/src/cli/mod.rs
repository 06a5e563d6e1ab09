//! The client's side of the command line: one file per family of commands, all over the HTTP
//! contract, but for `validate`, which needs no node.
//!
//! Results go to stdout and everything else to stderr, so that output can be piped. Exit codes:
//! 0 ok, 1 error, 2 usage, 3 the workflow failed, 4 not found, 5 not allowed, 6 timeout,
//! 7 unavailable, 8 conflict.

mod agent;
mod audit;
mod backup;
mod bulk;
mod certs;
mod client;
mod cluster;
mod completions;
mod decision;
mod events;
mod export;
mod failure;
mod follow;
mod force_recover;
mod health;
mod import;
mod input;
mod locate;
mod mcp;
mod namespace;
mod opcode_db;
mod output;
mod plugin;
pub(crate) mod rebuild;
mod restore;
mod retention;
mod run;
mod schedule;
mod scrub;
mod secret;
mod template;
mod token;
mod validate;
mod verify;
mod webhook;
mod wf;
mod wf_commands;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use opcode_engine::namespace::Namespace;

use client::Client;
use failure::Failure;
use output::{Format, Output};

/// Flags of every client command.
#[derive(Args, Clone, Debug)]
pub(crate) struct GlobalArgs {
    /// The node to talk to
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OPCODE_SERVER",
        default_value = "http://127.0.0.1:4100"
    )]
    server: String,
    /// Bearer token, where the node asks for one
    #[arg(long, global = true, value_name = "TOKEN", env = "OPCODE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File of bearer tokens: a client shows the first, a node takes each
    #[arg(long, global = true, value_name = "FILE", env = "OPCODE_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File of the CAs that a node's certificate is taken by over https://; the system's without it
    #[arg(long, global = true, value_name = "FILE", env = "OPCODE_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Whose workflows, templates, schedules and secrets are meant [default: the token's, or default]
    #[arg(long, global = true, value_name = "NAME", env = "OPCODE_NAMESPACE", value_parser = namespace::parse)]
    namespace: Option<Namespace>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print only what was asked for: ids, outputs
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// What a client may ask of a node.
#[derive(Subcommand)]
pub(crate) enum ClientCommand {
    /// Start a workflow from a file or a template
    Run(run::Run),
    /// Check definitions here, without a node
    Validate(validate::Validate),
    /// List, read and steer workflows
    #[command(subcommand)]
    Wf(wf::Wf),
    /// Define and read templates
    #[command(subcommand)]
    Template(template::Template),
    /// Make, list and delete tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Make, list and delete namespaces
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// Set, list and remove secrets
    #[command(subcommand)]
    Secret(secret::Secret),
    /// See who has called what that changes something
    #[command(subcommand)]
    Audit(audit::Audit),
    /// See the agents that have been in contact
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Register, list and remove plugins: MCP servers whose tools are actions
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// List and resolve decisions
    #[command(subcommand)]
    Decision(decision::Decision),
    /// Run templates by the clock
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    /// Write templates and workflows into a file
    Export(Box<export::Export>),
    /// Take in workflows that have ended, and templates
    Import(Box<import::Import>),
    /// Say how long workflows are kept once they have ended
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Take a backup of a cluster while it works
    Backup(backup::Backup),
    /// Make the data folder of a new cluster from a backup
    Restore(restore::Restore),
    /// Look whether a backup is whole
    Verify(verify::Verify),
    /// Show the events of all workflows, as they happen
    Events(events::Events),
    /// Have receivers told of events
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Run a read-only query on every shard's tables
    Sql(cluster::Sql),
    /// See the cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Tell whether the node serves
    Health(health::Health),
    /// Serve MCP to an agent on stdin and stdout
    Mcp(mcp::Mcp),
    /// Print a shell's completions
    Completions(completions::Completions),
    /// Print the manual page
    Man(completions::Man),
}

/// What a command works with.
struct Context {
    client: Client,
    output: Output,
}

/// Runs a client command to its exit code.
pub(crate) async fn run(command: ClientCommand, global: &GlobalArgs) -> ExitCode {
    let output = Output::new(global.output, global.quiet);
    let client = token(global)
        .and_then(|token| Client::new(&global.server, token.as_deref(), global.ca_file.as_deref()))
        .map(|client| client.in_namespace(global.namespace.clone()));
    let result = match client {
        Ok(client) => dispatch(command, &Context { client, output }).await,
        Err(failure) => Err(failure),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(global.output);
            failure.exit_code()
        }
    }
}

/// The token to show, if any: the one given, or the first of the file.
fn token(global: &GlobalArgs) -> Result<Option<String>, Failure> {
    match (&global.token, &global.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => {
            let first = crate::token_file::first(file);
            first.map(Some).map_err(|error| Failure::local(format!("{error:#}")))
        }
        (None, None) => Ok(None),
    }
}

async fn dispatch(command: ClientCommand, context: &Context) -> Result<(), Failure> {
    match command {
        ClientCommand::Run(args) => run::run(args, context).await,
        ClientCommand::Validate(args) => validate::run(&args, &context.output),
        ClientCommand::Wf(command) => wf::run(command, context).await,
        ClientCommand::Template(command) => template::run(command, context).await,
        ClientCommand::Token(command) => token::run(command, context).await,
        ClientCommand::Namespace(command) => namespace::run(command, context).await,
        ClientCommand::Secret(command) => secret::run(command, context).await,
        ClientCommand::Audit(command) => audit::run(command, context).await,
        ClientCommand::Agent(command) => agent::run(command, context).await,
        ClientCommand::Plugin(command) => plugin::run(command, context).await,
        ClientCommand::Decision(command) => decision::run(command, context).await,
        ClientCommand::Schedule(command) => schedule::run(command, context).await,
        ClientCommand::Export(args) => export::run(*args, context).await,
        ClientCommand::Import(args) => import::run(*args, context).await,
        ClientCommand::Retention(command) => retention::run(command, context).await,
        ClientCommand::Backup(args) => backup::run(args, context).await,
        ClientCommand::Restore(args) => restore::run(args, context).await,
        ClientCommand::Verify(args) => verify::run(args, context).await,
        ClientCommand::Events(args) => events::run(args, context).await,
        ClientCommand::Webhook(command) => webhook::run(command, context).await,
        ClientCommand::Sql(args) => cluster::sql(args, context).await,
        ClientCommand::Cluster(command) => cluster::run(command, context).await,
        ClientCommand::Health(health::Health {}) => health::run(context).await,
        ClientCommand::Mcp(mcp::Mcp {}) => mcp::run(context).await,
        ClientCommand::Completions(args) => {
            completions::completions(&args);
            Ok(())
        }
        ClientCommand::Man(args) => completions::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Names of the commands under `command` whose help shows no example.
    fn without_examples(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        for sub in shown {
            let path = format!("{path} {}", sub.get_name());
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_family = sub.get_subcommands().any(|inner| inner.get_name() != "help");
            if !is_family && !help.contains("Examples:\n  ") {
                found.push(path.clone());
            }
            without_examples(sub, &path, found);
        }
    }

    /// Command lines of ours in a document: what stands in code and begins with the program's name,
    /// as far as it is one command.
    fn command_lines(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (at, part) in text.split("```").enumerate() {
            if at % 2 == 1 {
                found
                    .extend(part.lines().skip(1).map(|line| line.trim().trim_start_matches("$ ").to_owned()));
            } else {
                found.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
            }
        }
        found.retain(|line| line.starts_with("opcode "));
        let ends = [" #", " |", " &&", ";"];
        let first = |line: String| {
            ends.iter()
                .filter_map(|end| line.find(end))
                .min()
                .map_or(line.clone(), |to| line[..to].to_owned())
        };
        found.into_iter().map(first).collect()
    }

    /// Its words, with something in the place of what stands for a number or a day.
    fn words(line: &str) -> Vec<String> {
        let line = line.replace("$(date +%F)", "day");
        let mut words = Vec::new();
        for (at, quoted) in line.split('\'').enumerate() {
            match at % 2 {
                1 => words.push(quoted.to_owned()),
                _ => words.extend(quoted.split_whitespace().map(str::to_owned)),
            }
        }
        words
            .iter_mut()
            .filter(|word| matches!(word.as_str(), "N" | "M" | "SHARD"))
            .for_each(|word| *word = "1".into());
        words
    }

    #[test]
    fn the_commands_in_the_documents_are_commands() {
        use clap::error::ErrorKind;
        let documents = [
            ("RUNBOOK.md", include_str!("../../../deploy/RUNBOOK.md")),
            ("README.md", include_str!("../../../deploy/README.md")),
            ("SKILL.md", include_str!("../../../deploy/skill/SKILL.md")),
        ];
        let mut wrong = Vec::new();
        for (document, text) in documents {
            let lines = command_lines(text);
            assert!(!lines.is_empty(), "{document} has commands");
            for line in lines {
                let Err(error) = crate::Cli::command().try_get_matches_from(words(&line)) else { continue };
                // In the middle of a sentence only the command is named.
                let is_short = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::DisplayHelp
                );
                if !is_short {
                    wrong.push(format!("{document}: {line}: {error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_command_shows_examples() {
        let command = crate::Cli::command();
        command.clone().debug_assert();
        let mut found = Vec::new();
        without_examples(&command, "opcode", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}

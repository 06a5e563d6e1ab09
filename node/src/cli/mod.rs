//! The client's side of the command line: one file per family of commands, all over the HTTP
//! contract, but for `validate`, which needs no node.
//!
//! Results go to stdout and everything else to stderr, so that output can be piped. Exit codes:
//! 0 ok, 1 error, 2 usage, 3 the workflow failed, 4 not found, 5 not allowed, 6 timeout,
//! 7 unavailable, 8 conflict.

mod agent;
mod bulk;
mod certs;
mod client;
mod cluster;
mod completions;
mod decision;
mod failure;
mod follow;
mod force_recover;
mod input;
mod locate;
mod mcp;
mod namespace;
mod output;
pub(crate) mod rebuild;
mod run;
mod schedule;
mod scrub;
mod secret;
mod template;
mod token;
mod validate;
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
    /// See the agents that have been in contact
    #[command(subcommand)]
    Agent(agent::Agent),
    /// List and resolve decisions
    #[command(subcommand)]
    Decision(decision::Decision),
    /// Run templates by the clock
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    /// Run a read-only query on every shard's tables
    Sql(cluster::Sql),
    /// See the cluster
    #[command(subcommand)]
    Cluster(cluster::Cluster),
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
        .and_then(|token| Client::new(&global.server, token.as_deref()))
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
        ClientCommand::Agent(command) => agent::run(command, context).await,
        ClientCommand::Decision(command) => decision::run(command, context).await,
        ClientCommand::Schedule(command) => schedule::run(command, context).await,
        ClientCommand::Sql(args) => cluster::sql(args, context).await,
        ClientCommand::Cluster(command) => cluster::run(command, context).await,
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

    #[test]
    fn every_command_shows_examples() {
        let command = crate::Cli::command();
        command.clone().debug_assert();
        let mut found = Vec::new();
        without_examples(&command, "opcode", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}

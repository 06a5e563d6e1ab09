//! Completions and manual pages, made from the command line's own description.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::Failure;
use super::output::emit_bytes;
use crate::Cli;

/// Flags of `opcode completions`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode completions bash > ~/.local/share/bash-completion/completions/opcode
  opcode completions zsh > ~/.zfunc/_opcode")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Flags of `opcode man`.
#[derive(Args)]
#[command(after_help = "Examples:\n  opcode man | man -l -\n  opcode man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write a page for every command into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &Completions) {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "opcode", &mut text);
    emit_bytes(&text);
}

pub(crate) fn man(args: &Man) -> Result<(), Failure> {
    let command = Cli::command().name("opcode");
    if let Some(dir) = &args.dir {
        return std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(command, dir))
            .map_err(|error| Failure::local(format!("{}: {error}", dir.display())));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::local(format!("the manual page: {error}")))?;
    emit_bytes(&page);
    Ok(())
}

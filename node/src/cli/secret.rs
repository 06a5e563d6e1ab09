//! `opcode secret`: values that steps use and nobody is shown.
//!
//! A value comes from a prompt, from stdin or from a file, and never from the command line, which
//! every process of the machine can read.

use std::io::{BufRead, IsTerminal};

use clap::Subcommand;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::input;
use super::output::facts;
use super::wf::paged;

/// Commands on secrets.
#[derive(Subcommand)]
pub(crate) enum Secret {
    /// Set a secret, which params then name as ${{secrets.KEY}}
    #[command(after_help = "Examples:
  opcode secret set API_KEY                     asks for the value
  pass show api | opcode secret set API_KEY     reads it from stdin
  opcode secret set DEPLOY_KEY @id_ed25519      reads it from a file

One line end after the value is not part of it.")]
    Set {
        /// Its key: letters, digits, `.`, `_` and `-`
        key: String,
        /// Where its value is: a file, or - for stdin; a value itself is refused here
        #[arg(value_name = "@FILE|-")]
        from: Option<String>,
    },
    /// List the keys of all secrets; values are never shown
    #[command(after_help = "Examples:\n  opcode secret list\n  opcode secret list -q")]
    List {
        /// Secrets at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every secret
        #[arg(long)]
        all: bool,
    },
    /// Remove a secret; steps that name it fail from then on
    #[command(after_help = "Examples:\n  opcode secret rm API_KEY")]
    Rm {
        /// Its key
        key: String,
    },
    /// Seal every secret with the node's first key, once all nodes have that key
    #[command(after_help = "Examples:\n  opcode secret rotate

To change the key: give every node the new one behind the old (a second line of its key file) and
start it again; then put the new one first on every node, likewise; rotate; then take the old one out.")]
    Rotate,
}

pub(crate) async fn run(command: Secret, context: &Context) -> Result<(), Failure> {
    match command {
        Secret::Set { key, from } => {
            let body = json!({ "value": value(&key, from.as_deref())? });
            let path = format!("/v1/secrets/{}", encoded(&key));
            let set = context.client.put(&path, &body).await?;
            context.output.document(&set, |set| facts(set, &["key", "created_at", "updated_at"]));
        }
        Secret::List { limit, cursor, all } => {
            let columns = [("KEY", "key"), ("CREATED", "created_at"), ("UPDATED", "updated_at")];
            let page = paged(context, "/v1/secrets", &[], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        Secret::Rm { key } => {
            let removed = context.client.delete(&format!("/v1/secrets/{}", encoded(&key))).await?;
            context.output.document(&removed, |removed| facts(removed, &["key", "removed"]));
        }
        Secret::Rotate => {
            let rotated = context.client.post("/v1/secrets/rotate", &json!({})).await?;
            context.output.document(&rotated, |rotated| facts(rotated, &["resealed", "unchanged", "failed"]));
            if rotated["failed"].as_array().is_some_and(|failed| !failed.is_empty()) {
                let detail = "some secrets could not be opened and are as they were: no node key opens them";
                return Err(Failure::local(detail));
            }
        }
    }
    Ok(())
}

/// The value to set.
fn value(key: &str, from: Option<&str>) -> Result<Value, Failure> {
    let text = match from {
        None if std::io::stdin().is_terminal() => prompt(key)?,
        None | Some("-") => input::read_file("-")?,
        Some(from) => match from.strip_prefix('@') {
            Some(file) => input::read_file(file)?,
            None => {
                return Err(Failure::Usage(
                    "a value on the command line is there for every process of this machine to read: \
                     give it on stdin, or as @FILE"
                        .to_owned(),
                ));
            }
        },
    };
    Ok(Value::from(without_line_end(&text)))
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Asks on the terminal, which does not show what is typed.
fn prompt(key: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let failed = |error: &dyn std::fmt::Display| Failure::local(format!("the terminal: {error}"));
    let before = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(|error| failed(&error))?;
    eprint!("Value of {key}: ");
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    eprintln!();
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &before).map_err(|error| failed(&error))?;
    read.map_err(|error| failed(&error))?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_from_a_file_and_never_from_the_command_line() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("value");
        std::fs::write(&file, "two\nlines\r\n").unwrap();
        let read = value("K", Some(&format!("@{}", file.display()))).unwrap();
        assert_eq!(read, "two\nlines");
        let refused = value("K", Some("hunter2")).unwrap_err();
        assert!(matches!(&refused, Failure::Usage(why) if why.contains("@FILE") && !why.contains("hunter2")));
        assert_eq!(without_line_end("a\n\n"), "a\n");
    }
}

//! `opcode verify`: whether a backup is whole, and its tables equal the fold of their events.

use std::path::PathBuf;

use clap::Args;
use opcode_shard::backup::manifest::Manifest;
use opcode_shard::backup::verify::{Depth, verify};
use serde_json::json;

use super::Context;
use super::backup::{summary, table};
use super::failure::Failure;

/// Flags of `opcode verify`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode verify /backups/monday
  opcode verify /backups/monday --quick          only compare checksums

The tables of a stopped node are looked at by `opcode rebuild --check --data-dir DIR`.")]
pub(crate) struct Verify {
    /// The backup's folder
    dir: PathBuf,
    /// Compare checksums only, without looking at what the tables hold
    #[arg(long)]
    quick: bool,
}

pub(crate) async fn run(args: Verify, context: &Context) -> Result<(), Failure> {
    let manifest = Manifest::read(&args.dir)?;
    let depth = if args.quick { Depth::Checksums } else { Depth::Events };
    let verified = verify(&args.dir, &manifest, depth).await?;
    let mut told = summary(&args.dir, &manifest);
    told["files"] = verified.files.into();
    told["problems"] = json!(verified.problems);
    if depth == Depth::Events {
        told["runs"] = verified.runs.into();
        told["events"] = verified.events.into();
    }
    context.output.document(&told, |told| {
        let mut text = table(told);
        for problem in &verified.problems {
            text.push_str(&format!("\n{problem}"));
        }
        text
    });
    match verified.problem_count {
        0 => Ok(()),
        count => Err(Failure::local(format!("{count} problems: this is no backup to restore from"))),
    }
}

//! `opcode rebuild`: the tables of a stopped node against the fold of its events.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::shards::{DataDir, NewData};

/// Flags of `opcode rebuild`.
#[derive(Args)]
pub(crate) struct Rebuild {
    /// Folder of all data
    #[arg(long, value_name = "DIR", default_value = "opcode-data", env = "OPCODE_DATA_DIR")]
    data_dir: PathBuf,
    /// Only report differences; change nothing
    #[arg(long)]
    check: bool,
}

/// Goes through every shard's file; 0 when nothing differs (or all was mended), 1 otherwise.
pub(crate) async fn run(args: Rebuild) -> Result<ExitCode> {
    if !args.data_dir.join("node.json").is_file() {
        bail!("{}: no data of a node here", args.data_dir.display());
    }
    let data = DataDir::open(&args.data_dir, NewData::Cluster(None))?;
    let (mut differences, mut damages) = (0, 0);
    for (shard, path) in data.tables() {
        let report = opcode_shard::store::rebuild(&path, args.check)
            .await
            .with_context(|| format!("shard {shard}"))?;
        println!("shard {shard}: {} runs, {} events", report.runs, report.events);
        for difference in &report.differences {
            println!("  {difference:?}");
        }
        for damage in &report.damages {
            println!("  damaged: {damage}");
        }
        differences += report.difference_count;
        damages += report.damage_count;
    }
    if damages > 0 {
        println!("{damages} damages in the events themselves: restore this folder from a copy");
        return Ok(ExitCode::FAILURE);
    }
    if differences == 0 {
        println!("the tables equal the fold of the events");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{differences} differences{}",
        if args.check { "; run without --check to mend them" } else { ", mended" }
    );
    Ok(if args.check { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

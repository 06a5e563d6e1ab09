//! DBOS, which runs in the program that uses it: the workflow and its load in one process, and the
//! figures as JSON on standard output.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use dbos::{Config, DBOS};
use opcode_peers::load::{Load, Watched, measure};
use opcode_peers::work::{MEASURED, RESULT_BYTES, STEPS, text};

/// Runs chains of ten steps with DBOS; started by `peers`.
#[derive(Parser)]
struct Cli {
    /// Address of the PostgreSQL database
    #[arg(long)]
    url: String,
    /// Process of the PostgreSQL server
    #[arg(long)]
    server: u32,
    /// Folder of its data
    #[arg(long)]
    folder: PathBuf,
    /// Connections at most
    #[arg(long)]
    pool: u32,
    /// Runs open at a time
    #[arg(long)]
    open: usize,
    /// Milliseconds before runs count
    #[arg(long)]
    warmup_ms: u64,
    /// Milliseconds while they do
    #[arg(long)]
    window_ms: u64,
}

/// Ten steps; the last one's result.
async fn chain10(_input: String) -> dbos::Result<String> {
    let mut last = String::new();
    for step in 0..STEPS {
        last = dbos::step(&format!("s{step}"), async || dbos::Result::Ok(text(RESULT_BYTES))).await?;
    }
    Ok(last)
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let dbos = DBOS::new(Config {
        max_connections: cli.pool,
        app_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        ..Config::new("opcode-peers", cli.url)
    });
    let chain10 = dbos.register_workflow("chain10", chain10)?;
    dbos.launch().await?;
    let load = Load {
        open: cli.open,
        warmup: Duration::from_millis(cli.warmup_ms),
        window: Duration::from_millis(cli.window_ms),
    };
    let watched = Watched { server: cli.server, service: Some(std::process::id()), folder: cli.folder };
    let measured = measure(load, &watched, move || {
        let chain10 = chain10.clone();
        async move {
            let result = chain10.run(text(RESULT_BYTES)).await?;
            ensure!(result.len() + 2 == RESULT_BYTES, "a run returned {result:?}");
            Ok(())
        }
    })
    .await?;
    dbos.shutdown().await;
    println!("{MEASURED}{}", serde_json::to_string(&measured)?);
    Ok(())
}

//! `idle`: nodes that have nothing to do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::figures::Figures;
use crate::server::{Server, Target};

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Seconds they may settle before
    #[arg(long, default_value_t = 15)]
    settle: u64,
    /// Seconds to watch
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

impl Idle {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let server = Server::open(&self.target, dir, &[]).await?;
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        let before = server.usage().context("only nodes of this command's own can be watched")?;
        let watch = Duration::from_secs(self.seconds.max(1));
        tokio::time::sleep(watch).await;
        let after = server.usage().context("only nodes of this command's own can be watched")?;
        let seconds = watch.as_secs_f64();
        figures.put("CPU, all nodes", "% of a core", 100.0 * (after.cpu_s - before.cpu_s) / seconds);
        figures.put("memory held, all nodes", "MB", after.held_mb);
        figures.put("written, all nodes", "KB/s", 1e3 * (after.written_mb - before.written_mb) / seconds);
        Ok(())
    }
}

//! `recovery`: a node that is killed under load: how soon it is ready again, how soon it
//! acknowledges a write, and that it has lost nothing it had acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use crate::api::{Accepted, Api, batch_body};
use crate::figures::Figures;
use crate::load;
use crate::server::{Server, Target};
use crate::work::{self, Work};

/// Acknowledged runs that are looked up at a time.
const LOOKUPS: usize = 64;
/// Requests under way when the node is killed.
const REQUESTS: usize = 8;
/// Runs in each.
const BATCH: usize = 100;

#[derive(Args, Clone, Debug)]
pub(crate) struct Recovery {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Runs that wait for a decision, there before the load
    #[arg(long, default_value_t = 10_000)]
    suspended: usize,
    /// Seconds of load before the kill
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

impl Recovery {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let mut server = Server::open(&self.target, dir, &[]).await?;
        let deciding = json!({"definition": work::deciding()});
        let suspended = load::submit_all(server.api(), self.suspended, |_| deciding.clone()).await?;
        let acknowledged = self.load_until_killed(&server).await?;
        let begun = Instant::now();
        let ready = server.start_again(0)?;
        let submission = json!({"definition": Work::Chain10.definition()});
        let first = server.api().submit_one(Bytes::from(submission.to_string())).await?;
        let acknowledges = begun.elapsed();
        let looked_up = acknowledged.iter().chain([&first.workflow_id]);
        stream::iter(looked_up.map(anyhow::Ok))
            .try_for_each_concurrent(LOOKUPS, |id| server.api().completes(id))
            .await?;
        let counts = server.api().counts().await?;
        if counts.get("suspended").copied().unwrap_or_default() != suspended.len() as u64 {
            bail!("{} runs waited for a decision before, and now there are {counts:?}", suspended.len());
        }
        figures.put("acknowledged before the kill", "runs", acknowledged.len() as f64);
        figures.put("start to ready", "ms", ready.as_secs_f64() * 1e3);
        figures.put("start to first acknowledged write", "ms", acknowledges.as_secs_f64() * 1e3);
        Ok(())
    }

    /// Ids of runs that the node acknowledged before it was killed, with requests in its hands.
    async fn load_until_killed(&self, server: &Server) -> Result<Vec<String>> {
        let body = batch_body(&json!({"definition": Work::Chain10.definition()}), BATCH);
        let mut acknowledged = Vec::new();
        let api = server.api();
        let requests = stream::repeat_with(|| submit(api, body.clone())).buffer_unordered(REQUESTS);
        let until = tokio::time::sleep(Duration::from_secs(self.seconds));
        let mut requests = std::pin::pin!(requests.take_until(until));
        while let Some(accepted) = requests.next().await {
            acknowledged.extend(accepted?.taken.into_iter().map(|taken| taken.workflow_id));
        }
        // The others are still under way.
        server.kill(0)?;
        Ok(acknowledged)
    }
}

async fn submit(api: &Api, body: Bytes) -> Result<Accepted> {
    api.submit(body).await
}

//! `http`: runs of ten real HTTP calls each, to a service on the loopback that this program is.
//! It counts by idempotency key that every step called once.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::any;
use clap::Args;
use parking_lot::Mutex;

use super::chains::Load;
use crate::figures::Figures;
use crate::server::{Server, Target};
use crate::work::{self, STEPS};

#[derive(Args, Clone, Debug)]
pub(crate) struct Http {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    load: Load,
}

/// How often each idempotency key was seen.
type Calls = Arc<Mutex<HashMap<String, u32>>>;

impl Http {
    pub(crate) async fn run(&self, dir: Option<&Path>, figures: &mut Figures) -> Result<()> {
        let calls = Calls::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/step", listener.local_addr()?);
        let app = Router::new().route("/step", any(called)).with_state(calls.clone());
        let service = tokio::spawn(async move { axum::serve(listener, app).await });
        let server = Server::open(&self.target, dir, &["--allow-private-network".to_owned()]).await?;
        self.load.measure(&server, &work::calling(&url), figures).await?;
        service.abort();
        let completed = server.api().counts().await?.get("completed").copied().context("runs completed")?;
        let calls = calls.lock();
        let (keys, most) = (calls.len() as u64, calls.values().max().copied().unwrap_or_default());
        if keys != completed * STEPS as u64 || most > 1 {
            bail!("{completed} runs of {STEPS} calls made {keys} different ones, one of them {most} times");
        }
        Ok(())
    }
}

async fn called(State(calls): State<Calls>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let key = key.ok_or(StatusCode::BAD_REQUEST)?;
    *calls.lock().entry(key.to_owned()).or_default() += 1;
    Ok("done")
}

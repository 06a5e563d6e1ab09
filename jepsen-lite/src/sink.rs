//! The world outside: a service that steps post to, and that remembers every call.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::checkers::now_ms;

/// One post.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: Option<String>,
    pub(crate) run: String,
    pub(crate) step: String,
    pub(crate) at_ms: i64,
}

/// The service.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) url: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Sink {
    pub(crate) async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let sink = Self { url: format!("http://{}/sink", listener.local_addr()?), calls: Arc::default() };
        let app = Router::new().route("/sink", post(take)).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(sink)
    }

    /// Those of one run.
    pub(crate) async fn calls_of(&self, run: &str) -> Vec<Call> {
        self.calls.lock().await.iter().filter(|call| call.run == run).cloned().collect()
    }

    pub(crate) async fn calls(&self) -> Vec<Call> {
        self.calls.lock().await.clone()
    }
}

async fn take(State(sink): State<Sink>, headers: HeaderMap, Json(body): Json<Value>) -> Json<Value> {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let call = Call { key, run: text("run"), step: text("step"), at_ms: now_ms() };
    sink.calls.lock().await.push(call);
    Json(json!({"taken": true}))
}

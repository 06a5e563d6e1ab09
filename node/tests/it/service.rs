//! A loopback HTTP service for workflows to call: answers JSON, remembers every call.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// How long the path `slow` takes.
const SLOW: Duration = Duration::from_millis(300);

/// One call that came in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) method: Method,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) body: Value,
    /// The same, when it is no JSON too.
    pub(crate) raw: Bytes,
    /// Wall clock when it came, milliseconds since the epoch.
    pub(crate) at_ms: u128,
}

/// The service.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) url: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Service {
    /// Starts it on a port of its own.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let service = Self { url, calls: Arc::default() };
        let app = Router::new().route("/{*path}", any(answer)).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.expect("the service runs") });
        service
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    pub(crate) async fn calls(&self) -> Vec<Call> {
        self.calls.lock().await.clone()
    }
}

async fn answer(
    State(service): State<Service>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let header = |name| headers.get(name).map(|v| v.to_str().expect("ASCII").to_owned());
    let (idempotency_key, traceparent) = (header("idempotency-key"), header("traceparent"));
    let raw = body.clone();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    service.calls.lock().await.push(Call {
        path: path.clone(),
        method,
        idempotency_key,
        traceparent,
        body: body.clone(),
        raw,
        at_ms,
    });
    if path == "slow" {
        // Long enough for whoever called to be stopped in between.
        tokio::time::sleep(SLOW).await;
    }
    match path.as_str() {
        "stock" => axum::Json(json!({"available": true, "quantity": 7})).into_response(),
        "no-stock" => axum::Json(json!({"available": false})).into_response(),
        "tickets" => {
            axum::Json(json!([{"id": 1, "title": "down"}, {"id": 2, "title": "slow"}])).into_response()
        }
        "scores" => {
            axum::Json(json!({"items": [{"n": "a", "score": 0.9}, {"n": "b", "score": 0.2}]})).into_response()
        }
        "page" => "plain words".into_response(),
        "down" => (StatusCode::INTERNAL_SERVER_ERROR, "down").into_response(),
        _ => axum::Json(json!({"ok": true, "echo": body})).into_response(),
    }
}

//! A receiver of webhooks, which checks every signature and behaves as badly as it is told to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;

use crate::cluster::PATIENCE;

/// The secret of all webhooks of a receiver: 24 bytes.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver does with a delivery.
#[derive(Clone)]
pub(crate) enum Behaviour {
    Take,
    Fail,
    /// So often, and then it takes.
    FailTimes(usize),
    Hang,
    Redirect(String),
    Gone,
    /// Takes it, with an answer that never ends.
    Endless,
}

/// A delivery as it came.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: String,
    pub(crate) body: Value,
    pub(crate) was_taken: bool,
}

impl Delivery {
    /// The event's name.
    pub(crate) fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    pub(crate) fn run(&self) -> &str {
        self.body["data"]["workflow_id"].as_str().unwrap_or_default()
    }
}

#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Delivery>>>,
    forged: Arc<Mutex<usize>>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl Receiver {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let receiver = Self {
            url,
            seen: Arc::default(),
            forged: Arc::default(),
            behaviour: Arc::new(Mutex::new(behaviour)),
        };
        let app = Router::new().fallback(take).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    /// All that came; asserts that every one was signed as it must be.
    pub(crate) fn seen(&self) -> Vec<Delivery> {
        assert_eq!(*self.forged.lock(), 0, "deliveries with a signature that is none");
        self.seen.lock().clone()
    }

    /// Those that were taken.
    pub(crate) fn taken(&self) -> Vec<Delivery> {
        self.seen().into_iter().filter(|delivery| delivery.was_taken).collect()
    }

    /// Waits until what was seen is as wanted.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[Delivery]) -> bool) -> Vec<Delivery> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen();
            if is_so(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what}: not in time: {seen:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_signed(&headers, &body) {
        *receiver.forged.lock() += 1;
    }
    let behaviour = {
        let mut behaviour = receiver.behaviour.lock();
        match &mut *behaviour {
            Behaviour::FailTimes(0) => *behaviour = Behaviour::Take,
            Behaviour::FailTimes(left) => *left -= 1,
            _ => {}
        }
        behaviour.clone()
    };
    let was_taken = matches!(behaviour, Behaviour::Take | Behaviour::Endless);
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    receiver.seen.lock().push(Delivery { id, body, was_taken });
    match behaviour {
        Behaviour::Take => StatusCode::NO_CONTENT.into_response(),
        Behaviour::Fail | Behaviour::FailTimes(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Behaviour::Gone => StatusCode::GONE.into_response(),
        Behaviour::Endless => {
            let piece = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 4096]));
            Body::from_stream(futures::stream::repeat_with(piece)).into_response()
        }
    }
}

/// The check of the Standard Webhooks specification, written from it.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, timestamp) = (field("webhook-id"), field("webhook-timestamp"));
    let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().unwrap_or_default();
    let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).expect("base64");
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&key).expect("a key");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let signed = field("webhook-signature").strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
    !id.is_empty() && age.abs() < 300 && signed.is_some_and(|signed| mac.verify_slice(&signed).is_ok())
}

//! What a client does: submits chains and questions, answers, and sends again what is unknown.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::history::{History, Outcome};
use crate::node::Address;

/// Posts in one chain.
pub(crate) const STEPS: usize = 3;

/// A client submits at most once in this time, so that what it did can be checked in bounded time.
const PACE: Duration = Duration::from_millis(20);

/// One client.
pub(crate) struct Workload {
    pub(crate) client: usize,
    pub(crate) address: Address,
    pub(crate) sink: String,
    pub(crate) history: History,
    pub(crate) rng: StdRng,
}

/// A chain of posts; with a question first, if it asks.
fn definition(sink: &str, asks: bool) -> Value {
    let mut steps = Vec::new();
    if asks {
        steps.push(json!({"id": "ask", "type": "reasoning", "config": {"prompt_context": "on?",
            "options": [{"id": "left"}, {"id": "right"}], "timeout": "1s", "fallback": "left"}}));
    }
    for n in 0..STEPS {
        let before = match n {
            0 if asks => vec!["ask".to_owned()],
            0 => Vec::new(),
            _ => vec![format!("s{}", n - 1)],
        };
        steps.push(json!({"id": format!("s{n}"), "action": "http.post", "depends_on": before,
            "params": {"url": sink, "body": {"run": "${{workflow.run_id}}", "step": format!("s{n}")}},
            "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}}));
    }
    json!({"steps": steps})
}

impl Workload {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        // One short time-out, so that a paused node makes unknown outcomes.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_millis(800)).build();
        let Ok(client) = client else { return };
        let mut number = 0;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            pace.tick().await;
            number += 1;
            let id = format!("run-{}-{number}", self.client);
            let asks = self.rng.random_range(0..4) == 0;
            let body = json!({"id": id, "definition": definition(&self.sink, asks)});
            let outcome = self.post(&client, "/v1/workflows", &body).await;
            self.history.submitted(&id, outcome, asks).await;
            if outcome == Outcome::Unknown && self.rng.random_bool(0.5) {
                let again = self.post(&client, "/v1/workflows", &body).await;
                self.history.submitted(&id, again, asks).await;
            }
            if asks {
                let choice = if self.rng.random_bool(0.5) { "left" } else { "right" };
                let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": choice}});
                let path = format!("/v1/workflows/{id}/signals");
                if self.post(&client, &path, &signal).await == Outcome::Acknowledged {
                    self.history.decided(&id, choice).await;
                }
            }
        }
    }

    async fn post(&self, client: &reqwest::Client, path: &str, body: &Value) -> Outcome {
        let Ok(response) = client.post(self.address.url(path)).json(body).send().await else {
            return Outcome::Unknown;
        };
        let status = response.status();
        if status.is_success() {
            return Outcome::Acknowledged;
        }
        let answer: Value = match response.bytes().await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => return Outcome::Unknown,
        };
        if status.is_client_error() || answer["applied"] == "no" {
            Outcome::Refused
        } else {
            Outcome::Unknown
        }
    }
}

//! What a client does: submits chains and questions, answers, and sends again what is unknown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::history::{History, Kind, Outcome};

/// Steps of one chain.
pub(crate) const STEPS: usize = 3;

/// One client.
pub(crate) struct Workload {
    pub(crate) client: usize,
    /// The nodes there are; its own is at `at`, and the next one is asked when one does not answer.
    pub(crate) urls: Arc<RwLock<Vec<String>>>,
    pub(crate) at: usize,
    pub(crate) sink: String,
    pub(crate) history: History,
    pub(crate) rng: StdRng,
    /// It submits at most once in this time, so that what it did can be checked in bounded time.
    pub(crate) pace: Duration,
    /// Longest wait for an answer; short, so that a paused node makes unknown outcomes.
    pub(crate) timeout: Duration,
}

/// A chain of steps; with a question first, if it asks; posting to the sink, unless it only computes.
fn definition(sink: &str, kind: Kind) -> Value {
    let mut steps = Vec::new();
    if kind == Kind::Asks {
        steps.push(json!({"id": "ask", "type": "reasoning", "config": {"prompt_context": "on?",
            "options": [{"id": "left"}, {"id": "right"}], "timeout": "1s", "fallback": "left"}}));
    }
    for n in 0..STEPS {
        let before = match n {
            0 if kind == Kind::Asks => vec!["ask".to_owned()],
            0 => Vec::new(),
            _ => vec![format!("s{}", n - 1)],
        };
        steps.push(match kind {
            Kind::Computes => json!({"id": format!("s{n}"), "action": "expr.eval", "depends_on": before,
                "params": {"expression": "1 + 1"}}),
            Kind::Posts | Kind::Asks => {
                json!({"id": format!("s{n}"), "action": "http.post", "depends_on": before,
                "params": {"url": sink, "body": {"run": "${{workflow.run_id}}", "step": format!("s{n}")}},
                "retry": {"max": 5, "backoff": "constant", "delay": "50ms"}})
            }
        });
    }
    json!({"steps": steps})
}

impl Workload {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: watch::Receiver<bool>) {
        let client = reqwest::Client::builder().no_proxy().timeout(self.timeout).build();
        let Ok(client) = client else { return };
        let mut number = 0;
        let mut pace = tokio::time::interval(self.pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*stop.borrow() {
            pace.tick().await;
            number += 1;
            let id = format!("run-{}-{number}", self.client);
            let kind = match self.rng.random_range(0..8) {
                0 | 1 => Kind::Asks,
                2..=4 => Kind::Posts,
                _ => Kind::Computes,
            };
            let body = json!({"id": id, "definition": definition(&self.sink, kind)});
            let outcome = self.submit(&client, &body).await;
            self.history.submitted(&id, outcome, kind).await;
            if outcome == Outcome::Unknown && self.rng.random_bool(0.5) {
                self.at += 1;
                let again = self.submit(&client, &body).await;
                self.history.submitted(&id, again, kind).await;
            }
            if kind == Kind::Asks && outcome != Outcome::Refused {
                let choice = if self.rng.random_bool(0.5) { "left" } else { "right" };
                let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": choice}});
                let path = format!("/v1/workflows/{id}/signals");
                if self.post(&client, &path, &signal).await.0 == Outcome::Acknowledged {
                    self.history.decided(&id, choice).await;
                }
            }
        }
    }

    async fn submit(&mut self, client: &reqwest::Client, body: &Value) -> Outcome {
        let begun = Instant::now();
        let (outcome, answer) = self.post(client, "/v1/workflows", body).await;
        if let (Outcome::Acknowledged, Some(shard)) = (outcome, answer["shard"].as_u64()) {
            self.history.acknowledged(shard, begun).await;
        }
        outcome
    }

    async fn post(&mut self, client: &reqwest::Client, path: &str, body: &Value) -> (Outcome, Value) {
        let url = {
            let urls = self.urls.read();
            format!("{}{path}", urls[self.at % urls.len()])
        };
        let sent = client.post(url).json(body).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                // A refused connection carried nothing.
                let outcome = if error.is_connect() { Outcome::Refused } else { Outcome::Unknown };
                self.history.broken(&error).await;
                self.at += 1;
                return (outcome, Value::Null);
            }
        };
        let status = response.status();
        let answer: Value = match response.bytes().await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) => {
                self.history.broken(&error).await;
                return (Outcome::Unknown, Value::Null);
            }
        };
        if status.is_success() {
            return (Outcome::Acknowledged, answer);
        }
        self.history.answered(status.as_u16(), answer["code"].as_str().unwrap_or("?")).await;
        let outcome = match status.is_client_error() || answer["applied"] == "no" {
            true => Outcome::Refused,
            false => Outcome::Unknown,
        };
        if status.is_server_error() {
            self.at += 1;
        }
        (outcome, answer)
    }
}

//! What a client does: submits chains and questions, answers, and sends again what is unknown.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Setting, Workload, pace};
use crate::client::{Answer, Ask, Client, TENANT};
use crate::history::{History, Kind, Outcome};

/// Steps of one chain.
pub(crate) const STEPS: usize = 3;

/// One client.
struct Chains {
    number: usize,
    client: Client,
    /// The node it asks; the next one is asked when that does not answer.
    at: usize,
    setting: Setting,
    rng: StdRng,
    every: Duration,
}

/// Starts so many clients, each of which submits at most once in a time.
pub(crate) fn clients(setting: &Setting, count: usize, every: Duration) -> Result<Vec<JoinHandle<()>>> {
    let client = |number: usize| {
        let (client, rng) = (setting.client()?, setting.rng(Workload::Chains, number));
        let chains = Chains { number, client, at: number, setting: setting.clone(), rng, every };
        Ok(tokio::spawn(chains.run()))
    };
    (0..count).map(client).collect()
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

impl Chains {
    /// Works until it is told to stop.
    async fn run(mut self) {
        let mut pace = pace(self.every);
        let history: History = self.setting.history.clone();
        let mut number = 0;
        while !self.setting.is_over() {
            pace.tick().await;
            number += 1;
            let is_tenants = self.setting.has_tenant && number % 2 == 0;
            let whose = if is_tenants { format!("{TENANT}-") } else { String::new() };
            let id = format!("{whose}run-{}-{number}", self.number);
            let kind = match self.rng.random_range(0..8) {
                0 | 1 => Kind::Asks,
                2..=4 => Kind::Posts,
                _ => Kind::Computes,
            };
            let body = json!({"id": id, "definition": definition(&self.setting.sink, kind)});
            let outcome = self.submit(&body).await;
            history.submitted(&id, outcome, kind).await;
            if outcome == Outcome::Unknown && self.rng.random_bool(0.5) {
                self.at += 1;
                let again = self.submit(&body).await;
                history.submitted(&id, again, kind).await;
            }
            if kind == Kind::Asks && outcome != Outcome::Refused {
                let choice = if self.rng.random_bool(0.5) { "left" } else { "right" };
                let signal = json!({"type": "decision", "step_id": "ask", "payload": {"choice": choice}});
                let path = format!("/v1/workflows/{id}/signals");
                if self.post("decision", &path, &signal).await.outcome == Outcome::Acknowledged {
                    history.decided(&id, choice).await;
                }
            }
        }
    }

    async fn submit(&mut self, body: &Value) -> Outcome {
        let begun = Instant::now();
        let answer = self.post("submit", "/v1/workflows", body).await;
        if let Some(shard) = answer.success().and_then(|body| body["shard"].as_u64()) {
            self.setting.history.acknowledged(shard, begun).await;
        }
        answer.outcome
    }

    async fn post(&mut self, name: &'static str, path: &str, body: &Value) -> Answer {
        let answer = self.client.ask(self.at, Ask::post(name, path, body)).await;
        if answer.is_of_a_bad_node {
            self.at += 1;
        }
        answer
    }
}

//! A client's requests: each is taken down with what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::RwLock;
use serde_json::Value;

use crate::history::{History, Outcome};

/// The namespace of half of the chains: those with an id that begins with its name.
pub(crate) const TENANT: &str = "tenant";

/// The namespace of what has this path, or of a run with this id.
pub(crate) fn namespace_of(path_or_id: &str) -> &'static str {
    let id = path_or_id.strip_prefix("/v1/workflows/").unwrap_or(path_or_id);
    if id.starts_with(TENANT) { TENANT } else { "default" }
}

/// Sends requests to nodes.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// The nodes there are.
    urls: Arc<RwLock<Vec<String>>>,
    history: History,
}

/// What came of a request.
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// `None`: there was no answer.
    pub(crate) status: Option<u16>,
    pub(crate) body: Value,
    /// What a session goes on from.
    pub(crate) token: Option<String>,
    /// Whether another node should be asked the next time.
    pub(crate) is_of_a_bad_node: bool,
}

impl Answer {
    /// The body, of a success.
    pub(crate) fn success(&self) -> Option<&Value> {
        (self.outcome == Outcome::Acknowledged).then_some(&self.body)
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// Its name in the report.
    pub(crate) name: &'static str,
    pub(crate) path: &'a str,
    /// `None`: a `GET`.
    pub(crate) body: Option<&'a Value>,
    /// `None`: no session.
    pub(crate) token: Option<&'a str>,
    /// The body is a line of JSON among others.
    pub(crate) is_line: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(name: &'static str, path: &'a str) -> Self {
        Self { name, path, body: None, token: None, is_line: false }
    }

    pub(crate) fn post(name: &'static str, path: &'a str, body: &'a Value) -> Self {
        Self { name, path, body: Some(body), token: None, is_line: false }
    }

    pub(crate) fn line(name: &'static str, path: &'a str, body: &'a Value) -> Self {
        Self { is_line: true, ..Self::post(name, path, body) }
    }
}

impl Client {
    /// One that waits so long for an answer at most.
    pub(crate) fn new(urls: Arc<RwLock<Vec<String>>>, history: History, timeout: Duration) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(timeout).build()?;
        Ok(Self { http, urls, history })
    }

    /// Asks the node at a place; places go around.
    pub(crate) async fn ask(&self, place: usize, ask: Ask<'_>) -> Answer {
        let begun = Instant::now();
        let answer = self.send(place, ask).await;
        self.history.operated(ask.name, begun, answer.outcome).await;
        answer
    }

    async fn send(&self, place: usize, ask: Ask<'_>) -> Answer {
        let url = {
            let urls = self.urls.read();
            format!("{}{}", urls[place % urls.len()], ask.path)
        };
        let mut request = match ask.body {
            Some(body) if ask.is_line => {
                self.http.post(url).header("content-type", "application/x-ndjson").body(format!("{body}\n"))
            }
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let id = ask.body.and_then(|body| body["id"].as_str());
        let named = if ask.path == "/v1/workflows" { id.unwrap_or_default() } else { ask.path };
        request = request.header("opcode-namespace", namespace_of(named));
        if let Some(token) = ask.token {
            request = request.header("opcode-token", token);
        }
        let nothing = |outcome| Answer {
            outcome,
            status: None,
            body: Value::Null,
            token: None,
            is_of_a_bad_node: true,
        };
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                self.history.broken(&error).await;
                // A refused connection carried nothing.
                return nothing(if error.is_connect() { Outcome::Refused } else { Outcome::Unknown });
            }
        };
        let status = response.status();
        let token = response.headers().get("opcode-token").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body: Value = match response.bytes().await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) => {
                self.history.broken(&error).await;
                return nothing(Outcome::Unknown);
            }
        };
        let outcome = match status.is_success() {
            true => Outcome::Acknowledged,
            false if status.is_client_error() || body["applied"] == "no" => Outcome::Refused,
            false => Outcome::Unknown,
        };
        // That a run is not there, or takes no signal any more, is an answer like others.
        if !status.is_success() && !matches!(status.as_u16(), 404 | 409) {
            self.history.answered(status.as_u16(), body["code"].as_str().unwrap_or("?")).await;
        }
        let is_of_a_bad_node = status.is_server_error();
        Answer { outcome, status: Some(status.as_u16()), body, token, is_of_a_bad_node }
    }
}

//! The HTTP contract from the client's side: requests, problem documents, exit codes.

use std::fmt;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::exit;

/// Longest wait for one answer; above the longest `?wait=` that commands here ask for.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: u8,
    message: String,
}

impl Failure {
    pub(super) fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A problem document, with every single problem on a line of its own.
    fn of_problem(status: u16, problem: &Value) -> Self {
        let exit = match status {
            404 => exit::NOT_FOUND,
            401 | 403 => exit::NOT_ALLOWED,
            408 | 504 => exit::TIMEOUT,
            409 => exit::CONFLICT,
            429 | 503 => exit::UNAVAILABLE,
            _ => exit::ERROR,
        };
        let text = |key: &str| problem[key].as_str().unwrap_or_default();
        let mut message = format!("{} ({status}): {}", text("code"), text("detail"));
        for error in problem["errors"].as_array().into_iter().flatten() {
            message.push_str(&format!("\n  {}", super::validate::problem_line(error)));
        }
        if problem["applied"] == "unknown" {
            message.push_str("\n  it may have been applied all the same: ask again with the same id");
        }
        Self { exit, message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A client of one node.
pub(super) struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(server: &str) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|e| Failure::new(exit::ERROR, format!("no HTTP client: {e}")))?;
        Ok(Self { base: server.trim_end_matches('/').to_owned(), http })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::new(exit::TIMEOUT, format!("{} did not answer in time", self.base));
        }
        if error.is_connect() {
            let message =
                format!("cannot reach {}: is a node running? Start one with `opcode dev`", self.base);
            return Failure::new(exit::UNAVAILABLE, message);
        }
        Failure::new(exit::ERROR, format!("{}: {error}", self.base))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<reqwest::Response, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(|e| self.unreachable(&e))?;
        Err(match serde_json::from_str::<Value>(&text) {
            Ok(problem) if problem["code"].is_string() => Failure::of_problem(status.as_u16(), &problem),
            Ok(_) | Err(_) => Failure::new(exit::ERROR, format!("{} answered {status}: {text}", self.base)),
        })
    }

    async fn json(&self, response: reqwest::Response) -> Result<Value, Failure> {
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(exit::ERROR, format!("{} did not answer with JSON: {e}", self.base)))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let response = self.send(Method::GET, path, None).await?;
        self.json(response).await
    }

    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.send(Method::GET, path, None).await?;
        response.text().await.map_err(|e| self.unreachable(&e))
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        self.json(response).await
    }

    /// All items of a list, page by page, up to `limit`.
    pub(super) async fn list(&self, path: &str, limit: usize) -> Result<Vec<Value>, Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < limit {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut page_path = format!("{path}{separator}limit={}", (limit - items.len()).min(1_000));
            if let Some(cursor) = &cursor {
                page_path.push_str(&format!("&cursor={}", encode(cursor)));
            }
            let mut page = self.get(&page_path).await?;
            if let Value::Array(more) = page["items"].take() {
                items.extend(more);
            }
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }
}

/// Percent-encodes a query value or a path segment.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

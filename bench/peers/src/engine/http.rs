//! Submission over HTTP, the same for each engine that has a server: HTTP/1.1 to the loopback
//! interface, one connection for each run that is open.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A client without a bound on its connections.
pub(super) fn client() -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).tcp_nodelay(true);
    builder.build().context("an HTTP client can be made")
}

/// Posts JSON, and returns the answer's body; an error unless the answer is a success.
pub(super) async fn post(client: &reqwest::Client, url: &str, json: Bytes) -> Result<Bytes> {
    let request = client.post(url).header("content-type", "application/json").body(json);
    let response = request.send().await.with_context(|| format!("POST {url}"))?;
    let status = response.status();
    let body = response.bytes().await.with_context(|| format!("the answer of {url}"))?;
    ensure!(status.is_success(), "POST {url}: {status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

//! The HTTP client: requests out, JSON or a typed failure back.

use std::path::Path;
use std::time::Duration;

use opcode_engine::namespace::Namespace;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use super::failure::Failure;
use crate::trust::Trust;

/// Longest time for an answer that waits for nothing.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest time that a node holds a call that waits for a run.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Longest time for lines to be taken, each of which may be large.
const LINES_MAX: Duration = Duration::from_secs(300);
/// Longest time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A node to talk to.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
    /// Without one the token's counts, or the node's default.
    namespace: Option<Namespace>,
}

impl Client {
    /// A client of `server`, whose certificate is taken by the CAs of a file, or the system's.
    pub(crate) fn new(server: &str, token: Option<&str>, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let server = server.trim_end_matches('/').to_owned();
        let server = if server.contains("://") { server } else { format!("http://{server}") };
        let url = reqwest::Url::parse(&server)
            .map_err(|error| Failure::Usage(format!("--server {server}: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::Usage(format!("--server {server}: give an http:// or https:// address")));
        }
        let trust = Trust::of(ca_file).map_err(|error| Failure::local(format!("{error:#}")))?;
        let builder = trust.http_client().map_err(|error| Failure::local(format!("{error:#}")))?;
        let mut builder = builder.connect_timeout(CONNECT_MAX);
        if url.host_str().is_some_and(is_loopback) {
            // A proxy cannot reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| Failure::local(format!("no HTTP client: {error}")))?;
        Ok(Self { http, server, token: token.map(str::to_owned), namespace: None })
    }

    /// The same, of a namespace.
    pub(crate) fn in_namespace(self, namespace: Option<Namespace>) -> Self {
        Self { namespace, ..self }
    }

    /// Another node of the same cluster, spoken to in the same way.
    pub(crate) fn of_member(&self, addr: &str) -> Self {
        let scheme = self.server.split_once("://").map_or("http", |(scheme, _)| scheme);
        Self { server: format!("{scheme}://{addr}"), ..self.clone() }
    }

    /// The node's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.server));
        if let Some(namespace) = &self.namespace {
            request = request.header("opcode-namespace", namespace.as_str());
        }
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET`, JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::GET, path).timeout(ANSWER_MAX)).await?).await
    }

    /// `GET` that the node may hold for `wait`.
    pub(crate) async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::GET, path).timeout(ANSWER_MAX + wait)).await?).await
    }

    /// `GET`, text.
    pub(crate) async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.send(self.request(Method::GET, path).timeout(ANSWER_MAX)).await?;
        response.text().await.map_err(|error| self.failure(&error))
    }

    /// `GET` of bytes, for as long as they come.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Response, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST` of JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.post_text(path, body.to_string()).await
    }

    /// `POST` of JSON that the node may take so long to answer.
    pub(crate) async fn post_waiting(
        &self,
        path: &str,
        body: &Value,
        wait: Duration,
    ) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::POST, path).json(body).timeout(wait)).await?).await
    }

    /// `PATCH` of JSON.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::PATCH, path).json(body).timeout(ANSWER_MAX)).await?).await
    }

    /// `PUT` of JSON.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::PUT, path).json(body).timeout(ANSWER_MAX)).await?).await
    }

    /// `DELETE`; the answer's JSON.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        read_json(self.send(self.request(Method::DELETE, path).timeout(ANSWER_MAX)).await?).await
    }

    /// `POST` of text that is JSON.
    pub(crate) async fn post_text(&self, path: &str, body: String) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        read_json(self.send(request.body(body).timeout(ANSWER_MAX)).await?).await
    }

    /// `POST` of JSON lines; each is answered for itself.
    pub(crate) async fn post_lines(&self, path: &str, body: Vec<u8>) -> Result<Value, Failure> {
        let request = self.request(Method::POST, path).header("content-type", "application/x-ndjson");
        read_json(self.send(request.body(body).timeout(LINES_MAX)).await?).await
    }

    /// An event stream, open without end; 204 gives `None`.
    pub(crate) async fn stream(&self, path: &str, last_event_id: u64) -> Result<Option<Response>, Failure> {
        let request = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream")
            .header("last-event-id", last_event_id);
        let response = self.send(request).await?;
        Ok((response.status().as_u16() != 204).then_some(response))
    }

    /// Any call as it is, whatever its answer: for who hands it on.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        headers: HeaderMap,
    ) -> Result<Response, reqwest::Error> {
        // What the call waits for is bounded by the node.
        let mut request = self.request(method, path).timeout(ANSWER_MAX + WAIT_MAX).headers(headers);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        request.send().await
    }

    /// The firehose of one type of event, open without end.
    pub(crate) async fn firehose(&self, event_type: &str) -> Result<Response, Failure> {
        let path = with_query("/v1/events", &[("type", Some(event_type.to_owned()))]);
        self.send(self.request(Method::GET, &path).header("accept", "text/event-stream")).await
    }

    /// JSON lines as they come, for as long as they do.
    pub(crate) async fn lines(&self, path: &str) -> Result<Response, Failure> {
        self.send(self.request(Method::GET, path).header("accept", "application/x-ndjson")).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let document = serde_json::from_slice(&body)
            .unwrap_or_else(|_| serde_json::json!({"detail": format!("{} answered {status}", self.server)}));
        Err(Failure::Problem { status: status.as_u16(), document })
    }

    /// What a request that got no answer means.
    pub(crate) fn failure(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() && !error.is_connect() {
            return Failure::TimedOut(format!("{} did not answer in time", self.server));
        }
        let mut cause = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(deeper) = source {
            // The innermost cause is the one that says what happened.
            cause = deeper.to_string();
            source = deeper.source();
        }
        if self.server.starts_with("https://") && cause.contains("InvalidContentType") {
            cause.push_str("; does it speak http:// there?");
        }
        Failure::Unreachable { server: self.server.clone(), cause }
    }
}

async fn read_json(response: Response) -> Result<Value, Failure> {
    let url = response.url().to_string();
    let bytes = response.bytes().await.map_err(|error| Failure::local(format!("{url}: {error}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::local(format!("{url} did not answer with JSON: {error}")))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Text as one segment of a path or one value of a query.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A path with its query; values that are `None` are left out.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> = parameters
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))))
        .collect();
    if given.is_empty() { path.to_owned() } else { format!("{path}?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(encoded("a/b c:é"), "a%2Fb%20c:%C3%A9");
        let query = [
            ("status", Some("failed".into())),
            ("label", None),
            ("since", Some("2026-01-01T00:00:00+01:00".into())),
        ];
        assert_eq!(
            with_query("/v1/workflows", &query),
            "/v1/workflows?status=failed&since=2026-01-01T00:00:00%2B01:00"
        );
    }

    #[test]
    fn servers_that_cannot_be_meant_are_refused() {
        assert!(matches!(Client::new("ftp://x", None, None), Err(Failure::Usage(_))));
        assert!(Client::new("localhost:4100/", None, None).is_ok());
    }
}

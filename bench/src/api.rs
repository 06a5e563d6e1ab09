//! Calls of the HTTP contract, to one node after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest wait for an answer, and for a run to end.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Longest wait for the last runs to end, once all were taken.
const END_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A client of the nodes.
pub(crate) struct Api {
    urls: Vec<String>,
    next: AtomicUsize,
    client: reqwest::Client,
}

/// A run that was taken.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Taken {
    pub(crate) workflow_id: String,
    pub(crate) shard: u32,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) taken: Vec<Taken>,
    /// Places in the batch of those that were turned away, certainly not applied.
    pub(crate) refused: Vec<usize>,
}

/// One result of a batch: of a run that was taken, or a problem.
#[derive(Deserialize)]
struct BatchItem {
    status: u16,
    workflow_id: Option<String>,
    shard: Option<u32>,
    detail: Option<String>,
    /// Of a problem with 429 or 503: `no`, or `unknown` when it may have been applied.
    applied: Option<String>,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchItem>,
}

/// The status of a run, out of whatever document holds it.
#[derive(Deserialize)]
struct Ended {
    status: String,
}

/// The body of a batch of `count` runs of one submission.
pub(crate) fn batch_body(submission: &Value, count: usize) -> Bytes {
    let items = vec![submission.to_string(); count];
    Bytes::from(format!("{{\"workflows\":[{}]}}", items.join(",")))
}

impl Api {
    pub(crate) fn new(urls: Vec<String>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_MAX)
            .build()
            .context("an HTTP client can be made")?;
        Ok(Self { urls, next: AtomicUsize::new(0), client })
    }

    /// The address of one node after the other.
    fn url(&self) -> &str {
        &self.urls[self.next.fetch_add(1, Ordering::Relaxed) % self.urls.len()]
    }

    /// `GET` of JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let response = self.client.get(format!("{}{path}", self.url())).send().await?;
        let response = response.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }

    async fn post(&self, path: &str, body: Bytes) -> Result<reqwest::Response> {
        let request = self.client.post(format!("{}{path}", self.url()));
        let response = request.header("content-type", "application/json").body(body).send().await;
        response.with_context(|| format!("POST {path}"))
    }

    /// Submits a batch; what the nodes are too busy for is counted, all else is an error.
    pub(crate) async fn submit(&self, batch: Bytes) -> Result<Accepted> {
        let response = self.post("/v1/workflows/batch", batch).await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if !status.is_success() {
            bail!("the node answered {status}: {}", String::from_utf8_lossy(&bytes));
        }
        let answer: BatchAnswer = serde_json::from_slice(&bytes).context("the answer to a batch")?;
        let mut accepted = Accepted::default();
        for (place, item) in answer.results.into_iter().enumerate() {
            match (item.status, item.workflow_id, item.shard) {
                (_, Some(workflow_id), Some(shard)) => accepted.taken.push(Taken { workflow_id, shard }),
                (429 | 503, ..) if item.applied.as_deref() == Some("no") => accepted.refused.push(place),
                (status, ..) => bail!("a run was refused with {status}: {:?}", item.detail),
            }
        }
        Ok(accepted)
    }

    /// Submits one run and waits for its acknowledgement.
    pub(crate) async fn submit_one(&self, submission: Bytes) -> Result<Taken> {
        let response = self.post("/v1/workflows", submission).await?.error_for_status()?;
        Ok(serde_json::from_slice(&response.bytes().await?)?)
    }

    /// Submits one run and waits until it has completed.
    pub(crate) async fn complete_one(&self, submission: Bytes) -> Result<()> {
        let response = self.post("/v1/workflows?wait=60s", submission).await?.error_for_status()?;
        completed(&response.bytes().await?)
    }

    /// Waits until a run has completed.
    pub(crate) async fn completes(&self, id: &str) -> Result<()> {
        let url = format!("{}/v1/workflows/{id}?wait=60s", self.url());
        let response = self.client.get(url).send().await?.error_for_status()?;
        completed(&response.bytes().await?)
    }

    /// Sends a run a signal and waits until it is committed.
    pub(crate) async fn signal(&self, id: &str, signal: Bytes) -> Result<()> {
        let response = self.post(&format!("/v1/workflows/{id}/signals"), signal).await?;
        let status = response.status();
        if !status.is_success() {
            bail!("a signal to {id} was answered {status}: {}", response.text().await?);
        }
        Ok(())
    }

    /// Reads a run from the node at `url`, `run` being its id with a query; gives the answer's token.
    pub(crate) async fn read(&self, url: &str, run: &str, token: Option<&str>) -> Result<Option<String>> {
        let mut request = self.client.get(format!("{url}/v1/workflows/{run}"));
        if let Some(token) = token {
            request = request.header("opcode-token", token);
        }
        let response = request.send().await?.error_for_status()?;
        let token = response.headers().get("opcode-token").and_then(|token| token.to_str().ok());
        let token = token.map(str::to_owned);
        response.bytes().await?;
        Ok(token)
    }

    /// Rows of a query on every shard.
    pub(crate) async fn sql(&self, query: &str) -> Result<Vec<Value>> {
        let body = json!({"query": query, "limit": 10_000}).to_string();
        let response = self.post("/v1/sql", body.into()).await?;
        let status = response.status();
        let answer: Value = serde_json::from_slice(&response.bytes().await?)?;
        match answer["items"].as_array() {
            Some(items) if answer["truncated"] == false => Ok(items.clone()),
            _ => bail!("the query {query} was answered {status}: {answer}"),
        }
    }

    /// A number that each shard has one of in the column `n`: of all shards together.
    pub(crate) async fn sum(&self, query: &str) -> Result<u64> {
        Ok(self.sql(query).await?.iter().filter_map(|row| row["n"].as_u64()).sum())
    }

    /// Events that the tables hold.
    pub(crate) async fn events(&self) -> Result<u64> {
        self.sum("SELECT max(row) AS n FROM event_rows").await
    }

    /// How many runs there are of each status.
    pub(crate) async fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let rows = self.sql("SELECT status, count(*) AS n FROM workflows GROUP BY status").await?;
        let mut counts = BTreeMap::new();
        for row in &rows {
            let (status, n) = (row["status"].as_str(), row["n"].as_u64());
            *counts.entry(status.context("a status")?.to_owned()).or_default() += n.context("a count")?;
        }
        Ok(counts)
    }

    /// Waits until no run is open, and makes sure that `runs` have completed and none ended
    /// otherwise.
    pub(crate) async fn all_completed(&self, runs: u64) -> Result<()> {
        let begun = Instant::now();
        while self.has_open_runs().await? {
            if begun.elapsed() > END_MAX {
                bail!("runs are still open {END_MAX:?} after the last was taken: {:?}", self.counts().await?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let counts = self.counts().await?;
        if counts.iter().any(|(status, n)| *n != if status == "completed" { runs } else { 0 }) {
            bail!("{runs} runs should have completed, and there are {counts:?}");
        }
        Ok(())
    }

    async fn has_open_runs(&self) -> Result<bool> {
        for status in ["active", "pending", "suspended"] {
            let list = self.get(&format!("/v1/workflows?status={status}&limit=1")).await?;
            if list["items"].as_array().is_some_and(|items| !items.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn completed(document: &[u8]) -> Result<()> {
    let ended: Ended = serde_json::from_slice(document)?;
    if ended.status != "completed" {
        bail!("a run did not complete: {}", String::from_utf8_lossy(document));
    }
    Ok(())
}

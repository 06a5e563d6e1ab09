//! Becoming a member of a cluster that is there already: asked for over HTTP, of any of its nodes.
//!
//! Before it asks, a node looks in at a member over the peers' port. What keeps it from talking to
//! the others, such as a foreign certificate, is told here and changes nothing in the cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use opcode_shard::peer::NodeId;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::addresses::{self, Addresses};
use crate::config::Config;
use crate::shards::{DataDir, Identity, Joined};
use crate::token_file;
use crate::transport::{Security, Visit, visit};
use crate::trust::Trust;

/// Longest wait for a cluster to take a node in.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// How often it is asked until then.
const JOIN_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a node to say which cluster it is of.
const SAME_CLUSTER_MAX: Duration = Duration::from_secs(1);
/// Members that are looked in at before a join.
const VISITS_MAX: usize = 5;

/// Why a node has not joined.
enum NotYet {
    /// It may be tried again.
    Wait(String),
    /// Trying again is of no use.
    Never(String),
}

/// Asks the nodes named to be taken in, until one does.
pub(crate) async fn join(config: &Config, addresses: &Addresses, security: &Security) -> Result<Joined> {
    addresses::check_join(config, addresses)?;
    let client = Client::new(config)?;
    let body = json!({
        "request": DataDir::join_request(&config.data_dir)?,
        "addr": addresses.http, "peer_addr": addresses.peer,
    });
    let deadline = Instant::now() + JOIN_MAX;
    let mut why = String::new();
    loop {
        for node in &config.join {
            let base = client.base_of(node);
            match join_at(&client, &base, &body, security).await {
                Ok(joined) => return Ok(joined),
                Err(NotYet::Wait(reason)) => why = format!("{base}: {reason}"),
                Err(NotYet::Never(reason)) => {
                    bail!("this node does not become a member of the cluster: {base}: {reason}")
                }
            }
        }
        if Instant::now() >= deadline {
            bail!("no cluster took this node in within {JOIN_MAX:?}: {why}");
        }
        tracing::info!(why, "waiting for the cluster to take this node in");
        tokio::time::sleep(JOIN_EVERY).await;
    }
}

async fn join_at(client: &Client, base: &str, body: &Value, security: &Security) -> Result<Joined, NotYet> {
    let cluster = answer(client.get(&format!("{base}/v1/cluster"))).await?;
    look_in(&cluster, security).await?;
    let joined = answer(client.post(&format!("{base}/v1/cluster/nodes")).json(body)).await?;
    serde_json::from_value(joined)
        .map_err(|error| NotYet::Never(format!("its answer is no place in a cluster: {error}")))
}

/// The JSON that a node answers with.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value, NotYet> {
    let wait = |error: reqwest::Error| NotYet::Wait(with_cause(&error));
    let response = request.send().await.map_err(wait)?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(wait)?;
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let reason = format!("{status}: {}", body["detail"].as_str().unwrap_or("no reason given"));
    let is_final = status.is_client_error() && status != reqwest::StatusCode::TOO_MANY_REQUESTS;
    Err(if is_final { NotYet::Never(reason) } else { NotYet::Wait(reason) })
}

/// An error with what is at the bottom of it.
fn with_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{error}: {cause}")
}

/// Looks in at members until one says welcome.
async fn look_in(cluster: &Value, security: &Security) -> Result<(), NotYet> {
    let cluster_id = cluster["cluster_id"].as_str().unwrap_or_default();
    let members = cluster["members"].as_array().map_or(&[][..], Vec::as_slice);
    let mut why = NotYet::Wait("none of its members is alive".into());
    for member in members.iter().filter(|member| member["alive"] == true).take(VISITS_MAX) {
        let node: Option<NodeId> = member["node_id"].as_str().and_then(|id| id.parse().ok());
        let (Some(node), Some(address)) = (node, member["peer_addr"].as_str()) else {
            return Err(NotYet::Never("it does not say where its members are".into()));
        };
        let told = |reason| format!("node {node} at {address}, the address for other nodes: {reason}");
        match visit(security, cluster_id, node, address).await {
            Visit::Welcome => return Ok(()),
            Visit::Refused(reason) => why = NotYet::Never(told(reason)),
            // A refusal that another gave says more.
            Visit::Absent(_) if matches!(why, NotYet::Never(_)) => {}
            Visit::Absent(reason) => why = NotYet::Wait(told(reason)),
        }
    }
    Err(why)
}

/// Refuses to go on as a node of one cluster where the nodes named are of another. Those that do
/// not answer at once are not waited for: all may be starting.
pub(crate) async fn check_same_cluster(config: &Config, identity: &Identity) -> Result<()> {
    let client = Client::new(config)?;
    let ask = async |node: &String| {
        let base = client.base_of(node);
        let request = client.get(&format!("{base}/v1/cluster")).timeout(SAME_CLUSTER_MAX);
        let cluster: Value = request.send().await.ok()?.json().await.ok()?;
        Some((base, cluster["cluster_id"].as_str()?.to_owned()))
    };
    let answers = futures::future::join_all(config.join.iter().map(ask)).await;
    for (base, theirs) in answers.into_iter().flatten() {
        if theirs != identity.cluster_id {
            bail!(
                "{} is of cluster {}, and {base} of cluster {theirs}: join it with an empty folder",
                config.data_dir.display(),
                identity.cluster_id
            );
        }
    }
    Ok(())
}

/// A client of other nodes' HTTP API.
struct Client {
    http: reqwest::Client,
    token: Option<String>,
    /// What they speak where nothing is said: what this node does.
    scheme: &'static str,
}

impl Client {
    fn new(config: &Config) -> Result<Self> {
        let builder = Trust::of_node(config)?.http_client()?;
        let http = builder.no_proxy().timeout(ANSWER_MAX).build().context("an HTTP client can be made")?;
        let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
        Ok(Self { http, token: config.token_file.as_deref().map(token_file::first).transpose()?, scheme })
    }

    fn base_of(&self, node: &str) -> String {
        let base = node.trim_end_matches('/');
        if base.contains("://") { base.to_owned() } else { format!("{}://{base}", self.scheme) }
    }

    fn get(&self, url: &str) -> reqwest::RequestBuilder {
        self.request(reqwest::Method::GET, url)
    }

    fn post(&self, url: &str) -> reqwest::RequestBuilder {
        self.request(reqwest::Method::POST, url)
    }

    fn request(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

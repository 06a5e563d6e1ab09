//! The cluster under test: nodes that know each other through the [`Network`], and what they say of
//! themselves over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::client::{TENANT, namespace_of};
use crate::nemesis::shim::Control;
use crate::node::{Node, NodeOptions, Shim, free_port};
use crate::proxy::{Cuts, Network, NodeId};

/// Longest wait for a cluster that is whole to say so.
pub(crate) const WHOLE_MAX: Duration = Duration::from_secs(120);
/// How often it is asked until then.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take for what it had in its hands when it was stopped.
const LATE_MS_MAX: i64 = 2_000;
/// Longest time without an answer when all is healed.
const ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Replicas of a shard, with nodes enough.
const REPLICAS: usize = 3;

/// How a cluster is made.
pub(crate) struct ClusterOptions {
    pub(crate) binary: PathBuf,
    pub(crate) home: PathBuf,
    /// Nodes to begin with.
    pub(crate) nodes: usize,
    /// Whether there are, or will be, others: then the network is between them.
    pub(crate) is_many: bool,
    /// `None`: as the binary wants it.
    pub(crate) shards: Option<u32>,
    /// A library that every node is started with.
    pub(crate) shim: Option<PathBuf>,
}

/// A node with its number, which changes when it is wiped.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) node: Arc<Node>,
    id: Arc<watch::Sender<NodeId>>,
}

/// The cluster.
pub(crate) struct Cluster {
    options: ClusterOptions,
    members: RwLock<Vec<Member>>,
    /// Where the nodes answer clients.
    pub(crate) urls: Arc<RwLock<Vec<String>>>,
    pub(crate) network: Network,
    /// When a node that had stood still went on, in ms since the epoch.
    resumed: RwLock<Vec<i64>>,
    /// How far nodes' clocks were ever off.
    skew_ms: AtomicI64,
    pub(crate) client: reqwest::Client,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Cluster {
    /// The first node founds it, the others join; returns once every shard is where it should be.
    pub(crate) async fn start(options: ClusterOptions) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let (members, urls) = (RwLock::default(), Arc::default());
        let cluster = Self {
            options,
            members,
            urls,
            network: Network::new(),
            resumed: RwLock::default(),
            skew_ms: AtomicI64::new(0),
            client,
        };
        for _ in 0..cluster.options.nodes {
            cluster.add().await?;
        }
        cluster.whole().await?;
        Ok(cluster)
    }

    /// Starts one more node.
    pub(crate) async fn add(&self) -> Result<()> {
        let (listen, peer, proxy) = (loopback(free_port()), loopback(free_port()), loopback(free_port()));
        let id = Arc::new(watch::Sender::new(0));
        let mut args = Vec::new();
        if self.options.is_many {
            self.network.serve(proxy, id.clone(), peer).await?;
            args.extend(["--peer-listen".into(), peer.to_string()]);
            args.extend(["--peer-advertise".into(), proxy.to_string()]);
        }
        let others = self.members();
        let joins = others.iter().flat_map(|other| ["--join".to_owned(), other.node.address()]);
        args.extend(joins);
        if let (true, Some(shards)) = (others.is_empty(), self.options.shards) {
            args.extend(["--shards".into(), shards.to_string()]);
        }
        let data = self.options.home.join(format!("n{}", listen.port()));
        let shim = match &self.options.shim {
            Some(library) => {
                let control = Arc::new(Control::new(data.with_extension("shim"))?);
                Some(Shim { library: library.clone(), control })
            }
            None => None,
        };
        let options = NodeOptions { binary: self.options.binary.clone(), data, listen, args, shim };
        let node = Arc::new(tokio::task::block_in_place(|| Node::start(options))?);
        self.urls.write().push(node.url(""));
        self.members.write().push(Member { node, id });
        self.learn_ids().await
    }

    /// Has a node give away what it holds, and takes it out; how long that took.
    pub(crate) async fn take_out(&self, place: usize) -> Result<Duration> {
        let begun = Instant::now();
        let (member, id) = (self.members()[place].clone(), self.id(place));
        let path = format!("/v1/cluster/nodes/{id}");
        let drained = self.ask(reqwest::Method::POST, &format!("{path}/drain")).await?;
        ensure!(drained == 202, "a drain of node {id} was answered {drained}");
        loop {
            // Refused as long as it holds something.
            match self.ask(reqwest::Method::DELETE, &path).await? {
                200 => break,
                409 | 503 if begun.elapsed() < WHOLE_MAX => tokio::time::sleep(LOOK_EVERY).await,
                other => bail!("node {id} is not let go after {:?}: {other}", begun.elapsed()),
            }
        }
        self.urls.write().retain(|url| *url != member.node.url(""));
        self.members.write().remove(place);
        // It may have stopped by itself, being no member any more.
        tokio::task::block_in_place(|| member.node.kill())?;
        Ok(begun.elapsed())
    }

    /// Removes a node that is gone for good; it may come back as a new one.
    pub(crate) async fn give_up(&self, place: usize) -> Result<()> {
        let begun = Instant::now();
        let path = format!("/v1/cluster/nodes/{}", self.id(place));
        loop {
            match self.ask(reqwest::Method::DELETE, &path).await {
                Ok(200 | 404) => return Ok(()),
                // It may count as alive for a moment.
                _ if begun.elapsed() < WHOLE_MAX => tokio::time::sleep(LOOK_EVERY).await,
                other => bail!("a node that is gone is not removed: {other:?}"),
            }
        }
    }

    /// Has something done by any node that answers; the status code.
    async fn ask(&self, method: reqwest::Method, path: &str) -> Result<u16> {
        self.send(method, path, &serde_json::json!({})).await
    }

    /// Makes the namespace of half of the chains. False where nodes know of none: those of a release before.
    pub(crate) async fn make_namespace(&self) -> Result<bool> {
        let begun = Instant::now();
        loop {
            match self.ask(reqwest::Method::PUT, &format!("/v1/namespaces/{TENANT}")).await? {
                200 | 201 => return Ok(true),
                503 if begun.elapsed() < ANSWERS_MAX => tokio::time::sleep(LOOK_EVERY).await,
                404 | 405 => return Ok(false),
                status => bail!("the namespace was not made: {status}"),
            }
        }
    }

    /// Posts to any node that answers; the status code.
    pub(crate) async fn post_to_any(&self, path: &str, body: &Value) -> Result<u16> {
        self.send(reqwest::Method::POST, path, body).await
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<u16> {
        let mut why = None;
        for member in self.members() {
            match self.client.request(method.clone(), member.node.url(path)).json(body).send().await {
                Ok(response) => return Ok(response.status().as_u16()),
                Err(error) => why = Some(error),
            }
        }
        Err(why.map_or_else(|| anyhow::anyhow!("there is no node"), Into::into))
    }

    /// Asks for the numbers of the nodes.
    pub(crate) async fn learn_ids(&self) -> Result<()> {
        let status = self.status().await?;
        let listed = status["members"].as_array().cloned().unwrap_or_default();
        for member in self.members() {
            let addr = member.node.address();
            let entry = listed.iter().find(|entry| entry["addr"] == addr.as_str());
            if let Some(id) = entry.and_then(|entry| entry["node_id"].as_str()?.parse().ok()) {
                member.id.send_replace(id);
            }
        }
        Ok(())
    }

    /// The binary that nodes are started with.
    pub(crate) fn binary(&self) -> &Path {
        &self.options.binary
    }

    /// Where the nodes' folders are.
    pub(crate) fn home(&self) -> &Path {
        &self.options.home
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.members.read().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.read().len()
    }

    pub(crate) fn node(&self, place: usize) -> Arc<Node> {
        self.members.read()[place].node.clone()
    }

    /// The number of the node at a place.
    pub(crate) fn id(&self, place: usize) -> NodeId {
        *self.members.read()[place].id.borrow()
    }

    /// The place of the node with this number, if it is one of these.
    fn place_of(&self, id: NodeId) -> Option<usize> {
        self.members.read().iter().position(|member| *member.id.borrow() == id)
    }

    /// Lets a node go on that stands still.
    pub(crate) fn resume(&self, place: usize) -> Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        self.resumed.write().push(i64::try_from(now.as_millis())?);
        self.node(place).resume()
    }

    /// Whether a node went on a moment before: what it had in its hands when it was stopped comes
    /// then, whatever its successor has done meanwhile. Only the receiver of a post could refuse it,
    /// by its key.
    pub(crate) fn may_be_late(&self, at_ms: i64) -> bool {
        self.resumed.read().iter().any(|resumed| (0..LATE_MS_MAX).contains(&(at_ms - resumed)))
    }

    /// Nodes' clocks may be off by so much from now on.
    pub(crate) fn note_skew(&self, ms: i64) {
        self.skew_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// How far nodes' clocks were ever off.
    pub(crate) fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Ordering::Relaxed)
    }

    /// Both ways between one node and all others.
    pub(crate) fn both_ways(&self, place: usize) -> Cuts {
        let mut ways = self.one_way_out(place);
        ways.extend(self.one_way_in(place));
        ways
    }

    /// Both ways between any of these and any of those.
    pub(crate) fn between(&self, these: &[usize], those: &[usize]) -> Cuts {
        let pairs =
            these.iter().flat_map(|one| those.iter().map(move |other| (self.id(*one), self.id(*other))));
        pairs.flat_map(|(one, other)| [(one, other), (other, one)]).collect()
    }

    /// What this node says does not arrive.
    pub(crate) fn one_way_out(&self, place: usize) -> Cuts {
        self.others(place).map(|other| (self.id(place), other)).collect()
    }

    /// What is said to this node does not arrive.
    pub(crate) fn one_way_in(&self, place: usize) -> Cuts {
        self.others(place).map(|other| (other, self.id(place))).collect()
    }

    fn others(&self, place: usize) -> impl Iterator<Item = NodeId> {
        let me = self.id(place);
        self.members().into_iter().map(|member| *member.id.borrow()).filter(move |id| *id != me)
    }

    /// `GET` from the first node that answers, starting at `first`.
    pub(crate) async fn get_from(&self, first: usize, path: &str) -> Result<(u16, Value)> {
        let mut why = None;
        for turn in 0..self.len() {
            let node = self.node((first + turn) % self.len());
            match self.client.get(node.url(path)).header("opcode-namespace", namespace_of(path)).send().await
            {
                Ok(response) => {
                    let status = response.status().as_u16();
                    return Ok((
                        status,
                        serde_json::from_slice(&response.bytes().await?).unwrap_or_default(),
                    ));
                }
                Err(error) => why = Some(error),
            }
        }
        Err(why.map_or_else(|| anyhow::anyhow!("there is no node"), Into::into))
    }

    /// `GET` when all is healed: that a shard has no leader for a moment, as on a machine that is
    /// too busy, is no wrong answer, but it must not last.
    pub(crate) async fn get_healed(&self, path: &str) -> Result<(u16, Value)> {
        let begun = Instant::now();
        loop {
            match self.get_from(0, path).await? {
                (503, _) if begun.elapsed() < ANSWERS_MAX => tokio::time::sleep(LOOK_EVERY).await,
                answer => return Ok(answer),
            }
        }
    }

    /// `GET` from the node at a place, and from no other.
    pub(crate) async fn get_at(&self, place: usize, path: &str) -> Result<(u16, Value)> {
        let request = self.client.get(self.node(place).url(path));
        let response = request.header("opcode-namespace", namespace_of(path)).send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.bytes().await?).unwrap_or_default()))
    }

    /// `POST` without a body to the node at a place, and to no other.
    pub(crate) async fn post_at(&self, place: usize, path: &str) -> Result<(u16, Value)> {
        let response = self.client.post(self.node(place).url(path)).send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_slice(&response.bytes().await?).unwrap_or_default()))
    }

    /// What the cluster says of itself.
    pub(crate) async fn status(&self) -> Result<Value> {
        let (status, cluster) = self.get_from(0, "/v1/cluster").await?;
        if status != 200 {
            bail!("the cluster's status: {status}: {cluster}");
        }
        Ok(cluster)
    }

    /// Waits until every shard is led and has all replicas, in sync and voting; how long it took.
    pub(crate) async fn whole(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if let Ok(status) = &status
                && self.is_whole(status)
            {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > WHOLE_MAX {
                bail!("the cluster is not whole {WHOLE_MAX:?} after all was healed: {status:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn is_whole(&self, status: &Value) -> bool {
        let replicas = self.len().min(REPLICAS);
        let is_in_sync = |shard: &Value| {
            let listed = shard["replicas"].as_array();
            let in_sync = listed.map_or(0, |all| {
                all.iter().filter(|one| one["in_sync"] == true && one["role"] == "voter").count()
            });
            shard["primary"].is_string() && in_sync >= replicas
        };
        let shards = status["shards"].as_array();
        let voters =
            status["members"].as_array().map_or(0, |all| all.iter().filter(|m| m["role"] == "voter").count());
        (replicas < REPLICAS || voters >= REPLICAS)
            && status.get("unreachable_shards").is_none()
            && shards.is_some_and(|shards| !shards.is_empty() && shards.iter().all(is_in_sync))
            && is_in_sync(&status["system_shard"])
            && self.members().iter().all(|member| {
                let is_there = |listed: &Value| {
                    listed["addr"] == member.node.address().as_str() && listed["alive"] == true
                };
                status["members"].as_array().is_some_and(|all| all.iter().any(is_there))
            })
    }

    /// Which shards each node leads, by its place.
    pub(crate) fn leads(&self, status: &Value) -> BTreeMap<usize, BTreeSet<u64>> {
        let mut leads: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for shard in status["shards"].as_array().into_iter().flatten() {
            let primary = shard["primary"].as_str().and_then(|id| id.parse().ok());
            if let (Some(place), Some(number)) =
                (primary.and_then(|id| self.place_of(id)), shard["shard"].as_u64())
            {
                leads.entry(place).or_default().insert(number);
            }
        }
        leads
    }

    /// The place of the node that leads the membership group.
    pub(crate) fn meta_leader(&self, status: &Value) -> Result<usize> {
        let leader = status["leader"].as_str().and_then(|id| id.parse().ok());
        leader.and_then(|id| self.place_of(id)).context("nobody leads the membership group")
    }

    /// Stops all nodes in order, checks the tables of each, and starts them again.
    pub(crate) async fn check_tables_over_a_restart(&self) -> Result<()> {
        tokio::task::block_in_place(|| {
            let members = self.members();
            members.iter().try_for_each(|member| member.node.stop())?;
            members.iter().try_for_each(|member| member.node.check_tables())
        })?;
        self.start_again(&(0..self.len()).collect::<Vec<_>>())?;
        self.whole().await.map(drop)
    }

    /// How nodes ended though nobody made them.
    pub(crate) fn deaths(&self) -> Vec<String> {
        self.members().iter().flat_map(|member| member.node.deaths()).collect()
    }

    /// Starts nodes side by side: alone, one may not be ready before it has a majority.
    pub(crate) fn start_again(&self, places: &[usize]) -> Result<()> {
        let nodes: Vec<Arc<Node>> = places.iter().map(|place| self.node(*place)).collect();
        tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let starts: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.start_again())).collect();
                starts.into_iter().try_for_each(|start| {
                    start.join().map_err(|_| anyhow::anyhow!("a start panicked"))?.map(drop)
                })
            })
        })
    }

    /// All nodes are started with this binary from now on.
    pub(crate) fn set_binary(&self, binary: &Path) {
        self.members().iter().for_each(|member| member.node.set_binary(binary));
    }
}

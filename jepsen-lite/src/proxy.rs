//! The network between the nodes: each is reached through a proxy that tells who connects, and can
//! hold back, delay or lose what one node sends to another.
//!
//! Held bytes are kept, as a network that loses packets makes TCP keep them: they arrive when it
//! heals, unless the connection was given up before. So does what is lost: it comes after the time
//! that TCP takes to send it again, and what was sent behind it waits; now and then the connection
//! breaks. What harms the network is a [`Rule`]; rules add up, and each ends with its [`Hold`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Longest first frame of a connection.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Bytes passed on at a time, and how many such pieces are under way on one way.
const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS_MAX: usize = 256;
/// How long TCP takes to send again what was lost, at least and at most.
const AGAIN_MS: std::ops::Range<u64> = 200..800;
/// One of so many losses breaks the connection.
const BREAKS_ONE_OF: u32 = 20;

/// A node's number in its cluster.
pub(crate) type NodeId = u64;

/// From one node to another.
pub(crate) type Way = (NodeId, NodeId);

/// Which ways are cut.
pub(crate) type Cuts = BTreeSet<Way>;

/// Harm that is done to the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    /// The ways that it is for.
    pub(crate) ways: Cuts,
    pub(crate) weather: Weather,
}

/// What happens on a way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) is_cut: bool,
    /// Everything comes this much later, give or take as much.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of a hundred pieces, so many are lost and sent again.
    pub(crate) loss_percent: u32,
}

type Rules = BTreeMap<u64, Rule>;

/// The network.
#[derive(Clone)]
pub(crate) struct Network {
    rules: Arc<watch::Sender<Rules>>,
}

/// A rule that stands as long as this is held.
pub(crate) struct Hold {
    rules: Arc<watch::Sender<Rules>>,
    number: u64,
    flapping: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(task) = &self.flapping {
            task.abort();
        }
        self.rules.send_modify(|rules| drop(rules.remove(&self.number)));
    }
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { rules: Arc::new(watch::Sender::new(Rules::new())) }
    }

    fn hold(&self) -> Hold {
        let mut number = 0;
        self.rules.send_modify(|rules| {
            number = rules.keys().last().map_or(0, |last| last + 1);
            rules.insert(number, Rule::default());
        });
        Hold { rules: self.rules.clone(), number, flapping: None }
    }

    /// These ways have this weather from now on.
    pub(crate) fn set(&self, ways: Cuts, weather: Weather) -> Hold {
        let hold = self.hold();
        let rule = Rule { ways, weather };
        self.rules.send_modify(|rules| drop(rules.insert(hold.number, rule)));
        hold
    }

    /// These ways are cut from now on.
    pub(crate) fn cut(&self, ways: Cuts) -> Hold {
        self.set(ways, Weather { is_cut: true, ..Weather::default() })
    }

    /// These ways are cut and open in turn, for the times given, over and over.
    pub(crate) fn flap(&self, ways: Cuts, times: Vec<Duration>) -> Hold {
        let mut hold = self.hold();
        let (rules, number) = (self.rules.clone(), hold.number);
        hold.flapping = Some(tokio::spawn(async move {
            for (time, is_cut) in times.iter().cycle().zip([true, false].into_iter().cycle()) {
                rules.send_modify(|rules| {
                    if let Some(rule) = rules.get_mut(&number) {
                        let weather = Weather { is_cut, ..Weather::default() };
                        *rule = Rule { ways: ways.clone(), weather };
                    }
                });
                tokio::time::sleep(*time).await;
            }
        }));
        hold
    }

    /// Takes connections at `listen` for node `to`, whose own address is `target`.
    pub(crate) async fn serve(
        &self,
        listen: SocketAddr,
        to: Arc<watch::Sender<NodeId>>,
        target: SocketAddr,
    ) -> Result<()> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("a proxy at {listen}"))?;
        let network = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (network, to) = (network.clone(), to.clone());
                // A connection that ends is the nodes' affair: they make another.
                tokio::spawn(async move { network.carry(stream, &to, target).await });
            }
        });
        Ok(())
    }

    async fn carry(
        &self,
        mut stream: TcpStream,
        to: &watch::Sender<NodeId>,
        target: SocketAddr,
    ) -> Result<()> {
        stream.set_nodelay(true)?;
        let (hello, from) = read_hello(&mut stream).await?;
        // A node's number is known a moment after it has joined, and connections are older than that.
        let there = || (from, *to.borrow());
        let back = || (*to.borrow(), from);
        self.is_open(&there).await;
        let mut onward = TcpStream::connect(target).await?;
        onward.set_nodelay(true)?;
        onward.write_all(&hello).await?;
        let (from_in, from_out) = stream.split();
        let (to_in, to_out) = onward.split();
        tokio::select! {
            passed = self.pass(from_in, to_out, &there) => passed,
            passed = self.pass(to_in, from_out, &back) => passed,
        }
    }

    /// Waits until the way is open.
    async fn is_open(&self, way: &impl Fn() -> Way) {
        let mut rules = self.rules.subscribe();
        // The sender lives as long as this network.
        let _ = rules.wait_for(|rules| !weather(rules, way()).is_cut).await;
    }

    /// How much later a piece comes that is sent now; an error when its loss breaks the connection.
    fn lateness(&self, way: Way) -> Result<Duration> {
        let weather = weather(&self.rules.borrow(), way);
        let jitter_ms = u64::try_from(weather.jitter.as_millis())?;
        let jitter = Duration::from_millis(rand::random_range(0..=2 * jitter_ms));
        let mut late = (weather.delay + jitter).saturating_sub(weather.jitter);
        if rand::random_range(0..100) < weather.loss_percent {
            ensure!(rand::random_range(0..BREAKS_ONE_OF) > 0, "lost for good");
            late += Duration::from_millis(rand::random_range(AGAIN_MS));
        }
        Ok(late)
    }

    async fn pass(
        &self,
        mut source: impl AsyncRead + Unpin,
        mut target: impl AsyncWrite + Unpin,
        way: &impl Fn() -> Way,
    ) -> Result<()> {
        let (pieces_in, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
        let read = async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let read = source.read(&mut chunk).await?;
                if read == 0 {
                    return anyhow::Ok(());
                }
                let due = Instant::now() + self.lateness(way())?;
                pieces_in.send((due, chunk[..read].to_vec())).await?;
            }
        };
        let write = async move {
            // In the order in which they were sent, so none overtakes another that is late.
            while let Some((due, piece)) = pieces.recv().await {
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
                self.is_open(way).await;
                target.write_all(&piece).await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(read, write).map(drop)
    }
}

/// What all rules together make of a way.
fn weather(rules: &Rules, way: Way) -> Weather {
    let of_way = rules.values().filter(|rule| rule.ways.contains(&way));
    of_way.fold(Weather::default(), |sum, rule| Weather {
        is_cut: sum.is_cut || rule.weather.is_cut,
        delay: sum.delay + rule.weather.delay,
        jitter: sum.jitter + rule.weather.jitter,
        loss_percent: sum.loss_percent + rule.weather.loss_percent,
    })
}

/// The first frame of a connection, as bytes, and the number that it gives as the sender's.
async fn read_hello(stream: &mut TcpStream) -> Result<(Vec<u8>, NodeId)> {
    let length = stream.read_u32_le().await?;
    let size = usize::try_from(length)?;
    if size > HELLO_BYTES_MAX {
        bail!("the first frame has {size} bytes");
    }
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.resize(4 + size, 0);
    stream.read_exact(&mut bytes[4..]).await?;
    let hello: Value = serde_json::from_slice(&bytes[4..])?;
    let from = hello["node_id"].as_u64().context("the first frame does not say who speaks")?;
    Ok((bytes, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rules_add_up_and_end_one_by_one() {
        let network = Network::new();
        let now = |from, to| weather(&network.rules.borrow(), (from, to));
        let cut = network.cut(Cuts::from([(1, 2)]));
        let slow = Weather { delay: Duration::from_millis(5), ..Weather::default() };
        let slow = network.set(Cuts::from([(1, 2), (2, 1)]), slow);
        assert!(now(1, 2).is_cut && !now(2, 1).is_cut && !now(1, 3).is_cut);
        assert_eq!(now(1, 2).delay, now(2, 1).delay);
        let flapping = network.flap(Cuts::from([(1, 3)]), vec![Duration::from_secs(60)]);
        let mut rules = network.rules.subscribe();
        rules.wait_for(|rules| weather(rules, (1, 3)).is_cut).await.unwrap();
        drop(cut);
        assert!(!now(1, 2).is_cut && now(1, 3).is_cut);
        drop((slow, flapping));
        assert!(now(1, 2).delay.is_zero() && !now(1, 3).is_cut && network.rules.borrow().is_empty());
    }

    /// Sends bytes in one piece after another through the network; what came, and how long it took.
    async fn carried(network: &Network, count: usize) -> (usize, Duration) {
        let (mut near, source) = tokio::io::duplex(1 << 20);
        let (target, mut far) = tokio::io::duplex(1 << 20);
        let begun = Instant::now();
        let send = async {
            for _ in 0..count {
                near.write_all(&[7; 100]).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(near);
        };
        let mut came = Vec::new();
        let (passed, (), read) =
            tokio::join!(network.pass(source, target, &|| (1, 2)), send, far.read_to_end(&mut came));
        passed.unwrap();
        read.unwrap();
        (came.len(), begun.elapsed())
    }

    #[tokio::test]
    async fn what_is_delayed_comes_whole_and_is_not_delayed_for_each_piece() {
        let network = Network::new();
        let delay = Duration::from_millis(50);
        let _slow = network.set(Cuts::from([(1, 2)]), Weather { delay, ..Weather::default() });
        let (bytes, took) = carried(&network, 100).await;
        assert_eq!(bytes, 10_000);
        assert!(took >= delay && took < delay * 50, "{took:?}");
    }
}

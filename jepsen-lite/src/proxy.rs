//! The network between the nodes: each is reached through a proxy that tells who connects and can
//! hold back what one node sends to another, in one direction or in both.
//!
//! Held bytes are kept, as a network that loses packets makes TCP keep them: they arrive when it
//! heals, unless the connection was given up before.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longest first frame of a connection.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Bytes passed on at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A node's number in its cluster.
pub(crate) type NodeId = u64;

/// Which ways are cut: from, to.
pub(crate) type Cuts = BTreeSet<(NodeId, NodeId)>;

/// The network.
#[derive(Clone)]
pub(crate) struct Network {
    cuts: Arc<watch::Sender<Cuts>>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { cuts: Arc::new(watch::Sender::new(Cuts::new())) }
    }

    /// These ways are cut from now on, and no others.
    pub(crate) fn cut(&self, cuts: Cuts) {
        self.cuts.send_replace(cuts);
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
        let to = *to.borrow();
        self.is_open(from, to).await;
        let mut onward = TcpStream::connect(target).await?;
        onward.set_nodelay(true)?;
        onward.write_all(&hello).await?;
        let (from_in, from_out) = stream.split();
        let (to_in, to_out) = onward.split();
        tokio::select! {
            passed = self.pass(from_in, to_out, from, to) => passed,
            passed = self.pass(to_in, from_out, to, from) => passed,
        }
    }

    /// Waits until the way is open.
    async fn is_open(&self, from: NodeId, to: NodeId) {
        let mut cuts = self.cuts.subscribe();
        // The sender lives as long as this network.
        let _ = cuts.wait_for(|cuts| !cuts.contains(&(from, to))).await;
    }

    async fn pass(
        &self,
        mut source: impl AsyncRead + Unpin,
        mut target: impl AsyncWrite + Unpin,
        from: NodeId,
        to: NodeId,
    ) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = source.read(&mut chunk).await?;
            if read == 0 {
                return Ok(());
            }
            self.is_open(from, to).await;
            target.write_all(&chunk[..read]).await?;
        }
    }
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

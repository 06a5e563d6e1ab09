//! The first words on a connection, both ways: who speaks, and to whom.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use opcode_shard::peer::NodeId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::Shared;

/// Longest wait for the other side's hello.
pub(super) const HELLO_MAX: Duration = Duration::from_secs(5);
/// Longest hello that is read.
const HELLO_BYTES_MAX: usize = 4 * 1024;
/// The version of everything that follows.
const PROTOCOL: u32 = 1;
const MAGIC: &str = "opcode-peer";

/// Who this node is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster's id; empty before it has joined one.
    pub(crate) cluster_id: String,
    /// The node's number; 0 before it has joined.
    pub(crate) node_id: NodeId,
    /// Grows with every start of the node.
    pub(crate) incarnation: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    magic: String,
    protocol: u32,
    cluster_id: String,
    node_id: NodeId,
    incarnation: u64,
    /// Whom it means to reach.
    to: NodeId,
    /// Why the other one is not welcome.
    refused: Option<String>,
}

impl Hello {
    fn of(me: &Identity, to: NodeId, refused: Option<String>) -> Self {
        Self {
            magic: MAGIC.into(),
            protocol: PROTOCOL,
            cluster_id: me.cluster_id.clone(),
            node_id: me.node_id,
            incarnation: me.incarnation,
            to,
            refused,
        }
    }

    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a hello is JSON").into()
    }

    /// Whether the one who said it belongs here.
    fn check(&self, shared: &Shared) -> Result<(), String> {
        let me = shared.me.read().clone();
        if self.protocol > PROTOCOL {
            return Err(format!("it speaks protocol {}, this node up to {PROTOCOL}", self.protocol));
        }
        if self.cluster_id != me.cluster_id {
            return Err(format!(
                "it belongs to cluster {}, node {} to cluster {}",
                self.cluster_id, me.node_id, me.cluster_id
            ));
        }
        if self.to != me.node_id {
            return Err(format!("it means node {}, and this is node {}", self.to, me.node_id));
        }
        shared.admit(self.node_id, self.incarnation)
    }
}

type Wire<S> = Framed<S, LengthDelimitedCodec>;

async fn read<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Hello, String> {
    let frame = tokio::time::timeout(HELLO_MAX, wire.next()).await;
    let frame = frame.map_err(|_| "it said nothing".to_owned())?;
    let frame = frame.ok_or("it hung up")?.map_err(|error| error.to_string())?;
    if frame.len() > HELLO_BYTES_MAX {
        return Err("its hello is too long".into());
    }
    let hello: Hello = serde_json::from_slice(&frame).map_err(|_| "it is no node of ours".to_owned())?;
    match hello.magic.as_str() {
        MAGIC => Ok(hello),
        _ => Err("it is no node of ours".into()),
    }
}

/// Says hello to node `to` and checks what comes back.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    to: NodeId,
    shared: &Shared,
) -> Result<(), String> {
    let mine = Hello::of(&shared.me.read(), to, None).encode();
    wire.send(mine).await.map_err(|error| error.to_string())?;
    let theirs = read(wire).await?;
    if let Some(why) = theirs.refused {
        return Err(format!("this node is not welcome there: {why}"));
    }
    if theirs.node_id != to {
        return Err(format!("node {} answers there", theirs.node_id));
    }
    theirs.check(shared)
}

/// Waits for a hello, checks it, answers, and gives who it is.
pub(super) async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    shared: &Shared,
) -> Result<NodeId, String> {
    let theirs = read(wire).await?;
    let checked = theirs.check(shared);
    let mine = Hello::of(&shared.me.read(), theirs.node_id, checked.clone().err()).encode();
    wire.send(mine).await.map_err(|error| error.to_string())?;
    checked.map(|()| theirs.node_id)
}

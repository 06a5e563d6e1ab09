//! The first words on a connection, both ways: who speaks, which start of it, and to whom.
//!
//! A stranger's hello is all that is read of it. A hello that was recorded and is sent again gives
//! nothing away: over TLS it cannot be recorded, and it carries the start of a node, of which only
//! the newest is welcome.

use std::fmt;

use opcode_shard::peer::NodeId;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::security::{Certificate, Stream, described};
use super::{Shared, frame};

/// Longest hello that is read.
const HELLO_BYTES_MAX: usize = 4 * 1024;
/// The versions of everything that follows which this build speaks, lowest and highest. A change of
/// the wire raises the second; the first follows once no node of a cluster needs it any more.
pub(super) const PROTOCOLS: (u32, u32) = (2, 2);
const MAGIC: &str = "opcode-peer";
/// The number of one that has not joined yet.
const NOBODY: NodeId = 0;

/// One start of a node's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// Grows with every start of the node.
    pub(crate) incarnation: u64,
    /// Tells two processes apart that began from copies of one folder.
    pub(crate) process: u64,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {} (process {:x})", self.incarnation, self.process)
    }
}

/// Who this node is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// The node's number.
    pub(crate) node_id: NodeId,
    /// Which start of it this is.
    pub(crate) start: Start,
}

/// Every version can read the hello of every other, so that it can say why they do not agree:
/// fields are added, and none is taken away.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    magic: String,
    /// The highest version that it speaks.
    protocol: u32,
    /// The lowest; without it, there is but one.
    protocol_min: Option<u32>,
    cluster_id: String,
    node_id: NodeId,
    incarnation: u64,
    #[serde(default)]
    process: u64,
    /// Whom it means to reach.
    to: NodeId,
    /// Why the other one is not welcome.
    refused: Option<String>,
}

/// Who is at the other end, once hello has been said.
pub(super) struct Known {
    pub(super) node: NodeId,
    /// The version that both speak.
    pub(super) protocol: u32,
    start: Start,
    newest: watch::Receiver<Start>,
}

impl Known {
    /// Resolves once a later start of the node is seen: then this connection is one of its past.
    pub(super) async fn superseded(&self) -> String {
        let mut newest = self.newest.clone();
        // The sender lives as long as the transport, and with it every connection.
        let _ = newest.wait_for(|newest| *newest != self.start).await;
        format!("node {} has been started again", self.node)
    }
}

impl Hello {
    fn of(me: &Identity, (min, max): (u32, u32), to: NodeId) -> Self {
        Self {
            magic: MAGIC.into(),
            protocol: max,
            protocol_min: Some(min),
            cluster_id: me.cluster_id.clone(),
            node_id: me.node_id,
            incarnation: me.start.incarnation,
            process: me.start.process,
            to,
            refused: None,
        }
    }

    /// The highest version that both speak.
    fn agree(&self, me: &Identity) -> Result<u32, String> {
        let (min, max) = PROTOCOLS;
        let their_min = self.protocol_min.unwrap_or(self.protocol);
        let protocol = self.protocol.min(max);
        if protocol < their_min.max(min) {
            return Err(format!(
                "it speaks protocol {their_min} to {}, node {} {min} to {max}: upgrade one version after the other",
                self.protocol, me.node_id
            ));
        }
        Ok(protocol)
    }

    /// Whether it is said to this node, by one of its cluster that it can talk to.
    fn check_meant(&self, me: &Identity) -> Result<u32, String> {
        let protocol = self.agree(me)?;
        if self.cluster_id != me.cluster_id {
            return Err(format!(
                "it belongs to cluster {}, node {} to cluster {}",
                self.cluster_id, me.node_id, me.cluster_id
            ));
        }
        if self.to != me.node_id {
            return Err(format!("it means node {}, and this is node {}", self.to, me.node_id));
        }
        Ok(protocol)
    }

    /// Whether the one who said it is the node that it says.
    fn check(&self, shared: &Shared, certificate: Option<&Certificate>) -> Result<Known, String> {
        let me = &shared.me;
        let protocol = self.check_meant(me)?;
        if self.node_id == me.node_id {
            return Err(format!(
                "it says that it is node {}, as this one: is a copy of its data folder in use?",
                me.node_id
            ));
        }
        if let (Some(certificate), Some(address)) =
            (certificate, shared.addresses.read().get(&self.node_id).cloned())
        {
            certificate.check_is_for(&address, self.node_id)?;
        }
        let start = Start { incarnation: self.incarnation, process: self.process };
        let newest = shared.admit(self.node_id, start)?;
        Ok(Known { node: self.node_id, protocol, start, newest })
    }
}

async fn write(wire: &mut Stream, hello: &Hello) -> Result<(), String> {
    let bytes = serde_json::to_vec(hello).expect("a hello is JSON");
    frame::write_bytes(wire, &bytes).await.map_err(|error| described(&error))?;
    wire.flush().await.map_err(|error| described(&error))
}

async fn read(wire: &mut Stream) -> Result<Hello, String> {
    let bytes = frame::read(wire, HELLO_BYTES_MAX, || {}).await.map_err(|error| described(&error))?;
    let bytes = bytes.ok_or("it hung up")?;
    let hello: Hello = serde_json::from_slice(&bytes).map_err(|_| "it is no node of ours".to_owned())?;
    match hello.magic.as_str() {
        MAGIC => Ok(hello),
        _ => Err("it is no node of ours".into()),
    }
}

/// Says hello to node `to` and gives its answer, unless it is a refusal or another node's.
async fn ask(wire: &mut Stream, hello: &Hello) -> Result<Hello, String> {
    // One that hung up has said why before: that is read also when nothing can be written.
    let _ = write(wire, hello).await;
    let theirs = read(wire).await?;
    if let Some(why) = theirs.refused {
        return Err(format!("this node is not welcome there: {why}"));
    }
    if theirs.node_id != hello.to {
        return Err(format!("node {} answers there", theirs.node_id));
    }
    Ok(theirs)
}

/// Says hello to node `to` and checks what comes back.
pub(super) async fn greet(
    wire: &mut Stream,
    certificate: Option<&Certificate>,
    to: NodeId,
    shared: &Shared,
) -> Result<Known, String> {
    greet_with(wire, certificate, to, shared, PROTOCOLS).await
}

/// As [`greet`], as a build that speaks these versions.
pub(super) async fn greet_with(
    wire: &mut Stream,
    certificate: Option<&Certificate>,
    to: NodeId,
    shared: &Shared,
    protocols: (u32, u32),
) -> Result<Known, String> {
    ask(wire, &Hello::of(&shared.me, protocols, to)).await?.check(shared, certificate)
}

/// Says hello to node `to` of a cluster as one that is to join it, to learn whether it may.
pub(super) async fn visit(wire: &mut Stream, cluster_id: &str, to: NodeId) -> Result<(), String> {
    let me = Identity { cluster_id: cluster_id.to_owned(), node_id: NOBODY, start: Start::default() };
    ask(wire, &Hello::of(&me, PROTOCOLS, to)).await?.check_meant(&me).map(drop)
}

/// Waits for a hello, checks it, answers, and gives who it is; `None` when it was a visit only.
/// `has_room` is false when there are connections enough.
pub(super) async fn welcome(
    wire: &mut Stream,
    certificate: Option<&Certificate>,
    shared: &Shared,
    has_room: bool,
) -> Result<Option<Known>, String> {
    let theirs = read(wire).await?;
    let checked = match has_room {
        false => Err("too many connections".to_owned()),
        true if theirs.node_id == NOBODY => theirs.check_meant(&shared.me).map(|_| None),
        true => theirs.check(shared, certificate).map(Some),
    };
    let mut mine = Hello::of(&shared.me, PROTOCOLS, theirs.node_id);
    mine.refused = checked.as_ref().err().cloned();
    write(wire, &mine).await?;
    checked
}

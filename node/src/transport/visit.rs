//! A look at a node's door before joining its cluster: whether it answers where it is said to be,
//! takes this node's certificate, and speaks its protocol. One that would be refused later by every
//! node never becomes a member, which would be counted as missing ever after.

use std::time::Duration;

use opcode_shard::peer::NodeId;
use tokio::net::TcpStream;

use super::hello;
use super::security::Security;

/// Longest wait for a connection, its handshake and hello.
const VISIT_MAX: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Visit {
    /// It would take calls from here.
    Welcome,
    /// It is not there, or not now.
    Absent(String),
    /// One of the two does not want the other.
    Refused(String),
}

/// Looks in at node `to` of a cluster, which is said to be at `address`.
pub(crate) async fn visit(security: &Security, cluster_id: &str, to: NodeId, address: &str) -> Visit {
    let attempt = async {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Visit::Absent(error.to_string()),
        };
        let greeted = async {
            let (mut wire, _) = security.connect(stream, address).await?;
            hello::visit(&mut wire, cluster_id, to).await
        };
        greeted.await.map_or_else(Visit::Refused, |()| Visit::Welcome)
    };
    let visited = tokio::time::timeout(VISIT_MAX, attempt).await;
    visited.unwrap_or_else(|_| Visit::Absent("it does not answer".into()))
}

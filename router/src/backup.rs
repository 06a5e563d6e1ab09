//! Copies of shards for backups, from whoever leads each: the router's side of
//! [`opcode_shard::backup`], and a [`Source`] of a whole one.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use opcode_engine::ids::ShardId;
use opcode_shard::backup::call::{BackupCall, BackupReply, CopyMade};
use opcode_shard::backup::{Incoming, Source};
use opcode_shard::batch::Position;
use opcode_shard::log::Archived;
use opcode_shard::peer::{NodeId, Service};
use opcode_shard::{CallError, ShardError, remote};
use tokio::time::Instant;

use crate::error::{ApiError, Applied};
use crate::state::RouterState;

/// How long somebody who leads is looked for.
const LEADER_MAX: Duration = Duration::from_secs(8);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// Longest time for a copy to be made.
const MADE_MAX: Duration = Duration::from_secs(1_800);

/// A copy of a shard's tables that a node has made; the node lets it go when this is dropped.
pub(crate) struct RemoteCopy {
    state: RouterState,
    shard: ShardId,
    node: NodeId,
    pub(crate) made: CopyMade,
}

fn unavailable(message: String) -> CallError {
    CallError::Unavailable { applied_unknown: false, message }
}

impl From<BackupFault> for CallError {
    fn from(fault: BackupFault) -> Self {
        match fault {
            BackupFault::Busy => Self::Overloaded,
            BackupFault::Full => Self::StorageFull,
            BackupFault::Other(why) => unavailable(why),
        }
    }
}

/// What an answer says that is none.
enum BackupFault {
    Busy,
    Full,
    Other(String),
}

impl BackupFault {
    fn of(shard: ShardId, reply: &BackupReply) -> Self {
        match reply {
            BackupReply::Busy => Self::Busy,
            BackupReply::Full => Self::Full,
            BackupReply::Failed(why) => Self::Other(format!("shard {shard}: {why}")),
            BackupReply::Gone => Self::Other(format!("shard {shard}: the copy is not there any more")),
            BackupReply::NotLeader(_) => Self::Other(format!("shard {shard} is led by another by now")),
            BackupReply::Making(_) | BackupReply::Made(_) | BackupReply::Piece(_) | BackupReply::Log(..) => {
                Self::Other(format!("shard {shard}: another node answered something else"))
            }
        }
    }
}

/// Asks a node, which may be this one.
async fn call(
    state: &RouterState,
    node: NodeId,
    shard: ShardId,
    call: BackupCall,
) -> Result<BackupReply, CallError> {
    let body = call.encode();
    let answer = if node == state.node_id() {
        let handle = state.local().get(shard);
        let handle = handle.ok_or_else(|| unavailable(format!("this node holds no shard {shard}")))?;
        remote::answer_backup(&handle, &body).await.map_err(unavailable)?
    } else {
        let called = state.peers().call(node, Service::Backup, shard.0, body, ANSWER_MAX).await;
        called.map_err(|error| unavailable(error.to_string()))?
    };
    BackupReply::decode(&answer).map_err(unavailable)
}

/// Asks whoever leads a shard; who that was is told too.
async fn ask_leader(
    state: &RouterState,
    shard: ShardId,
    asked: BackupCall,
) -> Result<(NodeId, BackupReply), CallError> {
    let deadline = Instant::now() + LEADER_MAX;
    let mut hint = None;
    for turn in 0_usize.. {
        let why = match candidate(state, shard, hint, turn) {
            None => "nobody holds it".to_owned(),
            Some(node) => match call(state, node, shard, asked).await {
                Ok(BackupReply::NotLeader(leader)) => {
                    hint = leader;
                    "who was asked does not lead it".to_owned()
                }
                Ok(reply) => return Ok((node, reply)),
                Err(error) => {
                    hint = None;
                    error.to_string()
                }
            },
        };
        if Instant::now() >= deadline {
            return Err(unavailable(format!("shard {shard} has no leader that can be reached: {why}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("the deadline ends it")
}

/// Whom to ask: whoever leads as far as this node knows, else the holders in turn.
fn candidate(state: &RouterState, shard: ShardId, hint: Option<NodeId>, turn: usize) -> Option<NodeId> {
    let here = state.local().get(shard);
    let known = hint.or_else(|| {
        let here = here.as_ref()?;
        if here.serves() { Some(state.node_id()) } else { here.leader() }
    });
    if let Some(node) = known.filter(|_| turn.is_multiple_of(2)) {
        return Some(node);
    }
    let map = state.map();
    let holders: Vec<NodeId> =
        map.shard(shard).into_iter().flat_map(|entry| entry.holders().collect::<Vec<_>>()).collect();
    holders.get(turn / 2 % holders.len().max(1)).copied().or(known)
}

impl RemoteCopy {
    /// Has whoever leads a shard make a copy of all that was acknowledged before.
    pub(crate) async fn open(state: &RouterState, shard: ShardId) -> Result<Self, CallError> {
        let deadline = Instant::now() + MADE_MAX;
        let (node, mut reply) = ask_leader(state, shard, BackupCall::Copy(None)).await?;
        loop {
            let copy = match reply {
                BackupReply::Made(made) => return Ok(Self { state: state.clone(), shard, node, made }),
                BackupReply::Making(copy) if Instant::now() < deadline => copy,
                other => return Err(BackupFault::of(shard, &other).into()),
            };
            reply = call(state, node, shard, BackupCall::Copy(Some(copy))).await?;
        }
    }

    /// Its bytes, in order.
    pub(crate) fn pieces(self) -> impl futures::Stream<Item = Result<Bytes, CallError>> + Send + 'static {
        futures::stream::try_unfold((self, 0_u64), |(copy, offset)| async move {
            if offset >= copy.made.bytes {
                return Ok(None);
            }
            let piece = BackupCall::Piece(copy.made.copy, offset);
            match call(&copy.state, copy.node, copy.shard, piece).await? {
                BackupReply::Piece(bytes) if !bytes.is_empty() => {
                    let next = offset + bytes.len() as u64;
                    Ok(Some((bytes, (copy, next))))
                }
                other => Err(BackupFault::of(copy.shard, &other).into()),
            }
        })
    }
}

impl Drop for RemoteCopy {
    fn drop(&mut self) {
        let (state, node, shard, copy) = (self.state.clone(), self.node, self.shard, self.made.copy);
        // Without this it goes by itself, a minute later.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(call(&state, node, shard, BackupCall::Done(copy)).await) });
        }
    }
}

/// Entries of a shard's log; `None` when it no longer holds the one that they follow on.
pub(crate) async fn log(
    state: &RouterState,
    shard: ShardId,
    after: Position,
) -> Result<Option<Archived>, CallError> {
    match ask_leader(state, shard, BackupCall::Log(after)).await?.1 {
        BackupReply::Log(bytes, last) => Ok(Some(Archived { bytes, last })),
        BackupReply::Gone => Ok(None),
        other => Err(BackupFault::of(shard, &other).into()),
    }
}

/// The cluster, as a node of it reaches it.
pub(crate) struct ClusterSource(pub(crate) RouterState);

/// Why a backup was not written.
pub(crate) struct Unwritten(pub(crate) ApiError);

impl From<CallError> for Unwritten {
    fn from(error: CallError) -> Self {
        Self(error.into())
    }
}

impl From<ShardError> for Unwritten {
    fn from(error: ShardError) -> Self {
        let full = std::io::ErrorKind::StorageFull;
        Self(match &error {
            ShardError::Io { source, .. } if source.kind() == full => {
                ApiError::storage_full(error.to_string())
            }
            ShardError::Refused(why) => ApiError::new(
                axum::http::StatusCode::CONFLICT,
                opcode_engine::Code::Conflict.as_str(),
                why.as_str(),
            ),
            _ => ApiError::unavailable(Applied::No, error.to_string()),
        })
    }
}

impl Source for ClusterSource {
    type Error = Unwritten;

    fn may_pass(error: &Unwritten) -> bool {
        // Its code is the same when it is this node's own disk that is full, which does not pass.
        matches!(error.0.code(), "UNAVAILABLE" | "OVERLOADED")
    }

    async fn copy(&self, shard: ShardId) -> Result<Incoming<Unwritten>, Unwritten> {
        let copy = RemoteCopy::open(&self.0, shard).await?;
        let CopyMade { bytes, checksum, position, .. } = copy.made;
        let pieces = copy.pieces().map(|piece| piece.map_err(Unwritten::from)).boxed();
        Ok(Incoming { position, bytes, checksum, pieces })
    }

    async fn log(&self, shard: ShardId, after: Position) -> Result<Option<Archived>, Unwritten> {
        Ok(log(&self.0, shard, after).await?)
    }
}

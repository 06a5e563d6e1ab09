//! The way to a group's other members: openraft's calls as messages over the node's [`Peers`], and
//! copies of the tables in pieces, one after another, paced so that they leave room for the rest.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot, Vote};

use super::copies::OutgoingCopy;
use super::group::{LastQuorum, TICK};
use super::state_machine::{decode_applied, snapshot_meta};
use super::type_config::TypeConfig;
use super::wire::{Answer, Piece, Request, decode_answer, encode_request};
use crate::peer::{NodeId, PeerError, Peers, Service};

/// Bytes of one piece of a copy.
const PIECE_BYTES: usize = 1024 * 1024;
/// Bytes of a copy that are sent in a second at most.
const COPY_BYTES_PER_SECOND: u64 = 128 * 1024 * 1024;
/// Longest time for one piece. An answer that is lost holds the member up for as long.
const PIECE_MAX: Duration = Duration::from_secs(10);
/// How soon a member that could not be reached is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for a member to say that it is there, before a copy is made for it.
const PRESENT_MAX: Duration = Duration::from_secs(1);
/// How long a leader goes on speaking to those that it does not hear: while its words arrive, nobody
/// takes its place. Idle groups hear each other every tick, and it may take another to be noted.
const DEAF_AFTER: Duration = Duration::from_millis(760);
const _: () = assert!(DEAF_AFTER.as_millis() > 2 * TICK.as_millis(), "an idle leader is not deaf");
/// Longest wait of such a leader for a sign of life.
const HEARD_MAX: Duration = Duration::from_millis(200);
/// Shortest and longest pause before another copy is made for a member that has not taken one. Each
/// costs a reading and a writing of the whole tables, so in between the pause is as long as the try.
const COPY_PAUSE_MIN: Duration = Duration::from_secs(2);
const COPY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a group needs to reach its members.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) group: u32,
    pub(super) peers: Arc<dyn Peers>,
    /// Where copies on their way are kept.
    pub(super) copies_dir: PathBuf,
    /// When this member, as leader, last heard a majority.
    pub(super) last_quorum: LastQuorum,
}

/// The way to one member.
pub(super) struct Member {
    to: NodeId,
    network: Network,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Member;

    async fn new_client(&mut self, to: NodeId, _: &BasicNode) -> Member {
        Member { to, network: self.clone() }
    }
}

type Outcome<T, E> = Result<T, RPCError<u64, BasicNode, E>>;

fn rpc_error<E: std::error::Error>(error: PeerError) -> RPCError<u64, BasicNode, E> {
    match error {
        PeerError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        PeerError::Lost { .. } | PeerError::Refused { .. } => RPCError::Network(NetworkError::new(&error)),
    }
}

fn invalid<E: std::error::Error>(what: String) -> RPCError<u64, BasicNode, E> {
    RPCError::Network(NetworkError::new(&io::Error::new(io::ErrorKind::InvalidData, what)))
}

impl Network {
    /// Asks member `to`, and reads its answer.
    pub(super) async fn ask(
        &self,
        to: NodeId,
        service: Service,
        request: &Request,
        within: Duration,
    ) -> Result<Answer, PeerError> {
        let refused = |why| PeerError::Refused { node: to, why };
        let body = encode_request(request).map_err(refused)?;
        let answer = self.peers.call(to, service, self.group, body, within).await?;
        decode_answer(&answer).map_err(refused)
    }

    /// Makes sure that a leader hears those to whom it speaks. One whose words arrive while nothing
    /// comes back can commit nothing, and would keep the others from electing one that can: so it
    /// falls silent, but for a question that is no sign of a leader, until it is answered.
    async fn be_heard(&self, to: NodeId) -> Result<(), PeerError> {
        let is_deaf = self.last_quorum.lock().is_some_and(|heard| heard.elapsed() > DEAF_AFTER);
        if !is_deaf {
            return Ok(());
        }
        // A refusal is an answer too.
        match self.ask(to, Service::Raft, &Request::Poll { last: None }, HEARD_MAX).await {
            Ok(_) | Err(PeerError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl RaftNetwork<TypeConfig> for Member {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Outcome<AppendEntriesResponse<u64>, RaftError<u64>> {
        self.network.be_heard(self.to).await.map_err(rpc_error)?;
        let request = Request::Append(request);
        match self.network.ask(self.to, Service::Raft, &request, option.hard_ttl()).await {
            Ok(Answer::Appended(answer)) => Ok(answer),
            Ok(other) => Err(invalid(format!("an append was answered with {other:?}"))),
            Err(error) => Err(rpc_error(error)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Outcome<VoteResponse<u64>, RaftError<u64>> {
        let request = Request::Vote(request);
        match self.network.ask(self.to, Service::Raft, &request, option.hard_ttl()).await {
            Ok(Answer::Voted(answer)) => Ok(answer),
            Ok(other) => Err(invalid(format!("a vote was answered with {other:?}"))),
            Err(error) => Err(rpc_error(error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            // Whatever went wrong, openraft waits a little before it tries again.
            sent = self.send_copy_or_pause(vote, snapshot) => sent.map_err(|error| {
                StreamingError::Unreachable(Unreachable::new(&error))
            }),
        }
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(RETRY_EVERY))
    }
}

impl Member {
    /// Sends a copy of the tables to a member that is there; when it is not taken, it is a while
    /// before the next.
    async fn send_copy_or_pause(
        &self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<u64>, PeerError> {
        self.ask_whether_present(vote).await?;
        let begun = tokio::time::Instant::now();
        let sent = self.send_copy(vote, snapshot).await;
        if let Err(error) = &sent {
            let pause = begun.elapsed().clamp(COPY_PAUSE_MIN, COPY_PAUSE_MAX);
            tracing::warn!(group = self.network.group, to = self.to, %error, ?pause, "a copy was not taken");
            tokio::time::sleep(pause).await;
        }
        sent
    }

    /// Asks for a sign of life: a heartbeat that says nothing.
    async fn ask_whether_present(&self, vote: Vote<u64>) -> Result<(), PeerError> {
        let nothing =
            AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let request = Request::Append(nothing);
        self.network.ask(self.to, Service::Raft, &request, PRESENT_MAX).await.map(drop)
    }

    /// Makes a copy of the tables and sends it, piece by piece.
    async fn send_copy(
        &self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<u64>, PeerError> {
        let refused = |why: String| PeerError::Refused { node: self.to, why };
        let made = OutgoingCopy::make(*snapshot.snapshot, &self.network.copies_dir, self.network.group).await;
        let copy = Arc::new(made.map_err(|error| refused(format!("no copy could be made: {error}")))?);
        // The tables have gone on since the mark: the copy is announced as what it is.
        let (last, membership) = decode_applied(&copy.applied).map_err(refused)?;
        let meta = snapshot_meta(last, membership);
        tracing::info!(group = self.network.group, to = self.to, bytes = copy.bytes, "sending a copy");
        let mut offset = 0;
        let begun = tokio::time::Instant::now();
        loop {
            let bytes = read_piece(copy.clone(), offset)
                .await
                .map_err(|error| refused(format!("the copy cannot be read: {error}")))?;
            let piece = Piece {
                vote,
                meta: meta.clone(),
                copy: copy.id,
                total: copy.bytes,
                checksum: copy.checksum,
                offset,
                bytes,
            };
            let request = Request::Piece(piece);
            match self.network.ask(self.to, Service::Copy, &request, PIECE_MAX).await? {
                Answer::Installed(response) => return Ok(response),
                // It has all of it, and puts it in place: that is asked again with an empty piece.
                Answer::Received(next) if next == copy.bytes && next == offset => {}
                Answer::Received(next) if next > offset || (next == 0 && offset > 0) => offset = next,
                other => return Err(refused(format!("a piece at {offset} was answered with {other:?}"))),
            }
            let due = Duration::from_millis(offset.saturating_mul(1000) / COPY_BYTES_PER_SECOND);
            tokio::time::sleep_until(begun + due).await;
        }
    }
}

async fn read_piece(copy: Arc<OutgoingCopy>, offset: u64) -> io::Result<Bytes> {
    crate::simulation::blocking(move || copy.read(offset, PIECE_BYTES)).await?
}

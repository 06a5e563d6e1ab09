//! The way to a group's other members. A group has one member so far, so there is none: every
//! call is told that the other cannot be reached.

use std::io;

use openraft::BasicNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::type_config::TypeConfig;

/// Reaches nobody.
pub(super) struct NoPeers;

type Outcome<T, E> = Result<T, RPCError<u64, BasicNode, E>>;

fn unreachable<E: std::error::Error>() -> RPCError<u64, BasicNode, E> {
    let error = io::Error::new(io::ErrorKind::NotConnected, "this group has one member");
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = Self;

    async fn new_client(&mut self, _: u64, _: &BasicNode) -> Self {
        Self
    }
}

impl RaftNetwork<TypeConfig> for NoPeers {
    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Outcome<AppendEntriesResponse<u64>, RaftError<u64>> {
        Err(unreachable())
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> Outcome<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        Err(unreachable())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<u64>,
        _: RPCOption,
    ) -> Outcome<VoteResponse<u64>, RaftError<u64>> {
        Err(unreachable())
    }
}

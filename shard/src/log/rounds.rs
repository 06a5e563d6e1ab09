//! Making sure of the lead, for reads: one round of heartbeats to a majority answers for everyone
//! who asked before it began. Who asks while one is under way waits for the next.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use openraft::Raft;
use openraft::error::{CheckIsLeaderError, RaftError};
use parking_lot::Mutex;

use super::Group;
use super::group::QUORUM_MAX;
use super::state_machine::position;
use super::type_config::TypeConfig;
use crate::batch::Position;
use crate::error::ShardError;

/// What came of a round, for each that waited for it.
#[derive(Clone)]
enum Outcome {
    Leads(Position),
    Deposed,
    Unknown(String),
    Stopped(String),
}

/// A round that has not begun: whoever needs one may still join it.
type Round = Shared<BoxFuture<'static, Outcome>>;

/// The rounds of one group, one at a time.
#[derive(Clone, Default)]
pub(super) struct Rounds {
    next: Arc<Mutex<Option<Round>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Rounds {
    /// The next round to begin; `ask` makes one when nobody waits for it yet.
    fn join<F: Future<Output = Outcome> + Send + 'static>(
        &self,
        ask: impl FnOnce() -> F + Send + 'static,
    ) -> Round {
        let mut next = self.next.lock();
        let make = || {
            let rounds = self.clone();
            let round = async move {
                let _turn = rounds.turn.lock().await;
                // From here on it is too late to join.
                rounds.next.lock().take();
                ask().await
            };
            round.boxed().shared()
        };
        next.get_or_insert_with(make).clone()
    }
}

async fn ask_majority(raft: Raft<TypeConfig>) -> Outcome {
    match tokio::time::timeout(QUORUM_MAX, raft.ensure_linearizable()).await {
        Ok(Ok(read_at)) => Outcome::Leads(read_at.map(position).unwrap_or_default()),
        Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_)))) => Outcome::Deposed,
        Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(error)))) => {
            Outcome::Unknown(format!("no majority answers: {error}"))
        }
        Ok(Err(RaftError::Fatal(error))) => Outcome::Stopped(error.to_string()),
        Err(_) => Outcome::Unknown("no majority answers".into()),
    }
}

impl Group {
    /// Makes sure that this node still leads: what is committed up to the position given back is
    /// all that any acknowledged write before this call can have led to.
    pub async fn confirm(&self) -> Result<Position, ShardError> {
        let raft = self.raft.clone();
        match self.rounds.join(|| ask_majority(raft)).await {
            Outcome::Leads(position) => Ok(position),
            Outcome::Deposed => Err(ShardError::NotLeader),
            Outcome::Unknown(why) => Err(ShardError::Unknown(why)),
            Outcome::Stopped(why) => Err(ShardError::Stopped(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_round_answers_for_those_who_asked_before_it_began_and_for_no_other() {
        let (rounds, begun, gate) = (Rounds::default(), Arc::new(AtomicU64::new(0)), Semaphore::new(0));
        let gate = Arc::new(gate);
        let join = || {
            let (begun, gate) = (begun.clone(), gate.clone());
            let round = rounds.join(move || async move {
                let index = begun.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                Outcome::Leads(Position { term: 1, index })
            });
            tokio::spawn(async move {
                match round.await {
                    Outcome::Leads(position) => position.index,
                    Outcome::Deposed | Outcome::Unknown(_) | Outcome::Stopped(_) => 0,
                }
            })
        };
        let first = join();
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The first has begun: what it finds may be older than what these have seen.
        let later: Vec<_> = (0..100).map(|_| join()).collect();
        // One who goes away leaves the round to the others.
        later[0].abort();
        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), 1);
        for task in later.into_iter().skip(1) {
            assert_eq!(task.await.unwrap(), 2);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}

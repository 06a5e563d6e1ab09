//! Copies of the tables that come in: gathered piece by piece, checked, and put in the tables' place.
//! What takes its time goes on whether anybody waits for it or not; the sender asks again with an
//! empty piece behind the last one.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use openraft::raft::SnapshotResponse;
use openraft::{Snapshot, Vote};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Group;
use super::copies::{Copy, IncomingCopy, Taken, WholeCopy};
use super::state_machine::decode_applied;
use super::wire::{Answer, Piece};
use crate::simulation;

/// How long a sender waits before it is told that its copy is still being put in place: shorter than
/// it waits for any piece.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// This node's vote then.
type Installed = Result<Vote<u64>, String>;

/// The copies of one group that come in.
#[derive(Default)]
pub(super) struct Arrivals {
    incoming: Mutex<IncomingCopy>,
    /// The last that was whole, by its number, and what came of it.
    installing: Mutex<Option<(u64, Shared<BoxFuture<'static, Installed>>)>>,
}

impl Group {
    /// Takes a piece of a copy, and the copy itself once it is whole.
    pub(super) async fn take_piece(&self, piece: Piece) -> Result<Answer, String> {
        self.heard.lock().note_copy(Instant::now());
        let (number, total) = (piece.copy, piece.total);
        let known = self.arrivals.installing.lock().as_ref().filter(|(copy, _)| *copy == number).cloned();
        let installed = match known {
            Some((_, installed)) => installed,
            None => match self.gather(&piece).await? {
                Taken::Next(next) => return Ok(Answer::Received(next)),
                Taken::Whole(copy) => self.install(&piece, copy),
            },
        };
        match tokio::time::timeout(LOOK_MAX, installed).await {
            Ok(installed) => installed.map(|vote| Answer::Installed(SnapshotResponse { vote })),
            Err(_) => Ok(Answer::Received(total)),
        }
    }

    async fn gather(&self, piece: &Piece) -> Result<Taken, String> {
        let (arrivals, dir, id) = (self.arrivals.clone(), self.copies_dir.clone(), self.id);
        let piece = piece.clone();
        let taken = simulation::blocking(move || arrivals.incoming.lock().take(&dir, id, &piece)).await;
        taken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Begins to put a copy in the tables' place.
    fn install(&self, piece: &Piece, copy: WholeCopy) -> Shared<BoxFuture<'static, Installed>> {
        let (vote, meta, raft) = (piece.vote, piece.meta.clone(), self.raft.clone());
        // Before openraft hears of it, which takes a copy that cannot be installed for a fault of
        // this node.
        let checked = self.tables.check(copy.path().to_owned());
        let task = tokio::spawn(async move {
            let held = checked.await.map_err(|error| error.to_string())?;
            if decode_applied(&held)? != (meta.last_log_id, meta.last_membership.clone()) {
                return Err(format!("a copy that was to end at {:?} ends elsewhere", meta.last_log_id));
            }
            let snapshot = Snapshot { meta, snapshot: Box::new(Copy::File(copy.into())) };
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            installed.map(|answer| answer.vote).map_err(|error| error.to_string())
        });
        let ended = task.map(|ended| ended.unwrap_or_else(|error| Err(error.to_string())));
        let installed = ended.boxed().shared();
        *self.arrivals.installing.lock() = Some((piece.copy, installed.clone()));
        installed
    }
}

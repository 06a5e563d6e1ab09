//! A member that gave its group away once and got it back: how far it had come binds it still.

use std::sync::Arc;

use openraft::{LogId, Raft};
use parking_lot::Mutex;

use super::group::Group;
use super::type_config::TypeConfig;

/// What this node had before it gave the group away; `None` when it never did, or has come as far
/// again.
pub(super) type Floor = Arc<Mutex<Option<LogId<u64>>>>;

impl Group {
    /// Refuses to vote for a candidate whose log ends before what this node has once had.
    ///
    /// A voter that gives the group away and gets it back begins with an empty log; yet a majority
    /// may have counted on it for entries that it had. Were it to vote as its log now says, it
    /// could, with one that lags, elect a leader that lacks what was acknowledged. So the log store
    /// keeps how far it had come, beside its vote (which it must not give twice in a term either),
    /// and until it has come as far again it neither stands, which an old membership in the part
    /// of the log that it has might have it do, even alone, nor votes for who lacks those entries.
    pub(super) fn heed_floor(&self, candidate: Option<LogId<u64>>) -> Result<(), String> {
        match *self.floor.lock() {
            Some(floor) if candidate < Some(floor) => {
                Err(format!("this node has had entries up to {floor}: it votes for nobody without them"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Waits until this node has come as far as it was before it gave the group away; from then on it
/// is a member as any other.
pub(super) async fn watch_floor(raft: Raft<TypeConfig>, floor: Floor) {
    let mut metrics = raft.metrics();
    let Some(wanted) = *floor.lock() else { return };
    let has_come = metrics.wait_for(|metrics| metrics.last_applied >= Some(wanted)).await.is_ok();
    if !has_come {
        return;
    }
    *floor.lock() = None;
}

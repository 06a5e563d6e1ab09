//! The state machine of a group: committed entries go to the tables, in order, and that is all.
//!
//! The tables apply them when it is worth it, so openraft's "applied" means "handed over" while
//! this process lives, and what the tables hold on disk when it starts. A snapshot is a mark: how
//! far the tables are on stable storage, below which the log may be purged. Only when a member
//! needs it is a copy of the tables made of it, which may hold more than the mark says: entries
//! that a copy holds already are passed over when they come again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use openraft::{
    BasicNode, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};
use tokio::sync::watch;

use super::copies::{Copy, WholeCopy};
use super::type_config::{
    Content, Entry, TypeConfig, decode_log_id, decode_membership, encode_log_id, encode_membership,
};
use super::{Applied, CommittedEntry, Tables};
use crate::batch::{Batch, Position};
use crate::planted;

type Result<T> = std::result::Result<T, StorageError<u64>>;
type Membership = StoredMembership<u64, BasicNode>;

/// The last position handed to the tables, told to the group and to its log. It ends with the state
/// machine.
pub(super) type HandedOver = watch::Sender<Position>;

/// Hands committed entries to the tables.
pub(super) struct StateMachine {
    tables: Arc<dyn Tables>,
    handed_over: HandedOver,
    last: Option<LogId<u64>>,
    membership: Membership,
}

/// Makes marks of what the tables have checkpointed.
pub(super) struct Marker {
    tables: Arc<dyn Tables>,
}

/// The position of an entry.
pub(super) fn position(id: LogId<u64>) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}

/// What the tables keep, in openraft's terms; the error says what is broken.
pub(super) fn decode_applied(
    applied: &Applied,
) -> std::result::Result<(Option<LogId<u64>>, Membership), String> {
    Ok((decode_log_id(&applied.log_id)?, decode_membership(&applied.membership)?))
}

impl StateMachine {
    /// One that goes on where the tables are; the error says what is broken in their position.
    pub(super) fn new(tables: Arc<dyn Tables>, handed_over: HandedOver) -> std::result::Result<Self, String> {
        let (last, membership) = decode_applied(&tables.applied())?;
        if let Some(last) = last {
            handed_over.send_replace(position(last));
        }
        Ok(Self { tables, handed_over, last, membership })
    }

    /// The last entry that the tables held when they were opened.
    pub(super) fn last(&self) -> Option<LogId<u64>> {
        self.last
    }

    fn commit(&mut self, entry: &Entry) -> std::result::Result<CommittedEntry, String> {
        let committed = committed_entry(entry)?;
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
        self.last = Some(entry.log_id);
        Ok(committed)
    }
}

/// What an entry is to the tables; the error says what is broken in it.
pub(super) fn committed_entry(entry: &Entry) -> std::result::Result<CommittedEntry, String> {
    let id = entry.log_id;
    let (mut membership, mut change) = (None, None);
    let records = match &entry.payload {
        EntryPayload::Blank => Arc::default(),
        EntryPayload::Normal(proposal) => match proposal.content(id.leader_id.term)? {
            Content::Records(records) => records,
            Content::Deposed => Arc::default(),
            Content::Change(bytes) => {
                change = Some(bytes);
                Arc::default()
            }
        },
        EntryPayload::Membership(new) => {
            membership = Some(encode_membership(&StoredMembership::new(Some(id), new.clone())));
            Arc::default()
        }
    };
    let batch = Batch::committed(records, position(id));
    Ok(CommittedEntry { log_id: encode_log_id(id), membership, batch, change })
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Marker;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, Membership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut committed = Vec::new();
        let mut count = 0;
        for entry in entries {
            count += 1;
            if self.last.is_some_and(|last| entry.log_id.index <= last.index) {
                continue;
            }
            let handed_over = self.commit(&entry);
            committed.push(
                handed_over.map_err(|what| StorageIOError::apply(entry.log_id, &io::Error::other(what)))?,
            );
        }
        self.tables.enqueue(committed);
        if let Some(last) = self.last {
            self.handed_over.send_replace(position(last));
        }
        Ok(vec![(); count])
    }

    async fn get_snapshot_builder(&mut self) -> Marker {
        Marker { tables: self.tables.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Copy>> {
        let what = "copies come in as files, outside openraft";
        Err(StorageIOError::write_snapshot(None, &io::Error::other(what)).into())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, BasicNode>, copy: Box<Copy>) -> Result<()> {
        let failed =
            |what: String| StorageIOError::write_snapshot(Some(meta.signature()), &io::Error::other(what));
        let Copy::File(file) = *copy else {
            return Err(failed("only a file can be installed".into()).into());
        };
        let applied = if planted::is("snapshot-out-of-order") {
            install_later(self.tables.clone(), file.clone());
            self.tables.check(file.path().to_owned()).await
        } else {
            self.tables.install(file.path().to_owned()).await
        };
        let applied = applied.map_err(|error| failed(error.to_string()))?;
        let (last, membership) = decode_applied(&applied).map_err(failed)?;
        if last < meta.last_log_id {
            return Err(failed(format!("the copy ends at {last:?}, before {:?}", meta.last_log_id)).into());
        }
        self.last = last;
        self.membership = membership;
        if let Some(last) = self.last {
            self.handed_over.send_replace(position(last));
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>> {
        // To be sent it need not be on stable storage here. So there is one from the start on:
        // openraft takes a leader for broken that has purged its log and has nothing to send.
        let applied = self.tables.checkpointed().unwrap_or_else(|| self.tables.applied());
        let read = |what| StorageIOError::read_state_machine(&io::Error::other(what));
        let snapshot = mark(applied, self.tables.clone()).map_err(read)?;
        Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Marker {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>> {
        let applied = self.tables.checkpointed().unwrap_or_default();
        let read = |what| StorageIOError::read_state_machine(&io::Error::other(what)).into();
        mark(applied, self.tables.clone()).map_err(read)
    }
}

/// The planted fault: entries that follow on a copy overtake it.
fn install_later(tables: Arc<dyn Tables>, copy: Arc<WholeCopy>) {
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Err(error) = tables.install(copy.path().to_owned()).await {
            tracing::warn!(%error, "a copy came too late");
        }
    });
}

/// How far the tables are, with the tables themselves standing for the copy of them.
fn mark(applied: Applied, tables: Arc<dyn Tables>) -> std::result::Result<Snapshot<TypeConfig>, String> {
    let (last_log_id, last_membership) = decode_applied(&applied)?;
    let meta = snapshot_meta(last_log_id, last_membership);
    Ok(Snapshot { meta, snapshot: Box::new(Copy::Here(tables)) })
}

/// What a copy that ends there is called.
pub(super) fn snapshot_meta(
    last_log_id: Option<LogId<u64>>,
    last_membership: Membership,
) -> SnapshotMeta<u64, BasicNode> {
    let snapshot_id = last_log_id.map_or_else(|| "none".into(), |id| id.to_string());
    SnapshotMeta { last_log_id, last_membership, snapshot_id }
}

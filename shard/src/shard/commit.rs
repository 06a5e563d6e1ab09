//! From decided to committed: gathers records, proposes one batch at a time, and releases what
//! rests on a batch when it is committed, never before.

use std::collections::VecDeque;
use std::sync::Arc;

use opcode_engine::command::StepHandle;
use opcode_engine::ids::{RunNo, ShardId};
use tokio::sync::{broadcast, mpsc};

use super::Inbox;
use crate::batch::{Batch, Committed, Position};
use crate::error::{CallError, ShardError};
use crate::log::Group;
use crate::record::Record;

/// Most bytes of records that may be gathered while a batch is under way; then the loop takes no
/// more requests.
pub(super) const GATHERED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Something that waits for its batch.
pub(super) enum Release {
    /// An answer; called with the batch's position, or with why there is none.
    Answer(Box<dyn FnOnce(Result<Position, CallError>) + Send>),
    /// A step with a side effect may start.
    Step(RunNo, StepHandle),
}

/// The number of a batch in this process, from 1: tells whether a run's last events are committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchNo(pub(super) u64);

struct Gathering {
    no: BatchNo,
    records: Vec<Record>,
    bytes: usize,
    releases: Vec<Release>,
}

/// The batch being gathered and the one under way.
pub(super) struct Committer {
    shard: ShardId,
    group: Arc<Group>,
    broadcast: broadcast::Sender<Batch<Committed>>,
    inbox: mpsc::UnboundedSender<Inbox>,
    gathering: Gathering,
    under_way: Option<(BatchNo, Vec<Release>, std::time::Instant)>,
    last: Position,
    /// Committed batches that the tables may not have yet, oldest first.
    unapplied: VecDeque<(BatchNo, Position)>,
}

impl Committer {
    pub(super) fn new(
        shard: ShardId,
        group: Arc<Group>,
        broadcast: broadcast::Sender<Batch<Committed>>,
        inbox: mpsc::UnboundedSender<Inbox>,
    ) -> Self {
        let gathering = Gathering { no: BatchNo(1), records: Vec::new(), bytes: 0, releases: Vec::new() };
        Self {
            shard,
            group,
            broadcast,
            inbox,
            gathering,
            under_way: None,
            last: Position::default(),
            unapplied: VecDeque::new(),
        }
    }

    /// The number that what is gathered now will be committed under.
    pub(super) fn gathering_no(&self) -> BatchNo {
        self.gathering.no
    }

    /// Bytes gathered so far.
    pub(super) fn gathered_bytes(&self) -> usize {
        self.gathering.bytes
    }

    /// Nothing gathered, nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.gathering.records.is_empty() && self.gathering.releases.is_empty()
    }

    /// Position of the last batch that was committed.
    pub(super) fn last_position(&self) -> Position {
        self.last
    }

    /// The first batch that the tables do not have, when they have applied up to `position`.
    pub(super) fn first_unapplied(&mut self, position: Position) -> BatchNo {
        while self.unapplied.front().is_some_and(|(_, at)| *at <= position) {
            self.unapplied.pop_front();
        }
        let committed = self.unapplied.front().map(|(no, _)| *no);
        let under_way = self.under_way.as_ref().map(|(no, ..)| *no);
        committed.or(under_way).unwrap_or(self.gathering.no)
    }

    pub(super) fn push(&mut self, record: Record) {
        self.gathering.bytes += match &record {
            Record::Event(event) => event.size_bytes(),
            Record::Definition { source, .. } => source.len() + 64,
            Record::Template(template) => template.source.len() + 64,
        };
        self.gathering.records.push(record);
    }

    /// Lets `release` go once batch `no` is committed: at once, when it is.
    pub(super) fn release_after(&mut self, no: BatchNo, release: Release) -> Option<Release> {
        match &mut self.under_way {
            Some((under_way, releases, _)) if no <= *under_way => {
                if no < *under_way {
                    return Some(release);
                }
                releases.push(release);
                None
            }
            _ if no < self.gathering.no => Some(release),
            Some(_) | None => {
                self.gathering.releases.push(release);
                None
            }
        }
    }

    /// Proposes what is gathered, unless a batch is under way. Returns what waited for nothing
    /// but its turn, with the position it may be answered with.
    pub(super) fn flush(&mut self) -> Vec<Release> {
        if self.under_way.is_some() {
            return Vec::new();
        }
        if self.gathering.records.is_empty() {
            return std::mem::take(&mut self.gathering.releases);
        }
        let no = self.gathering.no;
        let next = Gathering { no: BatchNo(no.0 + 1), records: Vec::new(), bytes: 0, releases: Vec::new() };
        let gathered = std::mem::replace(&mut self.gathering, next);
        metrics::histogram!("opcode_batch_records", "shard" => self.shard.to_string())
            .record(gathered.records.len() as f64);
        self.under_way = Some((no, gathered.releases, std::time::Instant::now()));
        let group = self.group.clone();
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let result = group.propose(Batch::gathered(gathered.records)).await;
            // The loop is gone only when the process stops: nobody waits for this then.
            let _ = inbox.send(Inbox::Committed(result));
        });
        Vec::new()
    }

    /// Takes note that the batch under way is committed; returns what it releases.
    pub(super) fn committed(&mut self, batch: Batch<Committed>) -> Vec<Release> {
        let (no, releases, since) = self.under_way.take().expect("only a batch under way is committed");
        metrics::histogram!("opcode_commit_seconds", "shard" => self.shard.to_string())
            .record(since.elapsed().as_secs_f64());
        self.last = batch.position();
        self.unapplied.push_back((no, self.last));
        if self.broadcast.receiver_count() > 0 {
            // No receiver left in between is no error.
            let _ = self.broadcast.send(batch);
        }
        releases
    }

    /// Answers everything that waits: the batch under way may have been committed, what was
    /// gathered behind it was not, unless `all_unknown`.
    pub(super) fn abandon(&mut self, why: &str, all_unknown: bool) {
        let under_way = self.under_way.take().map(|(_, releases, _)| releases).unwrap_or_default();
        let gathered = std::mem::take(&mut self.gathering.releases);
        self.gathering.records.clear();
        self.gathering.bytes = 0;
        self.gathering.no = BatchNo(self.gathering.no.0 + 1);
        self.unapplied.clear();
        for (releases, applied_unknown) in [(under_way, true), (gathered, all_unknown)] {
            for release in releases {
                if let Release::Answer(answer) = release {
                    answer(Err(CallError::Unavailable { applied_unknown, message: why.to_owned() }));
                }
            }
        }
    }

    /// Waits until the fate of every proposal made before is decided, by committing an empty
    /// batch behind them.
    pub(super) async fn barrier(&mut self) -> Result<Position, ShardError> {
        let committed = self.group.propose(Batch::gathered(Vec::new())).await?;
        self.last = committed.position();
        Ok(self.last)
    }
}

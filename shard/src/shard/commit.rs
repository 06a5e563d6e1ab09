//! From decided to committed: gathers records, has one batch at a time committed, and releases
//! what rests on it then, never before.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use opcode_engine::child::Owed;
use opcode_engine::command::StepHandle;
use opcode_engine::ids::{RunNo, Sequence, ShardId};

use crate::batch::{Batch, Committed, Position};
use crate::coalescer::handover::HandOver;
use crate::coalescer::{Coalescer, Limits};
use crate::error::{CallError, ShardError};
use crate::log::Group;
use crate::record::Record;

/// Records of about this many bytes close a portion; a batch is cut between portions.
const PORTION_BYTES: usize = 64 * 1024;

/// Something that waits for a commit.
pub(super) enum Release {
    /// An answer; called with the position that it may rest on, or with why there is none.
    Answer(Box<dyn FnOnce(Result<Position, CallError>) + Send>),
    /// A step with a side effect may start.
    Step(RunNo, StepHandle),
    /// A step's child may be started.
    Child(RunNo, StepHandle),
    /// A message that an event leaves owed may be sent.
    Message(RunNo, Sequence, Box<Owed>),
}

/// The number of a portion of records in this process, from 1: what tells whether a run's last
/// events are committed. 0 is what came from the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortionNo(u64);

impl PortionNo {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A batch goes with the term that it was decided in.
type Slot = HandOver<(Vec<Record>, u64), Result<Batch<Committed>, ShardError>>;

/// A batch in the committer's hands.
struct UnderWay {
    first: PortionNo,
    last: PortionNo,
    since: Instant,
}

/// Metrics with their labels resolved once.
struct Meters {
    records: metrics::Histogram,
    seconds: metrics::Histogram,
}

/// What is gathered, what is under way, and what waits for either.
pub(super) struct Committer {
    group: Arc<Group>,
    /// The term that this node leads in.
    term: u64,
    coalescer: Coalescer<PortionNo>,
    slot: Arc<Slot>,
    open: Vec<Record>,
    open_bytes: usize,
    open_no: PortionNo,
    under_way: Option<UnderWay>,
    /// The last portion of a batch that was given up, until those who wait for it are told.
    lost: Option<PortionNo>,
    committed: PortionNo,
    position: Position,
    releases: BTreeMap<PortionNo, Vec<Release>>,
    /// First portions of committed batches that the tables may not have yet, oldest first.
    unapplied: VecDeque<(PortionNo, Position)>,
    meters: Meters,
}

impl Committer {
    pub(super) fn new(shard: ShardId, group: Arc<Group>) -> Self {
        let slot = Arc::new(Slot::default());
        tokio::spawn(commit_each(slot.clone(), group.clone()));
        let shard = shard.to_string();
        Self {
            group,
            term: 0,
            coalescer: Coalescer::new(Limits::default()),
            slot,
            open: Vec::new(),
            open_bytes: 0,
            open_no: PortionNo(1),
            under_way: None,
            lost: None,
            committed: PortionNo(0),
            position: Position::default(),
            releases: BTreeMap::new(),
            unapplied: VecDeque::new(),
            meters: Meters {
                records: metrics::histogram!("opcode_batch_records", "shard" => shard.clone()),
                seconds: metrics::histogram!("opcode_commit_seconds", "shard" => shard),
            },
        }
    }

    /// The number of the portion that is open now.
    pub(super) fn open_no(&self) -> PortionNo {
        self.open_no
    }

    /// Whether more is gathered than should wait; then nothing new is accepted.
    pub(super) fn is_full(&self) -> bool {
        self.coalescer.is_full()
    }

    /// Nothing gathered, nothing under way, nothing waiting.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
            && self.open.is_empty()
            && self.coalescer.is_empty()
            && self.releases.is_empty()
    }

    /// The position of the last batch that was committed.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The first portion that the tables do not have, when they have applied up to `applied`.
    pub(super) fn first_unapplied(&mut self, applied: Position) -> PortionNo {
        while self.unapplied.front().is_some_and(|(_, position)| *position <= applied) {
            self.unapplied.pop_front();
        }
        self.unapplied.front().map_or(self.committed.next(), |(first, _)| *first)
    }

    /// Makes a cut if the open portion is large: between decisions, so that none is torn apart.
    pub(super) fn between_decisions(&mut self) {
        if self.open_bytes >= PORTION_BYTES {
            self.close_portion();
        }
    }

    pub(super) fn push(&mut self, record: Record) {
        self.open_bytes += match &record {
            Record::Event(event) | Record::History(event) => event.size_bytes(),
            Record::Definition { source, .. } => source.len() + 64,
            Record::Template(template) => template.source.len() + 64,
            Record::Delivered { .. } | Record::Purged { .. } => 32,
            Record::Entry(entry) => entry.size_bytes(),
        };
        self.open.push(record);
    }

    fn close_portion(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let capacity = self.open.len();
        let records = std::mem::replace(&mut self.open, Vec::with_capacity(capacity));
        let pushed = self.coalescer.push(records, self.open_bytes, self.open_no, Instant::now());
        assert!(pushed.is_ok(), "the coalescer closes only with its loop");
        self.open_bytes = 0;
        self.open_no = self.open_no.next();
    }

    /// Whether portion `no` is still to be committed.
    pub(super) fn is_to_commit(&self, no: PortionNo) -> bool {
        no > self.committed
    }

    /// Lets `release` go once portion `no` is committed; gives it back when it is.
    pub(super) fn release_after(&mut self, no: PortionNo, release: Release) -> Option<Release> {
        if !self.is_to_commit(no) {
            return Some(release);
        }
        self.releases.entry(no).or_default().push(release);
        None
    }

    /// Sends what is gathered on its way, unless a batch is under way.
    pub(super) fn flush(&mut self) {
        self.close_portion();
        let Some((records, portions)) = self.coalescer.take_ready(self.under_way.is_some(), Instant::now())
        else {
            return;
        };
        let (Some(first), Some(last)) = (portions.first().copied(), portions.last().copied()) else {
            unreachable!("a batch has at least one portion");
        };
        self.meters.records.record(records.len() as f64);
        assert!(self.slot.offer((records, self.term)).is_ok(), "one batch at a time is offered");
        self.under_way = Some(UnderWay { first, last, since: Instant::now() });
    }

    /// Waits for the fate of the batch under way; for ever while there is none.
    pub(super) fn reported(&self) -> impl Future<Output = Result<Batch<Committed>, ShardError>> + use<> {
        let slot = self.slot.clone();
        async move {
            poll_fn(|cx| slot.poll_reported(cx))
                .await
                .unwrap_or_else(|| Err(ShardError::Stopped("its committer has ended".into())))
        }
    }

    /// Takes note that the batch under way is committed; returns what that releases.
    pub(super) fn committed(&mut self, batch: Batch<Committed>) -> Vec<Release> {
        let UnderWay { first, last, since } =
            self.under_way.take().expect("only a batch under way is committed");
        self.meters.seconds.record(since.elapsed().as_secs_f64());
        self.committed = last;
        self.position = batch.position();
        self.unapplied.push_back((first, self.position));
        let later = self.releases.split_off(&last.next());
        std::mem::replace(&mut self.releases, later).into_values().flatten().collect()
    }

    /// Takes note that the fate of the batch under way is not known, or that it is refused.
    pub(super) fn failed(&mut self) {
        self.lost = self.under_way.take().map(|batch| batch.last);
    }

    /// Answers everything that waits: the batch under way may have been committed, what was
    /// gathered behind it was not, unless `all_unknown`.
    pub(super) fn abandon(&mut self, why: &str, all_unknown: bool) {
        self.coalescer.abandon();
        self.open.clear();
        self.open_bytes = 0;
        let lost = self.lost.take();
        let under_way = self.under_way.take().map(|batch| batch.last).or(lost).unwrap_or(self.committed);
        for (no, releases) in std::mem::take(&mut self.releases) {
            for release in releases {
                if let Release::Answer(answer) = release {
                    let applied_unknown = all_unknown || no <= under_way;
                    answer(Err(CallError::Unavailable { applied_unknown, message: why.to_owned() }));
                }
            }
        }
        self.committed = self.open_no;
        self.open_no = self.open_no.next();
        self.unapplied.clear();
    }

    /// Whether a batch is in the log's hands.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a term: waits until the fate of every proposal made before is decided, by
    /// committing an empty batch behind them.
    pub(super) async fn barrier(&mut self, term: u64) -> Result<Position, ShardError> {
        self.term = term;
        let committed = self.group.propose(Batch::gathered(Vec::new()), term).await?;
        self.position = committed.position();
        Ok(self.position)
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// The committer: brings each batch to the log and reports what came of it.
async fn commit_each(slot: Arc<Slot>, group: Arc<Group>) {
    while let Some((records, term)) = poll_fn(|cx| slot.poll_take(cx)).await {
        slot.report(group.propose(Batch::gathered(records), term).await);
    }
}

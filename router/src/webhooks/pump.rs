//! One webhook's part of one shard: its events out of the shard's log, to the receiver.
//!
//! The pump goes past an entry only when every event in it that the webhook is to be told of was
//! taken, or is kept as a failure.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use opcode_shard::batch::{Batch, Committed, Position};
use opcode_shard::follow::RunChoice;
use opcode_shard::record::{EventRecord, Record};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::delivery::{Message, Outcome, send};
use super::failure::Failure;
use super::serving::Work;
use super::webhook::Webhook;

/// Deliveries of one pump at a time.
const AT_A_TIME: usize = 8;
/// Events that are gathered before they are delivered, at about.
const GATHERED: usize = 64;
/// Failures of one webhook and shard that wait for another try; beyond them the pump waits.
const RETRYING_MAX: usize = 100;
/// Pause before something is tried again that is this node's or the cluster's fault.
const PAUSE: Duration = Duration::from_millis(500);
/// The same when the secret cannot be opened.
const NO_KEY_PAUSE: Duration = Duration::from_secs(10);

/// Follows a shard's log for one webhook, until it is stopped.
pub(super) struct Pump {
    work: Arc<Work>,
    id: Arc<str>,
    webhook: Arc<Webhook>,
    choice: RunChoice,
    /// The last entry that was seen to.
    after: u64,
}

impl Pump {
    pub(super) fn new(work: Arc<Work>, id: Arc<str>, webhook: Arc<Webhook>, after: u64) -> Self {
        let choice = webhook.choice(&id);
        Self { work, id, webhook, choice, after }
    }

    pub(super) async fn run(mut self) {
        loop {
            // Subscribed before the log is read, so that nothing falls between the two.
            let (told, mut entries) = self.work.handle.subscribe();
            self.catch_up(told.index).await;
            if self.go_live(&mut entries).await.is_closed() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Reads the log up to an entry.
    async fn catch_up(&mut self, upto: u64) {
        while self.after < upto {
            let tail = match self.work.handle.tail(Some(self.after), PAUSE).await {
                Ok(tail) => tail,
                Err(error) => {
                    tracing::debug!(webhook = &*self.id, %error, "the log cannot be read now");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if tail.lagged {
                let (from, to) = (self.after, tail.upto.index);
                tracing::warn!(webhook = &*self.id, shard = %self.work.shard, from, to, "events are missed: the log let them go");
                self.work.note(&self.id, |served| served.missed += 1);
            }
            let events = tail.events.iter().filter(|record| self.webhook.wants(record.event_type));
            self.tell_all(events.cloned().collect(), tail.upto).await;
        }
    }

    /// Takes entries as they are committed, until some were missed.
    async fn go_live(&mut self, entries: &mut Receiver<Batch<Committed>>) -> Stopped {
        loop {
            let mut next = match entries.recv().await {
                Ok(batch) => Some(batch),
                Err(RecvError::Lagged(_)) => return Stopped::Missed,
                Err(RecvError::Closed) => return Stopped::Closed,
            };
            let (mut events, mut at) = (Vec::new(), None);
            while let Some(batch) = next.take() {
                let position = batch.position();
                let last = at.map_or(self.after, |at: Position| at.index);
                if position.index > last + 1 {
                    return Stopped::Missed;
                }
                if position.index == last + 1 {
                    let wanted = batch.records().iter().filter_map(Record::as_event);
                    events.extend(wanted.filter(|record| self.webhook.wants(record.event_type)).cloned());
                    at = Some(position);
                }
                if events.len() < GATHERED {
                    next = match entries.try_recv() {
                        Ok(batch) => Some(batch),
                        Err(TryRecvError::Empty) => None,
                        Err(TryRecvError::Lagged(_)) => return Stopped::Missed,
                        Err(TryRecvError::Closed) => return Stopped::Closed,
                    };
                }
            }
            if let Some(at) = at {
                self.tell_all(events, at).await;
            }
        }
    }

    /// Tells of some events, and then goes past the entry at `upto`.
    async fn tell_all(&mut self, events: Vec<EventRecord>, upto: Position) {
        let pump = &*self;
        let told: Vec<_> = events.iter().map(|record| pump.tell(record, upto)).collect();
        futures::stream::iter(told).for_each_concurrent(AT_A_TIME, |told| told).await;
        self.after = upto.index;
        self.work.note(&self.id, |served| served.after = upto.index);
    }

    async fn tell(&self, record: &EventRecord, upto: Position) {
        let work = &self.work;
        let run = loop {
            match work.run_of(record, upto).await {
                Ok(run) => break run,
                Err(error) => {
                    tracing::debug!(webhook = &*self.id, %error, "an event's run is not known now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        // Without a run that is there any more, nothing can be said of it.
        let Some(run) = run.filter(|run| self.choice.takes(run)) else { return };
        let Some(message) = Message::of(work.shard, record, &run) else { return };
        while work.retrying(&self.id) >= RETRYING_MAX {
            tokio::time::sleep(PAUSE).await;
        }
        loop {
            match send(&work.state, &self.id, &self.webhook, &message).await {
                Outcome::Taken(_) => return work.taken(&self.id),
                Outcome::Gone => return self.disable().await,
                Outcome::Unsent(why) => {
                    work.failed(&self.id, &why);
                    tokio::time::sleep(NO_KEY_PAUSE).await;
                }
                Outcome::Refused(why) => {
                    work.failed(&self.id, &why);
                    let event = super::webhook::name_of(record.event_type).unwrap_or_default();
                    let failure = Failure::of(work.shard, record, &run.id, event, work.clock.now());
                    return self.keep(failure, &why).await;
                }
            }
        }
    }

    /// Keeps a failure, however long that takes.
    async fn keep(&self, mut failure: Failure, why: &str) {
        failure.failed(why, self.work.next_try(1));
        while let Err(error) = self.work.add_failure(&self.id, &failure).await {
            let detail = error.detail();
            tracing::warn!(webhook = &*self.id, detail, "a failed delivery cannot be kept now");
            self.work.make_room(&self.id).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The receiver wants no more: the webhook is made inactive, and this pump is stopped with that.
    async fn disable(&self) {
        tracing::warn!(webhook = &*self.id, "the receiver answered 410: its webhook is inactive now");
        self.work.disable(&self.id, "the receiver answered 410 Gone").await;
        std::future::pending::<()>().await;
    }
}

/// Why live following stopped.
enum Stopped {
    /// Entries were missed: they are in the log.
    Missed,
    /// The shard is closing.
    Closed,
}

impl Stopped {
    fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

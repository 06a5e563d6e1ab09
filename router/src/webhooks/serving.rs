//! The webhooks of one shard, on the node that leads it: a pump for each that is active, the tries
//! again of what failed, and the writing down of how far all came.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::ids::{ShardId, Timestamp};
use opcode_shard::batch::Position;
use opcode_shard::catalogue::{Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use opcode_shard::follow::RunFacts;
use opcode_shard::record::EventRecord;
use opcode_shard::{CallError, ShardHandle};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::book::{Book, Reader};
use super::failure::{self, Failure, cut};
use super::pump::Pump;
use super::retries::Failures;
use super::standing::{Served, Standing, Written};
use super::webhook;
use crate::error::ApiError;
use crate::forward::ShardClient;
use crate::known_runs::KnownRuns;
use crate::state::RouterState;

/// How often it is looked what is due, and whether this node still leads.
const TICK: Duration = Duration::from_millis(200);
/// Part of a pause by which it may be longer, so that not all tries come together.
const JITTER: f64 = 0.2;
/// Tries to make a webhook inactive.
const DISABLE_TRIES_MAX: u32 = 20;

/// What the pumps and tries of one shard share.
pub(super) struct Work {
    pub(super) state: RouterState,
    pub(super) shard: ShardId,
    pub(super) client: ShardClient,
    pub(super) handle: Arc<ShardHandle>,
    pub(super) clock: Clock,
    known: tokio::sync::Mutex<KnownRuns>,
    served: Mutex<BTreeMap<Arc<str>, Served>>,
    pub(super) failures: Mutex<Failures>,
}

/// Tells all webhooks of a shard for as long as this node leads it.
pub(super) async fn serve(state: RouterState, handle: Arc<ShardHandle>, mut book: Reader) {
    let shard = handle.id();
    let mut written = match Written::read(&state, shard).await {
        Ok(written) => written,
        Err(error) => {
            tracing::debug!(%shard, error = error.detail(), "how far webhooks were told is not known yet");
            return;
        }
    };
    let work = Arc::new(Work {
        client: ShardClient::new(state.clone(), shard),
        shard,
        handle,
        clock: Clock::default(),
        known: tokio::sync::Mutex::default(),
        served: Mutex::new(written.standing.served.clone()),
        failures: Mutex::default(),
        state,
    });
    let mut pumps = Pumps::default();
    let mut tries = JoinSet::new();
    let mut stopping = pin!(work.state.stopping());
    let mut wrote = Instant::now();
    loop {
        let Some(known) = book.borrow_and_update().clone() else { return };
        if !work.handle.serves() || known.webhooks.is_empty() {
            break;
        }
        work.failures.lock().see(&known, shard);
        pumps.fit(&work, &known);
        let due = work.failures.lock().due(work.clock.now(), &known);
        due.into_iter().for_each(|due| _ = tries.spawn(due.run(work.clone())));
        if wrote.elapsed() >= work.state.webhooks().standing_every {
            work.write(&mut written).await;
            wrote = Instant::now();
        }
        tokio::select! {
            () = &mut stopping => break,
            changed = book.changed() => if changed.is_err() { break },
            Some(_) = tries.join_next() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
    pumps.stop();
    work.write(&mut written).await;
}

/// The pumps that run, by webhook.
#[derive(Default)]
struct Pumps {
    tasks: JoinSet<()>,
    running: BTreeMap<Arc<str>, (u64, AbortHandle)>,
}

impl Pumps {
    /// Has a pump run for each webhook that is active, as it is now.
    fn fit(&mut self, work: &Arc<Work>, book: &Book) {
        while self.tasks.try_join_next().is_some() {}
        let is_right = |id: &Arc<str>, revision: u64| {
            book.webhooks.get(id).is_some_and(|(now, webhook)| *now == revision && webhook.active)
        };
        self.running.retain(|id, (revision, task)| {
            let stays = is_right(id, *revision) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        work.served.lock().retain(|id, _| book.webhooks.contains_key(id));
        for (id, (revision, webhook)) in book.webhooks.iter().filter(|(_, (_, webhook))| webhook.active) {
            if self.running.contains_key(id) {
                continue;
            }
            let after = work.start(id, webhook.from(work.shard));
            let pump = Pump::new(work.clone(), id.clone(), webhook.clone(), after);
            self.running.insert(id.clone(), (*revision, self.tasks.spawn(pump.run())));
        }
    }

    fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

impl Work {
    /// The entry after which a webhook is told, that is told from there on at the earliest.
    fn start(&self, id: &Arc<str>, from: u64) -> u64 {
        let mut all = self.served.lock();
        let served = all.entry(id.clone()).or_default();
        served.after = served.after.max(from);
        served.after
    }

    /// Takes note of how a webhook stands.
    pub(super) fn note(&self, id: &Arc<str>, change: impl FnOnce(&mut Served)) {
        // One that is deleted has no standing any more.
        if let Some(served) = self.served.lock().get_mut(id) {
            change(served);
        }
    }

    pub(super) fn taken(&self, id: &Arc<str>) {
        let now = self.clock.now();
        self.note(id, |served| {
            served.delivered += 1;
            served.last_success_at = Some(now);
        });
    }

    pub(super) fn failed(&self, id: &Arc<str>, why: &str) {
        let now = self.clock.now();
        self.note(id, |served| {
            served.last_error_at = Some(now);
            served.last_error = Some(cut(why));
        });
    }

    async fn write(&self, written: &mut Written) {
        let last = self.handle.committed().index;
        let mut standing = Standing { served: self.served.lock().clone() };
        for served in standing.served.values_mut() {
            served.behind = last.saturating_sub(served.after);
        }
        if let Err(error) = written.write(&self.state, self.shard, standing).await {
            let detail = error.detail();
            tracing::debug!(shard = %self.shard, detail, "how far webhooks were told is written later");
        }
    }

    /// What an event's run says of itself; none when it was deleted since.
    pub(super) async fn run_of(
        &self,
        record: &EventRecord,
        at: Position,
    ) -> Result<Option<Arc<RunFacts>>, CallError> {
        self.known.lock().await.of(&self.client, record, at).await
    }

    /// When a delivery is tried again that was tried so often; never after the last time.
    pub(super) fn next_try(&self, tries: u32) -> Option<Timestamp> {
        let delays = &self.state.webhooks().delays;
        let delay = delays.get(usize::try_from(tries).ok()?.checked_sub(1)?)?;
        let delay = delay.mul_f64(1.0 + rand::random_range(0.0..JITTER));
        Some(self.clock.now().plus_ms(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Failures of a webhook here that wait for another try.
    pub(super) fn retrying(&self, id: &str) -> usize {
        self.failures.lock().retrying(id)
    }

    /// Keeps a failure, unless the same event is kept already.
    pub(super) async fn add_failure(&self, id: &Arc<str>, failure: &Failure) -> Result<(), ApiError> {
        let key = failure::key(id, &failure.delivery());
        self.change_failure(key, None, Some(failure)).await
    }

    /// Writes, or deletes, a failure as it is now. One that somebody else has changed stays as that.
    pub(super) async fn change_failure(
        &self,
        key: Arc<str>,
        after: Option<u64>,
        failure: Option<&Failure>,
    ) -> Result<(), ApiError> {
        let body = failure.map(Failure::body);
        let change = EntryChange { kind: EntryKind::WebhookFailure, key: key.clone(), after, body };
        let changed = self.state.system().change_entry(change).await?.value;
        match changed {
            Changed::Made(entry) | Changed::Already(Some(entry)) | Changed::Stale(Some(entry)) => {
                let read = entry.body.as_deref().and_then(|body| failure::parse(&key, body));
                self.failures.lock().know(key, entry.revision, read);
            }
            Changed::Already(None) | Changed::Stale(None) => self.failures.lock().forget(key),
        }
        Ok(())
    }

    /// Lets go of a webhook's oldest dead failure here, if it has one.
    pub(super) async fn make_room(&self, id: &Arc<str>) {
        let oldest = self.failures.lock().oldest_dead(id);
        let Some((key, revision)) = oldest else { return };
        if self.change_failure(key, Some(revision), None).await.is_ok() {
            self.note(id, |served| served.dropped += 1);
        }
    }

    /// Makes a webhook inactive.
    pub(super) async fn disable(&self, id: &Arc<str>, why: &str) {
        for _ in 0..DISABLE_TRIES_MAX {
            match self.try_disable(id, why).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(webhook = &**id, error = error.detail(), "it is made inactive later");
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }

    async fn try_disable(&self, id: &Arc<str>, why: &str) -> Result<bool, ApiError> {
        let entry = self.state.system().entry(EntryKind::Webhook, id.clone()).await?.value;
        let Some(entry) = entry else { return Ok(true) };
        let mut changed = webhook::parse(id, entry.body.as_deref().unwrap_or_default())?;
        if !changed.active {
            return Ok(true);
        }
        changed.active = false;
        changed.disabled_reason = Some(why.to_owned());
        let change = EntryChange {
            kind: EntryKind::Webhook,
            key: id.clone(),
            after: Some(entry.revision),
            body: Some(changed.body()),
        };
        let made = self.state.system().change_entry(change).await?.value;
        Ok(!matches!(made, Changed::Stale(_)))
    }
}

//! Fires schedules, on the node that leads the system shard.
//!
//! 1. The leader reads all schedules, and follows their changes in the shard's log.
//! 2. When a slot is due, the engine plans what becomes of it (`opcode_engine::schedule`).
//! 3. The runs are submitted, each to the shard that owns its id. The id says which slot it is of, so
//!    that submitting it again finds the run that is there.
//! 4. Only then where the schedule stands is moved on, if nobody has changed it meanwhile.
//!
//! A crash between 3 and 4, or another leader, does it again and starts nothing twice. A node that
//! was replaced behind its back can start no run that its slot does not have, and moves nothing on.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use opcode_engine::Rejected;
use opcode_engine::ids::{ShardId, Timestamp};
use opcode_engine::namespace::Namespace;
use opcode_engine::schedule::{Overlap, Plan, Standing, Trigger, plan, run_id};
use opcode_shard::catalogue::{CatalogueEntry, Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use opcode_shard::handle::Submitted;
use opcode_shard::record::Record;
use opcode_shard::remote::Freshness;
use opcode_shard::{CallError, ShardHandle};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use crate::error::ApiError;
use crate::schedule::{Schedule, final_failure, parse, slot_hash};
use crate::state::RouterState;
use crate::submission::{Found, Templates};

/// How often it is looked whether this node leads the system shard.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the run is looked at that a slot waits for.
const RUNNING_LOOK_MS: u64 = 250;
/// Schedules acted on at a time.
const TURNS_MAX: usize = 64;
/// Schedules read at a time.
const PAGE_ENTRIES: usize = 500;
/// Runs submitted in one request.
const SUBMISSIONS_AT_A_TIME: usize = 50;
/// The first pause before something is tried again; each is twice the one before, up to the longest.
const RETRY_MS: u64 = 500;
const RETRY_DOUBLINGS_MAX: u32 = 6;

/// Fires schedules whenever this node leads the system shard, until the node stops.
pub async fn run_schedules(state: RouterState) {
    let stopping = state.stopping();
    let scheduler = Scheduler { state, clock: Arc::default() };
    tokio::select! {
        () = stopping => {}
        never = scheduler.run() => match never {},
    }
}

/// Submits the runs of slots, each to its shard; one answer each, in order.
pub(crate) async fn start(
    state: &RouterState,
    id: &str,
    schedule: &Schedule,
    found: &Found,
    slots: &[Timestamp],
) -> Result<Vec<Result<Submitted, Rejected>>, CallError> {
    let mut by_shard: BTreeMap<ShardId, Vec<(usize, Timestamp)>> = BTreeMap::new();
    for (place, slot) in slots.iter().enumerate() {
        by_shard.entry(state.map().owner(&run_id(id, *slot))).or_default().push((place, *slot));
    }
    let submit = |some: &[(usize, Timestamp)]| {
        let submission = |slot: Timestamp| {
            schedule.submission(id, run_id(id, slot), Some(slot), Some(slot_hash(id, slot)), found.clone())
        };
        let places: Vec<usize> = some.iter().map(|(place, _)| *place).collect();
        let submissions: Vec<_> = some.iter().map(|(_, slot)| submission(*slot)).collect();
        let shard = state.shard_of(&submissions[0].id);
        async move {
            let results = shard.submit(submissions).await?;
            Ok::<_, CallError>(places.into_iter().zip(results).collect::<Vec<_>>())
        }
    };
    let requests = by_shard.values().flat_map(|some| some.chunks(SUBMISSIONS_AT_A_TIME)).map(submit);
    let mut results = Vec::with_capacity(slots.len());
    for answered in join_all(requests).await {
        results.extend(answered?);
    }
    if results.len() != slots.len() {
        let message = "a shard did not answer for every run".to_owned();
        return Err(CallError::Unavailable { applied_unknown: true, message });
    }
    results.sort_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[derive(Clone)]
struct Scheduler {
    state: RouterState,
    clock: Arc<Clock>,
}

/// A schedule as this node knows it.
struct Kept {
    /// Of its entry in the catalogue.
    revision: u64,
    schedule: Arc<Schedule>,
    trigger: Arc<Trigger>,
    /// When it is to be looked at, in milliseconds; none while it is acted on, or when never again.
    look_at: Option<Timestamp>,
    is_busy: bool,
    /// Times in a row that it could not be acted on.
    failures: u32,
}

/// One that is due, as it was known then.
struct Due {
    id: Arc<str>,
    schedule: Arc<Schedule>,
    revision: u64,
    trigger: Arc<Trigger>,
}

/// All of them, and which is to be looked at next.
#[derive(Default)]
struct Book {
    kept: BTreeMap<Arc<str>, Kept>,
    looks: BTreeSet<(Timestamp, Arc<str>)>,
}

/// What came of a look at a schedule.
enum Turned {
    /// It stands so now.
    Stands(CatalogueEntry),
    /// It is there no more.
    Gone,
    /// Nothing is to be done before this time; nothing at all without one.
    Wait(Option<Timestamp>),
    /// It could not be done now.
    Later,
}

impl Scheduler {
    async fn run(&self) -> Infallible {
        loop {
            let leading = self.state.local().get(ShardId::SYSTEM).filter(|handle| handle.serves());
            if let Some(handle) = leading
                && let Err(error) = self.lead(&handle).await
            {
                tracing::debug!(error = error.detail(), "schedules cannot be read now");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fires what is due for as long as this node leads, or until it has missed changes.
    async fn lead(&self, handle: &ShardHandle) -> Result<(), ApiError> {
        let (_, mut changes) = handle.subscribe();
        let mut book = self.read().await?;
        let mut under_way: JoinSet<(Arc<str>, Turned)> = JoinSet::new();
        while handle.serves() {
            let now = self.clock.now();
            while under_way.len() < TURNS_MAX
                && let Some(due) = book.next_due(now)
            {
                let scheduler = self.clone();
                under_way.spawn(async move {
                    let turned = scheduler.turn(&due).await;
                    (due.id, turned)
                });
            }
            let wait = book.wait(now, under_way.len() < TURNS_MAX);
            tokio::select! {
                changed = changes.recv() => match changed {
                    Ok(batch) => batch.records().iter().for_each(|record| book.see(record)),
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(()),
                },
                Some(turned) = under_way.join_next() => match turned {
                    Ok((id, turned)) => book.turned(&id, turned, self.clock.now()),
                    // Which one it was is not known any more: all are read again.
                    Err(error) => {
                        tracing::error!(%error, "a schedule could not be acted on");
                        return Ok(());
                    }
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<Book, ApiError> {
        let mut book = Book::default();
        let mut after = None;
        loop {
            let page = self.state.system().entries(EntryKind::Schedule, after, PAGE_ENTRIES).await?.value;
            after = page.entries.last().map(|entry| entry.key.clone());
            page.entries.into_iter().for_each(|entry| book.keep(&entry));
            if !page.has_more || after.is_none() {
                return Ok(book);
            }
        }
    }

    async fn turn(&self, due: &Due) -> Turned {
        let Due { schedule, trigger, .. } = due;
        let now = self.clock.now();
        let standing = &schedule.standing;
        let next = trigger.next_after(standing.done);
        if standing.waiting.is_empty() && next.is_none_or(|next| next > now) {
            return Turned::Wait(next);
        }
        let Ok(is_running) = self.is_running(schedule).await else { return Turned::Later };
        match plan(trigger, schedule.policy(), standing, now, is_running) {
            Plan::Wait(until) if standing.waiting.is_empty() => Turned::Wait(until),
            Plan::Wait(_) => Turned::Wait(Some(now.plus_ms(RUNNING_LOOK_MS))),
            Plan::Move { start, after } => self.move_on(due, &start, after).await,
        }
    }

    /// Whether the run of the last slot that was started has not ended.
    async fn is_running(&self, schedule: &Schedule) -> Result<bool, CallError> {
        let last = schedule.last_workflow_id.as_ref().filter(|_| schedule.spec.overlap != Overlap::Parallel);
        let Some(last) = last else { return Ok(false) };
        match self.state.shard_of(last).status(last, Freshness::Strong).await {
            Ok(view) => Ok(!view.value.status.is_terminal()),
            Err(CallError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn move_on(&self, due: &Due, slots: &[Timestamp], after: Standing) -> Turned {
        let Due { id, schedule, revision, .. } = due;
        let mut moved = Schedule { standing: after, ..Schedule::clone(schedule) };
        if !slots.is_empty() {
            match self.start(id, schedule, slots).await {
                Ok(results) => note(id, &mut moved, slots, results),
                Err(error) => match final_failure(&error) {
                    Some((code, message)) => {
                        let last = slots.last().copied().unwrap_or_default();
                        tracing::warn!(schedule = %id, code, message, "a slot has no run");
                        moved.last_slot = Some(last);
                        moved.failed(last, code, message);
                    }
                    None => {
                        tracing::debug!(schedule = %id, error = error.detail(), "slots are tried again");
                        return Turned::Later;
                    }
                },
            }
        }
        let change = EntryChange {
            kind: EntryKind::Schedule,
            key: id.clone(),
            after: Some(*revision),
            body: Some(moved.body()),
        };
        match self.state.system().change_entry(change).await.map(|seen| seen.value) {
            Ok(Changed::Made(entry) | Changed::Already(Some(entry)) | Changed::Stale(Some(entry))) => {
                Turned::Stands(entry)
            }
            Ok(Changed::Already(None) | Changed::Stale(None)) => Turned::Gone,
            Err(error) => {
                tracing::debug!(schedule = %id, ?error, "a schedule is moved on later");
                Turned::Later
            }
        }
    }

    async fn start(
        &self,
        id: &str,
        schedule: &Schedule,
        slots: &[Timestamp],
    ) -> Result<Vec<Result<Submitted, Rejected>>, ApiError> {
        let namespace = Namespace::of(id);
        let mut templates = Templates::to_run(&self.state, &namespace);
        let found = templates.find(schedule.spec.template.to_string(), schedule.spec.version).await?;
        Ok(start(&self.state, id, schedule, &found, slots).await?)
    }
}

/// Takes note of what came of slots.
fn note(id: &str, moved: &mut Schedule, slots: &[Timestamp], results: Vec<Result<Submitted, Rejected>>) {
    for (slot, result) in slots.iter().zip(results) {
        moved.last_slot = Some(*slot);
        let outcome = match result {
            Ok(submitted) => {
                moved.last_workflow_id = Some(submitted.workflow_id);
                "started"
            }
            Err(rejected) => {
                let code = rejected.code.as_str();
                tracing::warn!(schedule = id, code, message = rejected.message, "a slot has no run");
                moved.failed(*slot, code, &rejected.message);
                "refused"
            }
        };
        metrics::counter!("opcode_schedule_slots_total", "outcome" => outcome).increment(1);
    }
}

impl Book {
    /// Takes note of a change in the shard's log.
    fn see(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) if entry.kind == EntryKind::Schedule => self.keep(entry),
            Record::Entry(_)
            | Record::Event(_)
            | Record::Definition { .. }
            | Record::Template(_)
            | Record::Delivered { .. }
            | Record::Purged { .. }
            | Record::History(_) => {}
        }
    }

    /// Keeps an entry unless a newer one is known.
    fn keep(&mut self, entry: &CatalogueEntry) {
        let known = self.kept.get(&entry.key);
        if known.is_some_and(|kept| kept.revision >= entry.revision) {
            return;
        }
        let is_busy = known.is_some_and(|kept| kept.is_busy);
        self.forget(&entry.key);
        let Some(body) = &entry.body else { return };
        let Ok(schedule) = parse(&entry.key, body) else { return };
        let trigger = match schedule.spec.when.trigger() {
            Ok(trigger) => trigger,
            Err((_, message)) => {
                tracing::error!(schedule = %entry.key, message, "a stored schedule cannot fire");
                return;
            }
        };
        let first = match schedule.standing.waiting.first() {
            Some(waits) => Some(*waits),
            None => trigger.next_after(schedule.standing.done),
        };
        let look_at = first.filter(|_| !schedule.spec.paused && !is_busy);
        let kept = Kept {
            revision: entry.revision,
            schedule: Arc::new(schedule),
            trigger: Arc::new(trigger),
            look_at,
            is_busy,
            failures: 0,
        };
        self.looks.extend(look_at.map(|at| (at, entry.key.clone())));
        self.kept.insert(entry.key.clone(), kept);
    }

    fn forget(&mut self, id: &Arc<str>) {
        let known = self.kept.remove(id);
        if let Some(at) = known.and_then(|kept| kept.look_at) {
            self.looks.remove(&(at, id.clone()));
        }
    }

    /// The next that is due, which is busy from now on.
    fn next_due(&mut self, now: Timestamp) -> Option<Due> {
        let (at, id) = self.looks.first()?.clone();
        if at > now {
            return None;
        }
        self.looks.pop_first();
        let kept = self.kept.get_mut(&id).expect("what is looked at is kept");
        kept.look_at = None;
        kept.is_busy = true;
        let (schedule, trigger) = (kept.schedule.clone(), kept.trigger.clone());
        Some(Due { id, schedule, revision: kept.revision, trigger })
    }

    /// How long there is nothing to begin.
    fn wait(&self, now: Timestamp, has_room: bool) -> Duration {
        let next = self.looks.first().filter(|_| has_room);
        next.map_or(LOOK_EVERY, |(at, _)| Duration::from_millis(at.since_ms(now)).min(LOOK_EVERY))
    }

    fn turned(&mut self, id: &Arc<str>, turned: Turned, now: Timestamp) {
        let Some(kept) = self.kept.get_mut(id) else { return };
        kept.is_busy = false;
        let look_at = match turned {
            Turned::Gone => return self.forget(id),
            Turned::Stands(entry) if entry.revision > kept.revision => return self.keep(&entry),
            // The log has told of it already, or of a later change.
            Turned::Stands(_) => Some(now),
            Turned::Wait(until) => {
                kept.failures = 0;
                until
            }
            Turned::Later => {
                kept.failures = (kept.failures + 1).min(RETRY_DOUBLINGS_MAX);
                Some(now.plus_ms(RETRY_MS << (kept.failures - 1)))
            }
        };
        kept.look_at = look_at.filter(|_| !kept.schedule.spec.paused);
        self.looks.extend(kept.look_at.map(|at| (at, id.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Spec, When};

    fn entry(key: &str, revision: u64, interval: &str) -> CatalogueEntry {
        let spec = Spec {
            template: "t".into(),
            version: None,
            params: serde_json::json!({}),
            when: When::Interval(interval.to_owned()),
            missed: Default::default(),
            overlap: Default::default(),
            paused: interval == "1h",
            labels: BTreeMap::new(),
            agent_id: None,
        };
        let body = Some(Schedule::new(spec, false, Timestamp(0)).body());
        CatalogueEntry { kind: EntryKind::Schedule, key: key.into(), revision, body, at: Timestamp(0) }
    }

    fn due(book: &mut Book, now: i64) -> Option<String> {
        book.next_due(Timestamp(now)).map(|due| due.id.to_string())
    }

    #[test]
    fn one_is_acted_on_once_at_a_time_and_by_its_newest_words() {
        let mut book = Book::default();
        book.keep(&entry("b", 2, "1m"));
        book.keep(&entry("a", 1, "10s"));
        assert_eq!(book.wait(Timestamp(9_900), true), Duration::from_millis(100));
        assert_eq!(due(&mut book, 9_999), None);
        assert_eq!(due(&mut book, 10_000), Some("a".into()));
        assert_eq!(due(&mut book, 10_000), None, "it is busy");
        // Changed while it is acted on: looked at again when that has ended.
        book.keep(&entry("a", 4, "20s"));
        assert_eq!(due(&mut book, 59_999), None);
        book.turned(&"a".into(), Turned::Stands(entry("a", 3, "10s")), Timestamp(12_000));
        assert_eq!(due(&mut book, 12_000), Some("a".into()), "whether the newer one is due");
        book.turned(&"a".into(), Turned::Wait(Some(Timestamp(20_000))), Timestamp(12_000));
        assert_eq!(due(&mut book, 19_999), None);
        assert_eq!(due(&mut book, 60_000), Some("a".into()));
        assert_eq!(due(&mut book, 60_000), Some("b".into()));
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later() {
        let mut book = Book::default();
        book.keep(&entry("a", 1, "1s"));
        let mut now = 1_000;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(due(&mut book, now), Some("a".into()));
            book.turned(&"a".into(), Turned::Later, Timestamp(now));
            let next = book.looks.first().expect("it is tried again").0.0;
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 16_000, 16_000, 16_000]);
    }

    #[test]
    fn what_is_paused_or_gone_is_not_looked_at() {
        let mut book = Book::default();
        book.keep(&entry("paused", 1, "1h"));
        book.keep(&entry("gone", 2, "1m"));
        book.keep(&CatalogueEntry { body: None, revision: 3, ..entry("gone", 3, "1m") });
        assert_eq!(due(&mut book, i64::MAX), None);
        book.turned(&"gone".into(), Turned::Later, Timestamp(0));
        assert!(book.looks.is_empty());
    }
}

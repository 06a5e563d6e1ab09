//! What failed of one shard's deliveries, as its leader knows it, and the tries again.

use std::collections::BTreeMap;
use std::sync::Arc;

use opcode_engine::ids::{Sequence, ShardId, Timestamp};
use opcode_shard::CallError;
use opcode_shard::follow::RunFacts;
use opcode_shard::remote::Freshness;
use tokio::time::Instant;

use super::book::Book;
use super::delivery::{Message, Outcome, send};
use super::failure::{Failure, is_of, prefix};
use super::serving::Work;
use super::webhook::Webhook;

/// Tries of one webhook at a time, so that one that hangs does not hold up the others.
const OF_ONE_AT_A_TIME: usize = 4;
/// Dead failures of one webhook and shard that are kept; of more the oldest goes.
const DEAD_MAX: usize = 100;
/// Pause of one that cannot be tried now, in ms.
const PAUSE_MS: u64 = 10_000;

/// The failures of one shard, by key.
#[derive(Default)]
pub(super) struct Failures {
    kept: BTreeMap<Arc<str>, Kept>,
}

struct Kept {
    revision: u64,
    /// None when it was deleted.
    failure: Option<Failure>,
    /// When this was known; a book that was begun later knows better.
    known_at: Instant,
    is_busy: bool,
    /// Not before this time, whatever the failure says.
    rests_until: Option<Timestamp>,
}

/// One that is due.
pub(super) struct Due {
    key: Arc<str>,
    revision: u64,
    failure: Failure,
    id: Arc<str>,
    webhook: Arc<Webhook>,
}

impl Failures {
    /// Takes note of what the book says of this shard.
    pub(super) fn see(&mut self, book: &Book, shard: ShardId) {
        self.kept.retain(|key, kept| book.failures.contains_key(key) || kept.known_at >= book.began);
        for (key, (revision, failure)) in book.failures.iter().filter(|(_, (_, one))| one.shard == shard) {
            let is_news = self.kept.get(key).is_none_or(|kept| {
                kept.revision < *revision || (kept.known_at < book.began && kept.revision != *revision)
            });
            if is_news {
                self.put(key.clone(), *revision, Some(failure.clone()), book.began);
            }
        }
    }

    fn put(&mut self, key: Arc<str>, revision: u64, failure: Option<Failure>, known_at: Instant) {
        let is_busy = self.kept.get(&key).is_some_and(|kept| kept.is_busy);
        self.kept.insert(key, Kept { revision, failure, known_at, is_busy, rests_until: None });
    }

    /// Takes note of one that is so now; of none, when it was deleted.
    pub(super) fn know(&mut self, key: Arc<str>, revision: u64, failure: Option<Failure>) {
        self.put(key, revision, failure, Instant::now());
    }

    /// Takes note that there is none, whatever an older book says.
    pub(super) fn forget(&mut self, key: Arc<str>) {
        self.put(key, u64::MAX, None, Instant::now());
    }

    /// Those of a webhook.
    fn of<'a>(&'a self, id: &str) -> impl Iterator<Item = (&'a Arc<str>, &'a Kept, &'a Failure)> + use<'a> {
        let prefix = prefix(id);
        let from = Arc::<str>::from(prefix.as_str());
        let id = id.to_owned();
        let all = self.kept.range(from..).take_while(move |(key, _)| key.starts_with(&prefix));
        let own = all.filter(move |(key, _)| is_of(key, &id));
        own.filter_map(|(key, kept)| Some((key, kept, kept.failure.as_ref()?)))
    }

    /// Those of a webhook that wait for another try.
    pub(super) fn retrying(&self, id: &str) -> usize {
        self.of(id).filter(|(_, _, failure)| failure.next_at.is_some()).count()
    }

    /// The dead one of a webhook that failed first.
    pub(super) fn oldest_dead(&self, id: &str) -> Option<(Arc<str>, u64)> {
        let dead = self.of(id).filter(|(_, _, failure)| failure.next_at.is_none());
        dead.min_by_key(|(_, _, failure)| failure.first_at).map(|(key, kept, _)| (key.clone(), kept.revision))
    }

    fn has_too_many_dead(&self, id: &str) -> bool {
        self.of(id).filter(|(_, _, failure)| failure.next_at.is_none()).count() > DEAD_MAX
    }

    /// Those to be tried now, which are busy from now on.
    pub(super) fn due(&mut self, now: Timestamp, book: &Book) -> Vec<Due> {
        let mut due = Vec::new();
        for (id, (_, webhook)) in book.webhooks.iter().filter(|(_, (_, webhook))| webhook.active) {
            let busy = self.of(id).filter(|(_, kept, _)| kept.is_busy).count();
            let is_due = |kept: &Kept, failure: &Failure| {
                let is_time = failure.next_at.is_some_and(|at| at <= now);
                is_time && !kept.is_busy && kept.rests_until.is_none_or(|until| until <= now)
            };
            let free = OF_ONE_AT_A_TIME.saturating_sub(busy);
            let next = self.of(id).filter(|(_, kept, failure)| is_due(kept, failure)).take(free);
            due.extend(next.map(|(key, kept, failure)| Due {
                key: key.clone(),
                revision: kept.revision,
                failure: failure.clone(),
                id: id.clone(),
                webhook: webhook.clone(),
            }));
        }
        for one in &due {
            self.kept.get_mut(&one.key).expect("what is due is kept").is_busy = true;
        }
        due
    }

    /// One was tried. What came of it is known already, or it `rests`.
    fn tried(&mut self, key: &str, rests_until: Option<Timestamp>) {
        if let Some(kept) = self.kept.get_mut(key) {
            kept.is_busy = false;
            kept.rests_until = rests_until;
        }
    }
}

impl Due {
    /// Tries once more.
    pub(super) async fn run(self, work: Arc<Work>) {
        let key = self.key.clone();
        let is_settled = self.attempt(&work).await;
        let rests = (!is_settled).then(|| work.clock.now().plus_ms(PAUSE_MS));
        work.failures.lock().tried(&key, rests);
    }

    /// Whether something came of it that was written down.
    async fn attempt(self, work: &Work) -> bool {
        let Self { key, revision, mut failure, id, webhook } = self;
        let message = match message(work, &failure).await {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(webhook = &*id, %error, "a failed delivery cannot be tried now");
                return false;
            }
        };
        let outcome = match &message {
            Some(message) => send(&work.state, &id, &webhook, message).await,
            None => Outcome::Refused("its run was deleted".into()),
        };
        let after = match outcome {
            Outcome::Taken(_) => {
                work.taken(&id);
                None
            }
            Outcome::Gone => {
                work.disable(&id, "the receiver answered 410 Gone").await;
                return false;
            }
            Outcome::Unsent(why) => {
                work.failed(&id, &why);
                return false;
            }
            Outcome::Refused(why) => {
                work.failed(&id, &why);
                failure.tries += 1;
                let next = work.next_try(failure.tries).filter(|_| message.is_some());
                failure.failed(&why, next);
                Some(&failure)
            }
        };
        let is_written = work.change_failure(key, Some(revision), after).await.is_ok();
        let has_too_many = work.failures.lock().has_too_many_dead(&id);
        if has_too_many {
            work.make_room(&id).await;
        }
        is_written
    }
}

/// What is to be told; none when the event is there no more.
async fn message(work: &Work, failure: &Failure) -> Result<Option<Message>, CallError> {
    let read = |after, limit| work.client.events(&failure.workflow_id, after, limit, Freshness::Strong);
    let before = Sequence(failure.sequence.0.saturating_sub(1));
    let (first, record) = match tokio::try_join!(read(Sequence(0), 1), read(before, 1)) {
        Ok((first, record)) => (first.value, record.value),
        Err(CallError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let run = first.first().and_then(RunFacts::of);
    // Another run may have the id by now.
    let record =
        record.first().filter(|record| record.no == failure.no && record.sequence == failure.sequence);
    Ok(run.zip(record).and_then(|(run, record)| Message::of(work.shard, record, &run)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opcode_engine::ids::{RunNo, WorkflowId};

    use super::*;
    use crate::webhooks::failure::key;

    fn failure(no: u64, next_at: Option<i64>) -> Failure {
        Failure {
            shard: ShardId(1),
            no: RunNo(no),
            workflow_id: WorkflowId::parse("a").unwrap(),
            sequence: Sequence(1),
            event: "workflow.failed".into(),
            tries: 1,
            first_at: Timestamp(i64::try_from(no).unwrap()),
            next_at: next_at.map(Timestamp),
            last_error: String::new(),
        }
    }

    fn book(began: Instant, failures: &[(u64, Failure)]) -> Book {
        let webhook = Webhook {
            url: "https://example.com/".into(),
            events: Vec::new(),
            filter: Default::default(),
            secret: String::new(),
            active: true,
            disabled_reason: None,
            from: Vec::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: 1,
        };
        let by_key =
            failures.iter().map(|(revision, one)| (key("w", &one.delivery()), (*revision, one.clone())));
        Book {
            began,
            webhooks: [(Arc::from("w"), (1, Arc::new(webhook)))].into(),
            failures: by_key.collect(),
            standings: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_due_is_tried_a_few_at_a_time_and_once() {
        let all: Vec<(u64, Failure)> = (1..=9).map(|no| (no, failure(no, Some(100)))).collect();
        let book = book(Instant::now(), &all);
        let mut failures = Failures::default();
        failures.see(&book, ShardId(2));
        assert_eq!(failures.retrying("w"), 0, "another shard's");
        failures.see(&book, ShardId(1));
        assert_eq!((failures.retrying("w"), failures.retrying("x")), (9, 0));
        assert!(failures.due(Timestamp(99), &book).is_empty());
        let due = failures.due(Timestamp(100), &book);
        assert_eq!(due.len(), OF_ONE_AT_A_TIME);
        assert!(failures.due(Timestamp(100), &book).is_empty(), "the others wait");
        failures.tried(&due[0].key, Some(Timestamp(200)));
        failures.see(&book, ShardId(1));
        let next = failures.due(Timestamp(150), &book);
        assert_eq!(next.len(), 1);
        assert_ne!(next[0].key, due[0].key, "it rests");
    }

    #[test]
    fn a_book_that_was_begun_before_a_change_does_not_undo_it() {
        let begun = Instant::now();
        let old = book(begun, &[(5, failure(1, Some(0)))]);
        let mut failures = Failures::default();
        failures.see(&old, ShardId(1));
        let added = key("w", &failure(2, None).delivery());
        failures.know(added.clone(), 7, Some(failure(2, None)));
        failures.know(key("w", &failure(1, None).delivery()), 8, Some(failure(1, None)));
        failures.see(&old, ShardId(1));
        assert_eq!((failures.of("w").count(), failures.retrying("w")), (2, 0));
        assert_eq!(failures.oldest_dead("w").map(|(_, revision)| revision), Some(8));
        failures.know(added, 9, None);
        failures.see(&old, ShardId(1));
        assert_eq!(failures.of("w").count(), 1, "it stays deleted");
        // A newer one that has none of them: somebody has deleted them.
        failures.see(&book(Instant::now() + Duration::from_secs(1), &[]), ShardId(1));
        assert!(failures.kept.is_empty());
    }
}

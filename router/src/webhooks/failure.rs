//! A delivery that failed, as it stands in the catalogue: not the event, but which one it is.

use std::sync::Arc;

use opcode_engine::ids::{RunNo, Sequence, ShardId, Timestamp, WorkflowId};
use opcode_shard::record::EventRecord;
use serde::{Deserialize, Serialize};

/// Longest word on what went wrong that is kept, in characters.
const ERROR_CHARS_MAX: usize = 200;

/// One that failed, for one webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(super) shard: ShardId,
    pub(super) no: RunNo,
    pub(crate) workflow_id: WorkflowId,
    pub(crate) sequence: Sequence,
    /// The event's name.
    pub(crate) event: String,
    /// Tries so far.
    pub(crate) tries: u32,
    pub(crate) first_at: Timestamp,
    /// When it is tried again; never by itself without one.
    pub(crate) next_at: Option<Timestamp>,
    pub(crate) last_error: String,
}

impl Failure {
    /// After its first try.
    pub(super) fn of(
        shard: ShardId,
        record: &EventRecord,
        run: &WorkflowId,
        event: &str,
        now: Timestamp,
    ) -> Self {
        Self {
            shard,
            no: record.no,
            workflow_id: run.clone(),
            sequence: record.sequence,
            event: event.to_owned(),
            tries: 1,
            first_at: now,
            next_at: Some(now),
            last_error: String::new(),
        }
    }

    /// Takes note of what went wrong, and of when it is tried again.
    pub(super) fn failed(&mut self, why: &str, next_at: Option<Timestamp>) {
        self.last_error = cut(why);
        self.next_at = next_at;
    }

    /// The delivery's id.
    pub(crate) fn delivery(&self) -> String {
        delivery_id(self.shard, self.no, self.sequence)
    }

    pub(crate) fn body(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a failure is JSON").into()
    }
}

/// A word on what went wrong, short enough to be kept.
pub(super) fn cut(why: &str) -> String {
    why.chars().take(ERROR_CHARS_MAX).collect()
}

/// The id of the delivery of an event: the same whenever it is told, and of no other event.
pub(super) fn delivery_id(shard: ShardId, no: RunNo, sequence: Sequence) -> String {
    format!("evt_{}_{}_{}", shard.0, no.0, sequence.0)
}

/// Whether a text is such an id.
pub(crate) fn check_delivery(text: &str) -> bool {
    let numbers = text.strip_prefix("evt_").map(|rest| rest.split('_').collect::<Vec<_>>());
    let is_number = |part: &&str| (1..=20).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|parts| parts.len() == 3 && parts.iter().all(is_number))
}

/// The key of a webhook's failure.
pub(crate) fn key(webhook: &str, delivery: &str) -> Arc<str> {
    format!("{webhook}/{delivery}").into()
}

/// What the keys of a webhook's failures begin with.
pub(super) fn prefix(webhook: &str) -> String {
    format!("{webhook}/")
}

/// Whether the failure of this key is this webhook's, and not one of a namespace that is called like it.
pub(crate) fn is_of(key: &str, webhook: &str) -> bool {
    key.rsplit_once('/').is_some_and(|(id, _)| id == webhook)
}

/// Reads one that is kept; one that cannot be read is passed over.
pub(crate) fn parse(key: &str, body: &str) -> Option<Failure> {
    serde_json::from_str(body)
        .map_err(|error| tracing::error!(failure = key, %error, "a stored failure cannot be read"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_which_event_it_is() {
        let id = delivery_id(ShardId(3), RunNo(120), Sequence(7));
        assert_eq!(id, "evt_3_120_7");
        assert!(check_delivery(&id));
        for text in
            ["", "evt_", "evt_1_2", "evt_1_2_3_4", "evt_1_2_x", "evt_1__3", "evt_1_2_+3", "a/evt_1_2_3"]
        {
            assert!(!check_delivery(text), "{text:?}");
        }
        assert_eq!(&*key("a", &id), "a/evt_3_120_7");
        assert!(is_of(&key("a", &id), "a") && is_of(&key("a/b", &id), "a/b"));
        assert!(!is_of(&key("a/b", &id), "a") && !is_of(&key("a", &id), "a/b"));
    }
}

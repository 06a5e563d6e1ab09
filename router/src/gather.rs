//! Lists over all shards: every shard is asked at the same time, the answers are merged in one
//! order, and one keyset cursor goes on from there whatever shard a row came from.
//!
//! A shard that cannot answer is named in the list, never silently missing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use opcode_engine::ids::{ShardId, Timestamp};
use opcode_shard::CallError;
use opcode_shard::batch::Position;
use serde::Serialize;

use crate::error::{ApiError, Applied};
use crate::forward::{Seen, ShardClient};
use crate::query::Query;
use crate::state::RouterState;

/// Longest cursor that is looked at, in characters.
const CURSOR_CHARS_MAX: usize = 512;

/// A place in an ordered list: the key of the last row that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

impl Cursor {
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("1 {} {}", self.at.0, self.id))
    }

    pub(crate) fn decode(text: &str) -> Option<Self> {
        if text.len() > CURSOR_CHARS_MAX {
            return None;
        }
        let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (at, id) = plain.strip_prefix("1 ")?.split_once(' ')?;
        Some(Self { at: Timestamp(at.parse().ok()?), id: id.to_owned() })
    }

    /// The query's `cursor`.
    pub(crate) fn of(query: &mut Query) -> Option<Self> {
        let text = query.one("cursor")?;
        let read = Self::decode(&text);
        if read.is_none() {
            query.problem("cursor", "is not a cursor that a list has given");
        }
        read
    }
}

/// A shard that gave no answer.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    shard: ShardId,
    code: &'static str,
    detail: String,
}

impl Missing {
    pub(crate) fn of(shard: ShardId, error: &ApiError) -> Self {
        Self { shard, code: error.code(), detail: error.detail().to_owned() }
    }

    /// Why.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

/// Answers of the shards that gave one, and the others.
pub(crate) struct Gathered<T> {
    pub(crate) answers: Vec<(ShardId, T)>,
    pub(crate) missing: Vec<Missing>,
    /// What each answer reflects.
    pub(crate) positions: Vec<(ShardId, Position)>,
    /// How far the replica lies behind that does so most, in ms; none when leaders alone answered.
    pub(crate) lag_ms: Option<u64>,
}

impl<T> Gathered<T> {
    /// The answer of one shard alone.
    pub(crate) fn of_one(shard: ShardId, seen: Seen<T>) -> Self {
        let mut gathered = Self::default();
        gathered.add(shard, seen);
        gathered
    }

    fn add(&mut self, shard: ShardId, seen: Seen<T>) {
        self.positions.push((shard, seen.position));
        self.lag_ms = self.lag_ms.max(seen.lag_ms);
        self.answers.push((shard, seen.value));
    }
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { answers: Vec::new(), missing: Vec::new(), positions: Vec::new(), lag_ms: None }
    }
}

/// Asks every shard at once. An error when none answers, or when the question itself was refused.
pub(crate) async fn ask_all<T, F>(
    state: &RouterState,
    ask: impl Fn(ShardClient) -> F,
) -> Result<Gathered<T>, ApiError>
where
    F: Future<Output = Result<Seen<T>, CallError>>,
{
    let asked = state.shards().into_iter().map(|shard| {
        let answer = ask(shard.clone());
        async move { (shard.id(), answer.await) }
    });
    let mut gathered = Gathered::default();
    for (shard, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(seen) => gathered.add(shard, seen),
            Err(CallError::Rejected(rejected)) => return Err(rejected.into()),
            Err(error) => gathered.missing.push(Missing::of(shard, &ApiError::from(error))),
        }
    }
    match gathered.missing.first() {
        Some(first) if gathered.answers.is_empty() => Err(ApiError::unavailable(
            Applied::No,
            format!("no shard answers; shard {}: {}", first.shard, first.detail),
        )),
        Some(_) | None => Ok(gathered),
    }
}

/// A page of a list.
#[derive(Serialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreachable_shards: Vec<Missing>,
}

/// Which end of time a list starts at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    NewestFirst,
    OldestFirst,
}

/// Merges rows of which every shard gave its first `limit + 1`.
pub(crate) fn merge<T>(
    gathered: Gathered<Vec<T>>,
    limit: usize,
    order: Order,
    key: impl Fn(&T) -> Cursor,
) -> (Vec<T>, Option<String>, Vec<Missing>) {
    let mut rows: Vec<(Cursor, T)> =
        gathered.answers.into_iter().flat_map(|(_, rows)| rows).map(|row| (key(&row), row)).collect();
    rows.sort_by(|(a, _), (b, _)| {
        let ascending = a.at.cmp(&b.at).then_with(|| a.id.cmp(&b.id));
        if order == Order::NewestFirst { ascending.reverse() } else { ascending }
    });
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|(cursor, _)| cursor.encode());
    (rows.into_iter().map(|(_, row)| row).collect(), next, gathered.missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_way_out_and_back() {
        let cursor = Cursor { at: Timestamp(1_700_000_000_123), id: "order:17 x".into() };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        for wrong in ["", "x", "MQ", "MSAxIA=", &"A".repeat(1000)] {
            assert_eq!(Cursor::decode(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pages_go_through_all_shards_in_one_order() {
        let rows: Vec<(i64, &str)> = vec![(5, "a"), (5, "b"), (4, "c"), (3, "d"), (3, "e"), (1, "f")];
        let shard = |n: usize, after: &Option<Cursor>| {
            let mut own: Vec<_> =
                rows.iter().copied().enumerate().filter(|(i, _)| i % 3 == n).map(|(_, r)| r).collect();
            own.sort_by_key(|&(at, id)| std::cmp::Reverse((at, id)));
            own.retain(|&(at, id)| after.as_ref().is_none_or(|c| (at, id) < (c.at.0, c.id.as_str())));
            own.truncate(3);
            (ShardId(0), own)
        };
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let answers = (0..3).map(|n| shard(n, &after)).collect();
            let gathered = Gathered { answers, ..Gathered::default() };
            let key = |row: &(i64, &str)| Cursor { at: Timestamp(row.0), id: row.1.into() };
            let (page, next, _) = merge(gathered, 2, Order::NewestFirst, key);
            seen.extend(page.iter().map(|row| row.1));
            let Some(next) = next else { break };
            after = Some(Cursor::decode(&next).expect("a cursor"));
        }
        assert_eq!(seen, ["b", "a", "c", "e", "d", "f"]);
    }
}

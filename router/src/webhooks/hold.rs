//! Has each replica here keep the part of its log that somebody may still ask for: what webhooks were
//! not told of, and what was committed lately, so that a firehose can go on where it was cut off.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use opcode_engine::ids::ShardId;
use tokio::time::Instant;

use super::book::{Book, Reader};
use crate::state::RouterState;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs as long as the node does.
pub(super) async fn hold(state: RouterState, book: Reader) {
    let (begun, kept) = (Instant::now(), state.webhooks().kept);
    let mut recent: BTreeMap<ShardId, Recent> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let now = Instant::now();
        let book = book.borrow().clone();
        for shard in state.map().shards.iter().map(|entry| entry.shard) {
            let Some(handle) = state.local().get(shard) else {
                recent.remove(&shard);
                continue;
            };
            let recent = recent.entry(shard).or_default();
            recent.note(now, handle.committed().index, kept);
            let lately = match now.duration_since(begun) {
                _ if kept.is_zero() => u64::MAX,
                young if young < kept => 0,
                _ => recent.from(),
            };
            // As long as webhooks are not known, whatever there is may be wanted.
            let wanted = book.as_deref().map_or(0, |book| first_untold(book, shard));
            handle.group().hold(lately.min(wanted));
        }
        // Nobody goes on in the log of the system shard.
        if let Some(handle) = state.local().get(ShardId::SYSTEM) {
            handle.group().hold(u64::MAX);
        }
    }
}

/// The first entry of a shard's log that some webhook was not told of.
fn first_untold(book: &Book, shard: ShardId) -> u64 {
    let standing = book.standings.get(&shard);
    let active = book.webhooks.iter().filter(|(_, (_, webhook))| webhook.active);
    let told = active.map(|(id, (_, webhook))| {
        let served = standing.and_then(|standing| standing.served.get(id)).map_or(0, |served| served.after);
        served.max(webhook.from(shard)) + 1
    });
    told.min().unwrap_or(u64::MAX)
}

/// Where a log stood lately.
#[derive(Default)]
struct Recent {
    samples: VecDeque<(Instant, u64)>,
}

impl Recent {
    fn note(&mut self, now: Instant, index: u64, kept: Duration) {
        self.samples.push_back((now, index));
        // The last one that is old enough stays.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= kept) {
            self.samples.pop_front();
        }
    }

    /// The first entry that is kept.
    fn from(&self) -> u64 {
        self.samples.front().map_or(0, |(_, index)| index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recent_is_kept_and_no_more() {
        let (begun, mut recent) = (Instant::now(), Recent::default());
        for second in 0..1_000 {
            recent.note(begun + Duration::from_secs(second), 10 * second, Duration::from_secs(60));
        }
        assert_eq!(recent.from(), 10 * (999 - 60) + 1);
        assert_eq!(recent.samples.len(), 61);
    }
}

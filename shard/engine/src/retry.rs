//! Back-off: how long a step rests before its next attempt. No clock and no randomness: the
//! jitter is a hash of who is tried for the how-many-eth time, so a replay waits the same.

use crate::definition::{Backoff, RetryPolicy};

/// The tries of `on_error: retry` when the step has no `retry` of its own.
pub const DEFAULT_POLICY: RetryPolicy = RetryPolicy {
    max: 3,
    backoff: Backoff::Exponential,
    delay_ms: 1_000,
    delay_ms_max: Some(30_000),
    jitter: 0.0,
};

/// Milliseconds before retry `retry` (from 1) of the step: specification, §6. Jitter takes away
/// up to its share of the delay, so that `max_delay` stays the most.
pub fn delay_ms(policy: &RetryPolicy, retry: u32, workflow_id: &str, step_id: &str) -> u64 {
    let base = policy.delay_ms;
    let n = u64::from(retry.max(1));
    let grown = match policy.backoff {
        Backoff::None => 0,
        Backoff::Constant => base,
        Backoff::Linear => base.saturating_mul(n),
        Backoff::Exponential => base.saturating_mul(1_u64.checked_shl(retry.max(1) - 1).unwrap_or(u64::MAX)),
    };
    let capped = policy.delay_ms_max.map_or(grown, |max| grown.min(max));
    let share = policy.jitter.clamp(0.0, 1.0);
    if share <= 0.0 {
        return capped;
    }
    // 53 bits are what a f64 holds exactly.
    let unit = (hash(workflow_id, step_id, retry) >> 11) as f64 / (1_u64 << 53) as f64;
    let less = (capped as f64 * share * unit) as u64;
    capped.saturating_sub(less)
}

/// FNV-1a over the parts, then splitmix64's finalizer: stable for ever, since it stands in logs.
fn hash(workflow_id: &str, step_id: &str, retry: u32) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let parts = [workflow_id.as_bytes(), &[0], step_id.as_bytes(), &[0], &retry.to_le_bytes()];
    for byte in parts.into_iter().flatten() {
        h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::delay_ms;
    use crate::definition::{Backoff, RetryPolicy};

    fn policy(backoff: Backoff) -> RetryPolicy {
        RetryPolicy { max: 9, backoff, delay_ms: 100, delay_ms_max: Some(1_000), jitter: 0.0 }
    }

    #[test]
    fn delays_grow_as_the_table_says_and_stop_at_the_cap() {
        let series = |b| (1..=5).map(|n| delay_ms(&policy(b), n, "w", "s")).collect::<Vec<_>>();
        assert_eq!(series(Backoff::None), [0, 0, 0, 0, 0]);
        assert_eq!(series(Backoff::Constant), [100, 100, 100, 100, 100]);
        assert_eq!(series(Backoff::Linear), [100, 200, 300, 400, 500]);
        assert_eq!(series(Backoff::Exponential), [100, 200, 400, 800, 1_000]);
        assert_eq!(delay_ms(&policy(Backoff::Exponential), u32::MAX, "w", "s"), 1_000);
    }

    #[test]
    fn jitter_is_the_same_every_time_and_within_its_share() {
        let p = RetryPolicy { jitter: 0.5, ..policy(Backoff::Constant) };
        let some: Vec<u64> = (1..=50).map(|n| delay_ms(&p, n, "w", "s")).collect();
        assert_eq!(some, (1..=50).map(|n| delay_ms(&p, n, "w", "s")).collect::<Vec<_>>());
        assert!(some.iter().all(|d| (50..=100).contains(d)), "{some:?}");
        assert!(some.iter().any(|d| *d != some[0]));
        assert_ne!(some[0], delay_ms(&p, 1, "other", "s"));
    }
}

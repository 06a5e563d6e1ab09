//! How many requests a caller may make: a quota for each token, or for each network where there are
//! no tokens, and one for those whose tokens are not taken. Each node counts for itself.
//!
//! The algorithm is GCRA, the virtual scheduling of ITU-T I.371: of each caller one number is kept,
//! when its quota is whole again. Quotas differ from token to token, answers tell what is left of
//! them, and callers are bounded: the crate `governor` has one quota for all keys, tells nothing of a
//! key that it has not just counted, and bounds no keys.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// The headers of draft-ietf-httpapi-ratelimit-headers.
const POLICY: &str = "ratelimit-policy";
const LEFT: &str = "ratelimit";
/// Most requests a second, and at once, that a quota may allow.
pub(crate) const RATE_MAX: u32 = 1_000_000;
/// Callers of one kind that are told from each other; more of them share one quota.
const CALLERS_MAX: usize = 10_000;
/// Least time between two looks for callers that can be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Tokens that are not taken, from one network.
const FAILURES: RateLimit = RateLimit { requests_per_second: 10, burst: 50 };

/// A quota. Both are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a second, in the long run.
    pub requests_per_second: u32,
    /// Requests at once, after a pause.
    pub burst: u32,
}

impl RateLimit {
    /// So many a second, and as many at once; from 1 to a million.
    pub fn per_second(requests: u32) -> Self {
        let requests = requests.clamp(1, RATE_MAX);
        Self { requests_per_second: requests, burst: requests }
    }

    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.requests_per_second.max(1)
    }

    /// How long it takes until a quota that is used up is whole again.
    fn window(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// What came of asking for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    limit: RateLimit,
    /// Requests that may follow at once.
    left: u32,
    /// Until the quota is whole.
    whole_in: Duration,
    /// Until there is room for one, when there was none.
    wait: Option<Duration>,
}

impl Counted {
    /// The refusal, when there was no room.
    pub(crate) fn refusal(&self) -> Option<ApiError> {
        let wait = self.wait?;
        let (rate, burst) = (self.limit.requests_per_second, self.limit.burst);
        let detail = format!("more than {rate} requests a second, {burst} at once; try again later");
        Some(ApiError::overloaded(detail).with_retry_after(seconds(wait)))
    }

    /// Tells the caller what it has.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let window = seconds(self.limit.window());
        let policy = format!("\"default\";q={};w={window}", self.limit.burst);
        let left = format!("\"default\";r={};t={}", self.left, seconds(self.whole_in));
        for (name, value) in [(POLICY, policy), (LEFT, left)] {
            headers.insert(name, HeaderValue::try_from(value).expect("visible ASCII"));
        }
    }
}

/// Whole seconds, rounded up, at least one.
fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

/// Counts one request at `now`; `whole_at` is when the quota will be whole again.
fn count(whole_at: &mut Duration, limit: RateLimit, now: Duration) -> Counted {
    let (interval, window) = (limit.interval(), limit.window());
    let begins = (*whole_at).max(now);
    let would_be_whole = begins + interval;
    let wait = would_be_whole.checked_sub(now + window).filter(|wait| !wait.is_zero());
    if wait.is_none() {
        *whole_at = would_be_whole;
    }
    let whole_in = whole_at.saturating_sub(now);
    let room = window.saturating_sub(whole_in).as_nanos() / interval.as_nanos().max(1);
    Counted { limit, left: u32::try_from(room).unwrap_or(u32::MAX), whole_in, wait }
}

/// One quota alone, at first whole.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Duration);

impl Bucket {
    /// Whether there is room for one, which is counted then. `now` is since any moment.
    pub(crate) fn take(&mut self, limit: RateLimit, now: Duration) -> bool {
        count(&mut self.0, limit, now).wait.is_none()
    }
}

/// Quotas of callers of one kind.
struct Quotas<K> {
    whole_at: HashMap<K, Duration>,
    /// Of all callers for whom there is no place.
    others: Duration,
    swept_at: Duration,
}

impl<K> Default for Quotas<K> {
    fn default() -> Self {
        Self { whole_at: HashMap::new(), others: Duration::ZERO, swept_at: Duration::ZERO }
    }
}

impl<K: Hash + Eq> Quotas<K> {
    fn count(&mut self, key: K, limit: RateLimit, now: Duration) -> Counted {
        if self.whole_at.len() >= CALLERS_MAX && now >= self.swept_at + SWEEP_EVERY {
            // One whose quota is whole is like one that was never here.
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            self.swept_at = now;
        }
        if self.whole_at.len() >= CALLERS_MAX && !self.whole_at.contains_key(&key) {
            return count(&mut self.others, limit, now);
        }
        count(self.whole_at.entry(key).or_default(), limit, now)
    }

    /// Whether there is room for one more; nothing is counted.
    fn has_room(&self, key: &K, limit: RateLimit, now: Duration) -> bool {
        let is_known = self.whole_at.contains_key(key) || self.whole_at.len() < CALLERS_MAX;
        let mut whole_at =
            if is_known { self.whole_at.get(key).copied().unwrap_or_default() } else { self.others };
        count(&mut whole_at, limit, now).wait.is_none()
    }
}

/// What a node has counted.
pub(crate) struct Limits {
    begun: Instant,
    /// What everybody may do for whom nothing else is said.
    default: Option<RateLimit>,
    tokens: Mutex<Quotas<Arc<str>>>,
    networks: Mutex<Quotas<IpAddr>>,
    failures: Mutex<Quotas<IpAddr>>,
}

impl Limits {
    pub(crate) fn new(default: Option<RateLimit>) -> Self {
        Self {
            begun: Instant::now(),
            default,
            tokens: Mutex::default(),
            networks: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Counts a request of a token, or of an address where no token was shown; none when nothing
    /// limits it. `own` is the token's own limit.
    pub(crate) fn count(
        &self,
        token: Option<&Arc<str>>,
        own: Option<RateLimit>,
        from: Option<IpAddr>,
    ) -> Option<Counted> {
        let limit = own.or(self.default)?;
        let now = self.begun.elapsed();
        Some(match token {
            Some(token) => self.tokens.lock().count(Arc::clone(token), limit, now),
            None => self.networks.lock().count(network_of(from), limit, now),
        })
    }

    /// Counts a token that was not taken.
    pub(crate) fn failed(&self, from: Option<IpAddr>) -> Counted {
        self.failures.lock().count(network_of(from), FAILURES, self.begun.elapsed())
    }

    /// Whether a token that is not known yet is looked at, for who asks from there.
    pub(crate) fn may_try(&self, from: Option<IpAddr>) -> bool {
        self.failures.lock().has_room(&network_of(from), FAILURES, self.begun.elapsed())
    }
}

/// Whoever has one IPv6 address has all that share its first 64 bits. Addresses are those of the
/// connection: what a header says of others is anybody's to say.
fn network_of(from: Option<IpAddr>) -> IpAddr {
    match from {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(IpAddr::V4(v4)) => IpAddr::V4(v4),
        Some(IpAddr::V6(v6)) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { requests_per_second: 10, burst: 20 };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_and_then_a_request_each_interval() {
        let mut whole_at = Duration::ZERO;
        for n in 0..20 {
            let counted = count(&mut whole_at, LIMIT, at(1_000));
            assert_eq!((counted.wait, counted.left), (None, 19 - n));
        }
        let refused = count(&mut whole_at, LIMIT, at(1_000));
        assert_eq!((refused.wait, refused.left, refused.whole_in), (Some(at(100)), 0, at(2_000)));
        assert_eq!(count(&mut whole_at, LIMIT, at(1_100)).wait, None);
        assert_eq!(count(&mut whole_at, LIMIT, at(1_150)).wait, Some(at(50)));
        assert_eq!(count(&mut whole_at, LIMIT, at(9_000)).left, 19, "it is whole after a pause");
    }

    #[test]
    fn headers_say_what_is_left_and_when_it_is_whole() {
        let told = |counted: Counted| {
            let mut headers = HeaderMap::new();
            counted.tell(&mut headers);
            let text = |name: &str| headers[name].to_str().unwrap().to_owned();
            (text(POLICY), text(LEFT))
        };
        let mut whole_at = Duration::ZERO;
        let hundred = RateLimit::per_second(100);
        let (policy, left) = told(count(&mut whole_at, hundred, at(5)));
        assert_eq!((policy.as_str(), left.as_str()), ("\"default\";q=100;w=1", "\"default\";r=99;t=1"));
        let mut never = Duration::ZERO;
        let (policy, _) = told(count(&mut never, LIMIT, at(0)));
        assert_eq!(policy, "\"default\";q=20;w=2");
    }

    #[test]
    fn many_addresses_share_one_quota_and_take_nobodys() {
        let mut quotas = Quotas::default();
        for n in 0..u32::try_from(CALLERS_MAX).unwrap() {
            quotas.count(IpAddr::V4(Ipv4Addr::from_bits(n + 1)), LIMIT, at(0));
        }
        let own = IpAddr::V4(Ipv4Addr::from_bits(7));
        let refused = (0..1_000_u32).filter(|n| {
            quotas.count(IpAddr::V4(Ipv4Addr::from_bits((1 << 30) | n)), LIMIT, at(1)).wait.is_some()
        });
        assert_eq!(refused.count(), 980, "those that come too late share the quota of one");
        assert_eq!(quotas.whole_at.len(), CALLERS_MAX);
        assert_eq!(quotas.count(own, LIMIT, at(2)).left, 18, "those that were here have theirs");
        // Whoever is whole again makes room.
        quotas.count(IpAddr::V4(Ipv4Addr::from_bits(1 << 31)), LIMIT, at(60_000));
        assert_eq!(quotas.whole_at.len(), 1);
    }

    #[test]
    fn one_network_of_ipv6_is_one_caller() {
        let of = |text: &str| network_of(Some(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}

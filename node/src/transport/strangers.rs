//! Connections that have not said who they are: few at a time in all, and fewer from one address,
//! so that none of them keeps a node of the cluster from being heard.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// Longest time that a stranger has for its handshake and hello.
pub(super) const GREETING_MAX: Duration = Duration::from_secs(3);
/// Strangers at a time.
const STRANGERS_MAX: usize = 256;
/// Strangers at a time from one address.
const STRANGERS_OF_ONE_MAX: usize = 32;

/// Who is being greeted now.
pub(crate) struct Strangers {
    counts: Mutex<HashMap<IpAddr, usize>>,
    all_max: usize,
    of_one_max: usize,
}

/// One of them; leaves when it is dropped.
pub(crate) struct Stranger {
    from: IpAddr,
    all: Arc<Strangers>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self::at_most(STRANGERS_MAX, STRANGERS_OF_ONE_MAX)
    }
}

impl Strangers {
    /// So many at a time in all, and from one address.
    pub(crate) fn at_most(all_max: usize, of_one_max: usize) -> Self {
        Self { counts: Mutex::default(), all_max, of_one_max }
    }

    /// Lets one in, unless there are too many already.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        let from = network_of(from);
        let mut counts = self.counts.lock();
        let total: usize = counts.values().sum();
        let count = counts.get(&from).copied().unwrap_or(0);
        if total >= self.all_max || count >= self.of_one_max {
            return None;
        }
        counts.insert(from, count + 1);
        Some(Stranger { from, all: self.clone() })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock();
        match counts.get_mut(&self.from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.from)),
        }
    }
}

/// Whoever has one IPv6 address has all that share its first 64 bits.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_keeps_no_other_out() {
        let strangers = Arc::new(Strangers::default());
        let crowd = |from: &str| -> Vec<Stranger> {
            let from = from.parse().unwrap();
            std::iter::from_fn(|| strangers.enter(from)).take(10 * STRANGERS_MAX).collect()
        };
        let loud = crowd("10.0.0.1");
        assert_eq!(loud.len(), STRANGERS_OF_ONE_MAX);
        assert_eq!(crowd("10.0.0.2").len(), STRANGERS_OF_ONE_MAX);
        let six = crowd("2001:db8::1");
        assert!(strangers.enter("2001:db8::2".parse().unwrap()).is_none(), "the same network");
        drop((loud, six));
        assert!(strangers.counts.lock().is_empty(), "all have left");
    }
}

//! The one clock of a shard: wall time that never runs backwards.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use opcode_engine::ids::Timestamp;

/// Wall time in milliseconds; a clock set back stands still until it has caught up, so that the
/// times of a run's events never decrease within one process.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicI64,
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let wall = i64::try_from(wall).unwrap_or(i64::MAX);
        let last = self.last.fetch_max(wall, Ordering::Relaxed);
        Timestamp(wall.max(last))
    }
}

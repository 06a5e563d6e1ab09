//! The one clock of a shard: wall time that never runs backwards.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use opcode_engine::ids::Timestamp;

/// Wall time in milliseconds; a clock set back stands still until it has caught up, so that the
/// times of a run's events never decrease within one process.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicI64,
    /// What a simulation shows as the wall's time.
    #[cfg(feature = "sim")]
    simulated: Option<std::sync::Arc<AtomicI64>>,
}

impl Clock {
    /// A clock whose wall is a number that somebody else moves, forwards and back.
    #[cfg(feature = "sim")]
    pub fn simulated(wall_ms: std::sync::Arc<AtomicI64>) -> Self {
        Self { last: AtomicI64::default(), simulated: Some(wall_ms) }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let wall = self.wall();
        let last = self.last.fetch_max(wall, Ordering::Relaxed);
        Timestamp(wall.max(last))
    }

    fn wall(&self) -> i64 {
        #[cfg(feature = "sim")]
        if let Some(wall_ms) = &self.simulated {
            return wall_ms.load(Ordering::Relaxed);
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        i64::try_from(wall).unwrap_or(i64::MAX)
    }
}

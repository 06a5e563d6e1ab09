//! The moments at which whatever is done again and again is done: the same for all of a process, so
//! that idle shards, groups and connections wake it together and not each for itself. In a simulation,
//! whose nodes have clocks of their own, each counts for itself.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::simulation;

/// When moments began to be counted.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The next moment of this period.
pub fn next(period: Duration) -> Instant {
    if simulation::is_on() {
        return Instant::now() + period;
    }
    let periods = BEGUN.elapsed().as_nanos() / period.as_nanos() + 1;
    moment(period, periods)
}

/// The moment of this period that is nearest to `deadline`.
pub fn nearest(deadline: Instant, period: Duration) -> Instant {
    if simulation::is_on() {
        return deadline;
    }
    let since = deadline.saturating_duration_since(*BEGUN).as_nanos();
    moment(period, (since + period.as_nanos() / 2) / period.as_nanos())
}

/// Every moment of this period, and one at once. Those that were missed are left out.
pub fn every(period: Duration) -> Interval {
    let begun = if simulation::is_on() { Instant::now() } else { *BEGUN };
    let mut interval = tokio::time::interval_at(begun, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    interval
}

fn moment(period: Duration, periods: u128) -> Instant {
    *BEGUN + period * u32::try_from(periods).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(300);

    #[test]
    fn moments_are_one_period_apart() {
        let late = Duration::from_millis(3);
        assert_eq!(nearest(moment(PERIOD, 7) + PERIOD, PERIOD), moment(PERIOD, 8));
        assert_eq!(
            nearest(moment(PERIOD, 7) + late + PERIOD, PERIOD),
            moment(PERIOD, 8),
            "no later each time"
        );
        assert_eq!(nearest(moment(PERIOD, 7) + PERIOD / 2 + late, PERIOD), moment(PERIOD, 8));
        assert!(next(PERIOD) > Instant::now());
        assert!(next(PERIOD) <= Instant::now() + PERIOD);
    }
}

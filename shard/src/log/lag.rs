//! How far behind in time a follower is: since when the leader has had the first entry that the
//! follower has not. Remembered in samples, so that it costs nothing per entry.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Time between two samples at least: what a lag is exact to.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// Samples that are kept: enough for a month at [`EXACT_TO`].
const SAMPLES_MAX: usize = 512;
/// Samples are thinned out with their age, to this part of it apart: a lag is exact to that.
const EXACT_TO: u32 = 16;

/// The last entry of the leader's log, at some times.
#[derive(Debug, Default)]
pub(super) struct Lag {
    samples: VecDeque<(Instant, u64)>,
}

impl Lag {
    /// Takes note that the log ends at `last` now.
    pub(super) fn note(&mut self, now: Instant, last: u64) {
        match self.samples.back() {
            Some((_, known)) if *known == last => return,
            // A new leader may have cut the log off: nothing older counts.
            Some((_, known)) if *known > last => self.samples.clear(),
            Some((at, _)) if now.saturating_duration_since(*at) < SAMPLE_EVERY => return,
            Some(_) | None => {}
        }
        if self.samples.len() == SAMPLES_MAX {
            self.thin_out(now);
        }
        self.samples.push_back((now, last));
    }

    /// Lets go of samples between neighbours that are close to each other for their age, and of
    /// the oldest when that is not enough.
    fn thin_out(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.samples);
        for (at, sample) in all.iter().enumerate() {
            let is_between =
                self.samples.back().zip(all.get(at + 1)).is_some_and(|((before, _), (after, _))| {
                    let apart = after.saturating_duration_since(*before);
                    apart <= now.saturating_duration_since(*after) / EXACT_TO
                });
            if !is_between {
                self.samples.push_back(*sample);
            }
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// Milliseconds since the entry after `matched` came into a log that ends at `last`.
    pub(super) fn millis(&self, now: Instant, matched: u64, last: u64) -> u64 {
        if matched >= last {
            return 0;
        }
        // What came since the last sample is younger than the next one would be.
        let at = self.samples.partition_point(|(_, index)| *index <= matched);
        let since = self.samples.get(at).or(self.samples.back()).map(|(at, _)| *at);
        let lag = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_behind_since_it_misses_an_entry() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut lag = Lag::default();
        assert_eq!(lag.millis(at(0), 0, 9), 0, "nothing is known yet");
        for (ms, last) in [(0, 10), (100, 20), (105, 25), (200, 30)] {
            lag.note(at(ms), last);
        }
        assert_eq!(lag.millis(at(300), 30, 30), 0);
        assert_eq!(lag.millis(at(300), 25, 30), 100);
        assert_eq!(lag.millis(at(300), 15, 30), 200);
        assert_eq!(lag.millis(at(300), 3, 30), 300);
        lag.note(at(400), 12);
        assert_eq!(lag.millis(at(450), 3, 12), 50, "what was cut off counts no more");
    }

    #[test]
    fn it_forgets_in_steps_and_never_grows() {
        let begun = Instant::now();
        let mut lag = Lag::default();
        for n in 0..100_000 {
            lag.note(begun + SAMPLE_EVERY * n, u64::from(n));
            assert!(lag.samples.len() <= SAMPLES_MAX, "{}", lag.samples.len());
        }
        let now = begun + SAMPLE_EVERY * 100_000;
        for matched in [10, 1_000, 50_000, 90_000, 99_000, 99_900] {
            let (told, really) = (lag.millis(now, matched, 100_000), (99_999 - matched) * 20);
            assert!(
                told <= really && told >= really - really / u64::from(EXACT_TO) - 20,
                "{told} of {really}"
            );
        }
    }
}

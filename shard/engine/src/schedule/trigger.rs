//! When a schedule fires: by a cron pattern in a time zone, at an interval, or once.
//!
//! Intervals count from 1970-01-01T00:00:00Z, so that the slots of `1h` are the full hours and
//! nobody need remember when one began.
//!
//! Where clocks are put forward, a pattern of one time of day (`30 2 * * *`) that falls into the gap
//! fires at the first moment after it, and one with a wildcard or a step in its minutes or hours
//! leaves out what is not there. Where they are put back, the first fires once, at the earlier of
//! the two moments, and the second at both.

use std::sync::LazyLock;

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::definition::{DURATION_MS_MAX, parse_duration_ms};
use crate::ids::Timestamp;

/// Shortest interval.
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// Longest cron pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 256;
/// Longest name of a time zone that is looked for, in bytes.
const ZONE_BYTES_MAX: usize = 64;
/// How alike the name of a zone must be to be meant.
const ZONE_LIKENESS_MIN: f64 = 0.85;
/// From here to where the search ends, the calendar has gone round once: what does not fire from here
/// on, never does.
const LAST_ROUND_BEGINS: jiff::civil::DateTime = jiff::civil::date(4590, 1, 1).at(0, 0, 0, 0);
/// How far ahead a day that a zone has left out is first looked for, in seconds; then twice as far.
const LEFT_OUT_S: i64 = 2 * 24 * 3_600;
/// How often: until two hundred years.
const DOUBLINGS_MAX: usize = 16;
/// The last moment that RFC 3339 can write, and so the last slot: 9999-12-31T23:59:59.999Z.
const LAST_SLOT: Timestamp = Timestamp(253_402_300_799_999);
/// Steps of a search between two times, of which each halves what is left.
const HALVINGS_MAX: u32 = 64;

/// The zones of this build, the same on every machine.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone of the IANA database.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone with this name, such as `Europe/Berlin`. The error says which may be meant.
    pub fn parse(name: &str) -> Result<Self, String> {
        if name.len() > ZONE_BYTES_MAX {
            return Err(format!("the name of a time zone has at most {ZONE_BYTES_MAX} bytes"));
        }
        if let Ok(zone) = ZONES.get(name) {
            return Ok(Self(zone));
        }
        let likeness =
            |zone: &str| strsim::jaro_winkler(&zone.to_ascii_lowercase(), &name.to_ascii_lowercase());
        let nearest = ZONES
            .available()
            .map(|zone| (likeness(zone.as_str()), zone.to_string()))
            .filter(|(likeness, _)| *likeness >= ZONE_LIKENESS_MIN)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match nearest {
            Some((_, zone)) => format!("there is no time zone {name:?}; did you mean {zone:?}?"),
            None => format!("there is no time zone {name:?}; give one like \"Europe/Berlin\""),
        })
    }
}

/// A cron pattern in a time zone: five fields, `L`, `W`, `#`, names of months and days, `@daily`.
#[derive(Clone, Debug)]
pub struct Cron {
    pattern: croner::Cron,
    zone: Zone,
}

impl Cron {
    /// Parses a pattern. One that never fires is refused too.
    pub fn parse(pattern: &str, zone: Zone) -> Result<Self, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("a cron pattern has at most {PATTERN_BYTES_MAX} bytes"));
        }
        if !pattern.is_ascii() {
            return Err("a cron pattern is written in ASCII".into());
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(pattern).map_err(|error| {
            format!("it is no cron pattern of five fields (minute, hour, day, month, weekday): {error}")
        })?;
        match pattern.find_next_occurrence(&LAST_ROUND_BEGINS, true) {
            Ok(_) => Ok(Self { pattern, zone }),
            Err(_) => Err("it never fires: no day is like that".into()),
        }
    }

    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // Slots are at full seconds: what comes after this time comes after its second.
        let second = after.0.div_euclid(1_000);
        let next = self.search(second, false).or_else(|| self.behind_gap(second))?;
        Some(next).filter(|next| *next > after)
    }

    /// The first slot after a second, or from it on.
    fn search(&self, second: i64, is_inclusive: bool) -> Option<Timestamp> {
        let from = jiff::Timestamp::from_second(second).ok()?.to_zoned(self.zone.0.clone());
        let next = self.pattern.find_next_occurrence(&from, is_inclusive).ok()?;
        Some(Timestamp(next.timestamp().as_millisecond()))
    }

    /// The first slot behind a day that the zone has left out: the search ends in there, and is begun
    /// anew at the second where the clock goes on.
    fn behind_gap(&self, second: i64) -> Option<Timestamp> {
        let mut before = second;
        let ahead = std::iter::successors(Some(LEFT_OUT_S), |step| step.checked_mul(2));
        let mut behind = ahead.take(DOUBLINGS_MAX).map(|step| second.saturating_add(step)).find(|from| {
            let is_behind = self.search(*from, false).is_some();
            before = if is_behind { before } else { *from };
            is_behind
        })?;
        while behind - before > 1 {
            let middle = before + (behind - before) / 2;
            match self.search(middle, false) {
                Some(_) => behind = middle,
                None => before = middle,
            }
        }
        self.search(behind, true)
    }
}

/// A length of time, from one slot to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    every_ms: i64,
}

impl Interval {
    /// Parses `5m`, `1h30m`, `90s`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let every_ms = parse_duration_ms(text)?;
        if every_ms < INTERVAL_MS_MIN {
            return Err("the shortest interval is 1s".into());
        }
        let every_ms = i64::try_from(every_ms.min(DURATION_MS_MAX)).expect("a hundred years fit");
        Ok(Self { every_ms })
    }

    fn last_until(self, until: Timestamp) -> Timestamp {
        Timestamp(until.0.div_euclid(self.every_ms).saturating_mul(self.every_ms))
    }

    fn next_after(self, after: Timestamp) -> Option<Timestamp> {
        self.last_until(after).0.checked_add(self.every_ms).map(Timestamp)
    }
}

/// When a schedule fires.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// By a pattern.
    Cron(Box<Cron>),
    /// Again and again.
    Interval(Interval),
    /// Once.
    At(Timestamp),
}

impl Trigger {
    /// The first slot after a time; none when there never is one.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let next = match self {
            Self::Cron(cron) => cron.next_after(after),
            Self::Interval(interval) => interval.next_after(after),
            Self::At(at) => Some(*at).filter(|at| *at > after),
        };
        next.filter(|next| *next <= LAST_SLOT)
    }

    /// Slots after a time until another, that one included, in order; at most `max`.
    pub fn slots(&self, after: Timestamp, until: Timestamp, max: usize) -> Vec<Timestamp> {
        let next = |slot: &Timestamp| self.next_after(*slot);
        std::iter::successors(next(&after), next).take_while(|slot| *slot <= until).take(max).collect()
    }

    /// The last of these slots, however many there are.
    pub fn last_slot(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let until = until.min(LAST_SLOT);
        match self {
            Self::Cron(cron) => last_by_halves(cron, after, until),
            Self::Interval(interval) => Some(interval.last_until(until)).filter(|slot| *slot > after),
            Self::At(at) => Some(*at).filter(|at| after < *at && *at <= until),
        }
    }
}

/// The last slot in a time that may hold millions of them: each look halves what is left of it.
fn last_by_halves(cron: &Cron, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let next = |time| cron.next_after(time).filter(|slot| *slot <= until);
    let mut last = next(after)?;
    // No slot comes after this one.
    let mut end = until;
    for _ in 0..HALVINGS_MAX {
        if end.0.saturating_sub(last.0) <= 1 {
            break;
        }
        let middle = Timestamp(last.0 + (end.0 - last.0) / 2);
        match next(middle) {
            Some(slot) => last = slot,
            None => end = middle,
        }
    }
    next(last).or(Some(last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn cron(pattern: &str, zone: &str) -> Trigger {
        let cron = Cron::parse(pattern, Zone::parse(zone).unwrap());
        Trigger::Cron(Box::new(cron.unwrap_or_else(|why| panic!("{pattern}: {why}"))))
    }

    /// The next slots of a pattern after a time, in UTC, to the minute.
    fn check(pattern: &str, zone: &str, after: &str, expected: &[&str]) {
        let slots = cron(pattern, zone).slots(at(after), Timestamp(i64::MAX), expected.len());
        let shown: Vec<String> = slots.iter().map(|slot| slot.to_rfc3339()).collect();
        let expected: Vec<String> = expected.iter().map(|minute| format!("{minute}:00.000Z")).collect();
        assert_eq!(shown, expected, "{pattern} in {zone}");
    }

    #[test]
    fn patterns_as_people_write_them() {
        let new_year = "2026-01-01T00:00:00Z";
        check("*/15 * * * *", "UTC", "2026-01-01T00:00:00.001Z", &["2026-01-01T00:15", "2026-01-01T00:30"]);
        check("@daily", "UTC", new_year, &["2026-01-02T00:00", "2026-01-03T00:00"]);
        check("@hourly", "UTC", "2025-12-31T23:59:59.999Z", &["2026-01-01T00:00", "2026-01-01T01:00"]);
        check("0 22 L * *", "UTC", new_year, &["2026-01-31T22:00", "2026-02-28T22:00", "2026-03-31T22:00"]);
        check("30 9 * * MON-FRI", "UTC", "2026-01-02T10:00:00Z", &["2026-01-05T09:30"]);
        check("0 0 29 2 *", "UTC", new_year, &["2028-02-29T00:00", "2032-02-29T00:00"]);
        check("0 6 * * *", "Asia/Kolkata", new_year, &["2026-01-01T00:30", "2026-01-02T00:30"]);
        check("0 6 * * *", "europe/berlin", new_year, &["2026-01-01T05:00"]);
    }

    #[test]
    fn where_clocks_are_put_forward() {
        // On 2026-03-29 Berlin goes from 02:00 to 03:00, which is 01:00Z.
        let before = "2026-03-28T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["2026-03-29T01:00", "2026-03-30T00:30"]);
        let halves = ["2026-03-29T00:00", "2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"];
        check("*/30 * * * *", "Europe/Berlin", "2026-03-28T23:59:00Z", &halves);
        check(
            "15 */1 * * *",
            "Europe/Berlin",
            "2026-03-28T23:59:00Z",
            &["2026-03-29T00:15", "2026-03-29T01:15"],
        );
    }

    #[test]
    fn where_clocks_are_put_back() {
        // On 2026-10-25 Berlin goes from 03:00 to 02:00, which is 01:00Z.
        let before = "2026-10-24T12:00:00Z";
        check("30 2 * * *", "Europe/Berlin", before, &["2026-10-25T00:30", "2026-10-26T01:30"]);
        let hours = ["2026-10-25T00:15", "2026-10-25T01:15", "2026-10-25T02:15"];
        check("15 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", &hours);
    }

    #[test]
    fn a_day_that_a_zone_has_left_out() {
        // Samoa went from 2011-12-29 to 2011-12-31.
        let slots = ["2011-12-29T22:00", "2011-12-30T22:00", "2011-12-31T22:00"];
        check("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", &slots);
        check("0 0 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", &["2011-12-30T10:00"]);
        check("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", &["2012-12-29T22:00"]);
    }

    #[test]
    fn what_is_no_pattern() {
        let too_long = "1,".repeat(PATTERN_BYTES_MAX);
        for (pattern, told) in [
            ("", "no cron pattern"),
            ("* * * *", "no cron pattern"),
            ("0 * * * * *", "5 fields"),
            ("0 0 * * * * 2030", "5 fields"),
            ("61 * * * *", "no cron pattern"),
            ("*/0 * * * *", "no cron pattern"),
            ("5-1 * * * *", "no cron pattern"),
            ("99999999999999999999 * * * *", "no cron pattern"),
            ("@reboot", "no cron pattern"),
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6,9,11 *", "never fires"),
            ("٠ * * * *", "ASCII"),
            (&too_long, "at most 256 bytes"),
        ] {
            let error = Cron::parse(pattern, Zone::utc()).expect_err(pattern);
            assert!(error.contains(told), "{pattern}: {error}");
        }
    }

    #[test]
    fn zones_by_name() {
        assert!(Zone::parse("Europe/Berln").unwrap_err().contains("did you mean \"Europe/Berlin\"?"));
        for wrong in ["", "Nowhere", "../../etc/passwd", "EST5EDT,M3.2.0,M11.1.0x", &"x".repeat(100_000)] {
            assert!(Zone::parse(wrong).is_err(), "{wrong:.40}");
        }
    }

    #[test]
    fn intervals_count_from_the_epoch() {
        let slots = |text: &str, after: &str| {
            let trigger = Trigger::Interval(Interval::parse(text).unwrap());
            let slots = trigger.slots(at(after), Timestamp(i64::MAX), 2);
            slots.iter().map(|slot| slot.to_rfc3339()).collect::<Vec<_>>().join(" ")
        };
        let from = "2026-01-01T00:00:00Z";
        assert_eq!(slots("1h30m", from), "2026-01-01T01:30:00.000Z 2026-01-01T03:00:00.000Z");
        assert_eq!(slots("1s", from), "2026-01-01T00:00:01.000Z 2026-01-01T00:00:02.000Z");
        assert_eq!(slots("1500ms", from), "2026-01-01T00:00:01.500Z 2026-01-01T00:00:03.000Z");
        assert_eq!(slots("10s", "1969-12-31T23:59:55Z"), "1970-01-01T00:00:00.000Z 1970-01-01T00:00:10.000Z");
        for wrong in ["0", "999ms", "5", "-5s", "", "200000d"] {
            assert!(Interval::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_is_an_end_to_time() {
        let interval = Trigger::Interval(Interval::parse("36500d").unwrap());
        assert_eq!(interval.next_after(Timestamp(i64::MAX)), None);
        assert_eq!(interval.next_after(at("9999-12-31T00:00:00Z")), None, "it cannot be written");
        let last = interval.last_slot(at("2026-01-01T00:00:00Z"), Timestamp(i64::MAX)).unwrap();
        assert!(last.to_rfc3339().starts_with("99"), "{last:?}");
        assert_eq!(interval.last_slot(Timestamp(i64::MIN), Timestamp(i64::MIN)), None);
        let daily = cron("@daily", "UTC");
        assert_eq!(daily.next_after(Timestamp(i64::MAX)), None);
        assert_eq!(daily.next_after(at("9999-12-31T23:00:00Z")), None);
        let once = Trigger::At(at("2026-01-01T00:00:00Z"));
        assert_eq!(once.next_after(at("2025-01-01T00:00:00Z")), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(once.next_after(at("2026-01-01T00:00:00Z")), None);
    }

    fn field(max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            1 => (1..6_u32).prop_map(|step| format!("*/{step}")),
            2 => (1..=max).prop_map(|n| n.to_string()),
            1 => (1..=max, 1..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        ]
    }

    fn pattern() -> impl Strategy<Value = String> {
        (field(59), field(23), field(28), field(12), field(6)).prop_map(
            |(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"),
        )
    }

    const PLACES: [&str; 7] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Africa/Casablanca",
        "Pacific/Apia",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Slots come one after another, each is found from any time before it, and the last is found
        /// without going through all.
        #[test]
        fn slots_are_the_same_from_wherever_they_are_looked_for(
            pattern in pattern(),
            zone in prop::sample::select(&PLACES[..]),
            after in 1_262_304_000_000_i64..1_893_456_000_000,
            within in 0..100_000_000_i64,
        ) {
            let trigger = cron(&pattern, zone);
            let slots = trigger.slots(Timestamp(after), Timestamp(i64::MAX), 12);
            prop_assert_eq!(slots.len(), 12, "{} ends", pattern);
            let mut before = Timestamp(after);
            for slot in &slots {
                prop_assert!(*slot > before, "{} in {}: {:?} after {:?}", pattern, zone, slot, before);
                let between = Timestamp(before.0 + within % (slot.0 - before.0));
                prop_assert_eq!(trigger.next_after(between), Some(*slot), "{} in {}", pattern, zone);
                before = *slot;
            }
            let until = Timestamp(before.0 + within);
            let all = trigger.slots(Timestamp(after), until, usize::MAX);
            prop_assert_eq!(trigger.last_slot(Timestamp(after), until), all.last().copied());
        }

        #[test]
        fn any_text_is_a_pattern_or_refused(text in "[0-9*/,LW#?@+A-Z -]{0,40}", time in any::<i64>()) {
            if let Ok(cron) = Cron::parse(&text, Zone::utc()) {
                let next = cron.next_after(Timestamp(time));
                prop_assert!(next.is_none_or(|next| next.0 > time));
            }
            let _ = Zone::parse(&text);
            let _ = Interval::parse(&text);
        }
    }
}

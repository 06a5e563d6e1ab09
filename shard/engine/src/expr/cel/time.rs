//! Timestamps and durations of CEL: texts, parts, fixed offsets. No clock, no time zone database.

use chrono::{DateTime, Datelike, FixedOffset, SecondsFormat, TimeDelta, Timelike, Utc};

use super::node::Part;

/// `2024-01-02T03:04:05Z`, with a fraction when there is one.
pub(super) fn format_timestamp(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// RFC 3339, with any offset.
pub(super) fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc))
}

/// Longest duration, in seconds either way: ten thousand years, as protocol buffers have it.
pub(super) const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// Whether a time is in the years 1 to 9999, which are all that RFC 3339 and CEL have.
pub(super) fn is_in_range(at: &DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

/// Seconds with a fraction when there is one: `90s`, `1.5s`, `-0.25s`.
pub(super) fn format_duration(span: TimeDelta) -> String {
    let sign = if span < TimeDelta::zero() { "-" } else { "" };
    let span = span.abs();
    let nanos = format!("{:09}", span.subsec_nanos());
    match nanos.trim_end_matches('0') {
        "" => format!("{sign}{}s", span.num_seconds()),
        fraction => format!("{sign}{}.{fraction}s", span.num_seconds()),
    }
}

/// Numbers with units, `1h30m`, `1.5s`, `-200ms`, of `h`, `m`, `s`, `ms`, `us`, `ns`; `0`.
pub(super) fn parse_duration(text: &str) -> Option<TimeDelta> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(TimeDelta::zero());
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let number = &rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len())];
        rest = &rest[number.len()..];
        let unit = &rest[..rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len())];
        rest = &rest[unit.len()..];
        let scale: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.len() > 18 {
            return None;
        }
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        nanos += digits(whole)? * scale;
        nanos += digits(fraction)? * scale / 10_i128.pow(fraction.len() as u32);
    }
    let nanos = nanos * sign;
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    TimeDelta::new(seconds, nanos.rem_euclid(1_000_000_000) as u32)
}

/// `UTC` or a fixed offset, `+02:00`, `-05:30`.
pub(super) fn parse_zone(text: &str) -> Option<FixedOffset> {
    if matches!(text, "UTC" | "Z" | "") {
        return FixedOffset::east_opt(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let digits = |text: &str| (text.len() == 2).then(|| text.parse::<i32>().ok()).flatten();
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if minutes >= 60 {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

/// A part of a timestamp; months, days of the month and of the year from 0 as CEL has them,
/// `getDate` from 1, days of the week from Sunday, 0.
pub(super) fn timestamp_part(at: DateTime<FixedOffset>, part: Part) -> i64 {
    match part {
        Part::FullYear => at.year().into(),
        Part::Month => at.month0().into(),
        Part::Date => at.day().into(),
        Part::DayOfMonth => at.day0().into(),
        Part::DayOfWeek => at.weekday().num_days_from_sunday().into(),
        Part::DayOfYear => at.ordinal0().into(),
        Part::Hours => at.hour().into(),
        Part::Minutes => at.minute().into(),
        Part::Seconds => at.second().into(),
        Part::Milliseconds => at.timestamp_subsec_millis().into(),
    }
}

/// A duration in whole hours, minutes or seconds, or the milliseconds of its last second.
pub(super) fn duration_part(span: TimeDelta, part: Part) -> Option<i64> {
    match part {
        Part::Hours => Some(span.num_hours()),
        Part::Minutes => Some(span.num_minutes()),
        Part::Seconds => Some(span.num_seconds()),
        Part::Milliseconds => Some(i64::from(span.subsec_millis())),
        Part::FullYear | Part::Month | Part::Date | Part::DayOfMonth | Part::DayOfWeek | Part::DayOfYear => {
            None
        }
    }
}

//! Durations as people write them: `500ms`, `30s`, `1.5h`, `1h30m`, largest units first or not.
//!
//! A bare number is not a duration: nobody can tell its unit.

/// Longest duration: a hundred years. Far under what milliseconds in a `u64` can hold.
pub const DURATION_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;

/// What a duration looks like, for messages.
pub(super) const FORM: &str = "a duration like \"500ms\", \"30s\", \"5m\" or \"1h30m\"";

/// Parses a duration into milliseconds, rounded to the nearest. The error says what is wrong.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("it is empty; {FORM} is expected"));
    }
    if rest == "0" {
        return Ok(0);
    }
    let mut total_ms = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let amount: f64 = rest[..digits].parse().map_err(|_| format!("{FORM} is expected"))?;
        rest = rest[digits..].trim_start();
        let letters = rest.chars().take_while(|c| c.is_alphabetic()).map(char::len_utf8).sum();
        total_ms += amount * unit_ms(&rest[..letters])?;
        rest = rest[letters..].trim_start();
    }
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    if total_ms <= DURATION_MS_MAX as f64 {
        Ok(total_ms.round() as u64)
    } else {
        Err("it is longer than a hundred years".into())
    }
}

fn unit_ms(unit: &str) -> Result<f64, String> {
    Ok(match unit {
        "ns" => 1e-6,
        "us" | "µs" | "μs" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3_600e3,
        "d" => 24.0 * 3_600e3,
        "" => return Err(format!("a number needs a unit (ms, s, m, h, d); {FORM} is expected")),
        other => {
            let shown: String = other.chars().take(20).collect();
            return Err(format!("{shown:?} is not a unit of time (ms, s, m, h, d)"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::parse_duration_ms;

    #[test]
    fn durations_as_people_write_them() {
        for (text, ms) in [
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("0", 0),
            ("0s", 0),
            ("2d", 172_800_000),
            ("1h 5s", 3_605_000),
            (".5s", 500),
            ("100us", 0),
            ("1500us", 2),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for text in
            ["", "5", "-5s", "s", "5x", "1..5s", "5m3", "∞", "5 parsecs", "999999d", "NaNs", "1e3s", "infs"]
        {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }
}

//! Reading query strings as strictly as bodies: unknown, repeated and unreadable parameters are
//! refused with 400, all at once.

use std::time::Duration;

use axum::extract;
use axum::http::Uri;
use opcode_engine::Problem;
use opcode_engine::ids::Timestamp;

use crate::error::ApiError;
use crate::wire::unknown;

/// Parameters of one request at most.
const PARAMETERS_MAX: usize = 100;

/// A reader of a query string: take every parameter that is known, then [`Query::finish`].
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Strong,
    Session,
    Eventual,
}

impl Query {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let extract::Query(pairs) = extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::malformed(Problem::at("", format!("unreadable query: {error}"))))?;
        if pairs.len() > PARAMETERS_MAX {
            let message = format!("more than {PARAMETERS_MAX} query parameters");
            return Err(ApiError::malformed(Problem::at("", message)));
        }
        Ok(Self { pairs, known: Vec::with_capacity(8), problems: Vec::new() })
    }

    pub(crate) fn problem(&mut self, name: &str, message: impl std::fmt::Display) {
        self.problems.push(Problem::at(format!("/{name}"), format!("query parameter `{name}`: {message}")));
    }

    /// A parameter that may be given once.
    pub(crate) fn one(&mut self, name: &'static str) -> Option<String> {
        let mut all = self.all(name);
        if all.len() > 1 {
            self.problem(name, "is given more than once");
        }
        all.pop()
    }

    /// A parameter that may be repeated.
    pub(crate) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        let text = self.one(name)?;
        match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                self.problem(name, format!("must be a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// The `limit` of a list: 1 to 1000, default 50.
    pub(crate) fn limit(&mut self) -> usize {
        self.number("limit", 1, 1000).map_or(50, |limit| usize::try_from(limit).expect("at most 1000"))
    }

    /// `10s`, `500ms`, `1m30s`.
    pub(crate) fn duration(&mut self, name: &'static str) -> Option<Duration> {
        let text = self.one(name)?;
        let read = parse_duration(&text);
        if read.is_none() {
            self.problem(name, "must be a duration such as `10s`, `500ms` or `1m30s`");
        }
        read
    }

    /// An RFC 3339 time.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        // A `+` that a client forgot to escape arrives as a space.
        let text = self.one(name)?.replace(' ', "+");
        Timestamp::parse_rfc3339(&text).map_err(|message| self.problem(name, message)).ok()
    }

    /// One of some words.
    pub(crate) fn word(&mut self, name: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.one(name)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.problem(name, unknown("value", &text, words));
        }
        found
    }

    /// `consistency`, strong unless said otherwise.
    pub(crate) fn consistency(&mut self) -> Consistency {
        match self.word("consistency", &["strong", "session", "eventual"]) {
            Some("session") => Consistency::Session,
            Some("eventual") => Consistency::Eventual,
            Some(_) | None => Consistency::Strong,
        }
    }

    /// Ends the reading: parameters never asked for are unknown.
    pub(crate) fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in &self.pairs {
            if !self.known.contains(&name.as_str()) {
                let message = if self.known.is_empty() {
                    format!("unknown query parameter `{name}`; this call takes none")
                } else {
                    unknown("query parameter", name, &self.known)
                };
                self.problems.push(Problem::at(format!("/{name}"), message));
            }
        }
        if self.problems.is_empty() {
            return Ok(());
        }
        let invalid = ApiError::invalid(opcode_engine::Code::ValidationError, self.problems);
        Err(invalid.with_status(axum::http::StatusCode::BAD_REQUEST))
    }
}

/// Numbers with units `ms`, `s`, `m`, `h`, largest first or not, added up.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut total_ms: u64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
    }
    Some(Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("10s"), Some(10_000));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("0s"), Some(0));
        for wrong in ["", "10", "s", "10 s", "-1s", "1d", "99999999999999999999s", "9999999999999999h", "1é"]
        {
            assert_eq!(ms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let uri: Uri = "/v1/workflows?limit=0&limt=3&since=x&consistency=strang".parse().expect("a uri");
        let mut query = Query::of(&uri).expect("a query");
        _ = query.limit();
        _ = query.time("since");
        _ = query.consistency();
        let error = query.finish().expect_err("refused");
        assert_eq!(error.status(), 400);
        let pointers: Vec<_> = error.problems().iter().map(|p| p.pointer.as_str()).collect();
        assert_eq!(pointers, ["/limit", "/since", "/consistency", "/limt"]);
    }
}

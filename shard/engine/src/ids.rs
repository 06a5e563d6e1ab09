//! Identifiers and quantities that could be swapped by mistake, each its own type.
//!
//! Nothing here generates an id or reads a clock: ids and times come in as data.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A workflow run's public id: `[A-Za-z0-9._:-]{1,128}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkflowId(Arc<str>);

impl Serialize for WorkflowId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WorkflowId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|_| serde::de::Error::custom("not a workflow id"))
    }
}

/// Longest workflow id, step id and name in bytes.
pub const ID_BYTES_MAX: usize = 128;

impl WorkflowId {
    /// Parses an id from outside; the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > ID_BYTES_MAX || !text.bytes().all(ok) {
            return Err("a workflow id is 1 to 128 characters of A-Z a-z 0-9 . _ : -".into());
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkflowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run's integer number within its shard, from 1; events and rows carry it instead of the
/// text id, which keeps them small and sorted by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunNo(pub u64);

/// An event's place in its run's log, from 1 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One shard of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId(pub u32);

impl ShardId {
    /// The shard of templates and other things that belong to no workflow.
    pub const SYSTEM: Self = Self(u32::MAX);
    /// The membership group: a log without runs.
    pub const MEMBERSHIP: Self = Self(u32::MAX - 1);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::SYSTEM { f.write_str("system") } else { write!(f, "{}", self.0) }
    }
}

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This time and `duration_ms` more, saturating.
    pub fn plus_ms(self, duration_ms: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration_ms).unwrap_or(i64::MAX)))
    }

    /// Milliseconds from `earlier` to this time, 0 when it lies ahead.
    pub fn since_ms(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// RFC 3339 in UTC with milliseconds, the form of every time in the API.
    pub fn to_rfc3339(self) -> String {
        chrono::DateTime::from_timestamp_millis(self.0)
            .unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC)
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    }

    /// Parses RFC 3339. An offset may move a time out of the years 0 to 9999, which are all that
    /// RFC 3339 can write: such a time is refused, or it would not be read back.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        let time = chrono::DateTime::parse_from_rfc3339(text)
            .map_err(|e| format!("not an RFC 3339 time: {e}"))?
            .to_utc();
        match chrono::Datelike::year(&time) {
            0..=9999 => Ok(Self(time.timestamp_millis())),
            _ => Err("not an RFC 3339 time: in UTC it is not in the years 0 to 9999".into()),
        }
    }
}

/// SHA-256 of a definition's canonical JSON: what pins a run to the text it was started with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DefinitionHash(pub [u8; 32]);

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn every_time_that_is_read_is_read_back() {
        let texts = ["2026-01-02T03:04:05.678Z", "9999-12-31T23:59:59+00:00", "0000-01-01T00:00:00Z"];
        for text in texts {
            let time = Timestamp::parse_rfc3339(text).unwrap();
            assert_eq!(Timestamp::parse_rfc3339(&time.to_rfc3339()), Ok(time), "{text}");
        }
        for text in ["9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"] {
            assert!(Timestamp::parse_rfc3339(text).unwrap_err().contains("years 0 to 9999"), "{text}");
        }
    }
}

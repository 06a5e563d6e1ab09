//! Identifiers and quantities that could be swapped by mistake, each its own type.
//!
//! Nothing here generates an id or reads a clock: ids and times come in as data.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::namespace::{self, Namespace, SEPARATOR};

/// A workflow run's id: `[A-Za-z0-9._:-]{1,128}` as clients know it, with the run's namespace and a `/`
/// before it when that is another than `default`.
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
        Self::parse_kept(&text).map_err(|_| serde::de::Error::custom("not a workflow id"))
    }
}

/// Longest workflow id, step id and name in bytes.
pub const ID_BYTES_MAX: usize = 128;

impl WorkflowId {
    /// Parses an id from outside, which is one of `default` until it is put elsewhere
    /// ([`WorkflowId::in_namespace`]); the error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > ID_BYTES_MAX || !text.bytes().all(ok) {
            return Err("a workflow id is 1 to 128 characters of A-Z a-z 0-9 . _ : -".into());
        }
        Ok(Self(text.into()))
    }

    /// Parses an id as it is kept and travels between nodes: with its namespace.
    pub fn parse_kept(text: &str) -> Result<Self, String> {
        let Some((namespace, id)) = text.split_once(SEPARATOR) else { return Self::parse(text) };
        let namespace = Namespace::parse(namespace)?;
        if namespace.is_default() {
            return Err("a workflow id of the namespace `default` does not name it".into());
        }
        Ok(Self::parse(id)?.in_namespace(&namespace))
    }

    /// The run that a namespace calls by this id, which names none yet.
    pub fn in_namespace(self, namespace: &Namespace) -> Self {
        if namespace.is_default() {
            return self;
        }
        Self(namespace.qualify(&*self.0).expect("an id that is in no namespace yet").into())
    }

    /// The run's namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace::of(&self.0)
    }

    /// What the run's namespace calls it: the id that clients know.
    pub fn local(&self) -> &str {
        namespace::local(&self.0)
    }

    /// The id as it is kept, with its namespace.
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
    use super::{Timestamp, WorkflowId};
    use crate::namespace::Namespace;

    #[test]
    fn an_id_is_in_one_namespace() {
        let id = WorkflowId::parse("a:1").unwrap();
        let team = Namespace::parse("team").unwrap();
        let kept = id.clone().in_namespace(&team);
        assert_eq!((kept.as_str(), kept.local(), kept.namespace()), ("team/a:1", "a:1", team));
        assert_eq!((id.as_str(), id.local(), id.namespace()), ("a:1", "a:1", Namespace::default()));
        assert_eq!(id.clone().in_namespace(&Namespace::default()), id);
        for id in [id, kept] {
            assert_eq!(WorkflowId::parse_kept(id.as_str()), Ok(id.clone()));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<WorkflowId>(&json).unwrap(), id);
        }
        assert!(WorkflowId::parse("team/a").is_err(), "from outside none is named");
        for wrong in ["default/a", "/a", "team/", "team/a/b", "Team/a", "../a", ""] {
            assert!(WorkflowId::parse_kept(wrong).is_err(), "{wrong}");
        }
    }

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

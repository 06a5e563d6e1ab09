//! One call in the audit log: as the layer saw it, and as it is written and shown.
//!
//! What a request says of itself is cut, and is JSON text wherever it goes: a path of any length or
//! with line ends in it makes one short line like any other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Uri};
use opcode_engine::ids::{Timestamp, WorkflowId};
use opcode_engine::namespace::Namespace;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::access::tokens::{PREFIX, parts};
use crate::incoming::percent_decoded;

/// Longest path that is kept, in bytes; what is longer is cut.
const PATH_BYTES_MAX: usize = 512;
/// Longest method.
const METHOD_BYTES_MAX: usize = 32;

/// What those who answer a call find out about it.
#[derive(Debug, Default)]
pub struct Noted(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    token_id: Option<Arc<str>>,
    token_name: Option<Arc<str>>,
    agent: Agent,
    items: Option<usize>,
    namespace: Namespace,
}

/// For whom a call was made.
#[derive(Debug, Default)]
enum Agent {
    #[default]
    Nobody,
    One(Arc<str>),
    /// A batch may be for many.
    Several,
}

impl Noted {
    pub(crate) fn token(&self, id: Option<Arc<str>>, name: Option<Arc<str>>) {
        let mut found = self.0.lock();
        (found.token_id, found.token_name) = (id, name);
    }

    pub(crate) fn agent(&self, agent_id: &Arc<str>) {
        let mut found = self.0.lock();
        match &found.agent {
            Agent::Nobody => found.agent = Agent::One(Arc::clone(agent_id)),
            Agent::One(other) if other != agent_id => found.agent = Agent::Several,
            Agent::One(_) | Agent::Several => {}
        }
    }

    pub(crate) fn namespace(&self, namespace: &Namespace) {
        self.0.lock().namespace = namespace.clone();
    }

    pub(crate) fn items(&self, items: usize) {
        self.0.lock().items = Some(items);
    }
}

/// A call as the layer saw it: cheap to make, and put into words by whoever writes it.
#[derive(Debug)]
pub struct Call {
    /// When it was answered.
    pub(crate) at: Timestamp,
    pub(crate) trace_id: String,
    method: Method,
    uri: Uri,
    /// None when its caller was gone before it had an answer.
    pub(crate) status: Option<u16>,
    /// Where what it made is.
    pub(crate) location: Option<HeaderValue>,
    remote: Option<SocketAddr>,
    pub(crate) duration: Duration,
    noted: Arc<Noted>,
}

impl Call {
    pub(crate) fn new(
        trace_id: String,
        method: Method,
        uri: Uri,
        remote: Option<SocketAddr>,
        noted: Arc<Noted>,
    ) -> Self {
        let (at, duration) = (Timestamp(0), Duration::ZERO);
        Self { at, trace_id, method, uri, status: None, location: None, remote, duration, noted }
    }

    /// A call without an answer, as tests and fuzz targets make it; none when no such call can come.
    pub fn made(at: Timestamp, method: &str, uri: &str) -> Option<Self> {
        let (method, uri) = (method.parse().ok()?, uri.parse().ok()?);
        Some(Self { at, ..Self::new(String::new(), method, uri, None, Arc::default()) })
    }

    /// Puts it into words, as the entry of this number on this node.
    pub fn into_entry(self, seq: u64, node_id: &str) -> Entry {
        let workflow_id = self.workflow_id();
        let found = std::mem::take(&mut *self.noted.0.lock());
        let text = |text: Arc<str>| text.as_ref().to_owned();
        Entry {
            seq,
            at: self.at,
            node_id: node_id.to_owned(),
            trace_id: self.trace_id,
            method: cut(self.method.as_str(), METHOD_BYTES_MAX),
            path: masked(self.uri.path()),
            status: self.status,
            token_id: found.token_id.map(text),
            token_name: found.token_name.map(text),
            agent_id: match found.agent {
                Agent::One(agent_id) => Some(text(agent_id)),
                Agent::Nobody | Agent::Several => None,
            },
            remote_addr: self.remote.map(|addr| addr.to_string()),
            namespace: Some(found.namespace.to_string()).filter(|_| !found.namespace.is_default()),
            workflow_id,
            items: found.items,
            duration_ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            not_recorded: None,
        }
    }

    /// The run that it was about, or that it made.
    fn workflow_id(&self) -> Option<String> {
        let location = self.location.as_ref().and_then(|location| location.to_str().ok());
        let path = self.uri.path();
        let is_one = path != "/v1/workflows/batch" && path != "/v1/workflows/bulk";
        let rest = location
            .and_then(|location| location.strip_prefix("/v1/workflows/"))
            .or_else(|| path.strip_prefix("/v1/workflows/").filter(|_| is_one))?;
        let id = percent_decoded(rest.split('/').next().unwrap_or_default())?;
        (WorkflowId::parse(&id).is_ok() && masked(&id) == id).then_some(id)
    }
}

/// How many calls an entry stands for that have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRecorded {
    /// Refused: too many of them came.
    pub refused: u64,
    /// More than could be written, or the disk took none.
    pub lost: u64,
}

/// A call as it is written and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number on its node, from 1.
    pub seq: u64,
    /// When it was answered.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// The node that answered.
    pub node_id: String,
    /// As in the answer's problem document, and in the node's log.
    pub trace_id: String,
    /// Its method; empty where the entry is no call's.
    pub method: String,
    /// Its path as it came, percent-encoded, without the query.
    pub path: String,
    /// The answer's; none when the caller was gone before: what it asked for may have been done.
    pub status: Option<u16>,
    /// The token of the cluster that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// What it is called, or one of the node's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
    /// For whom it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The other end of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_addr: Option<String>,
    /// Where it was made, when that was another namespace than `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The run that it was about, or that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Of a batch, how many submissions it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
    /// How long the answer took.
    pub duration_ms: u64,
    /// Calls since the entry before that have none of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_recorded: Option<NotRecorded>,
}

impl Entry {
    /// An entry that stands for calls that have none.
    pub fn of_missing(seq: u64, node_id: &str, at: Timestamp, not_recorded: NotRecorded) -> Self {
        let call = Call::new(String::new(), Method::GET, Uri::default(), None, Arc::default());
        let entry = Call { at, ..call }.into_entry(seq, node_id);
        Self { method: String::new(), path: String::new(), not_recorded: Some(not_recorded), ..entry }
    }

    /// One line, with its end.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("an entry is JSON");
        out.push(b'\n');
    }

    /// Reads a line without its end; none when it is damaged.
    pub fn read_line(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    match text.len() <= bytes_max {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(bytes_max)]),
    }
}

/// A path, cut, without the secrets of tokens that somebody has put into it.
fn masked(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find(PREFIX) {
        let end = match parts(&rest[at..]) {
            Some((_, secret)) => rest.len() - secret.len(),
            None => at + PREFIX.len(),
        };
        out.push_str(&rest[..end]);
        rest = &rest[end..];
        if end > at + PREFIX.len() {
            out.push('…');
            rest = &rest[rest.find('/').unwrap_or(rest.len())..];
        }
    }
    out.push_str(rest);
    cut(&out, PATH_BYTES_MAX)
}

/// Times as the API has them.
mod rfc3339 {
    use opcode_engine::ids::Timestamp;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.to_rfc3339())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Timestamp::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, location: Option<&'static str>) -> Entry {
        let mut call = Call::made(Timestamp(1_700_000_000_123), "POST", path).unwrap();
        call.location = location.map(HeaderValue::from_static);
        call.into_entry(7, "2")
    }

    #[test]
    fn an_entry_is_one_line_and_is_read_back() {
        for path in ["/v1/workflows/a%0Ab/cancel?token=x", "/v1/x%22%0d%0a", "/"] {
            let entry = entry(path, None);
            let mut line = Vec::new();
            entry.write_line(&mut line);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Entry::read_line(&line[..line.len() - 1]), Some(entry));
            assert!(!String::from_utf8(line).unwrap().contains("token=x"), "no query is kept");
        }
        let long = entry(&format!("/{}", "a".repeat(10_000)), None);
        assert!(long.path.len() < 600, "{}", long.path.len());
    }

    #[test]
    fn the_run_that_it_is_about() {
        for (path, location, id) in [
            ("/v1/workflows", Some("/v1/workflows/order:1"), Some("order:1")),
            ("/v1/workflows/w/signals", None, Some("w")),
            ("/v1/workflows/a%3Ab/cancel", None, Some("a:b")),
            ("/v1/workflows/a%0Ab/cancel", None, None),
            ("/v1/workflows/batch", None, None),
            ("/v1/workflows/bulk", None, None),
            ("/v1/templates", Some("/v1/templates/t"), None),
        ] {
            assert_eq!(entry(path, location).workflow_id.as_deref(), id, "{path}");
        }
    }

    #[test]
    fn the_secret_of_a_token_in_a_path_is_not_kept() {
        let token = "opc_0123456789abcdef_SECRET";
        for path in [format!("/v1/tokens/{token}"), format!("/a/{token}/b/{token}")] {
            let kept = entry(&path, None).path;
            assert!(!kept.contains("SECRET") && kept.contains("opc_0123456789abcdef_…"), "{kept}");
        }
        assert_eq!(entry(&format!("/v1/workflows/{token}"), None).workflow_id, None);
        assert_eq!(entry("/opc_/opc_short/x", None).path, "/opc_/opc_short/x");
    }

    #[test]
    fn a_batch_for_several_agents_is_for_none() {
        let noted = Noted::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        noted.agent(&a);
        noted.agent(&a);
        assert!(matches!(&noted.0.lock().agent, Agent::One(agent) if *agent == a));
        noted.agent(&b);
        assert!(matches!(noted.0.lock().agent, Agent::Several));
    }
}

//! Agents: who has been in contact, and when last.
//!
//! A call says which agent it is made for: by its token, when that is an agent's; by the `agent_id` of
//! its body; or by a header, which the tools of MCP send. From the first call that is taken on, an
//! agent is there; whose name it is, only a token shows. A
//! contact costs no write: each node notes it in memory, and one task puts what it has noted into the
//! catalogue, at most once a minute for each agent. So a list may lie a minute behind for contacts
//! with other nodes, and a node that dies takes up to a minute of last contacts with it; that an agent
//! was there at all is written at once. Nothing of a workflow rests on any of this. An agent is known in
//! each namespace in which it was in contact, and only there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use opcode_engine::Problem;
use opcode_engine::ids::{ID_BYTES_MAX, Timestamp};
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::catalogue::{CatalogueEntry, Changed, ENTRIES_MAX, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::access::Caller;
use crate::error::ApiError;
use crate::incoming::{Incoming, percent_decoded};
use crate::state::RouterState;

/// The header that names the agent a call is made for, percent-encoded.
pub(crate) const AGENT: &str = "opcode-agent";
/// Least time between two writes of one agent, in ms.
const WRITE_EVERY_MS: u64 = 60_000;
/// Pause before a write that failed is tried again, in ms.
const RETRY_MS: u64 = 5_000;
/// How often what was noted is looked through.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Writes under way at a time.
const WRITES_MAX: usize = 16;
/// How often a write is tried that others cut in on.
const TRIES_MAX: usize = 5;
/// Longest name of a client, in bytes; what is longer is cut.
pub(crate) const CLIENT_BYTES_MAX: usize = 128;

/// An agent's contacts, as the catalogue keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) first_seen: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// What it spoke with last, by its `User-Agent` or by what MCP's client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<Arc<str>>,
}

impl Contact {
    /// What an entry of the catalogue says; none when that cannot be read.
    pub(crate) fn of(entry: &CatalogueEntry) -> Option<Self> {
        let read = serde_json::from_str(entry.body.as_deref()?);
        read.inspect_err(|error| tracing::error!(agent = %entry.key, %error, "a kept agent is damaged")).ok()
    }

    /// Both together: the earlier first, the later last.
    pub(crate) fn and(self, other: Self) -> Self {
        let (older, newer) = if self.last_seen <= other.last_seen { (self, other) } else { (other, self) };
        Self {
            first_seen: older.first_seen.min(newer.first_seen),
            last_seen: newer.last_seen,
            client: newer.client.or(older.client),
        }
    }

    fn body(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a contact is JSON").into()
    }
}

/// What this node has noted.
#[derive(Default)]
pub(crate) struct Agents {
    noted: Mutex<BTreeMap<Arc<str>, Noted>>,
    news: Notify,
    clock: Clock,
}

struct Noted {
    contact: Contact,
    /// The entry's revision, as far as it is known.
    revision: Option<u64>,
    /// When it may be written; none when it is as it was written.
    write_at: Option<Timestamp>,
    /// From when on it may be written again.
    next_write: Timestamp,
}

impl Agents {
    /// Notes a contact by a call that was taken. A name that cannot be one counts for nothing.
    pub(crate) fn seen(&self, agent_id: Option<&str>, by: &Incoming) {
        if let Some(agent_id) = agent_id.filter(|name| is_name(name)) {
            self.note(&key(by.caller.namespace(), agent_id), client(&by.headers), self.clock.now());
        }
    }

    fn note(&self, agent_id: &str, client: Option<&str>, now: Timestamp) {
        let contact = Contact { first_seen: now, last_seen: now, client: client.map(Arc::from) };
        let mut noted = self.noted.lock();
        if let Some(known) = noted.get_mut(agent_id) {
            known.contact = known.contact.clone().and(contact);
            known.write_at = Some(known.next_write);
            return;
        }
        if noted.len() >= ENTRIES_MAX {
            // What is written can be forgotten here; there is no room for more than the catalogue has.
            noted.retain(|_, known| known.write_at.is_some());
        }
        if noted.len() < ENTRIES_MAX {
            let new = Noted { contact, revision: None, write_at: Some(now), next_write: now };
            noted.insert(agent_id.into(), new);
            self.news.notify_one();
        }
    }

    /// Those with keys after `after`, up to and with `upto`.
    pub(crate) fn between(&self, after: Option<&str>, upto: Option<&str>) -> Vec<(Arc<str>, Contact)> {
        if let (Some(after), Some(upto)) = (after, upto)
            && after >= upto
        {
            return Vec::new();
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = upto.map_or(Bound::Unbounded, Bound::Included);
        let noted = self.noted.lock();
        noted.range::<str, _>((from, to)).map(|(id, known)| (id.clone(), known.contact.clone())).collect()
    }

    /// Those that are to be written now, which count as written from here on.
    fn take_due(&self, now: Timestamp) -> Vec<(Arc<str>, Contact, Option<u64>)> {
        let mut due = Vec::new();
        for (id, known) in self.noted.lock().iter_mut() {
            if known.write_at.is_some_and(|at| at <= now) {
                known.write_at = None;
                known.next_write = now.plus_ms(WRITE_EVERY_MS);
                due.push((id.clone(), known.contact.clone(), known.revision));
            }
        }
        due
    }

    /// Takes note of what came of a write.
    fn written(&self, agent_id: &str, outcome: Result<(u64, Contact), CallError>, now: Timestamp) {
        let mut noted = self.noted.lock();
        let Some(known) = noted.get_mut(agent_id) else { return };
        match outcome {
            Ok((revision, contact)) => {
                known.revision = Some(revision);
                known.contact = known.contact.clone().and(contact);
            }
            Err(CallError::Rejected(rejected)) => {
                tracing::warn!(agent = agent_id, why = rejected.message, "an agent is not kept");
                known.write_at = Some(known.next_write);
            }
            Err(error) => {
                tracing::debug!(agent = agent_id, %error, "an agent is written later");
                known.next_write = now.plus_ms(RETRY_MS);
                known.write_at = Some(known.next_write);
            }
        }
    }

    async fn write_due(&self, state: &RouterState) {
        let writes = self.take_due(self.clock.now()).into_iter().map(|(id, contact, revision)| async move {
            let outcome = write(state, &id, contact, revision).await;
            self.written(&id, outcome, self.clock.now());
        });
        futures::stream::iter(writes).buffer_unordered(WRITES_MAX).collect::<()>().await;
    }
}

/// Writes a contact over what others have written of the same agent: the entry's revision and what
/// stands there now.
async fn write(
    state: &RouterState,
    agent_id: &Arc<str>,
    mut contact: Contact,
    mut revision: Option<u64>,
) -> Result<(u64, Contact), CallError> {
    for _ in 0..TRIES_MAX {
        let change = EntryChange {
            kind: EntryKind::Agent,
            key: agent_id.clone(),
            after: revision,
            body: Some(contact.body()),
        };
        let there = match state.system().change_entry(change).await?.value {
            Changed::Made(entry) | Changed::Already(Some(entry)) => return Ok((entry.revision, contact)),
            Changed::Stale(there) => there,
            Changed::Already(None) => None,
        };
        revision = there.as_ref().map(|entry| entry.revision);
        if let Some(before) = there.as_ref().and_then(Contact::of) {
            contact = contact.and(before);
        }
    }
    let message = "others write it all the time".to_owned();
    Err(CallError::Unavailable { applied_unknown: false, message })
}

/// Writes what this node notes of agents, until it stops.
pub async fn run_agents(state: RouterState) {
    let writing = async {
        loop {
            tokio::select! {
                () = state.agents().news.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            state.agents().write_due(&state).await;
        }
    };
    tokio::select! {
        () = writing => {}
        () = state.stopping() => {}
    }
}

/// The layer: a call by an agent's token, or with the header, is a contact when it is taken.
pub(crate) async fn note(State(state): State<RouterState>, request: Request, next: Next) -> Response {
    let agent_id = match speaks_for(&request) {
        Ok(Some(agent_id)) => agent_id,
        Ok(None) => return next.run(request).await,
        Err(error) => return error.into_response(),
    };
    let namespace = request.extensions().get::<Caller>().map(|caller| caller.namespace().clone());
    let from = client(request.headers()).map(str::to_owned);
    let response = next.run(request).await;
    if response.status().is_success() {
        let agents = state.agents();
        agents.note(&key(&namespace.unwrap_or_default(), &agent_id), from.as_deref(), agents.clock.now());
    }
    response
}

/// The agent that a request's token is of, or that its header names; another's is refused.
fn speaks_for(request: &Request) -> Result<Option<Arc<str>>, ApiError> {
    let named = match request.headers().get(AGENT) {
        Some(value) => {
            let name = value.to_str().ok().and_then(percent_decoded).filter(|name| is_name(name));
            let what = "the header Opcode-Agent must be 1 to 128 bytes, percent-encoded, without control \
                        characters";
            Some(name.ok_or_else(|| ApiError::malformed(Problem::at("", what)))?.into())
        }
        None => None,
    };
    // Who need not say who he is (`/healthz`) is in no contact that counts.
    request.extensions().get::<Caller>().map_or(Ok(None), |caller| caller.speaks_for(named))
}

/// What stands between a namespace and an agent's name, which may have anything in it but a character
/// such as this.
const SEPARATOR: char = '\t';

/// The key of an agent's entry: its name, in `default`.
fn key<'n>(namespace: &Namespace, agent_id: &'n str) -> Cow<'n, str> {
    match namespace.is_default() {
        true => agent_id.into(),
        false => format!("{namespace}{SEPARATOR}{agent_id}").into(),
    }
}

/// The name of an agent with this key; none when it is of another namespace.
pub(crate) fn name_in<'k>(namespace: &Namespace, key: &'k str) -> Option<&'k str> {
    match key.split_once(SEPARATOR) {
        None => namespace.is_default().then_some(key),
        Some((of, name)) => (of == namespace.as_str()).then_some(name),
    }
}

/// Whether an agent may have this name.
pub(crate) fn is_name(agent_id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&agent_id.len()) && !agent_id.chars().any(char::is_control)
}

/// What a caller calls itself.
fn client(headers: &HeaderMap) -> Option<&str> {
    // Visible ASCII, so that it can be cut anywhere.
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(&text[..text.len().min(CLIENT_BYTES_MAX)]).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(due: &[(Arc<str>, Contact, Option<u64>)]) -> Vec<&str> {
        due.iter().map(|(id, ..)| &**id).collect()
    }

    #[test]
    fn one_is_written_at_once_and_then_at_most_once_a_minute() {
        let agents = Agents::default();
        agents.note("bot", Some("curl"), Timestamp(1_000));
        assert_eq!(keys(&agents.take_due(Timestamp(1_000))), ["bot"]);
        agents.note("bot", None, Timestamp(2_000));
        assert!(agents.take_due(Timestamp(60_999)).is_empty());
        let due = agents.take_due(Timestamp(61_000));
        let kept = Contact {
            first_seen: Timestamp(1_000),
            last_seen: Timestamp(2_000),
            client: Some("curl".into()),
        };
        assert_eq!(due, [("bot".into(), kept, None)]);
        assert!(agents.take_due(Timestamp(999_000)).is_empty(), "nothing is new");
    }

    #[test]
    fn what_failed_is_written_soon_and_what_others_wrote_counts() {
        let agents = Agents::default();
        agents.note("bot", None, Timestamp(5_000));
        agents.take_due(Timestamp(5_000));
        let message = "no leader".to_owned();
        let failed = CallError::Unavailable { applied_unknown: true, message };
        agents.written("bot", Err(failed), Timestamp(6_000));
        assert!(agents.take_due(Timestamp(10_999)).is_empty());
        assert_eq!(agents.take_due(Timestamp(11_000)).len(), 1);
        let earlier = Contact { first_seen: Timestamp(7), last_seen: Timestamp(8), client: None };
        agents.written("bot", Ok((3, earlier)), Timestamp(11_001));
        let (_, contact) = agents.between(None, None).pop().expect("it is noted");
        assert_eq!((contact.first_seen, contact.last_seen), (Timestamp(7), Timestamp(5_000)));
    }

    #[test]
    fn an_agent_is_one_of_its_namespace() {
        let (default, team) = (Namespace::default(), Namespace::parse("team").expect("a name"));
        for name in ["bot", "team/bot", "a b"] {
            assert_eq!((name_in(&default, name), name_in(&team, name)), (Some(name), None));
            let key = key(&team, name);
            assert_eq!((name_in(&default, &key), name_in(&team, &key)), (None, Some(name)));
        }
        assert!(!is_name("team\tbot"), "nobody can call himself that");
    }

    #[test]
    fn there_is_room_for_so_many_and_for_none_that_is_written() {
        let agents = Agents::default();
        for n in 0..ENTRIES_MAX {
            agents.note(&format!("a{n}"), None, Timestamp(0));
        }
        agents.note("more", None, Timestamp(0));
        assert!(agents.between(Some("m"), None).is_empty());
        agents.take_due(Timestamp(0));
        agents.note("more", None, Timestamp(1));
        assert_eq!(agents.between(Some("m"), None).len(), 1);
        assert!(agents.between(Some("z"), Some("b")).is_empty());
    }
}

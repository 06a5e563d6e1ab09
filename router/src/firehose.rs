//! The firehose: every event of a namespace's runs from now on, or those of one type, on any node. Each shard is followed by its
//! place in the shard's log, in the replica of this node or in whichever can be reached, so that a
//! leader may change, and a replica move, without an event missed or shown twice.
//!
//! What cannot be shown is told: a shard that nobody answers for, and entries that the log let go
//! before a slow reader took them. The firehose itself has no place to resume from.

use std::collections::HashMap;
use std::time::Duration;

use axum::response::Response;
use opcode_engine::event::EventType;
use opcode_engine::ids::{RunNo, ShardId, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::batch::Position;
use opcode_shard::record::EventRecord;
use opcode_shard::remote::Tail;
use tokio::time::Interval;

use crate::access::Caller;
use crate::error::ApiError;
use crate::event_stream::{Chunks, EventDocument, beat, beats, document, open, run_until, write_event};
use crate::forward::ShardClient;
use crate::state::RouterState;

/// Longest wait for something to be committed, before the shard is asked again.
const WAIT: Duration = Duration::from_secs(2);
/// Longest wait for a shard to say where its log stands, before the stream begins.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// How soon a shard is asked again that nobody answered for.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Run ids that are remembered for one shard.
const NAMES_MAX: usize = 10_000;

/// Every event of every workflow of the caller's namespace from now on; those of one type, if one is named.
/// The node itself, which is no caller, is shown all namespaces', with ids as they are kept.
pub(crate) async fn firehose(
    state: &RouterState,
    only: Option<EventType>,
    caller: Option<&Caller>,
) -> Result<Response, ApiError> {
    let audience = Audience {
        only,
        namespace: caller.map(|caller| caller.namespace().clone()),
        is_confined: caller.is_some_and(|caller| caller.confined_to().is_some()),
    };
    let place = state.enter_stream()?;
    let begun = state.shards().into_iter().map(|shard| Pour::begin(shard, audience.clone()));
    let pours = futures::future::join_all(begun).await;
    let (response, chunks) = open();
    let pours: Vec<_> = pours.into_iter().map(|pour| pour.run(chunks.clone())).collect();
    let beats = beats(state);
    let work = async move {
        tokio::select! {
            _ = futures::future::join_all(pours) => {}
            () = keep_alive(chunks, beats) => {}
        }
    };
    tokio::spawn(run_until(work, state.stopping(), place));
    Ok(response)
}

/// Says now and then that the stream lives; ends when its reader is gone.
async fn keep_alive(chunks: Chunks, mut beats: Interval) {
    loop {
        tokio::select! {
            () = chunks.closed() => return,
            _ = beats.tick() => if !beat(&chunks).await { return },
        }
    }
}

/// What is shown.
#[derive(Clone)]
struct Audience {
    /// The type of event that is shown; any, without it.
    only: Option<EventType>,
    /// Whose runs' events; everybody's, without it.
    namespace: Option<Namespace>,
    /// Nothing is shown of which it is not known whose it is.
    is_confined: bool,
}

impl Audience {
    /// What an event is shown as, if it is.
    fn shown<'e>(
        &self,
        record: &'e EventRecord,
        run: Option<&'e WorkflowId>,
        shard: ShardId,
    ) -> Option<EventDocument<'e>> {
        let shard = Some(shard.0);
        let document = |namespace: &Namespace| document(record, namespace);
        let everybody = Namespace::default();
        let (workflow_id, document) = match (&self.namespace, run) {
            (None, run) => (run.map(WorkflowId::as_str), document(&everybody)),
            (Some(own), Some(run)) if own.owns(run.as_str()) => (Some(run.local()), document(own)),
            (Some(own), None) if own.is_default() && !self.is_confined => (None, document(own)),
            (Some(_), _) => return None,
        };
        Some(EventDocument { workflow_id, shard, ..document })
    }
}

/// One shard's part of the firehose.
struct Pour {
    shard: ShardClient,
    audience: Audience,
    /// The last entry of its log that was shown; none before the first answer.
    after: Option<u64>,
    names: RunNames,
    is_reachable: bool,
}

impl Pour {
    /// Finds where the shard's log stands: the caller sees what comes after its request was taken.
    /// A shard that does not answer soon is poured from when it does.
    async fn begin(shard: ShardClient, audience: Audience) -> Self {
        let standing = tokio::time::timeout(BEGIN_MAX, shard.tail(None, Duration::ZERO)).await;
        let after = standing.ok().and_then(Result::ok).map(|tail| tail.upto.index);
        Self { shard, audience, after, names: RunNames::default(), is_reachable: true }
    }

    /// Pours until the reader is gone.
    async fn run(mut self, chunks: Chunks) {
        loop {
            let text = match self.shard.tail(self.after, WAIT).await {
                Ok(tail) => self.show(tail).await,
                Err(error) => {
                    let is_news = std::mem::replace(&mut self.is_reachable, false);
                    let text = is_news.then(|| self.notice("unreachable", &error.to_string()));
                    tokio::time::sleep(RETRY_EVERY).await;
                    text.unwrap_or_default()
                }
            };
            if !text.is_empty() && chunks.send(Ok(text.into())).await.is_err() {
                return;
            }
        }
    }

    /// A word on the shard itself.
    fn notice(&self, event: &str, detail: &str) -> Vec<u8> {
        let data = serde_json::json!({ "shard": self.shard.id().0, "detail": detail });
        format!("event: {event}\ndata: {data}\n\n").into_bytes()
    }

    async fn show(&mut self, tail: Tail) -> Vec<u8> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.is_reachable, true) {
            out.extend_from_slice(&self.notice("reachable", "the shard answers again"));
        }
        if tail.lagged {
            out.extend_from_slice(&self.notice("lagged", "events are missing here: the log let them go"));
        }
        let only = self.audience.only;
        let is_wanted = |record: &&EventRecord| only.is_none_or(|only| record.event_type == only);
        for record in tail.events.iter().filter(is_wanted) {
            let name = self.names.of(&self.shard, record, tail.upto).await.unwrap_or_else(|error| {
                tracing::warn!(run = record.no.0, %error, "the id of a run in the firehose is not known");
                None
            });
            if let Some(shown) = self.audience.shown(record, name.as_ref(), self.shard.id()) {
                write_event(&mut out, &shown, false);
            }
        }
        self.after = Some(tail.upto.index);
        out
    }
}

/// Ids of runs by number, as far as they were seen lately.
#[derive(Default)]
struct RunNames {
    ids: HashMap<RunNo, WorkflowId>,
}

impl RunNames {
    /// The id of a record's run, which stands in the log up to `at`.
    async fn of(
        &mut self,
        shard: &ShardClient,
        record: &EventRecord,
        at: Position,
    ) -> Result<Option<WorkflowId>, CallError> {
        if let Some(id) = self.ids.get(&record.no) {
            return Ok(Some(id.clone()));
        }
        let id = match record.started_run() {
            Some(id) => Some(id),
            None => shard.run_id(record.no, at).await?,
        };
        if let Some(id) = &id {
            if self.ids.len() >= NAMES_MAX {
                // Runs that still move are looked up again.
                self.ids.clear();
            }
            self.ids.insert(record.no, id.clone());
        }
        Ok(id)
    }
}

//! Event streams (`text/event-stream`): a run's log from any sequence and then live.
//!
//! Only committed events are shown. A reader that is too slow falls back to reading the log; it
//! never slows the shard down, and never misses an event of the run it follows.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use opcode_engine::event::EventType;
use opcode_engine::ids::{RunNo, Sequence, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::batch::{Batch, Committed, Position};
use opcode_shard::record::{EventRecord, Record};
use opcode_shard::remote::Freshness;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;

use crate::error::ApiError;
use crate::forward::{Seen, ShardClient};
use crate::namespace::event_data;
use crate::state::RouterState;

/// Events read from the log at a time; each may have data of 1 MiB.
const PAGE: usize = 100;
/// Bytes of data after which an answer or a chunk holds no further event.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Chunks that wait for a slow connection before its stream waits too.
const CHUNKS_WAITING_MAX: usize = 16;
/// How often a run is looked at that no replica here knows, and whether the one here keeps up.
const POLL_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// An event as the contract shows it.
#[derive(Serialize)]
pub(crate) struct EventDocument<'a> {
    pub(crate) sequence: u64,
    pub(crate) r#type: &'static str,
    pub(crate) step_id: Option<&'a str>,
    pub(crate) data: Cow<'a, RawValue>,
    pub(crate) agent_id: Option<&'a str>,
    pub(crate) timestamp: String,
    /// Only in the firehose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workflow_id: Option<&'a str>,
    /// Only in the firehose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<u32>,
    /// Only in the firehose, where lines have no other room for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<&'a str>,
}

/// An event's document, as it is shown in the namespace of the run; `data` that is not JSON is our own
/// damage and shown as null.
pub(crate) fn document<'r>(record: &'r EventRecord, namespace: &Namespace) -> EventDocument<'r> {
    let data = match namespace.is_default() {
        true => None,
        false => event_data(record).map(Cow::Owned),
    };
    let data = data.unwrap_or_else(|| {
        Cow::Borrowed(serde_json::from_slice(&record.data).unwrap_or_else(|error| {
            tracing::error!(sequence = record.sequence.0, %error, "an event's data is not JSON");
            RawValue::NULL
        }))
    });
    EventDocument {
        sequence: record.sequence.0,
        r#type: record.event_type.as_str(),
        step_id: record.step_id.as_deref(),
        data,
        agent_id: record.agent_id.as_deref(),
        timestamp: record.timestamp.to_rfc3339(),
        workflow_id: None,
        shard: None,
        place: None,
    }
}

/// At most `limit` events after a sequence, fewer when they are large, and whether there are more.
pub(crate) async fn read(
    shard: &ShardClient,
    id: &WorkflowId,
    after: Sequence,
    limit: usize,
    freshness: Freshness,
) -> Result<Seen<(Vec<EventRecord>, bool)>, CallError> {
    let mut records: Vec<EventRecord> = Vec::new();
    let (mut last, mut bytes) = (after, 0);
    let (mut position, mut lag_ms) = (Position::default(), None);
    let has_more = 'pages: loop {
        // One more than is wanted tells whether there are more.
        let wanted = PAGE.min(limit + 1 - records.len());
        let page = shard.events(id, last, wanted, freshness).await?;
        // The pages may come from several replicas: together they show what the furthest shows.
        position = position.max(page.position);
        lag_ms = lag_ms.max(page.lag_ms);
        let is_whole = page.value.len() < wanted;
        for record in page.value {
            if records.len() == limit || (bytes > PAGE_BYTES_MAX && !records.is_empty()) {
                break 'pages true;
            }
            bytes += record.data.len();
            last = record.sequence;
            records.push(record);
        }
        if is_whole {
            break false;
        }
    };
    Ok(Seen { value: (records, has_more), position, lag_ms })
}

pub(crate) type Chunks = mpsc::Sender<Result<Bytes, Infallible>>;

/// The stream's answer and where to write its chunks. Its place is taken as long as there is a
/// connection, also one that is not read any more.
pub(crate) fn open(media_type: &'static str, place: OwnedSemaphorePermit) -> (Response, Chunks) {
    let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let body = Body::from_stream(ReceiverStream::new(receiver).inspect(move |_| _ = &place));
    ((StatusCode::OK, headers, body).into_response(), chunks)
}

/// Appends one event in the stream's format. Its id is its place in all logs, or in its run's alone.
pub(crate) fn write_event(out: &mut Vec<u8>, document: &EventDocument<'_>, place: Option<&str>) {
    match place {
        Some(place) => out.extend_from_slice(format!("id: {place}\n").as_bytes()),
        None => out.extend_from_slice(format!("id: {}\n", document.sequence).as_bytes()),
    }
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(document.r#type.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write_line(out, document);
    out.extend_from_slice(b"\n\n");
}

/// Appends an event as JSON on one line, without its end.
pub(crate) fn write_line(out: &mut Vec<u8>, document: &EventDocument<'_>) {
    let start = out.len();
    serde_json::to_writer(&mut *out, document).expect("an event is JSON");
    // Line ends can only stand between tokens of JSON, where a space means the same.
    out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

/// Follows a run's events after a sequence. A run that has ended and has no more is 204, which
/// tells a browser's `EventSource` to stop asking.
pub(crate) async fn follow_run(
    state: &RouterState,
    id: WorkflowId,
    after: Sequence,
) -> Result<Response, ApiError> {
    let place = state.enter_stream()?;
    let shard = state.shard_of(&id);
    let has_ended = shard.status(&id, Freshness::Strong).await?.value.status.is_terminal();
    if has_ended && shard.events(&id, after, 1, Freshness::Strong).await?.value.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (response, chunks) = open("text/event-stream", place);
    let follower = Follower { shard, id, last: after, chunks, beats: beats(state) };
    tokio::spawn(run_until(follower.follow(), state.stopping()));
    Ok(response)
}

/// Works on a stream until its reader is gone, or the node stops.
pub(crate) async fn run_until(work: impl Future<Output = ()>, stopping: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stopping => {}
    }
}

/// A stream of one run's events, from whatever replica has them: it goes on whoever leads the
/// shard, and waits while nobody does.
struct Follower {
    shard: ShardClient,
    id: WorkflowId,
    last: Sequence,
    chunks: Chunks,
    beats: Interval,
}

/// What is committed from now on, as the replica of this node hears of it.
struct Live {
    no: RunNo,
    /// What a reading reflects that shows all that came before.
    at: Position,
    batches: broadcast::Receiver<Batch<Committed>>,
}

/// Why live following stopped.
enum Pause {
    /// Events were missed, or the run has perhaps ended: read the log again.
    ReadAgain,
    /// The reader is gone.
    Gone,
}

impl Follower {
    async fn follow(mut self) {
        loop {
            // Subscribed before anything is read, so that nothing falls between log and stream.
            let live = self.live().await;
            let at = live.as_ref().map(|live| live.at);
            let pause = match self.catch_up(at).await {
                Ok(Caught::Gone | Caught::End) => return,
                Ok(Caught::Up) => match live {
                    Some(live) => self.go_live(live).await,
                    None => self.wait_a_moment().await,
                },
                Err(error) => {
                    tracing::debug!(run = %self.id, %error, "an event stream waits for its shard");
                    self.wait_a_moment().await
                }
            };
            match pause {
                Pause::ReadAgain => {}
                Pause::Gone => return,
            }
        }
    }

    /// A subscription, when this node has a replica that keeps up and knows the run.
    async fn live(&self) -> Option<Live> {
        let handle = self.shard.here()?;
        let (at, batches) = handle.subscribe();
        let no = handle.stored_run_no(&self.id).await.ok()??;
        Some(Live { no, at, batches })
    }

    /// Without one the log is asked again and again, wherever it is.
    async fn wait_a_moment(&mut self) -> Pause {
        tokio::select! {
            () = tokio::time::sleep(POLL_EVERY) => Pause::ReadAgain,
            () = self.chunks.closed() => Pause::Gone,
            _ = self.beats.tick() => match beat(&self.chunks).await {
                true => Pause::ReadAgain,
                false => Pause::Gone,
            },
        }
    }

    /// Sends everything that there is by now, up to `at` at least, and says whether the run has ended
    /// with it.
    async fn catch_up(&mut self, at: Option<Position>) -> Result<Caught, CallError> {
        // Before the events, so that none can follow those that are read after it.
        let status = self.shard.status(&self.id, at.map_or(Freshness::Any, Freshness::Reached)).await?;
        let freshness = Freshness::Reached(status.position);
        loop {
            let (page, has_more) = read(&self.shard, &self.id, self.last, PAGE, freshness).await?.value;
            if !self.send(page.iter()).await {
                return Ok(Caught::Gone);
            }
            if !has_more {
                return Ok(if status.value.status.is_terminal() { Caught::End } else { Caught::Up });
            }
        }
    }

    async fn send(&mut self, records: impl Iterator<Item = &EventRecord>) -> bool {
        let (mut chunk, namespace) = (Vec::new(), self.id.namespace());
        for record in records {
            write_event(&mut chunk, &document(record, &namespace), None);
            self.last = record.sequence;
        }
        if chunk.is_empty() {
            return true;
        }
        self.beats.reset();
        self.chunks.send(Ok(chunk.into())).await.is_ok()
    }

    async fn go_live(&mut self, mut live: Live) -> Pause {
        let mut look = tokio::time::interval(POLL_EVERY);
        loop {
            let received = tokio::select! {
                received = live.batches.recv() => received,
                () = self.chunks.closed() => return Pause::Gone,
                _ = look.tick() => {
                    if self.shard.here().is_none() { return Pause::ReadAgain }
                    continue;
                }
                _ = self.beats.tick() => {
                    if !beat(&self.chunks).await { return Pause::Gone }
                    continue;
                }
            };
            let batch = match received {
                Ok(batch) => batch,
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Pause::ReadAgain,
            };
            let records = Arc::clone(batch.records());
            let (no, last) = (live.no, self.last);
            let own = || {
                let events = records.iter().filter_map(Record::as_event);
                events.filter(move |record| record.no == no && record.sequence > last)
            };
            let Some(first) = own().next() else { continue };
            if first.sequence != self.last.next() {
                return Pause::ReadAgain;
            }
            let ends = own().any(|record| ends_run(record.event_type));
            if !self.send(own()).await {
                return Pause::Gone;
            }
            if ends {
                return Pause::ReadAgain;
            }
        }
    }
}

/// How far catching up has come.
enum Caught {
    /// All that there is was sent.
    Up,
    /// The same, and the run has ended.
    End,
    /// The reader is gone.
    Gone,
}

/// When a silent stream says that it lives; the first time is one period from now.
pub(crate) fn beats(state: &RouterState) -> Interval {
    let mut beats = tokio::time::interval(state.options().heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats.reset();
    beats
}

/// A comment that keeps the connection alive; false when the reader is gone.
pub(crate) async fn beat(chunks: &Chunks) -> bool {
    chunks.send(Ok(Bytes::from_static(b": alive\n\n"))).await.is_ok()
}

fn ends_run(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::WorkflowCompleted | EventType::WorkflowFailed | EventType::WorkflowCancelled
    )
}

#[cfg(test)]
mod tests {
    use opcode_engine::ids::Timestamp;

    use super::*;

    #[test]
    fn an_event_is_one_frame() {
        let record = EventRecord {
            no: RunNo(1),
            sequence: Sequence(7),
            event_type: EventType::StepCompleted,
            step_id: Some("a".into()),
            data: b"{\"output\":\r\n1.50}".to_vec(),
            agent_id: None,
            timestamp: Timestamp(0),
        };
        let mut out = Vec::new();
        write_event(&mut out, &document(&record, &Namespace::default()), None);
        let expect = concat!(
            "id: 7\nevent: step_completed\n",
            r#"data: {"sequence":7,"type":"step_completed","step_id":"a","data":{"output":  1.50},"#,
            r#""agent_id":null,"timestamp":"1970-01-01T00:00:00.000Z"}"#,
            "\n\n"
        );
        assert_eq!(String::from_utf8(out).expect("utf-8"), expect);
    }
}

//! What `workflow.notify` says, to the sessions of the run's agent on this node.
//!
//! One follower reads the firehose's `custom` events, while any session listens, and hands each notice
//! to all of them. This is best effort: a notice is an event of its run and stays there (`opcode.query`
//! shows it), but who does not listen while it is committed, or is too slow, is told nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use opcode_engine::event::NOTICE;
use opcode_engine::namespace::{Namespace, local};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{broadcast, watch};

use super::contract::Contract;

/// Notices that wait for the slowest session before it misses some.
const NOTICES_WAITING_MAX: usize = 256;
/// Longest wait of a session for the follower to have the firehose.
const STANDS_WITHIN: Duration = Duration::from_secs(3);
/// How soon a firehose is asked for again that was cut off.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Longest notice that is told whole, in bytes: each session keeps the last few for a client that
/// comes back. A longer one names its event.
const NOTICE_BYTES_MAX: usize = 16 * 1024;
/// Longest frame that is kept, in bytes.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A message for an agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Notice {
    pub(super) agent_id: String,
    /// The namespace of the run that says it.
    pub(super) namespace: Namespace,
    /// What the step said, with the run and the step that said it.
    pub(super) document: Value,
}

/// An event of the firehose, as far as it matters here.
#[derive(Deserialize)]
struct Custom {
    agent_id: Option<String>,
    data: CustomData,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct CustomData {
    event: String,
    data: Value,
}

impl Notice {
    /// The notice in a frame of the firehose, if it is one that is addressed to somebody.
    fn of(frame: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(frame).ok()?;
        let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
        let custom: Custom = serde_json::from_str(data).ok()?;
        let (true, Some(agent_id)) = (custom.data.event == NOTICE, custom.agent_id) else { return None };
        // Of whose run it is not known, nobody is told.
        let run = custom.rest.get("workflow_id")?.as_str()?.to_owned();
        let namespace = Namespace::of(&run);
        let is_cut = custom.data.data.to_string().len() > NOTICE_BYTES_MAX;
        let mut document = match custom.data.data {
            _ if is_cut => Map::from_iter([("is_cut".to_owned(), true.into())]),
            Value::Object(said) => said,
            other => Map::from_iter([("message".to_owned(), other)]),
        };
        document.extend(custom.rest.into_iter().filter(|(name, _)| name != "shard"));
        document.insert("workflow_id".to_owned(), local(&run).into());
        document.insert("type".to_owned(), NOTICE.into());
        document.insert("agent_id".to_owned(), agent_id.clone().into());
        Some(Self { agent_id, namespace, document: Value::Object(document) })
    }
}

/// Frames of an event stream, out of its chunks.
#[derive(Default)]
struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// The frames that end in this chunk; `None` when one does not end.
    fn push(&mut self, chunk: &[u8]) -> Option<Vec<Vec<u8>>> {
        // What was there already has no end in it, but its last byte may be half of one.
        let mut from = self.buffer.len().saturating_sub(1);
        self.buffer.extend_from_slice(chunk);
        let mut frames = Vec::new();
        let mut start = 0;
        while let Some(end) = self.buffer[from..].windows(2).position(|pair| pair == b"\n\n") {
            let end = from + end + 2;
            frames.push(self.buffer[start..end].to_vec());
            (start, from) = (end, end);
        }
        self.buffer.drain(..start);
        (self.buffer.len() <= FRAME_BYTES_MAX).then_some(frames)
    }
}

/// The notices of a node.
pub(super) struct Notices {
    contract: Arc<dyn Contract>,
    sender: broadcast::Sender<Arc<Notice>>,
    /// The follower has the firehose.
    stands: watch::Sender<bool>,
    is_following: Mutex<bool>,
}

impl Notices {
    pub(super) fn new(contract: Arc<dyn Contract>) -> Arc<Self> {
        let (sender, _) = broadcast::channel(NOTICES_WAITING_MAX);
        let stands = watch::Sender::new(false);
        Arc::new(Self { contract, sender, stands, is_following: Mutex::new(false) })
    }

    /// Every notice from now on, to whomever. Waits until the firehose is there, but not for long.
    pub(super) async fn subscribe(self: &Arc<Self>) -> broadcast::Receiver<Arc<Notice>> {
        let receiver = {
            let mut is_following = self.is_following.lock();
            let receiver = self.sender.subscribe();
            if !std::mem::replace(&mut *is_following, true) {
                tokio::spawn(Arc::clone(self).follow());
            }
            receiver
        };
        let mut stands = self.stands.subscribe();
        // One that does not come in time may come later; what is said until then is missed.
        let _ = tokio::time::timeout(STANDS_WITHIN, stands.wait_for(|stands| *stands)).await;
        receiver
    }

    /// Whether nobody listens any more; then the next one has to start a follower.
    fn is_done(&self) -> bool {
        let mut is_following = self.is_following.lock();
        *is_following = self.sender.receiver_count() > 0;
        !*is_following
    }

    async fn follow(self: Arc<Self>) {
        while !self.is_done() {
            if let Some(chunks) = self.contract.events().await {
                self.stands.send_replace(true);
                self.read(chunks).await;
                self.stands.send_replace(false);
            }
            if self.sender.receiver_count() > 0 {
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }

    /// Hands on what comes until the stream is cut off or nobody listens; a silent one beats, so that
    /// this is noticed.
    async fn read(&self, mut chunks: BoxStream<'static, Bytes>) {
        let mut frames = Frames::default();
        while let Some(chunk) = chunks.next().await {
            if self.sender.receiver_count() == 0 {
                return;
            }
            let Some(whole) = frames.push(&chunk) else {
                tracing::warn!("an event without end in the firehose; it is read anew");
                return;
            };
            for notice in whole.iter().filter_map(|frame| Notice::of(frame)) {
                // Whoever was there may be gone by now.
                let _ = self.sender.send(Arc::new(notice));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(agent: Value, event: &str, message: &str) -> Vec<u8> {
        let data = json!({"event": event, "data": {"message": message, "workflow_id": "forged"}});
        let custom = json!({"sequence": 3, "type": "custom", "step_id": "a", "data": data, "agent_id": agent,
            "timestamp": "2026-01-01T00:00:00.000Z", "workflow_id": "w", "shard": 1});
        format!("event: custom\ndata: {custom}\n\n").into_bytes()
    }

    #[test]
    fn a_notice_says_whence_it_comes() {
        let notice = Notice::of(&frame("bot".into(), NOTICE, "hi")).unwrap();
        assert_eq!((&*notice.agent_id, notice.namespace.is_default()), ("bot", true));
        let mut expect = json!({"type": NOTICE, "workflow_id": "w", "step_id": "a", "agent_id": "bot",
            "sequence": 3, "timestamp": "2026-01-01T00:00:00.000Z", "message": "hi"});
        assert_eq!(notice.document, expect);
        let long = Notice::of(&frame("bot".into(), NOTICE, &"x".repeat(NOTICE_BYTES_MAX))).unwrap();
        expect.as_object_mut().unwrap().remove("message");
        expect["is_cut"] = true.into();
        assert_eq!(long.document, expect);
    }

    #[test]
    fn a_notice_is_of_the_namespace_of_its_run() {
        let frame = String::from_utf8(frame("bot".into(), NOTICE, "hi")).unwrap();
        let frame = frame.replace(r#""workflow_id":"w""#, r#""workflow_id":"team/w""#);
        let notice = Notice::of(frame.as_bytes()).unwrap();
        assert_eq!((notice.namespace.as_str(), &notice.document["workflow_id"]), ("team", &json!("w")));
    }

    #[test]
    fn what_is_addressed_to_nobody_is_no_notice() {
        assert_eq!(Notice::of(&frame(Value::Null, NOTICE, "hi")), None);
        assert_eq!(Notice::of(&frame("bot".into(), "other", "hi")), None);
        assert_eq!(Notice::of(b": alive\n\n"), None);
        assert_eq!(Notice::of(b"event: custom\ndata: {\n\n"), None);
    }

    #[test]
    fn frames_come_in_any_pieces() {
        let text = b": alive\n\nevent: a\ndata: 1\n\nevent: b\ndata: 2\n\nrest";
        for size in 1..text.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            text.chunks(size).for_each(|chunk| found.extend(frames.push(chunk).unwrap()));
            assert_eq!(found.concat(), text[..text.len() - 4], "in pieces of {size}");
            assert_eq!(found.len(), 3, "in pieces of {size}");
        }
        assert_eq!(Frames::default().push(&vec![b'x'; FRAME_BYTES_MAX + 1]), None);
    }
}

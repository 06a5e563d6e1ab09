//! The connection to one peer for one kind of calls: made again whenever it breaks, with calls
//! failing at once while it is down.
//!
//! Reading and writing are tasks of their own, so that two nodes that write to each other never
//! wait for each other to read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opcode_shard::peer::{NodeId, PeerError, Service};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::frame::{self, CHUNK_BYTES, FRAME_BYTES_MAX, Frame};
use super::hello::{self, Known};
use super::security::Stream;
use super::{CALLS_MAX, Shared};

/// Calls that wait to be written, at most.
const WAITING_MAX: usize = 4_096;
/// Longest wait for a connection, its handshake and hello.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// First and longest pause before the next try.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a sign of life is asked for.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A connection that was silent for so many of these is given up.
const SILENT_PINGS_MAX: u32 = 4;

/// A call on its way out.
pub(super) struct Outgoing {
    pub(super) service: Service,
    pub(super) group: u32,
    pub(super) body: Bytes,
    /// Until when somebody waits for the answer.
    pub(super) deadline: Instant,
    pub(super) claim: Claim,
    pub(super) reply: oneshot::Sender<Result<Bytes, PeerError>>,
}

/// Who has a call: the one that writes it, or the caller that takes it back. Only the first to ask
/// gets it, so that a call that was taken back has certainly not left.
#[derive(Clone, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The way to one peer; the connection ends with it.
pub(super) struct Link {
    pub(super) address: String,
    calls: mpsc::Sender<Outgoing>,
    task: AbortHandle,
}

impl Link {
    pub(super) fn open(to: NodeId, address: String, shared: Arc<Shared>) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING_MAX);
        let line = Line { to, address: address.clone(), shared };
        let task = tokio::spawn(line.keep(waiting)).abort_handle();
        Self { address, calls, task }
    }

    /// Hands a call over; an error when too many wait.
    pub(super) fn send(&self, call: Outgoing) -> Result<(), ()> {
        self.calls.try_send(call).map_err(drop)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Line {
    to: NodeId,
    address: String,
    shared: Arc<Shared>,
}

impl Line {
    /// Connects, serves until the connection breaks, and connects again. Calls wait for the first
    /// connection; once it is known to be down, they are told so at once.
    async fn keep(self, mut waiting: mpsc::Receiver<Outgoing>) {
        let mut pause = PAUSE_MIN;
        let mut down: Option<String> = None;
        let mut told = String::new();
        loop {
            let connected = match &down {
                None => self.connect().await,
                Some(why) => match self.refusing(&mut waiting, why, self.connect()).await {
                    Some(connected) => connected,
                    None => return,
                },
            };
            let why = match connected {
                Ok((wire, known)) => {
                    pause = PAUSE_MIN;
                    told.clear();
                    tracing::debug!(node = self.to, protocol = known.protocol, "connected");
                    match self.serve(wire, &known, &mut waiting).await {
                        Some(why) => why,
                        None => return,
                    }
                }
                Err(why) => why,
            };
            if why != told {
                tracing::warn!(node = self.to, address = self.address, why, "a node cannot be reached");
                told.clone_from(&why);
            }
            let again = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            pause = (pause * 2).min(PAUSE_MAX);
            if self.refusing(&mut waiting, &why, again).await.is_none() {
                return;
            }
            down = Some(why);
        }
    }

    /// Waits for something while calls are told that the node is down; `None` when nobody can
    /// call any more.
    async fn refusing<T>(
        &self,
        waiting: &mut mpsc::Receiver<Outgoing>,
        why: &str,
        until: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(until);
        loop {
            tokio::select! {
                done = &mut until => return Some(done),
                call = waiting.recv() => {
                    let why = why.to_owned();
                    // Nobody may wait for the answer any more.
                    drop(call?.reply.send(Err(PeerError::Unreachable { node: self.to, why })));
                }
            }
        }
    }

    async fn connect(&self) -> Result<(Stream, Known), String> {
        let attempt = async {
            let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let (mut wire, shown) = self.shared.security.connect(stream, &self.address).await?;
            let known = hello::greet(&mut wire, shown.as_ref(), self.to, &self.shared).await?;
            self.shared.hear(self.to);
            Ok((wire, known))
        };
        let attempt = tokio::time::timeout(CONNECT_MAX, attempt).await;
        attempt.unwrap_or_else(|_| Err("it does not answer".into()))
    }

    /// Carries calls and answers until the connection breaks, and says why; `None` when nobody
    /// can call any more.
    async fn serve(
        &self,
        wire: Stream,
        known: &Known,
        waiting: &mut mpsc::Receiver<Outgoing>,
    ) -> Option<String> {
        let (incoming, out) = tokio::io::split(wire);
        let under_way = Arc::new(UnderWay::default());
        let mut reading = JoinSet::new();
        let (to, shared) = (self.to, self.shared.clone());
        reading.spawn(read_answers(incoming, to, under_way.clone(), shared));
        tokio::select! {
            why = reading.join_next() => Some(match why {
                Some(Ok(why)) => why,
                Some(Err(error)) => error.to_string(),
                None => "it is read no more".into(),
            }),
            why = self.write_calls(out, &under_way, waiting) => why,
            () = watch(&under_way) => Some("it is silent".into()),
            why = known.superseded() => Some(why),
        }
    }

    /// Writes calls, signs of life, and that nobody waits any more; `None` when nobody can call.
    async fn write_calls(
        &self,
        out: WriteHalf<Stream>,
        under_way: &UnderWay,
        waiting: &mut mpsc::Receiver<Outgoing>,
    ) -> Option<String> {
        let mut out = BufWriter::with_capacity(CHUNK_BYTES, out);
        let mut next_id = 0_u64;
        loop {
            // Nothing is written inside of the select: a frame is begun and ended.
            let mut next = tokio::select! {
                call = waiting.recv() => Some(call?),
                () = under_way.tick.notified() => None,
            };
            let written = async {
                if next.is_none() {
                    for id in under_way.forget_vanished() {
                        frame::write(&mut out, &Frame::Cancel { id }, || {}).await?;
                    }
                    frame::write(&mut out, &Frame::Ping, || {}).await?;
                }
                // What else waits goes with the same flush.
                while let Some(call) = next.take() {
                    next_id += 1;
                    if let Some(frame) = self.begin(next_id, call, under_way) {
                        frame::write(&mut out, &frame, || under_way.heard()).await?;
                    }
                    next = waiting.try_recv().ok();
                }
                out.flush().await
            };
            if let Err(error) = written.await {
                return Some(super::security::described(&error));
            }
        }
    }

    /// Takes note of a call that is about to leave; `None` when it does not.
    fn begin(&self, id: u64, call: Outgoing, under_way: &UnderWay) -> Option<Frame> {
        let Outgoing { service, group, body, deadline, claim, reply } = call;
        if reply.is_closed() || !claim.take() {
            return None;
        }
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let within_ms = u32::try_from(left).unwrap_or(u32::MAX);
        match under_way.enter(id, reply) {
            Ok(()) => Some(Frame::Call { id, service, group, within_ms, body }),
            Err(reply) => {
                let why = format!("{CALLS_MAX} calls to it are under way");
                drop(reply.send(Err(PeerError::Unreachable { node: self.to, why })));
                None
            }
        }
    }
}

type Reply = oneshot::Sender<Result<Bytes, PeerError>>;

/// What one connection has under way: the writer enters a call, the reader takes it out. Calls
/// that are left when the connection ends are lost, which their callers learn when it is dropped.
#[derive(Default)]
struct UnderWay {
    replies: Mutex<HashMap<u64, Reply>>,
    /// Pings since the other side was heard last.
    silent: AtomicU32,
    /// It is time for a ping.
    tick: Notify,
}

impl UnderWay {
    fn heard(&self) {
        self.silent.store(0, Ordering::Relaxed);
    }

    fn enter(&self, id: u64, reply: Reply) -> Result<(), Reply> {
        let mut replies = self.replies.lock();
        if replies.len() >= CALLS_MAX {
            return Err(reply);
        }
        replies.insert(id, reply);
        Ok(())
    }

    /// The calls whose callers have gone, which are forgotten.
    fn forget_vanished(&self) -> Vec<u64> {
        let mut vanished = Vec::new();
        self.replies.lock().retain(|id, reply| {
            if reply.is_closed() {
                vanished.push(*id);
            }
            !reply.is_closed()
        });
        vanished
    }

    fn answer(&self, to: NodeId, bytes: Bytes) -> Result<(), String> {
        let (id, answer) = match Frame::decode(bytes)? {
            Frame::Answer { id, body } => (id, Ok(body)),
            Frame::Refusal { id, why } => (id, Err(PeerError::Refused { node: to, why })),
            Frame::Failure { id, why } => (id, Err(PeerError::Lost { node: to, why })),
            Frame::Pong => return Ok(()),
            Frame::Call { .. } | Frame::Cancel { .. } | Frame::Ping => {
                return Err("it asks where it should answer".into());
            }
        };
        if let Some(reply) = self.replies.lock().remove(&id) {
            // Nobody may wait for the answer any more.
            drop(reply.send(answer));
        }
        Ok(())
    }
}

/// Reads answers until the connection ends, and says why.
async fn read_answers(
    incoming: ReadHalf<Stream>,
    to: NodeId,
    under_way: Arc<UnderWay>,
    shared: Arc<Shared>,
) -> String {
    let mut incoming = BufReader::with_capacity(CHUNK_BYTES, incoming);
    let heard = || {
        under_way.heard();
        shared.hear(to);
    };
    loop {
        match frame::read(&mut incoming, FRAME_BYTES_MAX, heard).await {
            Ok(Some(bytes)) => {
                if let Err(why) = under_way.answer(to, bytes) {
                    return why;
                }
            }
            Ok(None) => return "it hung up".into(),
            Err(error) => return super::security::described(&error),
        }
    }
}

/// Asks for signs of life, and resolves when there are none. What is counted is pings and not
/// time, so that a process that was paused itself gives nobody up for it.
async fn watch(under_way: &UnderWay) {
    let mut every = opcode_shard::ticks::every(PING_EVERY);
    loop {
        every.tick().await;
        if under_way.silent.fetch_add(1, Ordering::Relaxed) >= SILENT_PINGS_MAX {
            return;
        }
        under_way.tick.notify_one();
    }
}

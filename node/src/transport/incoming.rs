//! Connections from other nodes: hello first, then calls, each answered in a task of its own.
//!
//! What comes in is read without waiting for any answer to be made or written; what is too much
//! is refused, so that a sign of life is always heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use opcode_shard::peer::{NodeId, PeerService};
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::frame::{self, BODY_BYTES_MAX, CHUNK_BYTES, FRAME_BYTES_MAX, Frame};
use super::hello::{self, Known};
use super::security::{Stream, described};
use super::strangers::{GREETING_MAX, Strangers};
use super::{CALLS_MAX, Shared};

/// Connections of nodes at a time; more are refused.
const CONNECTIONS_MAX: usize = 1_024;
/// Answers that wait to be written; more wait in the tasks that made them.
const ANSWERS_MAX: usize = 1_024;
/// Bodies of all calls that are being answered, in units of [`CHUNK_BYTES`]: 512 MiB.
const BODY_UNITS_MAX: usize = 8 * 1024;
/// How often it is looked whether the other side was heard, which pings each second.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A connection that was silent for so many looks is given up.
const SILENT_LOOKS_MAX: u32 = 5;
/// How long to wait when no connection can be accepted, as when no file can be opened.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What all connections that come in share.
struct Side {
    shared: Arc<Shared>,
    service: Arc<dyn PeerService>,
    places: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, service: Arc<dyn PeerService>) {
    let side = Arc::new(Side {
        shared,
        service,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        bodies: Arc::new(Semaphore::new(BODY_UNITS_MAX)),
    });
    let strangers = Arc::new(Strangers::default());
    let mut connections = JoinSet::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Some(stranger) = strangers.enter(address.ip()) else {
            tracing::debug!(%address, "too many that have not said who they are");
            continue;
        };
        let side = side.clone();
        connections.spawn(async move {
            let greeted = tokio::time::timeout(GREETING_MAX, side.greet(stream)).await;
            drop(stranger);
            match greeted.unwrap_or_else(|_| Err("it did not say in time who it is".into())) {
                Ok((_, None, _)) => tracing::debug!(%address, "a node looked in that is to join"),
                Ok((wire, Some(known), _place)) => {
                    let why = side.serve(wire, &known).await;
                    tracing::debug!(node = known.node, why, "a peer's connection has ended");
                }
                Err(why) => tracing::warn!(%address, why, "a connection was refused"),
            }
        });
    }
}

impl Side {
    async fn greet(
        &self,
        stream: TcpStream,
    ) -> Result<(Stream, Option<Known>, Option<OwnedSemaphorePermit>), String> {
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (mut wire, shown) = self.shared.security.accept(stream).await?;
        let place = self.places.clone().try_acquire_owned().ok();
        let known = hello::welcome(&mut wire, shown.as_ref(), &self.shared, place.is_some()).await?;
        Ok((wire, known, place))
    }

    /// Answers calls until the connection ends, and says why it has.
    async fn serve(&self, wire: Stream, known: &Known) -> String {
        let (incoming, out) = tokio::io::split(wire);
        let (answers, waiting) = mpsc::channel(ANSWERS_MAX);
        let mut writing = JoinSet::new();
        writing.spawn(write_answers(out, waiting));
        let silent = AtomicU32::new(0);
        tokio::select! {
            why = self.read_calls(incoming, known.node, &silent, answers) => why,
            _ = writing.join_next() => "it does not take answers any more".into(),
            () = watch(&silent) => "it is silent".into(),
            why = known.superseded() => why,
        }
    }

    async fn read_calls(
        &self,
        incoming: ReadHalf<Stream>,
        from: NodeId,
        silent: &AtomicU32,
        answers: mpsc::Sender<Frame>,
    ) -> String {
        let mut incoming = BufReader::with_capacity(CHUNK_BYTES, incoming);
        let heard = || {
            silent.store(0, Ordering::Relaxed);
            self.shared.hear(from);
        };
        // Ends with this connection: answers to one that is gone are of no use.
        let mut calls = Calls::default();
        loop {
            let frame = match frame::read(&mut incoming, FRAME_BYTES_MAX, heard).await {
                Ok(Some(bytes)) => Frame::decode(bytes),
                Ok(None) => return "it hung up".into(),
                Err(error) => return described(&error),
            };
            calls.forget_ended();
            let reply = match frame {
                Ok(Frame::Ping) => Some(Frame::Pong),
                Ok(Frame::Cancel { id }) => {
                    calls.cancel(id);
                    None
                }
                Ok(call @ Frame::Call { .. }) => self.begin(call, from, &mut calls, &answers),
                Ok(Frame::Answer { .. } | Frame::Refusal { .. } | Frame::Failure { .. } | Frame::Pong) => {
                    return format!("node {from} answers where it should ask");
                }
                Err(why) => return why,
            };
            // To wait here would be to read no more: one that takes no answers is given up.
            if let Some(reply) = reply
                && answers.try_send(reply).is_err()
            {
                return "it does not take its answers".into();
            }
        }
    }

    /// Begins to answer a call, or gives the refusal of one too many.
    fn begin(
        &self,
        call: Frame,
        from: NodeId,
        calls: &mut Calls,
        answers: &mpsc::Sender<Frame>,
    ) -> Option<Frame> {
        let Frame::Call { id, service, group, within_ms, body } = call else { return None };
        if calls.ids.len() >= CALLS_MAX {
            return Some(Frame::Refusal { id, why: format!("{CALLS_MAX} calls are being answered") });
        }
        let units = u32::try_from(body.len() / CHUNK_BYTES).unwrap_or(u32::MAX);
        let Ok(room) = self.bodies.clone().try_acquire_many_owned(units) else {
            return Some(Frame::Refusal { id, why: "too much is being answered".into() });
        };
        let answer = self.service.answer(from, service, group, body);
        let within = Duration::from_millis(within_ms.into());
        let answers = answers.clone();
        calls.spawn(id, async move {
            let answered = tokio::time::timeout(within, answer).await;
            drop(room);
            // Nobody waits any more: the caller's own clock started before.
            let Ok(answered) = answered else { return };
            // The connection may have ended.
            let _ = answers.send(reply(id, answered)).await;
        });
        None
    }
}

/// The frame of an answer. One that is too large was made, so what it answers may have been done.
fn reply(id: u64, answered: Result<Bytes, String>) -> Frame {
    match answered {
        Ok(body) if body.len() > BODY_BYTES_MAX => {
            let why = format!("its answer of {} bytes is over the limit of {BODY_BYTES_MAX}", body.len());
            Frame::Failure { id, why }
        }
        Ok(body) => Frame::Answer { id, body },
        Err(mut why) => {
            why.truncate(why.floor_char_boundary(CHUNK_BYTES));
            Frame::Refusal { id, why }
        }
    }
}

/// The calls of one connection that are being answered.
#[derive(Default)]
struct Calls {
    tasks: JoinSet<()>,
    ids: HashMap<tokio::task::Id, u64>,
    handles: HashMap<u64, AbortHandle>,
}

impl Calls {
    fn spawn(&mut self, id: u64, answer: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(answer);
        self.ids.insert(handle.id(), id);
        self.handles.insert(id, handle);
    }

    /// Ends one that nobody waits for.
    fn cancel(&self, id: u64) {
        if let Some(handle) = self.handles.get(&id) {
            handle.abort();
        }
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            let task = match ended {
                Ok((task, ())) => task,
                Err(error) => {
                    if error.is_panic() {
                        tracing::error!(%error, "an answer to a peer panicked");
                    }
                    error.id()
                }
            };
            if let Some(id) = self.ids.remove(&task) {
                self.handles.remove(&id);
            }
        }
    }
}

/// Writes answers until nobody makes any or the connection ends.
async fn write_answers(out: WriteHalf<Stream>, mut answers: mpsc::Receiver<Frame>) {
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, out);
    while let Some(frame) = answers.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            if frame::write(&mut out, &frame, || {}).await.is_err() {
                return;
            }
            next = answers.try_recv().ok();
        }
        if out.flush().await.is_err() {
            return;
        }
    }
}

/// Resolves when the other side, which pings, has not been heard for long.
async fn watch(silent: &AtomicU32) {
    let mut every = opcode_shard::ticks::every(LOOK_EVERY);
    loop {
        every.tick().await;
        if silent.fetch_add(1, Ordering::Relaxed) >= SILENT_LOOKS_MAX {
            return;
        }
    }
}

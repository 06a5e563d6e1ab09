//! The connection to one peer: made again whenever it breaks, with calls failing at once while it
//! is down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use opcode_shard::peer::{NodeId, PeerError, Service};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::frame::{Frame, codec};
use super::{Shared, hello};

/// Calls that wait to be written, at most.
const WAITING_MAX: usize = 4_096;
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
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
    pub(super) reply: oneshot::Sender<Result<Bytes, PeerError>>,
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
        let line = Line { to, address: address.clone(), shared, waiting };
        let task = tokio::spawn(line.keep()).abort_handle();
        Self { address, calls, task }
    }

    /// Hands a call over; false when too many wait.
    pub(super) fn send(&self, call: Outgoing) -> Result<(), ()> {
        self.calls.try_send(call).map_err(drop)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Wire = Framed<TcpStream, LengthDelimitedCodec>;
type Pending = HashMap<u64, oneshot::Sender<Result<Bytes, PeerError>>>;

struct Line {
    to: NodeId,
    address: String,
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Outgoing>,
}

impl Line {
    /// Connects, serves until the connection breaks, and connects again.
    async fn keep(mut self) {
        let mut pause = PAUSE_MIN;
        let mut told = String::new();
        loop {
            let why = match self.connect().await {
                Ok(wire) => {
                    pause = PAUSE_MIN;
                    told.clear();
                    tracing::debug!(node = self.to, "connected");
                    match self.serve(wire).await {
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
            let jitter = rand::random_range(0.5..1.0);
            let again = tokio::time::sleep(pause.mul_f64(jitter));
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    call = self.waiting.recv() => match call {
                        // Nobody may wait for the answer any more.
                        Some(call) => drop(call.reply.send(Err(self.unreachable(&why)))),
                        None => return,
                    },
                }
            }
        }
    }

    fn unreachable(&self, why: &str) -> PeerError {
        PeerError::Unreachable { node: self.to, why: why.to_owned() }
    }

    async fn connect(&self) -> Result<Wire, String> {
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&self.address)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("it does not answer".into()),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut wire = Framed::new(stream, codec());
        hello::greet(&mut wire, self.to, &self.shared).await?;
        self.shared.hear(self.to);
        Ok(wire)
    }

    /// Carries calls and answers until the connection breaks, and says why; `None` when nobody
    /// calls any more.
    async fn serve(&mut self, wire: Wire) -> Option<String> {
        let (mut out, mut incoming) = wire.split();
        let mut pending = Pending::new();
        let mut next_id = 0_u64;
        let mut silent = 0;
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let written = tokio::select! {
                frame = incoming.next() => match frame {
                    None => return Some("it hung up".into()),
                    Some(Err(error)) => return Some(error.to_string()),
                    Some(Ok(bytes)) => {
                        silent = 0;
                        self.shared.hear(self.to);
                        match self.take(bytes.freeze(), &mut pending) {
                            Ok(()) => continue,
                            Err(why) => return Some(why),
                        }
                    }
                },
                call = self.waiting.recv() => {
                    let mut call = Some(call?);
                    let mut written = Ok(());
                    // What else waits goes with the same flush.
                    while let Some(Outgoing { service, group, body, reply }) = call.take() {
                        next_id += 1;
                        pending.insert(next_id, reply);
                        let frame = Frame::Call { id: next_id, service, group, body };
                        written = out.feed(frame.encode()).await;
                        if written.is_ok() {
                            call = self.waiting.try_recv().ok();
                        }
                    }
                    match written {
                        Ok(()) => out.flush().await,
                        Err(error) => Err(error),
                    }
                },
                _ = ping.tick() => {
                    silent += 1;
                    if silent > SILENT_PINGS_MAX {
                        return Some("it is silent".into());
                    }
                    pending.retain(|_, reply| !reply.is_closed());
                    out.send(Frame::Ping.encode()).await
                }
            };
            if let Err(error) = written {
                return Some(error.to_string());
            }
        }
    }

    fn take(&self, bytes: Bytes, pending: &mut Pending) -> Result<(), String> {
        let (id, answer) = match Frame::decode(bytes)? {
            Frame::Answer { id, body } => (id, Ok(body)),
            Frame::Refusal { id, why } => (id, Err(PeerError::Refused { node: self.to, why })),
            Frame::Pong => return Ok(()),
            Frame::Call { .. } | Frame::Ping => return Err("it asks where it should answer".into()),
        };
        if let Some(reply) = pending.remove(&id) {
            // Nobody may wait for the answer any more.
            drop(reply.send(answer));
        }
        Ok(())
    }
}

//! Connections from other nodes: hello first, then calls, each answered in a task of its own.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use opcode_shard::peer::PeerService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::codec::Framed;

use super::frame::{Frame, codec};
use super::{Shared, hello};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Calls of one connection that are answered side by side; more wait to be read.
const CALLS_MAX: usize = 1_024;

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, service: Arc<dyn PeerService>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (shared, service) = (shared.clone(), service.clone());
        connections.spawn(async move {
            if let Err(why) = serve(stream, &shared, service).await {
                tracing::debug!(why, "a peer's connection has ended");
            }
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: &Shared, service: Arc<dyn PeerService>) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(text)?;
    let address = stream.peer_addr().map_err(text)?;
    let mut wire = Framed::new(stream, codec());
    let from = hello::welcome(&mut wire, shared).await.inspect_err(|why| {
        tracing::warn!(%address, why, "a connection was refused");
    })?;
    let (mut out, mut incoming) = wire.split();
    let (answers, mut answered) = mpsc::channel::<Bytes>(CALLS_MAX);
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    // Ends with this task: answers of a connection that is gone are of no use.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(frame) = answered.recv().await {
            let mut next = Some(frame);
            while let Some(frame) = next {
                if out.feed(frame).await.is_err() {
                    return;
                }
                next = answered.try_recv().ok();
            }
            if out.flush().await.is_err() {
                return;
            }
        }
    });
    while let Some(frame) = incoming.next().await {
        shared.hear(from);
        match Frame::decode(frame.map_err(text)?.freeze())? {
            Frame::Ping => {
                // A writer that is gone ends the connection with the next read.
                let _ = answers.send(Frame::Pong.encode()).await;
            }
            Frame::Call { id, service: of, group, body } => {
                let place = places.clone().acquire_owned().await.map_err(|error| error.to_string())?;
                let answer = service.answer(from, of, group, body);
                let answers = answers.clone();
                tasks.spawn(async move {
                    let frame = match answer.await {
                        Ok(body) => Frame::Answer { id, body },
                        Err(why) => Frame::Refusal { id, why },
                    };
                    let _ = answers.send(frame.encode()).await;
                    drop(place);
                });
            }
            Frame::Answer { .. } | Frame::Refusal { .. } | Frame::Pong => {
                return Err(format!("node {from} answers where it should ask"));
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    Ok(())
}

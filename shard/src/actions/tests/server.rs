//! A small HTTP/1.1 server on the loopback, so that tests see the bytes of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A running server; it ends with the test's runtime.
pub(super) struct Server {
    pub(super) port: u16,
    /// Requests as they came, headers and body.
    pub(super) seen: Arc<Mutex<Vec<String>>>,
    pub(super) connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves what `answer` makes of each request; an empty answer keeps the client waiting.
    pub(super) async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (server.seen.clone(), server.connections.clone());
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (seen.clone(), answer.clone());
                tokio::spawn(async move { converse(stream, &seen, answer.as_ref()).await });
            }
        });
        server
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn last(&self) -> String {
        self.seen.lock().last().expect("a request came").clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().len()
    }
}

async fn converse(
    mut stream: TcpStream,
    seen: &Mutex<Vec<String>>,
    answer: &(dyn Fn(&str) -> Vec<u8> + Send + Sync),
) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = next(&mut stream, &mut buffer).await else { return };
        let reply = answer(&request);
        seen.lock().push(request);
        if reply.is_empty() {
            std::future::pending::<()>().await;
        }
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

async fn next(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let length: usize = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                })
                .map_or(0, |length| length.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let rest = buffer.split_off(end + 4 + length);
                let request = String::from_utf8_lossy(buffer).into_owned();
                *buffer = rest;
                return Some(request);
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// An answer with a body.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

/// A redirect.
pub(super) fn redirect(status: u16, to: &str) -> Vec<u8> {
    answer(&format!("{status} Moved"), &format!("location: {to}\r\n"), "")
}

//! MCP over stdio: a message a line, in and out. Whatever is no message is answered with why, and the
//! next line counts again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::JsonRpcMessage;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage, serve_server};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, watch};

use super::contract::Contract;
use super::message;
use super::server::{Server, Shared};

/// Longest line, in bytes: what a body may have.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest time for what is under way when the client has said its last.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(30);
/// Messages that wait, each way.
const MESSAGES_WAITING_MAX: usize = 16;

/// Serves one client on a reader and a writer until the reader ends, and what came is answered.
///
/// # Errors
/// The client did not begin as MCP has it, or the writer failed.
pub async fn serve(
    contract: Arc<dyn Contract>,
    version: &str,
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
) -> io::Result<()> {
    let (out, lines) = mpsc::channel(MESSAGES_WAITING_MAX);
    let writer = tokio::spawn(write_lines(write, lines));
    let (messages, incoming) = mpsc::channel(MESSAGES_WAITING_MAX);
    let reader = tokio::spawn(read_lines(BufReader::new(read), messages, out.clone()));
    let server = Server::new(Shared::new(contract, version.to_owned()));
    let served = match serve_server(server, Lines { incoming, out, unanswered: watch::Sender::new(0) }).await
    {
        Ok(running) => running.waiting().await.map(drop).map_err(io::Error::other),
        Err(error) => Err(io::Error::other(error)),
    };
    // It may wait for a line that never comes.
    reader.abort();
    let written = writer.await.map_err(io::Error::other)?;
    served.and(written)
}

/// The two ends that the service sees.
struct Lines {
    incoming: mpsc::Receiver<RxJsonRpcMessage<RoleServer>>,
    out: mpsc::Sender<Vec<u8>>,
    /// Requests that came and are not answered yet.
    unanswered: watch::Sender<usize>,
}

impl Transport<RoleServer> for Lines {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let (out, unanswered) = (self.out.clone(), self.unanswered.clone());
        async move {
            let is_answer = matches!(item, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_));
            let line = serde_json::to_vec(&item).map_err(io::Error::other)?;
            out.send(line).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            if is_answer {
                unanswered.send_modify(|requests| *requests = requests.saturating_sub(1));
            }
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        let message = self.incoming.recv().await;
        match &message {
            Some(JsonRpcMessage::Request(_)) => self.unanswered.send_modify(|requests| *requests += 1),
            Some(_) => {}
            None => {
                let mut unanswered = self.unanswered.subscribe();
                let last = unanswered.wait_for(|requests| *requests == 0);
                // What takes longer is for nobody: its client is gone.
                let _ = tokio::time::timeout(LAST_ANSWERS_MAX, last).await;
            }
        }
        message
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.incoming.close();
        Ok(())
    }
}

/// Writes line after line until nobody sends any more.
async fn write_lines(
    mut write: impl AsyncWrite + Unpin,
    mut lines: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(mut line) = lines.recv().await {
        line.push(b'\n');
        write.write_all(&line).await?;
        write.flush().await?;
    }
    Ok(())
}

/// Reads message after message until the lines end.
async fn read_lines(
    mut read: impl AsyncBufRead + Unpin,
    messages: mpsc::Sender<RxJsonRpcMessage<RoleServer>>,
    out: mpsc::Sender<Vec<u8>>,
) {
    loop {
        let read = match next_line(&mut read).await {
            Ok(Some(Line::Whole(line))) if line.trim_ascii().is_empty() => continue,
            Ok(Some(Line::Whole(line))) => message::read(&line),
            Ok(Some(Line::TooLong)) => Err(message::too_long(LINE_BYTES_MAX)),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "stdin cannot be read");
                return;
            }
        };
        let is_open = match read {
            Ok(read) => messages.send(read.message).await.is_ok(),
            Err(refusal) => out.send(refusal.to_string().into_bytes()).await.is_ok(),
        };
        if !is_open {
            return;
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    /// It was passed over to its end.
    TooLong,
}

/// The next line; what is over the limit is never held.
async fn next_line(read: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut is_too_long = false;
    loop {
        let available = read.fill_buf().await?;
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        let is_last = end.is_some() || available.is_empty();
        is_too_long |= line.len() + taken > LINE_BYTES_MAX;
        if is_too_long {
            line = Vec::new();
        } else {
            line.extend_from_slice(&available[..taken]);
        }
        read.consume(taken);
        if is_last {
            return Ok(match (is_too_long, line.is_empty()) {
                (true, _) => Some(Line::TooLong),
                (false, true) => None,
                (false, false) => Some(Line::Whole(line)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_without_end_are_passed_over() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let text = format!("a\n{long}\nb\r\n\nc");
        let mut read = BufReader::new(text.as_bytes());
        let mut found = Vec::new();
        while let Some(line) = next_line(&mut read).await.unwrap() {
            found.push(match line {
                Line::Whole(line) => String::from_utf8(line).unwrap(),
                Line::TooLong => "too long".to_owned(),
            });
        }
        assert_eq!(found, ["a\n", "too long", "b\r\n", "\n", "c"]);
    }
}

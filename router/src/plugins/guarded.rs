//! What a plugin writes, kept within bounds: a message without an end, and messages without end, are
//! the end of the plugin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

/// Longest message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes, and messages, in one [`WINDOW`].
const WINDOW_BYTES_MAX: usize = 64 * 1024 * 1024;
const WINDOW_MESSAGES_MAX: usize = 20_000;
const WINDOW: Duration = Duration::from_secs(10);

/// A plugin's output, which ends where it floods.
pub(crate) struct Guarded<R> {
    inner: R,
    line_bytes: usize,
    window: Instant,
    bytes: usize,
    messages: usize,
    flooded: Arc<AtomicBool>,
}

impl<R> Guarded<R> {
    /// `flooded` says afterwards why it has ended.
    pub(crate) fn new(inner: R, flooded: Arc<AtomicBool>) -> Self {
        Self { inner, line_bytes: 0, window: Instant::now(), bytes: 0, messages: 0, flooded }
    }

    /// Counts what has come; whether it may.
    fn is_taken(&mut self, new: &[u8], now: Instant) -> bool {
        if now.duration_since(self.window) > WINDOW {
            (self.window, self.bytes, self.messages) = (now, 0, 0);
        }
        self.bytes += new.len();
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            self.line_bytes += piece.len();
            if self.line_bytes > MESSAGE_BYTES_MAX {
                return false;
            }
            if piece.ends_with(b"\n") {
                (self.line_bytes, self.messages) = (0, self.messages + 1);
            }
        }
        self.bytes <= WINDOW_BYTES_MAX && self.messages <= WINDOW_MESSAGES_MAX
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guarded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = polled
            && !self.is_taken(&buffer.filled()[before..], Instant::now())
        {
            self.flooded.store(true, Ordering::Relaxed);
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::other("it floods")));
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_of_either_kind_are_seen() {
        let now = Instant::now();
        let guarded = || Guarded::new((), Arc::default());
        let long = vec![b'x'; MESSAGE_BYTES_MAX];
        let mut one = guarded();
        assert!(one.is_taken(&long, now));
        assert!(!one.is_taken(b"x\n", now), "a message has no end");
        let mut many = guarded();
        let lines = b"{}\n".repeat(1_000);
        for _ in 0..20 {
            assert!(many.is_taken(&lines, now));
        }
        assert!(!many.is_taken(&lines, now), "there is no end of messages");
        let mut slow = guarded();
        for second in 0..100 {
            assert!(slow.is_taken(&lines, now + Duration::from_secs(second)));
        }
        let mut wide = guarded();
        let line = [&long[1..], b"\n"].concat();
        let taken = (0..20).take_while(|_| wide.is_taken(&line, now)).count();
        assert_eq!(taken, WINDOW_BYTES_MAX / MESSAGE_BYTES_MAX);
    }
}

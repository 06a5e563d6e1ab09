//! This node's part of the audit log, in `DATA_DIR/audit`: lines of JSON in segments, the oldest of
//! which go when there are too many bytes of them.
//!
//! Calls wait in memory for a thread of their own ([`queue`]), which puts them into words, appends
//! them ([`segments`]) and syncs: at once when somebody waits for it, else after half a second. So
//! what runs workflows pays for one small value in a list, and whatever administers for one sync,
//! which all that wait share. Pages are read from the files themselves ([`reader`]), after what was
//! taken down before has been written.

mod queue;
mod reader;
mod segments;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use opcode_router::audit::query::{AuditPage, PageQuery};
use opcode_router::audit::{AuditLog, Call};
use opcode_shard::clock::Clock;
use opcode_shard::peer::NodeId;

use self::queue::Queue;
use self::segments::{Directory, Segments};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuditOptions {
    /// Bytes of one segment file; a line that is begun is not cut for them.
    pub(crate) segment_bytes: u64,
    /// Bytes of all segments; the oldest go before there are more. The newest always stays.
    pub(crate) bytes_max: u64,
}

/// The way to the files. Dropped, it has everything written that was taken down.
pub(crate) struct AuditFiles {
    queue: Arc<Queue>,
    directory: Arc<Directory>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl AuditFiles {
    /// Opens the folder, or makes it, and cuts off a last line that a crash has left unfinished.
    pub(crate) fn open(dir: &Path, node_id: NodeId, options: AuditOptions) -> Result<Self> {
        let segments = Segments::open(dir, node_id.to_string(), options)
            .with_context(|| format!("{}: the audit log cannot be opened", dir.display()))?;
        let (queue, directory) = (Arc::new(Queue::default()), segments.directory());
        let writer = std::thread::Builder::new()
            .name("audit".into())
            .spawn({
                let queue = queue.clone();
                move || write(&queue, segments)
            })
            .context("no thread can be started for the audit log")?;
        Ok(Self { queue, directory, writer: Some(writer) })
    }

    /// Resolves once everything is written that was taken down before.
    pub(crate) async fn flush(&self) -> Result<(), String> {
        self.queue.wait(None).await
    }
}

impl Drop for AuditFiles {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // It has told of its own panic.
            let _ = writer.join();
        }
    }
}

impl AuditLog for AuditFiles {
    fn record(&self, call: Call) {
        self.queue.push(call);
    }

    fn record_durably(&self, call: Call) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(self.queue.wait(Some(call)))
    }

    fn skip_refused(&self) {
        self.queue.skip_refused();
    }

    fn page(&self, query: PageQuery) -> BoxFuture<'static, Result<AuditPage, String>> {
        let (written, directory) = (self.queue.wait(None), self.directory.clone());
        Box::pin(async move {
            // A disk that takes no more does not keep anybody from reading.
            if let Err(error) = written.await {
                tracing::warn!(error, "the audit log is shown without its newest entries");
            }
            let read = tokio::task::spawn_blocking(move || reader::page(&directory, &query));
            read.await.map_err(|error| error.to_string())?.map_err(|error| format!("the audit log: {error}"))
        })
    }
}

/// Writes what waits, until the queue is closed and empty.
fn write(queue: &Queue, mut segments: Segments) {
    let clock = Clock::default();
    while let Some(batch) = queue.take() {
        let appended = segments.append(batch.calls, batch.not_recorded, clock.now());
        let written = appended.map_err(|failed| {
            tracing::error!(error = %failed.error, lost = failed.lost.lost, "the audit log takes no more");
            metrics::counter!("opcode_audit_lost_total").increment(failed.lost.lost);
            queue.lost(failed.lost);
            format!("the audit log takes no more: {}", failed.error)
        });
        for waiting in batch.waiting {
            // Whoever waited may be gone.
            let _ = waiting.send(written.clone());
        }
    }
}

#[cfg(test)]
mod tests;

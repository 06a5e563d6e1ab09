//! Whose turn it is to apply. Tables apply in threads of their own; with many shards, all of them
//! at once would leave a node's requests and its log no core. So there are turns, for half of the
//! cores, and what comes while a writer waits for its turn goes into the same transaction.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{FairMutex, FairMutexGuard};

static TURNS: LazyLock<Box<[FairMutex<()>]>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (0..(cores / 2).max(1)).map(|_| FairMutex::default()).collect()
});
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The turn that a writer waits for, always the same one.
pub(super) struct Turn(&'static FairMutex<()>);

impl Turn {
    /// That of the next writer: they are dealt out evenly.
    pub(super) fn deal() -> Self {
        Self(&TURNS[NEXT.fetch_add(1, Ordering::Relaxed) % TURNS.len()])
    }

    /// Waits for it; first come, first served.
    pub(super) fn take(&self) -> FairMutexGuard<'static, ()> {
        self.0.lock()
    }
}

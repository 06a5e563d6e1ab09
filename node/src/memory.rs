//! The allocator, and memory given back to the system after a burst.
//!
//! The C library's allocator hardly gives any back. This one does, but what other threads have freed
//! of a thread's memory waits until that thread looks for it, and a thread that has nothing to do
//! never would.

use std::cell::Cell;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a thread looks at most: it walks all of its pages.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

thread_local! {
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Called by a thread that is about to sleep.
pub(crate) fn give_back() {
    let now = Instant::now();
    if LOOKED.get().is_some_and(|looked| now.duration_since(looked) < LOOKS_EVERY) {
        return;
    }
    LOOKED.set(Some(now));
    #[expect(unsafe_code, reason = "the allocator's C function, which has no wrapper")]
    // SAFETY: it may be called by any thread at any time.
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}

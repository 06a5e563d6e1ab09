//! Whether this process is a simulation: then nothing in it may depend on a thread's turn, on the
//! machine's clock or on its disks.
//!
//! Production code asks here in few places and only where it would start a thread. Without the
//! feature `sim` the answer is known to the compiler. What a simulation puts in the place of disks,
//! clocks and networks comes in as data: [`crate::disk::Disk`], [`crate::clock::Clock`],
//! [`crate::peer::Peers`].

#[cfg(feature = "sim")]
mod on {
    use std::sync::atomic::{AtomicBool, Ordering};

    static ON: AtomicBool = AtomicBool::new(false);

    /// From here on this process is a simulation, on one thread.
    pub fn begin() {
        ON.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_on() -> bool {
        ON.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "sim")]
pub use crate::store::simulated::{RunLook, SimulatedRun, look, tables};
#[cfg(feature = "sim")]
pub use on::begin;
#[cfg(feature = "sim")]
pub(crate) use on::is_on;

/// Whether this process is a simulation.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is_on() -> bool {
    false
}

/// Runs what may block: on a thread for that, or at once in a simulation, where nothing blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    if is_on() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

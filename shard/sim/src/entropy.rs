//! Randomness by seed, for the whole process: the C library's `getrandom` is ours.
//!
//! Hash maps, tokio's choice between branches that are ready and every generator in any crate take
//! their first bits from there, so one seam makes them all repeat. That is why a process runs one
//! simulation and no more: what has been seeded stays so.
#![allow(unsafe_code)]

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Starts the process's randomness from a seed.
pub fn seed(seed: u64) {
    STATE.store(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
}

/// How often the process has asked for randomness since it began.
pub fn taken() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

fn next() -> u64 {
    // splitmix64: http://prng.di.unimi.it/splitmix64.c
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Stands for the C library's: fills `buffer`, always whole.
///
/// # Safety
/// `buffer` has room for `bytes` bytes, as the C library's own asks of its callers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, bytes: usize, _flags: c_uint) -> isize {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    if bytes == 0 {
        // A probe may come with a pointer to nowhere.
        return 0;
    }
    // SAFETY: the caller vouches for the room behind the pointer.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), bytes) };
    for part in buffer.chunks_mut(8) {
        part.copy_from_slice(&next().to_le_bytes()[..part.len()]);
    }
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

//! The allocator, and memory given back to the system after a burst and after the start.
//!
//! The C library's allocator hardly gives any back. This one does, but what other threads have freed
//! of a thread's memory waits until that thread looks for it, and a thread that has nothing to do
//! never would.

use std::cell::Cell;
use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::sys::mman::{MmapAdvise, madvise};

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

/// Lets go of the program's code as far as it is in this process's memory: much of it only the start ran.
/// What is still needed comes back from the page cache as it is run again, 64 KiB at a time.
pub(crate) fn forget_start() {
    let (Ok(program), Ok(maps)) = (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/maps"))
    else {
        return;
    };
    for (start, length) in maps.lines().filter_map(|line| code_of(line, &program.to_string_lossy())) {
        // A hint: where it is not taken, nothing is lost.
        #[expect(unsafe_code, reason = "the system call")]
        // SAFETY: pages of a private mapping of a file that nobody may write to, so that none of them can
        // be other than the file's; they are read from it again.
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Where a line of `/proc/self/maps` says that code of a file is, if it does.
fn code_of(line: &str, file: &str) -> Option<(NonNull<c_void>, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    // A file that was replaced meanwhile has another name there, and is left alone.
    if permissions != "r-xp" || !line.ends_with(file) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((NonNull::new(start as *mut c_void)?, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_program_is_found_and_nothing_else() {
        let line = "55d0c0a00000-55d0c2600000 r-xp 00a3f000 fe:00 1234    /usr/bin/opcode";
        let (start, length) = code_of(line, "/usr/bin/opcode").unwrap();
        assert_eq!((start.as_ptr() as usize, length), (0x55d0_c0a0_0000, 0x1c0_0000));
        for other in [
            "55d0c0a00000-55d0c2600000 r--p 00a3f000 fe:00 1234    /usr/bin/opcode",
            "55d0c0a00000-55d0c2600000 rw-p 00a3f000 fe:00 1234    /usr/bin/opcode",
            "7f00c0a00000-7f00c2600000 r-xp 00a3f000 fe:00 1234    /usr/lib/libc.so.6",
            "7f00c0a00000-7f00c2600000 r-xp 00a3f000 fe:00 1234    /usr/bin/opcode (deleted)",
            "",
        ] {
            assert!(code_of(other, "/usr/bin/opcode").is_none(), "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_its_start() {
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        forget_start();
        assert!(resident() < before, "no page was given back");
    }
}

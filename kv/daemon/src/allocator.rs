//! The allocator of our processes: mimalloc, which on request counts what one thread holds.
//!
//! Messages are allocated on one thread and freed on another, at every hop; the system's allocator spent a seventh of
//! a voter's time on that. The count exists for figures of memory: while no thread asks, it costs one read of a
//! thread's own memory. This is the second of the two files that may be unsafe, for the trait cannot be implemented
//! otherwise; every function hands its arguments on as they are.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mimalloc::MiMalloc;

/// What a program names as its `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

/// Bytes that a thread holds more than at the start of its measurement, and the most that it ever did.
#[derive(Debug, Clone, Copy)]
struct Meter {
    held: isize,
    peak: isize,
}

thread_local! {
    static METER: Cell<Option<Meter>> = const { Cell::new(None) };
}

fn count(bytes: isize) {
    // A thread that ends allocates after its own memory is gone.
    let _ = METER.try_with(|meter| {
        if let Some(Meter { held, peak }) = meter.get() {
            let held = held + bytes;
            meter.set(Some(Meter { held, peak: peak.max(held) }));
        }
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// Runs `act` and gives the most bytes that this thread held at once meanwhile, beyond what it held before. 0 in a
/// program with another allocator. One measurement inside another ends the outer one.
pub fn peak_bytes<T>(act: impl FnOnce() -> T) -> (T, u64) {
    METER.set(Some(Meter { held: 0, peak: 0 }));
    let done = act();
    let peak = METER.take().map_or(0, |meter| meter.peak);
    (done, u64::try_from(peak).unwrap_or(0))
}

/// Gives the memory that was freed back to the system now; mimalloc keeps it for a second, in case it is wanted again.
/// For work that frees large blocks all the time and must stay within a bound.
pub fn give_back() {
    // SAFETY: any thread may call it at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

// SAFETY: every call is mimalloc's with the caller's own arguments; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises, handed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's promises, handed on.
        unsafe { MiMalloc.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises, handed on.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: the caller's promises, handed on.
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let (_, peak) = peak_bytes(|| {
            drop(vec![1u8; 1000]);
            let mut grows = vec![1u8; 3000];
            grows.resize(5000, 1);
            grows
        });
        assert!((5000..8000).contains(&peak), "{peak}");
    }

    #[test]
    fn what_other_threads_hold_is_not_counted() {
        let (_, peak) = peak_bytes(|| std::thread::spawn(|| vec![1u8; 1 << 20].len()).join().unwrap());
        assert!(peak < 1 << 19, "{peak}");
    }
}

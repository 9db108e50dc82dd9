//! A reader under test, and the heap that it takes, held to a bound that the size of what it reads gives.

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A reader of bytes from elsewhere.
pub(crate) struct Reader {
    /// The fuzz target, and the folder of its corpus.
    pub(crate) name: &'static str,
    /// Reads some bytes; panics where what is promised of every input does not hold. Whether they were accepted.
    pub(crate) read: fn(&[u8]) -> bool,
    /// Inputs that are accepted, to begin with.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

/// Runs `read`, which may take `most` bytes of heap at any time. Nothing else may run in the process.
pub(crate) fn bounded<T>(most: usize, what: &str, read: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let value = read();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken <= most, "{what}: {taken} bytes of heap, expected {most} at most");
    value
}

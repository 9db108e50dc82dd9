//! Asking for memory before it is needed.

/// Bytes that come from memory together, on x86 and most others.
const LINE: usize = 64;

/// Asks for the `len` bytes from `start` on to be brought near. `start` may lie anywhere, also beyond what was
/// allocated: nothing is read.
#[inline(always)]
pub(super) fn prefetch<T>(start: *const T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..len).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which never faults, whatever the address.
        #[expect(unsafe_code, reason = "takes a pointer")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start.cast::<i8>().wrapping_add(offset));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint = (start, len, LINE);
}

//! One source of a kernel, compiled for several levels of x86.
//!
//! Architecture invariant: the levels give bitwise equal results. A kernel fixes the order of its
//! sums in its source (lanes are arrays), and rustc neither reorders nor contracts float operations,
//! so wider registers change speed alone.

/// Defines a function that runs `$body`, an `#[inline(always)]` function, compiled for the best
/// level this processor has; elsewhere the portable build of the same body runs.
macro_rules! per_cpu_level {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path;) => {
        $(#[$doc])*
        fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*);
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has every feature the function is compiled for.
                    #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
                    unsafe {
                        avx512($($arg),*);
                    }
                    return;
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has every feature the function is compiled for.
                    #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
                    unsafe {
                        avx2($($arg),*);
                    }
                    return;
                }
            }
            $body($($arg),*);
        }
    };
}

pub(super) use per_cpu_level;

//! One source of a kernel, compiled for several levels of x86.
//!
//! Architecture invariant: the levels give bitwise equal results. A kernel fixes the order of its
//! sums in its source (lanes are arrays, a fused product and sum is written `mul_add`), and rustc neither
//! reorders nor contracts float operations, so wider registers change speed alone.

/// Defines a function that runs `$body`, an `#[inline(always)]` function, compiled for the level that is its
/// first argument; elsewhere than on x86 the portable build of the same body runs.
macro_rules! per_cpu_level {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path;) => {
        $(#[$doc])*
        $vis fn $name(level: crate::kernels::cpu::CpuLevel, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*);
                }
                match level.kernels() {
                    crate::CpuKernels::Avx512 => {
                        // SAFETY: the level says that the processor has every feature named above.
                        #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
                        unsafe {
                            avx512($($arg),*);
                        }
                        return;
                    }
                    crate::CpuKernels::Avx2 => {
                        // SAFETY: the level says that the processor has every feature named above.
                        #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
                        unsafe {
                            avx2($($arg),*);
                        }
                        return;
                    }
                    crate::CpuKernels::Portable => {}
                }
            }
            let _used_on_x86 = level;
            $body($($arg),*);
        }
    };
}

pub(in crate::kernels) use per_cpu_level;

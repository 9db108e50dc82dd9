//! Which instructions the kernels may use.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A set of CPU kernels. All give the same bits; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuKernels {
    /// Plain Rust, for any processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C: Intel since 2013, AMD since 2015.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI: Intel servers since 2019, AMD since 2022.
    Avx512,
}

impl CpuKernels {
    /// All sets, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// Whether this processor can run them.
    #[must_use]
    pub fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Those this processor can run, the fastest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernels| kernels.is_supported())
    }
}

impl fmt::Display for CpuKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

impl FromStr for CpuKernels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kernels| kernels.to_string() == text).ok_or_else(|| {
            Error::Device {
                device: format!("cpu kernels {text}"),
                reason: "unknown; expected `portable`, `avx2` or `avx512`".to_owned(),
            }
        })
    }
}

/// Kernels that this processor can run: only a check makes one.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct CpuLevel(CpuKernels);

impl CpuLevel {
    /// The level asked for, or the best there is.
    ///
    /// # Errors
    /// [`Error::Device`] when this processor cannot run it.
    pub(super) fn new(kernels: Option<CpuKernels>) -> Result<Self> {
        let Some(kernels) = kernels else {
            return Ok(Self::best());
        };
        if !kernels.is_supported() {
            let supported: Vec<String> =
                CpuKernels::supported().map(|kernels| format!("`{kernels}`")).collect();
            return Err(Error::Device {
                device: format!("cpu kernels {kernels}"),
                reason: format!("this processor cannot run them; it can: {}", supported.join(", ")),
            });
        }
        Ok(Self(kernels))
    }

    /// The best there is, for work outside a forward pass.
    pub(in crate::kernels) fn best() -> Self {
        Self(CpuKernels::supported().next().unwrap_or(CpuKernels::Portable))
    }

    /// Which they are.
    pub(in crate::kernels) fn kernels(self) -> CpuKernels {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for kernels in CpuKernels::ALL {
            assert_eq!(kernels.to_string().parse::<CpuKernels>().unwrap(), kernels);
        }
        let error = "sse2".parse::<CpuKernels>().unwrap_err().to_string();
        assert!(error.contains("`avx2`"), "{error}");
    }

    #[test]
    fn the_best_supported_level_is_taken_unless_another_is_named() {
        let best = CpuKernels::supported().next().unwrap();
        assert_eq!(CpuLevel::new(None).unwrap().kernels(), best);
        for kernels in CpuKernels::ALL {
            let level = CpuLevel::new(Some(kernels));
            if kernels.is_supported() {
                assert_eq!(level.unwrap().kernels(), kernels);
            } else {
                let error = level.unwrap_err().to_string();
                assert!(error.contains("it can: ") && error.contains("`portable`"), "{error}");
            }
        }
    }
}

//! Number types in memory; all arithmetic is f32.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_slli_epi32, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_loadu_ps, _mm512_slli_epi32,
};

use candle_core::WithDType;
use half::{bf16, f16};

/// A type that is widened to f32 when it is read.
///
/// # Safety
/// The loads read no more than they say.
#[expect(unsafe_code, reason = "loads take pointers")]
pub(super) unsafe trait Element: WithDType {
    /// 0.
    const ZERO: Self;

    /// The value.
    fn widen(self) -> f32;

    /// The nearest value, ties to even.
    fn narrow(value: f32) -> Self;

    /// Sixteen values.
    ///
    /// # Safety
    /// `values` points to sixteen values, and the processor has AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_avx2(values: *const Self) -> [__m256; 2];

    /// Sixteen values.
    ///
    /// # Safety
    /// `values` points to sixteen values, and the processor has AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_avx512(values: *const Self) -> __m512;
}

// SAFETY: each load reads 64 bytes, sixteen f32.
#[expect(unsafe_code, reason = "loads take pointers")]
unsafe impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn load_avx2(values: *const Self) -> [__m256; 2] {
        // SAFETY: the caller's sixteen values.
        unsafe { [_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8))] }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_avx512(values: *const Self) -> __m512 {
        // SAFETY: the caller's sixteen values.
        unsafe { _mm512_loadu_ps(values) }
    }
}

// SAFETY: each load reads 32 bytes, sixteen f16.
#[expect(unsafe_code, reason = "loads take pointers")]
unsafe impl Element for f16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn load_avx2(values: *const Self) -> [__m256; 2] {
        // SAFETY: the caller's sixteen values.
        let halves = unsafe { load_halves(values.cast()) };
        [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_avx512(values: *const Self) -> __m512 {
        // SAFETY: the caller's sixteen values.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.cast::<__m256i>()) })
    }
}

// SAFETY: each load reads 32 bytes, sixteen bf16.
#[expect(unsafe_code, reason = "loads take pointers")]
unsafe impl Element for bf16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    unsafe fn load_avx2(values: *const Self) -> [__m256; 2] {
        // SAFETY: the caller's sixteen values.
        let [first, second] = unsafe { load_halves(values.cast()) };
        [bf16_to_f32(first), bf16_to_f32(second)]
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_avx512(values: *const Self) -> __m512 {
        // SAFETY: the caller's sixteen values.
        let halves = unsafe { _mm256_loadu_si256(values.cast::<__m256i>()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// Sixteen values of 16 bits.
///
/// # Safety
/// `values` points to 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
#[expect(unsafe_code, reason = "a load takes a pointer")]
unsafe fn load_halves(values: *const __m128i) -> [__m128i; 2] {
    // SAFETY: the caller's 32 bytes.
    unsafe { [_mm_loadu_si128(values), _mm_loadu_si128(values.add(1))] }
}

/// A bf16 is the upper half of an f32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn bf16_to_f32(values: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(values)))
}

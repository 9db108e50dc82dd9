//! Weighted sums of rows, 16 lanes wide, for several sets of weights at once: the inner loop of attention and of
//! products with dense weights.
//!
//! Scores are the rows of a transposed key block weighted by a query's elements, outputs of attention the rows of a
//! value block weighted by the scores' exponentials, products the rows of a panel weighted by a row of x. Every
//! level gives the same bits: per lane one fused product and sum a row, in order.

use super::cpu::CpuLevel;
use super::element::Element;
use super::lanes::LANES;
#[cfg(target_arch = "x86_64")]
use crate::CpuKernels;

/// `sums[g][lane] += factors[g][i] * rows[i * stride + lane]`, i ascending.
///
/// # Shapes
/// - `factors`: G slices of equal length n
/// - `rows`: at least `(n - 1) * stride + 16` numbers
///
/// # Panics
/// When the slices are shorter than that; the callers cut them from whole blocks.
pub(super) fn accumulate<T: Element, const G: usize>(
    level: CpuLevel,
    sums: &mut [[f32; LANES]; G],
    factors: [&[f32]; G],
    rows: &[T],
    stride: usize,
) {
    let num_rows = factors.iter().map(|factors| factors.len()).min().unwrap_or(0);
    let factors = factors.map(|factors| &factors[..num_rows]);
    if num_rows == 0 {
        return;
    }
    assert!(rows.len() >= (num_rows - 1) * stride + LANES, "rows are cut short");
    match level.kernels() {
        #[cfg(target_arch = "x86_64")]
        CpuKernels::Avx512 => {
            // SAFETY: the level says that the processor has the features; the lengths are asserted.
            #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
            unsafe {
                x86::avx512(sums, factors, rows.as_ptr(), stride);
            }
        }
        #[cfg(target_arch = "x86_64")]
        CpuKernels::Avx2 => {
            // SAFETY: the level says that the processor has the features; the lengths are asserted.
            #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
            unsafe {
                x86::avx2(sums, factors, rows.as_ptr(), stride);
            }
        }
        _ => portable(sums, factors, rows, stride),
    }
}

/// [`accumulate`] in plain Rust.
fn portable<T: Element, const G: usize>(
    sums: &mut [[f32; LANES]; G],
    factors: [&[f32]; G],
    rows: &[T],
    stride: usize,
) {
    for i in 0..factors[0].len() {
        let row: [f32; LANES] = std::array::from_fn(|lane| rows[i * stride + lane].widen());
        for (sums, factors) in sums.iter_mut().zip(factors) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum = factors[i].mul_add(value, *sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{Element, LANES};

    /// [`super::accumulate`].
    ///
    /// # Safety
    /// The processor has the features; `rows` points to `(n - 1) * stride + 16` numbers, n being the length of every
    /// slice of `factors` and not 0.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[expect(unsafe_code, reason = "a check in the inner loop costs a quarter of it")]
    pub(super) unsafe fn avx2<T: Element, const G: usize>(
        sums: &mut [[f32; LANES]; G],
        factors: [&[f32]; G],
        rows: *const T,
        stride: usize,
    ) {
        let num_rows = factors[0].len();
        let mut acc = [[_mm256_set1_ps(0.0); 2]; G];
        for g in 0..G {
            // SAFETY: sixteen floats.
            acc[g] = unsafe {
                [_mm256_loadu_ps(sums[g].as_ptr()), _mm256_loadu_ps(sums[g].as_ptr().add(8))]
            };
        }
        for i in 0..num_rows {
            // SAFETY: row i ends within what the caller promised.
            let row = unsafe { T::load_avx2(rows.add(i * stride)) };
            for g in 0..G {
                // SAFETY: every slice has `num_rows` numbers.
                let factor = _mm256_set1_ps(unsafe { *factors[g].get_unchecked(i) });
                acc[g][0] = _mm256_fmadd_ps(factor, row[0], acc[g][0]);
                acc[g][1] = _mm256_fmadd_ps(factor, row[1], acc[g][1]);
            }
        }
        for g in 0..G {
            // SAFETY: sixteen floats.
            unsafe {
                _mm256_storeu_ps(sums[g].as_mut_ptr(), acc[g][0]);
                _mm256_storeu_ps(sums[g].as_mut_ptr().add(8), acc[g][1]);
            }
        }
    }

    /// [`super::accumulate`].
    ///
    /// # Safety
    /// As [`avx2`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    #[expect(unsafe_code, reason = "a check in the inner loop costs a quarter of it")]
    pub(super) unsafe fn avx512<T: Element, const G: usize>(
        sums: &mut [[f32; LANES]; G],
        factors: [&[f32]; G],
        rows: *const T,
        stride: usize,
    ) {
        let num_rows = factors[0].len();
        let mut acc = [_mm512_setzero_ps(); G];
        for g in 0..G {
            // SAFETY: sixteen floats.
            acc[g] = unsafe { _mm512_loadu_ps(sums[g].as_ptr()) };
        }
        for i in 0..num_rows {
            // SAFETY: row i ends within what the caller promised.
            let row = unsafe { T::load_avx512(rows.add(i * stride)) };
            for g in 0..G {
                // SAFETY: every slice has `num_rows` numbers.
                let factor = _mm512_set1_ps(unsafe { *factors[g].get_unchecked(i) });
                acc[g] = _mm512_fmadd_ps(factor, row, acc[g]);
            }
        }
        for g in 0..G {
            // SAFETY: sixteen floats.
            unsafe { _mm512_storeu_ps(sums[g].as_mut_ptr(), acc[g]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::cpu::every_cpu;
    use super::*;

    fn check<T: Element>() {
        let rows: Vec<T> = (0..40 * 20).map(|i| T::narrow((i as f32 * 0.37).sin())).collect();
        let factors: Vec<f32> = (0..80).map(|i| (i as f32 * 0.73).cos()).collect();
        for num_rows in [0, 1, 5, 20] {
            // The last row ends with the slice.
            let rows = &rows[..num_rows.max(1) * 40 - 24];
            let factors =
                [&factors[..num_rows], &factors[20..20 + num_rows], &factors[50..50 + num_rows]];
            let mut expected = [[0.25; LANES]; 3];
            for (sums, factors) in expected.iter_mut().zip(factors) {
                for (i, factor) in factors.iter().enumerate() {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = factor.mul_add(rows[i * 40 + lane].widen(), *sum);
                    }
                }
            }
            for cpu in every_cpu() {
                let mut found = [[0.25; LANES]; 3];
                accumulate(cpu.level(), &mut found, factors, rows, 40);
                assert_eq!(
                    found.map(|sums| sums.map(f32::to_bits)),
                    expected.map(|sums| sums.map(f32::to_bits)),
                    "{} over {:?}",
                    cpu.kernels(),
                    T::DTYPE,
                );
            }
        }
    }

    #[test]
    fn every_level_adds_the_rows_in_order() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }
}

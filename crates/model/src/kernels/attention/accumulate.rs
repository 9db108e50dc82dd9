//! The inner loop of attention: weighted sums of rows, 16 lanes wide, for several heads at once.
//!
//! Scores are the rows of a transposed key block weighted by a query's elements, and outputs the rows of a value block
//! weighted by the scores' exponentials. Every level gives the same bits: per lane one product and
//! one sum a row, in order, never fused.

use super::super::lanes::LANES;

/// `sums[g][lane] += factors[g][i] * rows[i * stride + lane]`, i ascending.
///
/// # Shapes
/// - `factors`: G slices of equal length n
/// - `rows`: at least `(n - 1) * stride + 16` numbers
///
/// # Panics
/// When the slices are shorter than that; the callers cut them from whole blocks.
pub(super) fn accumulate<const G: usize>(
    sums: &mut [[f32; LANES]; G],
    factors: [&[f32]; G],
    rows: &[f32],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        #[expect(unsafe_code, reason = "calls a copy compiled for a detected level")]
        return unsafe { avx2::accumulate(sums, factors, rows, stride) };
    }
    portable(sums, factors, rows, stride);
}

/// [`accumulate`] in plain Rust.
fn portable<const G: usize>(
    sums: &mut [[f32; LANES]; G],
    factors: [&[f32]; G],
    rows: &[f32],
    stride: usize,
) {
    for (sums, factors) in sums.iter_mut().zip(factors) {
        for (i, factor) in factors.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(&rows[i * stride..i * stride + LANES]) {
                *sum += factor * value;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps,
    };

    use super::LANES;

    /// Lanes of a register.
    const WIDTH: usize = 8;
    /// Registers a row.
    const PARTS: usize = LANES / WIDTH;

    #[target_feature(enable = "avx2")]
    pub(super) fn accumulate<const G: usize>(
        sums: &mut [[f32; LANES]; G],
        factors: [&[f32]; G],
        rows: &[f32],
        stride: usize,
    ) {
        let num_rows = factors[0].len();
        if num_rows == 0 {
            return;
        }
        assert!(rows.len() >= (num_rows - 1) * stride + LANES, "rows are cut short");
        let factors = factors.map(|factors| &factors[..num_rows]);
        let mut acc = [[_mm256_set1_ps(0.0); PARTS]; G];
        for (acc, sums) in acc.iter_mut().zip(&*sums) {
            *acc = load(sums);
        }
        for i in 0..num_rows {
            // SAFETY: row i ends within `rows`, as asserted.
            #[expect(unsafe_code, reason = "a check in the inner loop costs a quarter of it")]
            let row: &[f32; LANES] = unsafe { &*rows.as_ptr().add(i * stride).cast() };
            let row = load(row);
            for (acc, factors) in acc.iter_mut().zip(&factors) {
                let factor = _mm256_set1_ps(factors[i]);
                for (acc, row) in acc.iter_mut().zip(row) {
                    *acc = _mm256_add_ps(*acc, _mm256_mul_ps(factor, row));
                }
            }
        }
        for (acc, sums) in acc.into_iter().zip(sums) {
            for (part, acc) in sums.as_chunks_mut::<WIDTH>().0.iter_mut().zip(acc) {
                // SAFETY: `part` is eight floats.
                #[expect(unsafe_code, reason = "a store takes a pointer")]
                unsafe {
                    _mm256_storeu_ps(part.as_mut_ptr(), acc);
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(row: &[f32; LANES]) -> [__m256; PARTS] {
        let mut parts = [_mm256_set1_ps(0.0); PARTS];
        for (part, values) in parts.iter_mut().zip(row.as_chunks::<WIDTH>().0) {
            // SAFETY: `values` is eight floats.
            #[expect(unsafe_code, reason = "a load takes a pointer")]
            let loaded = unsafe { _mm256_loadu_ps(values.as_ptr()) };
            *part = loaded;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_the_portable_bits() {
        let rows: Vec<f32> = (0..40 * 20).map(|i| (i as f32 * 0.37).sin()).collect();
        let factors: Vec<f32> = (0..80).map(|i| (i as f32 * 0.73).cos()).collect();
        for num_rows in [0, 1, 5, 20] {
            let factors =
                [&factors[..num_rows], &factors[20..20 + num_rows], &factors[50..50 + num_rows]];
            let mut found = [[0.25; LANES]; 3];
            let mut expected = found;
            accumulate(&mut found, factors, &rows, 40);
            portable(&mut expected, factors, &rows, 40);
            assert_eq!(
                found.map(|sums| sums.map(f32::to_bits)),
                expected.map(|sums| sums.map(f32::to_bits))
            );
        }
    }
}

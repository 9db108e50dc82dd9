//! Rows of activations rounded to 8 bits, as the packed products take them.

use super::super::cpu::{Cpu, per_cpu_level};
use super::BLOCK;

/// Rows that one task quantises.
const ROW_TILE: usize = 8;

/// What belongs to 32 numbers of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct XScale {
    /// Value of one step.
    pub(super) d: f32,
    /// `d * sum(q)`.
    pub(super) sum: f32,
    /// `sum(q)`.
    pub(super) sum_q: i32,
}

/// Rows of x, quantised one by one: `x = d * q` with q in -127..=127 and one d a block of 32.
#[derive(Debug)]
pub(super) struct QuantizedRows {
    /// `[num_rows, in_features]`.
    q: Vec<i8>,
    /// `[num_rows, in_features / 32]`.
    scales: Vec<XScale>,
    in_features: usize,
}

/// One quantised row.
#[derive(Debug, Clone, Copy)]
pub(super) struct XRow<'a> {
    /// `[in_features]`.
    pub(super) q: &'a [i8],
    /// `[in_features / 32]`.
    pub(super) scales: &'a [XScale],
}

impl QuantizedRows {
    /// # Shapes
    /// - `x`: `[num_rows, in_features]`, row-major; `in_features` is a multiple of 32
    pub(super) fn new(cpu: &Cpu, x: &[f32], in_features: usize) -> Self {
        let mut q = vec![0; x.len()];
        let mut scales = vec![XScale::default(); x.len() / BLOCK];
        let tiles = q
            .chunks_mut(ROW_TILE * in_features)
            .zip(scales.chunks_mut(ROW_TILE * in_features / BLOCK))
            .zip(x.chunks(ROW_TILE * in_features));
        cpu.for_each(tiles, |((q, scales), x)| quantize(cpu.level(), x, q, scales));
        Self { q, scales, in_features }
    }

    pub(super) fn num_rows(&self) -> usize {
        self.q.len() / self.in_features
    }

    pub(super) fn row(&self, row: usize) -> XRow<'_> {
        let row_blocks = self.in_features / BLOCK;
        XRow {
            q: &self.q[row * self.in_features..(row + 1) * self.in_features],
            scales: &self.scales[row * row_blocks..(row + 1) * row_blocks],
        }
    }
}

per_cpu_level! {
    /// Rounds whole blocks to the nearest of 255 steps between the largest magnitude and its negative.
    fn quantize(x: &[f32], q: &mut [i8], scales: &mut [XScale]) = quantize_body;
}

#[inline(always)]
fn quantize_body(x: &[f32], q: &mut [i8], scales: &mut [XScale]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    for ((x, q), scale) in blocks.zip(scales) {
        let mut lanes = [0f32; 8];
        for eight in x.as_chunks::<8>().0 {
            for (lane, x) in lanes.iter_mut().zip(eight) {
                *lane = if x.abs() > *lane { x.abs() } else { *lane };
            }
        }
        let largest = lanes.into_iter().fold(0f32, |largest, lane| largest.max(lane));
        let d = largest / 127.0;
        let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
        let mut sum = 0i32;
        for (x, q) in x.iter().zip(q) {
            // Adding it rounds to the nearest integer, ties to even, which stands in the low bits.
            const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
            #[expect(
                clippy::cast_possible_wrap,
                reason = "the low bits of a number near 1.5 * 2^23"
            )]
            let rounded = (x * inverse + ROUND).to_bits() as i32 - 0x4b40_0000;
            sum += rounded;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "within -127..=127 by construction"
            )]
            let rounded = rounded as i8;
            *q = rounded;
        }
        *scale = XScale { d, sum: d * sum as f32, sum_q: sum };
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::cpu;
    use super::*;

    #[test]
    fn a_row_is_restored_to_within_half_a_step() {
        let x: Vec<f32> = (0..96).map(|i| (i as f32 * 0.7).sin() * (i as f32)).collect();
        let rows = QuantizedRows::new(&cpu(), &x, 96);
        let row = rows.row(0);
        for (block, scale) in row.scales.iter().enumerate() {
            let mut sum = 0;
            let numbers = row.q.iter().zip(&x).enumerate().skip(block * BLOCK).take(BLOCK);
            for (i, (q, x)) in numbers {
                let restored = f32::from(*q) * scale.d;
                assert!((restored - x).abs() <= scale.d * 0.5001, "{i}: {restored}, not {x}");
                sum += i32::from(*q);
            }
            assert_eq!(scale.sum.to_bits(), (scale.d * sum as f32).to_bits());
        }
        assert!(row.q.iter().any(|q| q.unsigned_abs() == 127));
    }

    #[test]
    fn a_row_of_zeros_is_zeros() {
        let rows = QuantizedRows::new(&cpu(), &[0.0; 64], 32);
        assert_eq!(rows.num_rows(), 2);
        assert!(rows.row(1).q.iter().all(|&q| q == 0));
        assert!(rows.row(1).scales.iter().all(|scale| scale.d == 0.0 && scale.sum == 0.0));
    }
}

//! The packed products in plain Rust: what every other level must equal bit by bit.

use super::PANEL;
use super::activations::XRow;
use super::layout::{GROUP, Q4Block, Q8Block};

/// Products of M rows with one panel of 4-bit columns.
///
/// For each column: over the blocks in order, `acc += d * d_x * sum(q * q_x)` with the sum in integers, then
/// `acc += m * sum_x`.
#[inline(always)]
pub(super) fn tile_q4<const M: usize>(
    x: [XRow<'_>; M],
    panel: &[Q4Block],
    out: &mut [[f32; PANEL]; M],
) {
    *out = [[0.0; PANEL]; M];
    for (idx, block) in panel.iter().enumerate() {
        for (x, out) in x.iter().zip(&mut *out) {
            let q = x.q.as_chunks::<GROUP>().0;
            let (low_half, high_half) = q[8 * idx..8 * (idx + 1)].split_at(4);
            let mut sums = [0i32; PANEL];
            for ((weights, low), high) in block.q.iter().zip(low_half).zip(high_half) {
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<GROUP>().0) {
                    for i in 0..GROUP {
                        *sum += i32::from(weights[i] & 15) * i32::from(low[i]);
                        *sum += i32::from(weights[i] >> 4) * i32::from(high[i]);
                    }
                }
            }
            let scale = x.scales[idx];
            for (column, acc) in out.iter_mut().enumerate() {
                *acc += sums[column] as f32 * (block.d[column].to_f32() * scale.d);
                *acc += block.m[column].to_f32() * scale.sum;
            }
        }
    }
}

/// Products of M rows with one panel of 8-bit columns: over the blocks in order,
/// `acc += d * d_x * sum(q * q_x)` with the sum in integers.
#[inline(always)]
pub(super) fn tile_q8<const M: usize>(
    x: [XRow<'_>; M],
    panel: &[Q8Block],
    out: &mut [[f32; PANEL]; M],
) {
    *out = [[0.0; PANEL]; M];
    for (idx, block) in panel.iter().enumerate() {
        for (x, out) in x.iter().zip(&mut *out) {
            let q = x.q.as_chunks::<GROUP>().0;
            let mut sums = [0i32; PANEL];
            for (weights, x) in block.q.iter().zip(&q[8 * idx..8 * (idx + 1)]) {
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<GROUP>().0) {
                    for i in 0..GROUP {
                        *sum += i32::from(weights[i]) * i32::from(x[i]);
                    }
                }
            }
            let scale = x.scales[idx];
            for (column, acc) in out.iter_mut().enumerate() {
                *acc += sums[column] as f32 * (block.d[column].to_f32() * scale.d);
            }
        }
    }
}

//! The packed products in plain Rust: what every other level must equal bit by bit.

use super::activations::XRow;
use super::layout::{GROUP, Q4Block, Q8Block};
use super::{BLOCK, PANEL};

/// Products of a row with one panel of 4-bit columns.
///
/// For each column: over the blocks in order, `acc += d * d_x * sum(q * q_x)` with the sum in integers, then
/// `acc += m * sum_x`, both fused.
pub(super) fn tile_q4(x: XRow<'_>, panel: &[Q4Block], out: &mut [f32; PANEL]) {
    *out = [0.0; PANEL];
    let blocks = x.q.as_chunks::<BLOCK>().0.iter().zip(x.scales);
    for (block, (q, scale)) in panel.iter().zip(blocks) {
        let (low_half, high_half) = q.as_chunks::<GROUP>().0.split_at(4);
        let mut sums = [0i32; PANEL];
        for ((weights, low), high) in block.q.iter().zip(low_half).zip(high_half) {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<GROUP>().0) {
                for i in 0..GROUP {
                    *sum += i32::from(weights[i] & 15) * i32::from(low[i]);
                    *sum += i32::from(weights[i] >> 4) * i32::from(high[i]);
                }
            }
        }
        for (column, acc) in out.iter_mut().enumerate() {
            let step = block.d[column].to_f32() * scale.d;
            *acc = (sums[column] as f32).mul_add(step, *acc);
            *acc = block.m[column].to_f32().mul_add(scale.sum, *acc);
        }
    }
}

/// Products of a row with one panel of 8-bit columns: over the blocks in order,
/// `acc += d * d_x * sum(q * q_x)` with the sum in integers, fused.
pub(super) fn tile_q8(x: XRow<'_>, panel: &[Q8Block], out: &mut [f32; PANEL]) {
    *out = [0.0; PANEL];
    let blocks = x.q.as_chunks::<BLOCK>().0.iter().zip(x.scales);
    for (block, (q, scale)) in panel.iter().zip(blocks) {
        let mut sums = [0i32; PANEL];
        for (weights, x) in block.q.iter().zip(q.as_chunks::<GROUP>().0) {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<GROUP>().0) {
                for i in 0..GROUP {
                    *sum += i32::from(weights[i]) * i32::from(x[i]);
                }
            }
        }
        for (column, acc) in out.iter_mut().enumerate() {
            let step = block.d[column].to_f32() * scale.d;
            *acc = (sums[column] as f32).mul_add(step, *acc);
        }
    }
}

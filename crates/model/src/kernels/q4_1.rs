//! Matrix product with `Q4_1` weights, on the CPU: candle's dot product for this type is scalar.
//!
//! Weights stay as stored, `w = d * q + m` with q in 0..16; a row of x is quantised to 8 bits a block
//! of 32 with an f32 scale, so that
//! `sum(w * x) = sum over blocks of d * d_x * sum(q * q_x) + m * sum(x)`, the inner sum in integers.
//! Each output is made in [`LANES`] fixed partial sums, whatever the tile.

use half::f16;
use rayon::prelude::*;

use super::lanes::{LANES, sum_lanes};
use super::level::per_cpu_level;
use super::rows;

/// Numbers a block.
const BLOCK: usize = 32;
/// Weight rows that one task takes.
const COLUMN_TILE: usize = 32;
/// Rows of x and weight rows of one tile.
const TILE: usize = 4;

/// 32 weights, as ggml lays them out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Block {
    d: f16,
    m: f16,
    /// Low halves: weights 0..16; high halves: weights 16..32.
    q: [u8; LANES],
}

/// 32 numbers of a row of x.
#[derive(Debug, Clone, Copy)]
struct XBlock {
    /// In -127..=127.
    q: [i16; BLOCK],
    d: f32,
    /// `d * sum(q)`.
    sum: f32,
}

/// `x @ weight^T`.
///
/// # Shapes
/// - `x`: `[num_rows, in_features]`, row-major
/// - `weight`: `[out_features, in_features / 32]` blocks
/// - returns: `[num_rows, out_features]`
pub(super) fn product(x: &[f32], weight: &[Block], in_features: usize) -> Vec<f32> {
    let row_blocks = in_features / BLOCK;
    let num_rows = x.len() / in_features;
    let out_features = weight.len() / row_blocks;
    let x: Vec<XBlock> = x.as_chunks::<BLOCK>().0.iter().map(quantize).collect();
    let mut columns = vec![0f32; num_rows * out_features]; // [out_features, num_rows]
    columns
        .par_chunks_mut(COLUMN_TILE * num_rows)
        .zip(weight.par_chunks(COLUMN_TILE * row_blocks))
        .for_each(|(out, weight)| panel(&x, weight, row_blocks, out));
    rows::transpose(columns, out_features, num_rows)
}

/// Rounds to the nearest of 255 steps between the largest magnitude and its negative.
fn quantize(x: &[f32; BLOCK]) -> XBlock {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "within -127..=127 by construction")]
    let q = x.map(|x| (x * inverse).round_ties_even() as i16);
    let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
    XBlock { q, d, sum: d * sum as f32 }
}

/// Products of all rows of x with a few weight rows: `out` is `[weight rows, x rows]`.
fn panel(x: &[XBlock], weight: &[Block], row_blocks: usize, out: &mut [f32]) {
    let num_rows = x.len() / row_blocks;
    let weights: Vec<&[Block]> = weight.chunks_exact(row_blocks).collect();
    let rows: Vec<&[XBlock]> = x.chunks_exact(row_blocks).collect();
    for (row_tile, rows) in rows.chunks(TILE).enumerate() {
        for (column_tile, weights) in weights.chunks(TILE).enumerate() {
            let mut sums = [[0f32; TILE]; TILE];
            match (rows, weights) {
                ([x0, x1, x2, x3], _) => {
                    for (j, weight) in weights.iter().enumerate() {
                        let mut column = [0f32; TILE];
                        tile_4x1([x0, x1, x2, x3], [weight], &mut column);
                        sums[j] = column;
                    }
                }
                (_, [w0, w1, w2, w3]) => {
                    for (i, x) in rows.iter().enumerate() {
                        let mut row = [0f32; TILE];
                        tile_1x4([x], [w0, w1, w2, w3], &mut row);
                        for (sums, sum) in sums.iter_mut().zip(row) {
                            sums[i] = sum;
                        }
                    }
                }
                _ => {
                    for (j, weight) in weights.iter().enumerate() {
                        for (i, x) in rows.iter().enumerate() {
                            tile_1x1([x], [weight], &mut sums[j][i..=i]);
                        }
                    }
                }
            }
            for (j, sums) in sums.iter().take(weights.len()).enumerate() {
                let start = (column_tile * TILE + j) * num_rows + row_tile * TILE;
                out[start..start + rows.len()].copy_from_slice(&sums[..rows.len()]);
            }
        }
    }
}

// Each tile is a function of its own: within a larger one its sums do not stay in registers.
per_cpu_level! {
    /// [`tile`] of four rows of x.
    fn tile_4x1(x: [&[XBlock]; 4], weight: [&[Block]; 1], sums: &mut [f32]) = tile::<4, 1>;
}
per_cpu_level! {
    /// [`tile`] of four weight rows.
    fn tile_1x4(x: [&[XBlock]; 1], weight: [&[Block]; 4], sums: &mut [f32]) = tile::<1, 4>;
}
per_cpu_level! {
    /// [`tile`] of one row of each.
    fn tile_1x1(x: [&[XBlock]; 1], weight: [&[Block]; 1], sums: &mut [f32]) = tile::<1, 1>;
}

/// M x N dot products at once, into `sums`, `[M, N]`.
#[inline(always)]
fn tile<const M: usize, const N: usize>(
    x: [&[XBlock]; M],
    weight: [&[Block]; N],
    sums: &mut [f32],
) {
    let num_blocks = x[0].len();
    let x = x.map(|x| &x[..num_blocks]);
    let weight = weight.map(|weight| &weight[..num_blocks]);
    let mut lanes = [[[0f32; LANES]; N]; M];
    let mut offsets = [[0f32; N]; M];
    for block in 0..num_blocks {
        for j in 0..N {
            let w = &weight[j][block];
            let (d, m) = (widen(w.d), widen(w.m));
            let low = w.q.map(|q| i16::from(q & 15));
            let high = w.q.map(|q| i16::from(q >> 4));
            for i in 0..M {
                let x = &x[i][block];
                let scale = d * x.d;
                for lane in 0..LANES {
                    // At most 2 * 15 * 127: fits 16 bits.
                    let pair = low[lane]
                        .wrapping_mul(x.q[lane])
                        .wrapping_add(high[lane].wrapping_mul(x.q[LANES + lane]));
                    lanes[i][j][lane] += f32::from(pair) * scale;
                }
                offsets[i][j] += m * x.sum;
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            sums[i * N + j] = sum_lanes(lanes[i][j]) + offsets[i][j];
        }
    }
}

/// A finite f16 as f32, exactly and without a branch: the exponent is rebased by a product.
#[inline(always)]
fn widen(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000); // 2^112
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widen_is_exact_for_every_finite_value() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if value.is_finite() {
                assert_eq!(widen(value).to_bits(), value.to_f32().to_bits(), "{value}");
            }
        }
    }
}

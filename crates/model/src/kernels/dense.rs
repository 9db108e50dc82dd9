//! Matrix product with a dense weight, on the CPU.
//!
//! Each output element is a dot product over K in [`LANES`] fixed partial sums, whatever the number
//! of rows, the tile it falls into or the thread: a row's result does not depend on its company.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::lanes::{LANES, sum_lanes};
use super::level::per_cpu_level;
use super::rows;
use crate::error::Result;

/// Weight rows that one task takes, so that they stay in its core's cache while the rows of x pass.
const COLUMN_TILE: usize = 32;

/// `x @ weight^T`.
///
/// # Shapes
/// - `x`: `[total_tokens, in_features]`, f32
/// - `weight`: `[out_features, in_features]`, f32, f16 or bf16, contiguous
/// - returns: `[total_tokens, out_features]`, f32
///
/// # Dtype and device
/// Products and sums are f32. On devices other than the CPU the product is candle's.
pub(crate) fn matmul_dense(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        // contiguous: the kernel reads whole rows.
        return Ok(x.contiguous()?.apply_op2_no_bwd(weight, &DenseMatmul)?);
    }
    matmul_dense_composite(x, weight)
}

/// [`matmul_dense`] of candle's operations.
pub(super) fn matmul_dense_composite(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let product = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?; // [total_tokens, out_features]
    // f32: the residual stream is f32.
    Ok(product.to_dtype(DType::F32)?)
}

struct DenseMatmul;

impl CustomOp2 for DenseMatmul {
    fn name(&self) -> &'static str {
        "skeg-dense-matmul"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (num_rows, in_features) = x_layout.shape().dims2()?;
        let (out_features, weight_in) = weight_layout.shape().dims2()?;
        if in_features != weight_in {
            candle_core::bail!("matmul of rows of {in_features} with weights of {weight_in}");
        }
        let x = rows::slice::<f32>(x, x_layout)?;
        let out = match weight {
            CpuStorage::F32(_) => {
                product(x, rows::slice::<f32>(weight, weight_layout)?, in_features, |w, _| w)
            }
            CpuStorage::F16(_) => {
                product(x, rows::slice::<f16>(weight, weight_layout)?, in_features, |w, buffer| {
                    buffer.resize(w.len(), 0.0);
                    w.convert_to_f32_slice(buffer);
                    buffer
                })
            }
            CpuStorage::BF16(_) => {
                product(x, rows::slice::<bf16>(weight, weight_layout)?, in_features, |w, buffer| {
                    buffer.resize(w.len(), 0.0);
                    w.convert_to_f32_slice(buffer);
                    buffer
                })
            }
            other => candle_core::bail!("no matmul with weights of {:?}", other.dtype()),
        };
        Ok((CpuStorage::F32(out), (num_rows, out_features).into()))
    }
}

/// `[num_rows, out_features]`; `widen` gives a tile of weights as f32, in its buffer if need be.
fn product<T, F>(x: &[f32], weight: &[T], in_features: usize, widen: F) -> Vec<f32>
where
    T: WithDType,
    F: for<'w> Fn(&'w [T], &'w mut Vec<f32>) -> &'w [f32] + Sync,
{
    let num_rows = x.len() / in_features;
    let out_features = weight.len() / in_features;
    let mut columns = vec![0f32; num_rows * out_features]; // [out_features, num_rows]
    columns
        .par_chunks_mut(COLUMN_TILE * num_rows)
        .zip(weight.par_chunks(COLUMN_TILE * in_features))
        .for_each_init(Vec::new, |buffer, (out, weight)| {
            panel(x, widen(weight, buffer), in_features, out);
        });
    rows::transpose(columns, out_features, num_rows)
}

/// Rows of x and of the weight that one tile takes; what is left over goes one by one.
const TILE: usize = 4;

/// Products of all rows of x with a few weight rows: `out` is `[weight rows, x rows]`.
fn panel(x: &[f32], weight: &[f32], in_features: usize, out: &mut [f32]) {
    let num_rows = x.len() / in_features;
    let num_columns = weight.len() / in_features;
    let x_row = |row: usize| &x[row * in_features..(row + 1) * in_features];
    let weight_row = |column: usize| &weight[column * in_features..(column + 1) * in_features];
    let mut row = 0;
    while row < num_rows {
        let height = if num_rows - row >= TILE { TILE } else { 1 };
        let mut column = 0;
        while column < num_columns {
            let width = if num_columns - column >= TILE { TILE } else { 1 };
            let x = |i: usize| x_row(row + i);
            let w = |j: usize| weight_row(column + j);
            let mut sums = [[0f32; TILE]; TILE];
            match (height, width) {
                (TILE, TILE) => {
                    tile_4x4([x(0), x(1), x(2), x(3)], [w(0), w(1), w(2), w(3)], &mut sums);
                }
                (TILE, _) => tile_4x1([x(0), x(1), x(2), x(3)], [w(0)], &mut sums),
                (_, TILE) => tile_1x4([x(0)], [w(0), w(1), w(2), w(3)], &mut sums),
                _ => tile_1x1([x(0)], [w(0)], &mut sums),
            }
            for (i, sums) in sums.iter().take(height).enumerate() {
                for (j, sum) in sums.iter().take(width).enumerate() {
                    out[(column + j) * num_rows + row + i] = *sum;
                }
            }
            column += width;
        }
        row += height;
    }
}

type Sums = [[f32; TILE]; TILE];

// Each tile is a function of its own: within a larger one its sums do not stay in registers.
per_cpu_level! {
    /// [`tile`] of four rows and four columns.
    fn tile_4x4(x: [&[f32]; 4], weight: [&[f32]; 4], sums: &mut Sums) = tile::<4, 4>;
}
per_cpu_level! {
    /// [`tile`] of four rows and one column.
    fn tile_4x1(x: [&[f32]; 4], weight: [&[f32]; 1], sums: &mut Sums) = tile::<4, 1>;
}
per_cpu_level! {
    /// [`tile`] of one row and four columns.
    fn tile_1x4(x: [&[f32]; 1], weight: [&[f32]; 4], sums: &mut Sums) = tile::<1, 4>;
}
per_cpu_level! {
    /// [`tile`] of one row and one column.
    fn tile_1x1(x: [&[f32]; 1], weight: [&[f32]; 1], sums: &mut Sums) = tile::<1, 1>;
}

/// M x N dot products at once; each is summed exactly as [`super::lanes::dot`] does.
#[inline(always)]
fn tile<const M: usize, const N: usize>(
    x: [&[f32]; M],
    weight: [&[f32]; N],
    sums: &mut [[f32; TILE]; TILE],
) {
    let mut lanes = [[[0f32; LANES]; N]; M];
    let x_parts = x.map(|x| x.as_chunks::<LANES>());
    let weight_parts = weight.map(|weight| weight.as_chunks::<LANES>());
    let num_blocks = x_parts[0].0.len();
    let x_blocks = x_parts.map(|(blocks, _)| &blocks[..num_blocks]);
    let weight_blocks = weight_parts.map(|(blocks, _)| &blocks[..num_blocks]);
    for block in 0..num_blocks {
        for i in 0..M {
            for j in 0..N {
                for lane in 0..LANES {
                    lanes[i][j][lane] += x_blocks[i][block][lane] * weight_blocks[j][block][lane];
                }
            }
        }
    }
    let mut tails = lanes;
    for i in 0..M {
        for j in 0..N {
            let rest = x_parts[i].1.iter().zip(weight_parts[j].1);
            for (lane, (x, weight)) in tails[i][j].iter_mut().zip(rest) {
                *lane += x * weight;
            }
            sums[i][j] = sum_lanes(tails[i][j]);
        }
    }
}

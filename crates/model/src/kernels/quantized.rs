//! Matrix product with a quantised weight, on the CPU.
//!
//! For the types that [`super::packed`] does not take. The dot products are candle's, the loop is ours: candle's `QMatMul` takes repacked tiles for some
//! types at some widths, and so gives a row other bits in other company. Here a row of x is
//! quantised on its own and each output is one call of the type's dot product.

use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, BlockQ8_1, BlockQ8K,
};
use candle_core::quantized::{GgmlDType, GgmlType, QTensor};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::cpu::Cpu;
use super::rows;
use crate::error::Result;

/// Weight rows that one dot product call takes together.
const QUAD: usize = 4;
/// Weight rows that one task takes; a multiple of [`QUAD`], so that a column is in the same place of
/// its quad whatever the width.
const COLUMN_TILE: usize = 32;

/// `x @ weight^T`.
///
/// # Shapes
/// - `x`: `[total_tokens, in_features]`, f32
/// - `weight`: `[out_features, in_features]`, quantised along `in_features`
/// - returns: `[total_tokens, out_features]`, f32
///
/// # Dtype
/// Rows of x are quantised to the type's partner (`Q8_0`, `Q8_1` or `Q8K`), integer products are
/// scaled and summed in f32.
pub(crate) fn matmul_quantized(cpu: &Cpu, x: &Tensor, weight: &QTensor) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op1_no_bwd(&QuantizedMatmul { cpu, weight })?)
}

struct QuantizedMatmul<'a> {
    cpu: &'a Cpu,
    weight: &'a QTensor,
}

impl CustomOp1 for QuantizedMatmul<'_> {
    fn name(&self) -> &'static str {
        "skeg-quantized-matmul"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (num_rows, in_features) = x_layout.shape().dims2()?;
        let (out_features, weight_in) = self.weight.shape().dims2()?;
        if in_features != weight_in {
            candle_core::bail!("matmul of rows of {in_features} with weights of {weight_in}");
        }
        let x = rows::slice::<f32>(x, x_layout)?;
        let bytes = self.weight.data()?;
        let out = match self.weight.dtype() {
            GgmlDType::Q4_0 => product::<BlockQ4_0>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q4_1 => product::<BlockQ4_1>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q5_0 => product::<BlockQ5_0>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q5_1 => product::<BlockQ5_1>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q8_0 => product::<BlockQ8_0>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q8_1 => product::<BlockQ8_1>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q2K => product::<BlockQ2K>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q3K => product::<BlockQ3K>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q4K => product::<BlockQ4K>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q5K => product::<BlockQ5K>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q6K => product::<BlockQ6K>(self.cpu, x, &bytes, in_features),
            GgmlDType::Q8K => product::<BlockQ8K>(self.cpu, x, &bytes, in_features),
            dtype @ (GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) => {
                candle_core::bail!("{dtype:?} is a dense type and belongs to the dense product")
            }
        }?;
        Ok((CpuStorage::F32(out), (num_rows, out_features).into()))
    }
}

/// The blocks of a quantised tensor.
fn blocks<T>(bytes: &[u8]) -> candle_core::Result<&[T]> {
    // SAFETY: the block types are plain numbers without padding, valid for any bytes; `align_to`
    // itself keeps bounds and alignment.
    #[expect(unsafe_code, reason = "candle hands out a quantised tensor's data as bytes only")]
    let (before, blocks, after) = unsafe { bytes.align_to::<T>() };
    if !before.is_empty() || !after.is_empty() {
        candle_core::bail!(
            "a quantised tensor of {} bytes is not whole aligned blocks of {}",
            bytes.len(),
            size_of::<T>()
        );
    }
    Ok(blocks)
}

/// `[num_rows, out_features]`.
fn product<T: GgmlType>(
    cpu: &Cpu,
    x: &[f32],
    bytes: &[u8],
    in_features: usize,
) -> candle_core::Result<Vec<f32>> {
    let weight = blocks::<T>(bytes)?;
    let num_rows = x.len() / in_features;
    let row_blocks = in_features / T::BLCK_SIZE;
    let takes_pairs = matches!(T::DTYPE, GgmlDType::Q5_0 | GgmlDType::Q5_1);
    if takes_pairs && !row_blocks.is_multiple_of(2) {
        candle_core::bail!(
            "{:?} weights of {in_features} columns: candle's dot product takes pairs of blocks, so a \
             multiple of {} is needed; load the weights as f32",
            T::DTYPE,
            2 * T::BLCK_SIZE
        );
    }
    let out_features = weight.len() / row_blocks;
    let mut x_blocks = vec![T::VecDotType::zeros(); num_rows * row_blocks];
    let x_rows = x_blocks.chunks_mut(row_blocks).zip(x.chunks(in_features));
    cpu.for_each(x_rows, |(blocks, x)| T::VecDotType::from_float(x, blocks));
    let mut columns = vec![0f32; num_rows * out_features]; // [out_features, num_rows]
    let tiles =
        columns.chunks_mut(COLUMN_TILE * num_rows).zip(weight.chunks(COLUMN_TILE * row_blocks));
    cpu.for_each(tiles, |(out, weight)| {
        let quads = out.chunks_mut(QUAD * num_rows).zip(weight.chunks(QUAD * row_blocks));
        for (out, weight) in quads {
            dot_columns::<T>(&x_blocks, weight, in_features, row_blocks, out);
        }
    });
    Ok(rows::transpose(cpu, columns, out_features, num_rows))
}

/// Products of every row of x with up to four weight rows: `out` is `[weight rows, x rows]`.
fn dot_columns<T: GgmlType>(
    x: &[T::VecDotType],
    weight: &[T],
    in_features: usize,
    row_blocks: usize,
    out: &mut [f32],
) {
    let num_rows = x.len() / row_blocks;
    let columns: Vec<&[T]> = weight.chunks_exact(row_blocks).collect();
    for (row, x) in x.chunks_exact(row_blocks).enumerate() {
        if let [w0, w1, w2, w3] = columns[..] {
            let (d0, d1, d2, d3) = T::vec_dot_4(in_features, w0, w1, w2, w3, x);
            out[row] = d0;
            out[num_rows + row] = d1;
            out[2 * num_rows + row] = d2;
            out[3 * num_rows + row] = d3;
        } else {
            for (column, weight) in columns.iter().enumerate() {
                out[column * num_rows + row] = T::vec_dot(in_features, weight, x);
            }
        }
    }
}

//! Operations within a row: RMS norm, rotary embedding, SwiGLU, residual sum.

use candle_core::{CpuStorage, CustomOp2, InplaceOp3, Layout, Shape, Tensor};

use super::cpu::{Cpu, per_cpu_level};
use super::lanes::{dot, silu};
use super::rows;
use crate::error::Result;

/// Rows that one task takes.
const ROW_TILE: usize = 16;

/// `x / sqrt(mean(x^2) + eps) * weight`, row by row (arXiv 1910.07467).
///
/// # Shapes
/// - `x`, returns: `[total_tokens, hidden_size]`, f32
/// - `weight`: `[hidden_size]`, f32
pub(crate) fn rms_norm(cpu: &Cpu, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op2_no_bwd(weight, &RmsNorm { cpu, eps })?)
}

struct RmsNorm<'a> {
    cpu: &'a Cpu,
    eps: f64,
}

impl CustomOp2 for RmsNorm<'_> {
    fn name(&self) -> &'static str {
        "skeg-rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, hidden_size) = x_layout.shape().dims2()?;
        let x = rows::slice::<f32>(x, x_layout)?;
        let weight = rows::slice::<f32>(weight, weight_layout)?;
        if weight.len() != hidden_size {
            candle_core::bail!("norm of rows of {hidden_size} with {} weights", weight.len());
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounds once, as transformers does")]
        let eps = self.eps as f32;
        let mut out = vec![0f32; x.len()];
        let tile = ROW_TILE * hidden_size;
        self.cpu.for_each(out.chunks_mut(tile).zip(x.chunks(tile)), |(out, x)| {
            rms_norm_rows(self.cpu.level(), x, weight, eps, out);
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

per_cpu_level! {
    /// Some rows of [`rms_norm`].
    fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_rows_body;
}

#[inline(always)]
fn rms_norm_rows_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (out, x) in out.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
        let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// Rotates the halves of each head against each other, in place (arXiv 2104.09864, in the half-split
/// layout of Hugging Face's checkpoints: element i pairs with `i + head_dim / 2`). On the CPU only.
///
/// # Shapes
/// - `x`: `[total_tokens, row_width]`, f32, contiguous; the first `width` numbers of a row are heads to rotate
/// - `cos`, `sin`: `[total_tokens, head_dim / 2]`, f32
pub(super) fn rope_in_place(
    cpu: &Cpu,
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    width: usize,
) -> Result<()> {
    Ok(x.inplace_op3(cos, sin, &Rope { cpu, width })?)
}

struct Rope<'a> {
    cpu: &'a Cpu,
    /// Numbers of a row that are rotated.
    width: usize,
}

impl InplaceOp3 for Rope<'_> {
    fn name(&self) -> &'static str {
        "skeg-rope"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (total_tokens, row_width) = x_layout.shape().dims2()?;
        let (table_rows, half) = cos_layout.shape().dims2()?;
        let width = self.width;
        if table_rows != total_tokens || !width.is_multiple_of(2 * half) || width > row_width {
            candle_core::bail!(
                "rope of {width} in [{total_tokens}, {row_width}] with tables of [{table_rows}, {half}]"
            );
        }
        let x = rows::slice_mut(x, x_layout)?;
        let cos = rows::slice::<f32>(cos, cos_layout)?;
        let sin = rows::slice::<f32>(sin, sin_layout)?;
        let rows = x
            .chunks_mut(ROW_TILE * row_width)
            .zip(cos.chunks(ROW_TILE * half).zip(sin.chunks(ROW_TILE * half)));
        self.cpu.for_each(rows, |(x, (cos, sin))| {
            let rows = x
                .chunks_exact_mut(row_width)
                .zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)));
            for (x, (cos, sin)) in rows {
                rope_row(self.cpu.level(), &mut x[..width], cos, sin);
            }
        });
        Ok(())
    }
}

per_cpu_level! {
    /// One row of [`rope_in_place`].
    fn rope_row(x: &mut [f32], cos: &[f32], sin: &[f32]) = rope_row_body;
}

#[inline(always)]
fn rope_row_body(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for head in x.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// `silu(gate) * up` (arXiv 2002.05202).
///
/// # Shapes
/// - `gate`, `up`, returns: `[total_tokens, intermediate_size]`, f32
pub(crate) fn swiglu(cpu: &Cpu, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(gate.apply_op2_no_bwd(up, &SwiGlu { cpu })?)
}

struct SwiGlu<'a> {
    cpu: &'a Cpu,
}

impl CustomOp2 for SwiGlu<'_> {
    fn name(&self) -> &'static str {
        "skeg-swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        /// Elements a task takes.
        const TILE: usize = 8192;
        let gate = rows::slice::<f32>(gate, gate_layout)?;
        let up = rows::slice::<f32>(up, up_layout)?;
        if gate.len() != up.len() {
            candle_core::bail!("swiglu of {} and {} elements", gate.len(), up.len());
        }
        let mut out = up.to_vec();
        let tiles = out.chunks_mut(TILE).zip(gate.chunks(TILE));
        self.cpu.for_each(tiles, |(out, gate)| times_silu(self.cpu.level(), gate, out));
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }
}

per_cpu_level! {
    /// `up = silu(gate) * up`.
    pub(super) fn times_silu(gate: &[f32], up: &mut [f32]) = times_silu_body;
}

#[inline(always)]
fn times_silu_body(gate: &[f32], up: &mut [f32]) {
    for (up, gate) in up.iter_mut().zip(gate) {
        *up *= silu(*gate);
    }
}

/// `x + y`, the residual sum, into a tensor of its own.
///
/// # Shapes
/// - `x`, `y`, returns: `[total_tokens, hidden_size]`, f32
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(x.apply_op2_no_bwd(y, &Add)?)
}

/// candle's own sum waits for a pool of spinning threads, which a busy machine makes slow.
struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "skeg-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = rows::slice::<f32>(x, x_layout)?;
        let y = rows::slice::<f32>(y, y_layout)?;
        if x.len() != y.len() {
            candle_core::bail!("sum of {} and {} elements", x.len(), y.len());
        }
        let out = x.iter().zip(y).map(|(x, y)| x + y).collect();
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

//! The products as candle operations: tasks, cache blocking, where the results go.

use std::marker::PhantomData;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::super::cpu::Cpu;
use super::super::elementwise::times_silu;
use super::super::rows;
use super::tile::{MAX_ROWS, TileBlock};
use super::{PANEL, PackedMatrix, panel, with_blocks};
use crate::error::Result;

/// Rows of x that stay in a core's second-level cache while the panels of a task pass: 128 rows of 1536
/// numbers are 192 KiB.
const ROW_BLOCK: usize = 128;
/// Tasks a thread: enough that a core which another process slows down takes fewer.
const TASKS_PER_THREAD: usize = 4;

/// `x @ weight^T`.
///
/// # Shapes
/// - `x`: `[total_tokens, in_features]`, f32
/// - returns: `[total_tokens, out_features]`, f32
///
/// # Errors
/// [`crate::Error::Tensor`] when the widths do not match.
pub(crate) fn matmul(cpu: &Cpu, x: &Tensor, weight: &PackedMatrix) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op1_no_bwd(&Product { cpu, weight, gate: None })?)
}

/// `silu(x @ gate^T) * (x @ up^T)`, the inner half of a SwiGLU feed-forward (arXiv 2002.05202).
///
/// # Shapes
/// - `x`: `[total_tokens, in_features]`, f32
/// - `gate`, `up`: `[intermediate_size, in_features]`
/// - returns: `[total_tokens, intermediate_size]`, f32
///
/// # Errors
/// [`crate::Error::Tensor`] when the widths do not match.
pub(crate) fn swiglu_matmul(
    cpu: &Cpu,
    x: &Tensor,
    gate: &PackedMatrix,
    up: &PackedMatrix,
) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op1_no_bwd(&Product { cpu, weight: up, gate: Some(gate) })?)
}

struct Product<'a> {
    cpu: &'a Cpu,
    weight: &'a PackedMatrix,
    /// With it, the product is multiplied by its silu.
    gate: Option<&'a PackedMatrix>,
}

impl CustomOp1 for Product<'_> {
    fn name(&self) -> &'static str {
        "skeg-packed-matmul"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (num_rows, in_features) = x_layout.shape().dims2()?;
        let out_features = self.weight.out_features;
        let fits = |matrix: &PackedMatrix| {
            matrix.in_features == in_features && matrix.out_features == out_features
        };
        if !fits(self.weight) || self.gate.is_some_and(|gate| !fits(gate)) {
            candle_core::bail!(
                "matmul of rows of {in_features} with weights of {} and {:?}",
                self.weight.in_features,
                self.gate.map(|gate| (gate.out_features, gate.in_features)),
            );
        }
        let x = rows::slice::<f32>(x, x_layout)?;
        let out = with_blocks!(&self.weight.panels, weight => self.run(x, weight))?;
        Ok((CpuStorage::F32(out), (num_rows, out_features).into()))
    }
}

impl Product<'_> {
    /// `[num_rows, out_features]`.
    fn run<B: TileBlock>(&self, x: &[f32], weight: &[B]) -> candle_core::Result<Vec<f32>> {
        let in_features = self.weight.in_features;
        let gate = match self.gate {
            None => None,
            Some(gate) => match B::blocks(&gate.panels) {
                Some(gate) => Some(gate),
                None => candle_core::bail!("gate and up are packed in different forms"),
            },
        };
        let level = self.cpu.level();
        Ok(B::with_rows(self.cpu, x, in_features, |x| {
            run(self.cpu, x.len(), self.weight, |panel_idx, rows, out| {
                let x = &x[rows.clone()];
                let mut values = [[0.0; PANEL]; MAX_ROWS];
                B::tile(level, x, panel(weight, panel_idx, in_features), &mut values);
                if let Some(gate) = gate {
                    let mut gates = [[0.0; PANEL]; MAX_ROWS];
                    B::tile(level, x, panel(gate, panel_idx, in_features), &mut gates);
                    let len = x.len();
                    times_silu(
                        level,
                        gates[..len].as_flattened(),
                        values[..len].as_flattened_mut(),
                    );
                }
                for (row, values) in rows.zip(&values) {
                    out.write(row, panel_idx, values);
                }
            })
        }))
    }
}

/// Calls `tile` for every panel and every tile of rows, each pair once, on all threads.
fn run(
    cpu: &Cpu,
    num_rows: usize,
    matrix: &PackedMatrix,
    tile: impl Fn(usize, std::ops::Range<usize>, &Out<'_>) + Sync,
) -> Vec<f32> {
    let num_panels = matrix.num_panels();
    let mut values = vec![0f32; num_rows * matrix.out_features];
    let out = Out::new(&mut values, matrix.out_features);
    let task_panels = num_panels.div_ceil(cpu.num_threads() * TASKS_PER_THREAD).max(1);
    cpu.for_each(0..num_panels.div_ceil(task_panels), |task| {
        let first = task * task_panels;
        for row_block in (0..num_rows).step_by(ROW_BLOCK) {
            let block_end = (row_block + ROW_BLOCK).min(num_rows);
            for panel_idx in first..(first + task_panels).min(num_panels) {
                for row in (row_block..block_end).step_by(MAX_ROWS) {
                    tile(panel_idx, row..(row + MAX_ROWS).min(block_end), &out);
                }
            }
        }
    });
    values
}

/// A result that tasks fill: each row's share of a panel is written by one task.
struct Out<'a> {
    values: *mut f32,
    num_rows: usize,
    out_features: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it only hands numbers over, and `write` is called once for each place (see `run`).
#[expect(unsafe_code, reason = "tasks write disjoint parts of rows, which slices cannot express")]
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    fn new(values: &'a mut [f32], out_features: usize) -> Self {
        let num_rows = values.len() / out_features;
        Self { values: values.as_mut_ptr(), num_rows, out_features, of: PhantomData }
    }

    /// Writes one row's columns of a panel, but for the last panel's padding.
    fn write(&self, row: usize, panel_idx: usize, values: &[f32; PANEL]) {
        let column = panel_idx * PANEL;
        assert!(row < self.num_rows && column < self.out_features, "outside the result");
        let width = PANEL.min(self.out_features - column);
        // SAFETY: in bounds, since row and column are and the width ends with the row; no other task has this
        // panel, and this task has this row once.
        #[expect(unsafe_code, reason = "tasks write disjoint parts of rows")]
        unsafe {
            let place = self.values.add(row * self.out_features + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), place, width);
        }
    }
}

//! The products as candle operations: tasks, cache blocking, where the results go.

use std::marker::PhantomData;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::super::lanes::silu;
use super::super::level::per_cpu_level;
use super::super::{parallel, rows};
use super::activations::{QuantizedRows, XRow};
use super::layout::PackedBlock;
use super::tile::{MAX_ROWS, TileBlock, rows as tile_rows};
use super::{PANEL, PackedMatrix, Panels};
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
pub(crate) fn matmul(x: &Tensor, weight: &PackedMatrix) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op1_no_bwd(&Product { weight, gate: None })?)
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
pub(crate) fn swiglu_matmul(x: &Tensor, gate: &PackedMatrix, up: &PackedMatrix) -> Result<Tensor> {
    // contiguous: the kernel reads whole rows.
    Ok(x.contiguous()?.apply_op1_no_bwd(&Product { weight: up, gate: Some(gate) })?)
}

struct Product<'a> {
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
        let x = QuantizedRows::new(rows::slice::<f32>(x, x_layout)?, in_features);
        let x: Vec<XRow<'_>> = (0..x.num_rows()).map(|row| x.row(row)).collect();
        let out = match (&self.weight.panels, self.gate.map(|gate| &gate.panels)) {
            (Panels::Q4(weight), None) => product(&x, weight, self.weight),
            (Panels::Q8(weight), None) => product(&x, weight, self.weight),
            (Panels::Q4(up), Some(Panels::Q4(gate))) => gated(&x, gate, up, self.weight),
            (Panels::Q8(up), Some(Panels::Q8(gate))) => gated(&x, gate, up, self.weight),
            _ => candle_core::bail!("gate and up are packed in different forms"),
        };
        Ok((CpuStorage::F32(out), (num_rows, out_features).into()))
    }
}

/// `[num_rows, out_features]`.
fn product<B: TileBlock + PackedBlock>(
    x: &[XRow<'_>],
    weight: &[B],
    matrix: &PackedMatrix,
) -> Vec<f32> {
    let panel_len = matrix.panel_len();
    run(x.len(), matrix, |panel_idx, rows, out| {
        let panel = &weight[panel_idx * panel_len..(panel_idx + 1) * panel_len];
        tile_rows(&x[rows.clone()], panel, |row, values| {
            out.write(rows.start + row, panel_idx, values);
        });
    })
}

/// `[num_rows, out_features]`.
fn gated<B: TileBlock + PackedBlock>(
    x: &[XRow<'_>],
    gate: &[B],
    up: &[B],
    matrix: &PackedMatrix,
) -> Vec<f32> {
    let panel_len = matrix.panel_len();
    run(x.len(), matrix, |panel_idx, rows, out| {
        let panel = panel_idx * panel_len..(panel_idx + 1) * panel_len;
        let x = &x[rows.clone()];
        let mut gates = [[0.0; PANEL]; MAX_ROWS];
        tile_rows(x, &gate[panel.clone()], |row, values| gates[row] = *values);
        tile_rows(x, &up[panel], |row, values| {
            silu_times(values, &mut gates[row]);
            out.write(rows.start + row, panel_idx, &gates[row]);
        });
    })
}

per_cpu_level! {
    /// `gate = silu(gate) * up`.
    fn silu_times(up: &[f32; PANEL], gate: &mut [f32; PANEL]) = silu_times_body;
}

#[inline(always)]
fn silu_times_body(up: &[f32; PANEL], gate: &mut [f32; PANEL]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = silu(*gate) * up;
    }
}

/// Calls `tile` for every panel and every tile of rows, each pair once, on all threads.
fn run(
    num_rows: usize,
    matrix: &PackedMatrix,
    tile: impl Fn(usize, std::ops::Range<usize>, &Out<'_>) + Sync,
) -> Vec<f32> {
    let num_panels = matrix.num_panels();
    let mut values = vec![0f32; num_rows * matrix.out_features];
    let out = Out::new(&mut values, matrix.out_features);
    let task_panels = num_panels.div_ceil(parallel::num_threads() * TASKS_PER_THREAD).max(1);
    parallel::for_each(0..num_panels.div_ceil(task_panels), |task| {
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

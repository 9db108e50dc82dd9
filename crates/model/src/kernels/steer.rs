//! Steering of single rows in place.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Shape, Storage, Tensor};

use super::cpu::{Cpu, per_cpu_level};
use super::lanes::dot;
use super::prefetch::prefetch;
use super::rows;
use crate::error::Result;
use crate::steering::Operator;

/// One row to steer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SteerRow {
    /// Row of the packed batch; no row is there twice.
    pub(crate) row: usize,
    /// Row of the table, not 0.
    pub(crate) slot: usize,
    /// Signed factor, not 0.
    pub(crate) strength: f32,
    /// What is done with them.
    pub(crate) operator: Operator,
}

/// Changes chosen rows of `h` in place: `h[row] = operator(h[row], strength, table[slot])`
/// (arXiv 2410.01174, Eq. 2; the other operators as [`Operator`] says). Other rows are not touched.
///
/// # Shapes
/// - `h`: `[total_tokens, hidden_size]`, f32, contiguous
/// - `table`: `[num_slots, hidden_size]`, f32
/// - returns: `[rows]`, `||delta|| / ||h||` of each
///
/// # Dtype
/// All sums are f32.
///
/// # Cost
/// One pass over the steered rows.
pub(crate) fn steer(cpu: &Cpu, h: &Tensor, table: &Tensor, rows: &[SteerRow]) -> Result<Vec<f32>> {
    let op = SteerInPlace { cpu, rows, relative_norms: RefCell::default() };
    h.inplace_op2(table, &op)?;
    Ok(op.relative_norms.into_inner())
}

/// `x + h` where the chosen rows of h are steered first, in one operation; h itself is not changed. The same bits as
/// [`steer`] and then the sum.
///
/// # Shapes
/// - `x`, `h`, the first of what it returns: `[total_tokens, hidden_size]`, f32, contiguous
/// - `table`, the second: as in [`steer`]
pub(crate) fn add_steered(
    cpu: &Cpu,
    x: &Tensor,
    h: &Tensor,
    table: &Tensor,
    rows: &[SteerRow],
) -> Result<(Tensor, Vec<f32>)> {
    let op = SteerInPlace { cpu, rows, relative_norms: RefCell::default() };
    let sum = h.apply_op3_no_bwd(x, table, &op)?;
    Ok((sum, op.relative_norms.into_inner()))
}

/// Asks for the vectors of these rows: the weights of a step push them out of the caches, and what follows would wait
/// for them.
pub(crate) fn prefetch_slots(table: &Tensor, rows: &[SteerRow]) {
    let (storage, layout) = table.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return };
    let (Ok(values), Ok((_, hidden_size))) =
        (rows::slice::<f32>(storage, layout), layout.shape().dims2())
    else {
        return;
    };
    for same_slot in rows.chunk_by(|a, b| a.slot == b.slot) {
        let start = same_slot[0].slot * hidden_size;
        if let Some(v) = values.get(start..start + hidden_size) {
            prefetch(v.as_ptr(), size_of_val(v));
        }
    }
}

struct SteerInPlace<'a> {
    cpu: &'a Cpu,
    rows: &'a [SteerRow],
    relative_norms: RefCell<Vec<f32>>,
}

impl InplaceOp2 for SteerInPlace<'_> {
    fn name(&self) -> &'static str {
        "skeg-steer"
    }

    fn cpu_fwd(
        &self,
        h: &mut CpuStorage,
        h_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> candle_core::Result<()> {
        let h = rows::slice_mut(h, h_layout)?;
        self.for_each_row(h_layout, table, table_layout, |steered, v, row, relative_norm| {
            steer_row(self.cpu.level(), steered, v, &mut h[row], relative_norm);
        })
    }
}

impl CustomOp3 for SteerInPlace<'_> {
    fn name(&self) -> &'static str {
        "skeg-add-steered"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let h = rows::slice::<f32>(h, h_layout)?;
        let mut sum = rows::slice::<f32>(x, x_layout)?.to_vec();
        if h.len() != sum.len() {
            candle_core::bail!("sum of {} and {} elements", sum.len(), h.len());
        }
        let mut next = 0;
        self.for_each_row(h_layout, table, table_layout, |steered, v, row, relative_norm| {
            add_to(self.cpu.level(), &h[next..row.start], &mut sum[next..row.start]);
            next = row.end;
            let (h, sum) = (&h[row.clone()], &mut sum[row]);
            add_steered_row(self.cpu.level(), steered, v, h, sum, relative_norm);
        })?;
        add_to(self.cpu.level(), &h[next..], &mut sum[next..]);
        Ok((CpuStorage::F32(sum), h_layout.shape().clone()))
    }
}

impl SteerInPlace<'_> {
    /// Calls `change` with each row to steer, its vector, where its values are, and where its `||delta|| / ||h||` goes.
    fn for_each_row(
        &self,
        h_layout: &Layout,
        table: &CpuStorage,
        table_layout: &Layout,
        mut change: impl FnMut(&SteerRow, &[f32], Range<usize>, &mut f32),
    ) -> candle_core::Result<()> {
        let (total_tokens, hidden_size) = h_layout.shape().dims2()?;
        let (num_slots, table_width) = table_layout.shape().dims2()?;
        if table_width != hidden_size {
            candle_core::bail!("steering rows of {hidden_size} with vectors of {table_width}");
        }
        let table = rows::slice::<f32>(table, table_layout)?;
        let values = |row: usize| row * hidden_size..(row + 1) * hidden_size;
        let mut relative_norms = self.relative_norms.borrow_mut();
        for steered in self.rows {
            let SteerRow { row, slot, .. } = *steered;
            if row >= total_tokens || slot >= num_slots {
                candle_core::bail!("row {row} of {total_tokens}, slot {slot} of {num_slots}");
            }
            let mut relative_norm = 0.0;
            change(steered, &table[values(slot)], values(row), &mut relative_norm);
            relative_norms.push(relative_norm);
        }
        Ok(())
    }
}

per_cpu_level! {
    /// `sum = sum + h`.
    fn add_to(h: &[f32], sum: &mut [f32]) = add_to_body;
}

#[inline(always)]
fn add_to_body(h: &[f32], sum: &mut [f32]) {
    for (sum, h) in sum.iter_mut().zip(h) {
        *sum += h;
    }
}

per_cpu_level! {
    /// [`add_to`] of one row that is steered first.
    fn add_steered_row(
        steered: &SteerRow,
        v: &[f32],
        h: &[f32],
        sum: &mut [f32],
        relative_norm: &mut f32,
    ) = add_steered_row_body;
}

#[inline(always)]
fn add_steered_row_body(
    steered: &SteerRow,
    v: &[f32],
    h: &[f32],
    sum: &mut [f32],
    relative_norm: &mut f32,
) {
    if steered.operator == Operator::Add {
        // One pass over the row.
        let factor = steered.strength;
        for ((sum, h), v) in sum.iter_mut().zip(h).zip(v) {
            *sum += h + factor * v;
        }
        *relative_norm = ratio(factor, dot(v, v), dot(h, h));
        return;
    }
    let mut h = h.to_vec();
    steer_row_body(steered, v, &mut h, relative_norm);
    add_to_body(&h, sum);
}

per_cpu_level! {
    /// One row of [`steer`], with its `||delta|| / ||h||`.
    fn steer_row(steered: &SteerRow, v: &[f32], h: &mut [f32], relative_norm: &mut f32) = steer_row_body;
}

#[inline(always)]
fn steer_row_body(steered: &SteerRow, v: &[f32], h: &mut [f32], relative_norm: &mut f32) {
    let square_before = dot(h, h);
    let square = dot(v, v);
    let factor = match steered.operator {
        Operator::Add | Operator::AddNormRestored => steered.strength,
        // A zero vector has no direction: nothing lies along it.
        Operator::ProjectOut => -steered.strength * dot(h, v) / square.max(f32::MIN_POSITIVE),
    };
    for (h, v) in h.iter_mut().zip(v) {
        *h += factor * v;
    }
    if steered.operator == Operator::AddNormRestored {
        let restore = square_before.sqrt() / dot(h, h).sqrt().max(f32::MIN_POSITIVE);
        for h in h.iter_mut() {
            *h *= restore;
        }
    }
    *relative_norm = ratio(factor, square, square_before);
}

/// `||factor * v|| / ||h||` of `||v||^2` and `||h||^2`.
#[inline(always)]
fn ratio(factor: f32, v_square: f32, h_square: f32) -> f32 {
    factor.abs() * v_square.sqrt() / h_square.sqrt().max(f32::MIN_POSITIVE)
}
